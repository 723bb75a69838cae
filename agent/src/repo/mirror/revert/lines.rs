//! The merge of a file's lines between lines that each version has exactly once. However lines are compared, these meet.
//! A file in which that is not plain has no merge here.

use std::collections::HashMap;

use super::trees::Sides;

type Lines<'a> = Vec<&'a [u8]>;

/// Merges three versions. None where both sides changed the same part, or where lines that occur more than once, or in
/// another order, leave it open what was changed.
pub(super) fn merge(versions: Sides<&[u8]>) -> Option<Vec<u8>> {
    let Sides { base, ours, theirs } = versions.map(|text| split(text));
    let (in_base, in_ours, in_theirs) = (places(&base), places(&ours), places(&theirs));
    for other in [&in_ours, &in_theirs] {
        // What was there once and is there twice may be either of them.
        let once = |line: &&[u8]| in_base[line].len() == 1;
        if base.iter().filter(|line| once(line)).any(|line| other.get(line).is_some_and(|places| places.len() > 1)) {
            return None;
        }
        let kept = base.iter().filter(|line| once(line)).filter_map(|line| other.get(line).map(|places| places[0]));
        if !kept.is_sorted() {
            return None;
        }
    }
    let place = |line: &&[u8]| {
        let alone = |places: &HashMap<&[u8], Vec<usize>>| match places.get(line)?.as_slice() {
            [place] => Some(*place),
            _ => None,
        };
        Some((alone(&in_base)?, alone(&in_ours)?, alone(&in_theirs)?))
    };
    let mut merged = Vec::new();
    let mut from = (0, 0, 0);
    let end = (base.len(), ours.len(), theirs.len());
    for to in base.iter().filter_map(place).chain([end]) {
        let (before, one, other) = (&base[from.0..to.0], &ours[from.1..to.1], &theirs[from.2..to.2]);
        let part = match () {
            () if one == before => other,
            () if other == before || one == other => one,
            () => return None,
        };
        merged.extend(part.iter().copied().flatten());
        if to != end {
            merged.extend_from_slice(base[to.0]);
            from = (to.0 + 1, to.1 + 1, to.2 + 1);
        }
    }
    Some(merged)
}

fn split(text: &[u8]) -> Lines<'_> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Where each line stands.
fn places<'a>(lines: &Lines<'a>) -> HashMap<&'a [u8], Vec<usize>> {
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, line) in lines.iter().enumerate() {
        places.entry(line).or_default().push(at);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(base: &str, ours: &str, theirs: &str) -> Option<String> {
        let lines = |text: &str| text.split(' ').map(|line| format!("{line}\n")).collect::<String>();
        let (base, ours, theirs) = (lines(base), lines(ours), lines(theirs));
        let merged = merge(Sides { base: base.as_bytes(), ours: ours.as_bytes(), theirs: theirs.as_bytes() });
        merged.map(|text| String::from_utf8(text).unwrap().trim_end().replace('\n', " "))
    }

    #[test]
    fn parts_between_lines_that_are_there_once_are_merged() {
        assert_eq!(merged("a b c d e", "a B c d e", "a b c D e").as_deref(), Some("a B c D e"));
        assert_eq!(merged("a } c } e", "a } c } E", "a x } c } e").as_deref(), Some("a x } c } E"));
        assert_eq!(merged("a b c", "a B c", "a B c").as_deref(), Some("a B c"));
        assert_eq!(merged("a b c", "b c", "a b").as_deref(), Some("b"));
    }

    #[test]
    fn what_may_be_seen_in_two_ways_is_not_merged() {
        // Both changed one part; nothing that is there once lies between; a line that came twice; another order.
        assert_eq!(merged("a b c", "a B c", "a C c"), None);
        assert_eq!(merged("a } } } b", "A } } } b", "a } } } } b").as_deref(), None);
        assert_eq!(merged("a b c d e", "b a b c d e", "a b c d E"), None);
        assert_eq!(merged("a b c d e", "b a c d e", "a b c d E"), None);
    }
}
