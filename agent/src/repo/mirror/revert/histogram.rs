//! What one version of a file changed of another: the same changes as `git diff --histogram --no-indent-heuristic` tells,
//! by which `git revert` merges. libgit2 offers only other ways to compare, which tell of other changes where lines are
//! there more than once.
//!
//! The lines that are kept are found by the rarest ones: the longest part that both have, around a line that occurs the
//! least often, parts what is before it from what is behind it, and so on in both. Then each group of changed lines slides
//! down as far as the lines allow, or to where the other version has changed lines as well.

use std::collections::HashMap;
use std::ops::Range;

/// The lines of a file, each with its end.
pub(super) type Lines<'t> = Vec<&'t [u8]>;

/// Git compares otherwise where every line that both have occurs more often (`xhistogram.c`).
const MAX_OCCURRENCES: usize = 64;
/// Steps of a search, so that no file takes more than a second or so.
const MAX_STEPS: usize = 50_000_000;

/// Some lines of the base, and those that a version has in their place. Of one of them there may be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub base: Range<usize>,
    pub version: Range<usize>,
}

/// What a version changed, from the first line to the last. None where it takes another way to compare, or too long.
pub(super) fn changes<'t>(base: &Lines<'t>, version: &Lines<'t>) -> Option<Vec<Change>> {
    let mut search = Search::new(base, version);
    search.run()?;
    let (mut removed, mut added) = (search.base, search.version);
    removed.slide(&added);
    added.slide(&removed);
    let mut changes = Vec::new();
    let mut groups = Some((removed.group_from(0), added.group_from(0)));
    while let Some((base, version)) = groups {
        groups = removed.next(&base).zip(added.next(&version));
        if !(base.is_empty() && version.is_empty()) {
            changes.push(Change { base, version });
        }
    }
    Some(changes)
}

/// One of two versions: its lines, the same number for the same line, and which of them the other version has not.
struct Side {
    lines: Vec<usize>,
    is_changed: Vec<bool>,
}

/// Changed lines beside each other, perhaps none. Before and after them is an unchanged line, or an end: so the groups of
/// two versions stand in pairs.
type Group = Range<usize>;

impl Side {
    fn of(lines: Vec<usize>) -> Side {
        Side { is_changed: vec![false; lines.len()], lines }
    }

    fn group_from(&self, start: usize) -> Group {
        let length = self.is_changed[start..].iter().take_while(|is_changed| **is_changed).count();
        start..start + length
    }

    fn group_to(&self, end: usize) -> Group {
        let length = self.is_changed[..end].iter().rev().take_while(|is_changed| **is_changed).count();
        end - length..end
    }

    fn next(&self, group: &Group) -> Option<Group> {
        (group.end < self.lines.len()).then(|| self.group_from(group.end + 1))
    }

    fn previous(&self, group: &Group) -> Option<Group> {
        (group.start > 0).then(|| self.group_to(group.start - 1))
    }

    /// Moves a group by a line, where that comes to the same. It takes in the group that it meets.
    fn up(&mut self, group: &Group) -> Option<Group> {
        let start = group.start.checked_sub(1)?;
        if self.lines[start] != self.lines[group.end - 1] {
            return None;
        }
        self.is_changed[start] = true;
        self.is_changed[group.end - 1] = false;
        Some(self.group_to(start).start..group.end - 1)
    }

    /// The other way.
    fn down(&mut self, group: &Group) -> Option<Group> {
        if self.lines.get(group.end)? != &self.lines[group.start] {
            return None;
        }
        self.is_changed[group.start] = false;
        self.is_changed[group.end] = true;
        Some(group.start + 1..self.group_from(group.end).end)
    }

    /// Moves every group down as far as it goes, or up from there to where the other version has changed lines too.
    fn slide(&mut self, other: &Side) {
        let mut pairs = Some((self.group_from(0), other.group_from(0)));
        while let Some((mut group, mut beside)) = pairs {
            if !group.is_empty() {
                (group, beside) = self.slide_one(other, group, beside);
            }
            pairs = self.next(&group).zip(other.next(&beside));
        }
    }

    fn slide_one(&mut self, other: &Side, mut group: Group, mut beside: Group) -> (Group, Group) {
        const PAIRS: &str = "both have as many unchanged lines";
        let (highest, has_one_beside) = loop {
            let length = group.len();
            while let Some(moved) = self.up(&group) {
                group = moved;
                beside = other.previous(&beside).expect(PAIRS);
            }
            let highest = group.end;
            let mut has_one_beside = !beside.is_empty();
            while let Some(moved) = self.down(&group) {
                group = moved;
                beside = other.next(&beside).expect(PAIRS);
                has_one_beside |= !beside.is_empty();
            }
            // One that took in another one may go further.
            if group.len() == length {
                break (highest, has_one_beside);
            }
        };
        while has_one_beside && group.end != highest && beside.is_empty() {
            group = self.up(&group).expect("it came down from there");
            beside = other.previous(&beside).expect(PAIRS);
        }
        (group, beside)
    }
}

/// A part that both versions have.
#[derive(Clone, Copy, Debug)]
struct Common {
    base: usize,
    version: usize,
    length: usize,
}

struct Search {
    base: Side,
    version: Side,
    /// Where each line stands in the part of the base that is looked at.
    places: Vec<Vec<usize>>,
    steps: usize,
}

