//! Holds every inserted value to its scalar: it may be what a scalar says, never what stands around it.
//!
//! The text is read twice, once as it is and once with a harmless word in the place of each value. Where the two have
//! the same structure, and each scalar reads as the value that was put into it, no value became structure.

use super::output::{Insert, Text};
use crate::fault::{Place, Problem};
use crate::yaml::{self, Placed, Step, Style};

/// Bytes that may be read in search of the value at fault.
const MAX_SEARCH_BYTES: usize = 64 << 20;

/// The values that do not stay inside one scalar.
pub(super) fn check(text: &Text) -> Vec<Problem> {
    at_fault(text)
        .into_iter()
        .map(|index| {
            let Insert { origin, shown, range, .. } = &text.inserts[index];
            let has_lines = text.text[range.clone()].trim().contains('\n');
            let hint = if has_lines {
                "write quote or toYaml before it, or indent where a block begins with |"
            } else {
                "write quote or toYaml before it"
            };
            Problem::content(format!("the value of {shown} does not stay inside one scalar"))
                .at(Place::point(&*origin.file, origin.line, origin.column))
                .hint(hint)
        })
        .collect()
}

fn at_fault(text: &Text) -> Vec<usize> {
    if text.inserts.is_empty() {
        return Vec::new();
    }
    let everything = replaced(text, |_| true);
    let real = yaml::scan(&text.text);
    let harmless = yaml::scan(&everything);
    let all: Vec<usize> = (0..text.inserts.len()).collect();
    let affordable = MAX_SEARCH_BYTES / text.text.len().max(1);
    match (&real, &harmless) {
        // The template itself is no YAML, whatever the values are: that is said elsewhere.
        (Err(_), Err(_)) => Vec::new(),
        (Ok(real), Ok(harmless)) if is_same(real.steps(), harmless.steps(), &text.text, &text.inserts) => Vec::new(),
        (Ok(real), _) => {
            let stays = |index: &usize| {
                let one = replaced(text, |other| other == *index);
                let one = yaml::scan(&one);
                one.is_ok_and(|one| is_same(real.steps(), one.steps(), &text.text, &text.inserts))
            };
            let guilty: Vec<usize> = all.iter().copied().take(affordable).filter(|index| !stays(index)).collect();
            if guilty.is_empty() { vec![0] } else { guilty }
        }
        (Err(_), Ok(_)) => {
            // Without this one value the text is YAML, or, where several are at fault, without the values up to it.
            let mends = |index: &usize| yaml::scan(&replaced(text, |other| other == *index)).is_ok();
            let guilty: Vec<usize> = all.iter().copied().take(affordable).filter(mends).collect();
            if !guilty.is_empty() {
                return guilty;
            }
            let last = all.partition_point(|index| yaml::scan(&replaced(text, |other| other <= *index)).is_err());
            vec![last.min(all.len() - 1)]
        }
    }
}

/// The text with placeholders for some of the values. Blanks around a value stay: they decide where it begins.
fn replaced(text: &Text, which: impl Fn(usize) -> bool) -> String {
    let mut out = String::with_capacity(text.text.len());
    let mut copied = 0;
    for (index, insert) in text.inserts.iter().enumerate() {
        if !which(index) {
            continue;
        }
        let value = &text.text[insert.range.clone()];
        let lead = if value.trim().is_empty() { 0 } else { value.len() - value.trim_start().len() };
        out.push_str(&text.text[copied..insert.range.start + lead]);
        out.push_str(&format!("\u{e002}{index}\u{e003}"));
        copied = insert.range.start + lead + value.trim().len();
    }
    out.push_str(&text.text[copied..]);
    out
}

/// Whether two readings have the same structure, and the values are where their placeholders are.
fn is_same(real: &[Placed<'_>], harmless: &[Placed<'_>], text: &str, inserts: &[Insert]) -> bool {
    real.len() == harmless.len()
        && real.iter().zip(harmless).all(|(real, harmless)| match (&real.step, &harmless.step) {
            (
                Step::Scalar { text: reads, style, is_key, is_tagged },
                Step::Scalar { text: holds, is_key: was_key, is_tagged: was_tagged, .. },
            ) => {
                let is_alike = is_key == was_key && is_tagged == was_tagged;
                is_alike && (reads == holds || reads_as(reads, holds, *style, text, inserts))
            }
            (real, harmless) => real == harmless,
        })
}

/// Whether a scalar reads as its text with the values in the place of the placeholders.
fn reads_as(reads: &str, holds: &str, style: Style, text: &str, inserts: &[Insert]) -> bool {
    if !holds.contains('\u{e002}') {
        return false;
    }
    let filled = |with_original: bool| -> Option<String> {
        let mut filled = String::new();
        let mut rest = holds;
        while let Some((before, after)) = rest.split_once('\u{e002}') {
            let (index, after) = after.split_once('\u{e003}')?;
            let insert = inserts.get(index.parse::<usize>().ok()?)?;
            filled.push_str(before);
            filled.push_str(match &insert.original {
                Some(original) if with_original => original,
                _ => text[insert.range.clone()].trim(),
            });
            rest = after;
        }
        filled.push_str(rest);
        Some(filled)
    };
    let is_equal = |filled: String| match style {
        // A block takes the indent away from the lines of a value.
        Style::Block => filled.split_whitespace().eq(reads.split_whitespace()),
        Style::Plain | Style::Quoted => filled.trim() == reads.trim(),
    };
    filled(false).is_some_and(is_equal) || filled(true).is_some_and(is_equal)
}
