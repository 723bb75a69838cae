//! The merge of a file's lines, as git merges them: changes of both sides that touch each other conflict, unless they come
//! to the same.

use std::iter::Peekable;
use std::ops::Range;
use std::vec::IntoIter;

use super::histogram::{Change, Lines, changes};
use super::trees::Sides;

/// Git looks into so many bytes of a file for a zero, which a text has not (`xdiff-interface.c`).
const LOOKED_INTO: usize = 8000;

/// Merges three versions. None where both sides changed the same lines, or lines with nothing between them, to something
/// else, where one of them is no text, and where so many lines are the same that it is not known what git would compare.
pub(super) fn merge(versions: Sides<&[u8]>) -> Option<Vec<u8>> {
    let is_binary = |text: &[u8]| text[..text.len().min(LOOKED_INTO)].contains(&0);
    if is_binary(versions.base) || is_binary(versions.ours) || is_binary(versions.theirs) {
        return None;
    }
    let Sides { base, ours, theirs } = versions.map(|text| split(text));
    let mut by_ours = changes(&base, &ours)?.into_iter().peekable();
    let mut by_theirs = changes(&base, &theirs)?.into_iter().peekable();
    let mut merged = Vec::new();
    let mut from = 0;
    while let Some(start) = by_ours.peek().into_iter().chain(by_theirs.peek()).map(|change| change.base.start).min() {
        let mut part = start..start;
        let (mut one, mut other) = (Vec::new(), Vec::new());
        loop {
            let length = one.len() + other.len();
            one.extend(touching(&mut by_ours, &mut part));
            other.extend(touching(&mut by_theirs, &mut part));
            if one.len() + other.len() == length {
                break;
            }
        }
        let lines = match (instead(&ours, &one, &part), instead(&theirs, &other, &part)) {
            (Some(lines), None) | (None, Some(lines)) => lines,
            (Some(one), Some(other)) if one == other => one,
            _ => return None,
        };
        merged.extend_from_slice(&base[from..part.start]);
        merged.extend_from_slice(lines);
        from = part.end;
    }
    merged.extend_from_slice(&base[from..]);
    Some(merged.concat())
}

/// The next change of one side if it touches a part of the base, which grows by it.
fn touching(changes: &mut Peekable<IntoIter<Change>>, part: &mut Range<usize>) -> Option<Change> {
    let change = changes.next_if(|change| change.base.start <= part.end)?;
    part.end = part.end.max(change.base.end);
    Some(change)
}

/// What one side has in place of a part of the base. None where it has changed nothing of it.
fn instead<'v, 't>(version: &'v Lines<'t>, changes: &[Change], part: &Range<usize>) -> Option<&'v [&'t [u8]]> {
    let (first, last) = (changes.first()?, changes.last()?);
    let start = first.version.start - (first.base.start - part.start);
    Some(&version[start..last.version.end + (part.end - last.base.end)])
}

fn split(text: &[u8]) -> Lines<'_> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
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
    fn what_both_sides_changed_is_merged_where_a_line_is_between() {
        assert_eq!(merged("a b c d e", "a B c d e", "a b c D e").as_deref(), Some("a B c D e"));
        assert_eq!(merged("a } c } e", "a } c } E", "a x } c } e").as_deref(), Some("a x } c } E"));
        assert_eq!(merged("a b c", "b c", "a b").as_deref(), Some("b"));
        // What is there more than once is told apart by what is around it.
        assert_eq!(merged("a b c d e", "b a b c d e", "a b c d E").as_deref(), Some("b a b c d E"));
        assert_eq!(merged("a } } } b", "A } } } b", "a } } } } b").as_deref(), Some("A } } } } b"));
    }

    #[test]
    fn the_same_change_of_both_is_one() {
        assert_eq!(merged("a b c", "a B c", "a B c").as_deref(), Some("a B c"));
        assert_eq!(merged("a b c d", "a B C d", "a B c d").as_deref(), None);
        assert_eq!(merged("a b c d", "a d", "a d").as_deref(), Some("a d"));
    }

    #[test]
    fn changes_that_touch_each_other_conflict() {
        assert_eq!(merged("a b c", "a B c", "a C c"), None);
        assert_eq!(merged("a b c d", "a B c d", "a b C d"), None);
        assert_eq!(merged("a b", "a x b", "a y b"), None);
        assert_eq!(merged("a b c", "a x b c", "a B c"), None);
        assert_eq!(merged("a b c d e f", "a B c d E f", "a b C D e f"), None);
    }

    #[test]
    fn what_is_no_text_is_not_merged() {
        let merge = |base: &[u8], ours: &[u8], theirs: &[u8]| merge(Sides { base, ours, theirs });
        assert_eq!(merge(b"a\nb\nc\n", b"A\nb\nc\n", b"a\nb\nC\n").unwrap(), b"A\nb\nC\n");
        assert_eq!(merge(b"a\nb\n\0\n", b"A\nb\n\0\n", b"a\nb\n\0\nC\n"), None);
        // A last line without its end is another line.
        assert_eq!(merge(b"a\nb\nc\n", b"A\nb\nc\n", b"a\nb\nc").unwrap(), b"A\nb\nc");
    }
}