impl Search {
    fn new<'t>(base: &Lines<'t>, version: &Lines<'t>) -> Search {
        let mut numbers: HashMap<&'t [u8], usize> = HashMap::new();
        let mut side = |lines: &Lines<'t>| {
            let mut number = |line| {
                let next = numbers.len();
                *numbers.entry(line).or_insert(next)
            };
            Side::of(lines.iter().map(|line| number(*line)).collect())
        };
        let (base, version) = (side(base), side(version));
        Search { base, version, places: vec![Vec::new(); numbers.len()], steps: 0 }
    }

    /// Marks what is changed.
    fn run(&mut self) -> Option<()> {
        let mut todo = vec![(0..self.base.lines.len(), 0..self.version.lines.len())];
        while let Some((base, version)) = todo.pop() {
            match self.common(&base, &version)? {
                Some(Common { base: kept, version: as_is, length }) => {
                    todo.push((base.start..kept, version.start..as_is));
                    todo.push((kept + length..base.end, as_is + length..version.end));
                }
                None => {
                    self.base.is_changed[base].fill(true);
                    self.version.is_changed[version].fill(true);
                }
            }
        }
        Some(())
    }

    /// What of two parts is kept for certain. The inner None is nothing; the outer one that it is not known.
    fn common(&mut self, base: &Range<usize>, version: &Range<usize>) -> Option<Option<Common>> {
        if base.is_empty() || version.is_empty() {
            return Some(None);
        }
        for place in base.clone() {
            self.places[self.base.lines[place]].push(place);
        }
        let found = self.longest_of_the_rarest(base, version);
        for place in base.clone() {
            self.places[self.base.lines[place]].clear();
        }
        self.steps += base.len() + version.len();
        found.filter(|_| self.steps <= MAX_STEPS)
    }

    fn longest_of_the_rarest(&mut self, base: &Range<usize>, version: &Range<usize>) -> Option<Option<Common>> {
        let mut best: Option<Common> = None;
        let mut fewest = MAX_OCCURRENCES + 1;
        let mut has_common = false;
        let mut at = version.start;
        while at < version.end && self.steps <= MAX_STEPS {
            let places = &self.places[self.version.lines[at]];
            has_common |= !places.is_empty();
            let mut next = at + 1;
            let mut end = 0;
            let looked_at = if places.len() <= fewest { places.as_slice() } else { &[] };
            for place in looked_at.iter().copied() {
                // It is in the part that was looked at last.
                if place < end {
                    continue;
                }
                let (base_before, base_behind) =
                    (&self.base.lines[base.start..place], &self.base.lines[place..base.end]);
                let (before, behind) = (&self.version.lines[version.start..at], &self.version.lines[at..version.end]);
                let back =
                    base_before.iter().rev().zip(before.iter().rev()).take_while(|(one, other)| one == other).count();
                let on = base_behind.iter().zip(behind).take_while(|(one, other)| one == other).count();
                let (start, length) = (place - back, back + on);
                end = place + on;
                next = next.max(at + on);
                self.steps += length;
                let occurrences = self.base.lines[start..end].iter().map(|line| self.places[*line].len());
                let rarest = occurrences.min().unwrap_or(usize::MAX);
                if best.map_or(1, |best| best.length) < length || rarest < fewest {
                    fewest = rarest;
                    best = Some(Common { base: start, version: at - back, length });
                }
            }
            at = next;
        }
        (!has_common || fewest <= MAX_OCCURRENCES).then_some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The changes as `base>version`, each with its lines.
    fn told(base: &str, version: &str) -> String {
        let (base, version): (Vec<&[u8]>, Vec<&[u8]>) =
            (base.split(' ').map(str::as_bytes).collect(), version.split(' ').map(str::as_bytes).collect());
        let text = |lines: &[&[u8]]| String::from_utf8(lines.join(&b' ')).unwrap();
        let one = |change: &Change| {
            format!(
                "{}:{}>{}",
                change.base.start,
                text(&base[change.base.clone()]),
                text(&version[change.version.clone()])
            )
        };
        changes(&base, &version).unwrap().iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_rarest_lines_tell_what_is_kept() {
        assert_eq!(told("a b c", "a b c"), "");
        assert_eq!(told("a b c", "a x c"), "1:b>x");
        assert_eq!(told("a", "x"), "0:a>x");
        // As git tells it; the shortest way would be another one.
        assert_eq!(told("image --- image --- spec name", "image image --- 1 2 --- spec name"), "1:>image 2:image>1 2");
        assert_eq!(told("} } name } name name", "} name } name name"), "1:}>");
    }

    #[test]
    fn a_group_slides_down_or_to_what_the_other_one_changed() {
        assert_eq!(told("a b b c", "a b b b c"), "3:>b");
        assert_eq!(told("a b b b c", "a b b c"), "3:b>");
        assert_eq!(told("{ a } { c }", "{ a } { b } { c }"), "4:>b } {");
    }

    #[test]
    fn where_every_line_is_there_too_often_it_is_not_known() {
        let many = |lines: usize, first: &'static str| -> Vec<&'static [u8]> {
            std::iter::once(first.as_bytes()).chain(std::iter::repeat_n(b"x".as_slice(), lines)).collect()
        };
        assert!(changes(&many(64, "a"), &many(63, "b")).is_some());
        assert_eq!(changes(&many(66, "a"), &many(63, "b")), None);
    }
}
