//! Long texts in few lines: each part has its share, and what is left out is counted.

/// A part of a text: a line that always stays, and more that may be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The lines, the first of which stays.
    pub lines: Vec<String>,
    /// How many times the lines of a part of weight 1 it may have. At least 1.
    pub weight: usize,
}

/// Puts parts together in at most `limit` lines, as long as there are not more than half as many parts. What a short part
/// does not need is for the others. Where one is cut, its last line says how many are left out.
pub fn fit(parts: Vec<Part>, limit: usize) -> Vec<String> {
    let mut shares = vec![0; parts.len()];
    let mut left = limit;
    // First of all two lines for each: one that stays, and one that says what is left out.
    let mut is_first = true;
    loop {
        let before = left;
        for (part, share) in parts.iter().zip(&mut shares) {
            let wanted = if is_first { 2 } else { part.weight.max(1) };
            let more = wanted.min(part.lines.len() - *share).min(left);
            *share += more;
            left -= more;
        }
        if left == before {
            break;
        }
        is_first = false;
    }
    parts.into_iter().zip(shares).flat_map(|(part, share)| cut(part.lines, share)).collect()
}

/// At most so many lines of a text. Where there are more, the last line says how many are left out; the first line stays.
pub fn cut(mut lines: Vec<String>, limit: usize) -> Vec<String> {
    let shown = limit.saturating_sub(1).max(1);
    if lines.len() > limit.max(1) {
        let more = lines.len() - shown;
        lines.truncate(shown);
        if limit > 1 {
            lines.push(format!("  and {more} more {}", if more == 1 { "line" } else { "lines" }));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, count: usize, weight: usize) -> Part {
        Part { lines: (0..count).map(|number| format!("{name}{number}")).collect(), weight }
    }

    #[test]
    fn what_fits_stays_as_it_is() {
        let parts = vec![part("a", 3, 1), part("b", 1, 1), part("c", 0, 1)];
        assert_eq!(fit(parts, 4), ["a0", "a1", "a2", "b0"]);
    }

    #[test]
    fn every_part_has_its_first_line_and_says_what_is_left_out() {
        let parts = vec![part("a", 50, 2), part("b", 2, 1), part("c", 50, 1)];
        let lines = fit(parts, 14);
        assert_eq!(lines.len(), 14);
        assert_eq!(lines[..2], ["a0", "a1"]);
        assert_eq!(lines[6..], ["a6", "  and 43 more lines", "b0", "b1", "c0", "c1", "c2", "  and 47 more lines"]);
        for parts in [1, 5, 22, 45] {
            let parts: Vec<Part> = (0..parts).map(|_| part("x", 1000, 4)).collect();
            let count = parts.len();
            let lines = fit(parts, 90);
            assert_eq!(lines.iter().filter(|line| *line == "x0").count(), count);
            assert!(lines.len() <= 90, "{}", lines.len());
        }
    }

    #[test]
    fn a_cut_text_keeps_its_first_line() {
        let lines = |count| part("a", count, 1).lines;
        assert_eq!(cut(lines(3), 3), lines(3));
        assert_eq!(cut(lines(4), 3), ["a0", "a1", "  and 2 more lines"]);
        assert_eq!(cut(lines(4), 1), ["a0"]);
        assert_eq!(cut(Vec::new(), 1), Vec::<String>::new());
    }
}
