//! Holds every inserted value to its scalar: it may be what a scalar says, never what stands around it.
//!
//! The text is read twice, once as it is and once with a harmless word in the place of each value. Where the two have
//! the same structure, and each scalar reads as the value that was put into it, no value became structure.

use super::output::{Insert, Text};
use crate::fault::{Place, Problem};
use crate::yaml::{self, Flaw, Placed, Scan, Step, Style};

/// Bytes that may be read in search of the value at fault.
const MAX_SEARCH_BYTES: usize = 64 << 20;

/// The values that do not stay inside one scalar, and those that vanish in it.
///
/// `real` is the text as it was read.
pub(super) fn check(text: &Text, real: Result<&Scan<'_>, &Flaw>) -> Vec<Problem> {
    if text.inserts.is_empty() || real.is_ok_and(|real| is_quoted_throughout(text, real)) {
        return Vec::new();
    }
    let problem = |index: usize, message: &str, hint: &str| {
        let Insert { origin, shown, .. } = &text.inserts[index];
        Problem::content(message.replace("{}", shown))
            .at(Place::point(&*origin.file, origin.line, origin.column))
            .hint(hint)
    };
    let escaped = at_fault(text, real);
    if escaped.is_empty() {
        let vanish =
            |index| problem(index, "the value of {} is read as nothing where it stands", "write quote before it");
        return vanished(text).into_iter().map(vanish).collect();
    }
    escaped
        .into_iter()
        .map(|index| {
            let has_lines = text.text[text.inserts[index].range.clone()].trim().contains('\n');
            let hint = if has_lines {
                "write quote or toYaml before it, or indent where a block begins with |"
            } else {
                "write quote or toYaml before it"
            };
            problem(index, "the value of {} does not stay inside one scalar", hint)
        })
        .collect()
}

/// Values that are a whole plain scalar which is read as null: the field would be dropped in silence.
fn vanished(text: &Text) -> Vec<usize> {
    let is_nothing =
        |insert: &Insert| matches!(&*text.text[insert.range.clone()].trim().to_lowercase(), "" | "~" | "null");
    if !text.inserts.iter().any(is_nothing) {
        return Vec::new();
    }
    let everything = replaced(text, |_| true);
    let Ok(scan) = yaml::scan(&everything) else { return Vec::new() };
    let whole = |placed: &Placed<'_>| match &placed.step {
        Step::Scalar { text, style: Style::Plain, .. } => {
            text.strip_prefix('\u{e002}')?.strip_suffix('\u{e003}')?.parse::<usize>().ok()
        }
        _ => None,
    };
    scan.steps().iter().filter_map(whole).filter(|index| text.inserts.get(*index).is_some_and(is_nothing)).collect()
}

/// Whether each value begins a scalar in quotes that reads as the value. What is in quotes of our own ends where they
/// do, so that a second reading would tell nothing new.
fn is_quoted_throughout(text: &Text, real: &Scan<'_>) -> bool {
    let (mut line, mut column, mut counted) = (1, 1, 0);
    text.inserts.iter().all(|insert| {
        let Some(original) = &insert.original else { return false };
        for c in text.text[counted..insert.range.start].chars() {
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        counted = insert.range.start;
        let at = real.steps().partition_point(|step| (step.line as usize, step.column as usize) < (line, column));
        real.steps().get(at).is_some_and(|placed| {
            (placed.line as usize, placed.column as usize) == (line, column)
                && matches!(&placed.step, Step::Scalar { text, style: Style::Quoted, .. } if text == original)
        })
    })
}

fn at_fault(text: &Text, real: Result<&Scan<'_>, &Flaw>) -> Vec<usize> {
    let everything = replaced(text, |_| true);
    let harmless = yaml::scan(&everything);
    let all: Vec<usize> = (0..text.inserts.len()).collect();
    let affordable = MAX_SEARCH_BYTES / everything.len().max(1);
    match (real, &harmless) {
        // The template itself is no YAML, whatever the values are: that is said elsewhere.
        (Err(_), Err(_)) => Vec::new(),
        (Ok(real), Ok(harmless)) if is_same(real.steps(), harmless.steps(), &text.text, &text.inserts) => Vec::new(),
        (_, Ok(harmless)) => {
            // Each value alone, among harmless words.
            let stays = |index: &usize| {
                let one = replaced(text, |other| other != *index);
                yaml::scan(&one).is_ok_and(|one| is_same(one.steps(), harmless.steps(), &text.text, &text.inserts))
            };
            let guilty: Vec<usize> = all.iter().copied().take(affordable).filter(|index| !stays(index)).collect();
            if !guilty.is_empty() {
                return guilty;
            }
            // None alone, so some together: the first with which the text is no longer what it was.
            let stay = |count: &usize| {
                let some = replaced(text, |other| other >= *count);
                yaml::scan(&some).is_ok_and(|some| is_same(some.steps(), harmless.steps(), &text.text, &text.inserts))
            };
            vec![all.partition_point(stay).saturating_sub(1)]
        }
        (Ok(real), Err(_)) => {
            let stays = |index: &usize| {
                let one = replaced(text, |other| other == *index);
                yaml::scan(&one).is_ok_and(|one| is_same(real.steps(), one.steps(), &text.text, &text.inserts))
            };
            let guilty: Vec<usize> = all.iter().copied().take(affordable).filter(|index| !stays(index)).collect();
            if guilty.is_empty() { vec![0] } else { guilty }
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
