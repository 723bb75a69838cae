//! What commands print: tables, YAML and JSON to stdout, progress to stderr.

use std::io::{IsTerminal, Write};

use anstyle::Style;
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use towpath_core::fault::Problem;

use super::exit::Failure;

/// Columns that a cell at the end of a row keeps on the narrowest terminal.
const NARROWEST_LAST_CELL: usize = 20;
const BOLD: Style = Style::new().bold();

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table as wide as the terminal.
    #[default]
    Table,
    /// A table with everything.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Only the names, as kubectl takes them.
    Name,
}

/// How a document is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Document {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Writes data to stdout.
///
/// # Errors
/// When it cannot be written; a closed pipe ends the command quietly.
pub fn data(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.is_empty() && !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Writes a value to stdout.
///
/// # Errors
/// When it cannot be written.
pub fn document(value: &impl Serialize, format: Document) -> Result<(), Failure> {
    data(&match format {
        Document::Json => json(value)?,
        Document::Yaml => yaml(value)?,
    })
}

/// Tells of progress on stderr.
pub fn progress(text: &str) {
    // Progress that nobody reads is no reason to stop.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// A value as JSON.
///
/// # Errors
/// When a map in it has keys that are no text.
pub fn json(value: &impl Serialize) -> Result<String, Problem> {
    let unwritable = |error| Problem::setup(format!("it cannot be written as JSON: {error}"));
    Ok(serde_json::to_string_pretty(value).map_err(unwritable)? + "\n")
}

/// A value as YAML that reads the same by the rules of 1.1 and of 1.2, without folded lines.
///
/// # Errors
/// When it holds something that YAML has no words for.
pub fn yaml(value: &impl Serialize) -> Result<String, Problem> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| Problem::setup(format!("it cannot be written as YAML: {error}")))
}

/// The width of the terminal that stdout is, `None` where it is none.
pub fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}

/// A table without lines: a bold header, two blanks between columns. Where a width is given, the last column is cut so
/// that each row stays one line.
pub fn table(header: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    let widths = widths(header, rows);
    lines(Some(header), rows, &widths, width)
}

/// The width of each column.
pub fn widths(header: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or_default()
    };
    (0..header.len()).map(width).collect()
}

/// Rows whose columns have at least some widths, so that more rows can follow a table.
pub fn lines(header: Option<&[&str]>, rows: &[Vec<String>], widths: &[usize], width: Option<usize>) -> String {
    let (last, before) = match widths.split_last() {
        Some((last, before)) => (*last, before),
        None => return String::new(),
    };
    let taken: usize = before.iter().map(|width| width + 2).sum();
    let last = width.map_or(last, |width| width.saturating_sub(taken).max(NARROWEST_LAST_CELL));

    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let cell = |(column, text): (usize, &str)| {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if column == before.len() { shorten(&text, last) } else { format!("{text:<width$}", width = widths[column]) }
    };
    if let Some(header) = header {
        table.add_row(header.iter().copied().enumerate().map(cell));
    }
    for row in rows {
        table.add_row(row.iter().map(String::as_str).enumerate().map(cell));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for (number, line) in table.lines().enumerate() {
        let line = line.trim_end();
        if number == 0 && header.is_some() {
            text.push_str(&format!("{BOLD}{line}{BOLD:#}\n"));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A number of things: `1 object`, `2 objects`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// How long ago something was: `12s`, `3m`, `2h`, `5d`.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Text in which the ids of revisions are cut to seven digits: `master@sha1:<40 digits>` becomes `master@1a2b3c4`.
pub fn short_revisions(text: &str) -> String {
    const MARK: &str = "@sha1:";
    let mut short = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(MARK) {
        let (before, id) = (&rest[..start], &rest[start + MARK.len()..]);
        let digits = id.bytes().take_while(u8::is_ascii_hexdigit).count();
        short.push_str(before);
        short.push('@');
        short.push_str(&id[..digits.min(7)]);
        rest = &id[digits..];
    }
    short + rest
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn an_age_has_one_unit() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (seconds, age) in [
            (-5, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (200, "3m"),
            (3599, "59m"),
            (7300, "2h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (40_000_000, "462d"),
        ] {
            assert_eq!(super::age(start, start + jiff::SignedDuration::from_secs(seconds)), age, "{seconds}");
        }
    }

    #[test]
    fn a_table_has_no_lines_and_no_blanks_at_its_end() {
        let rows = [["prod", "Synced", ""], ["a-long-name", "Blocked", "values.yaml:3: no image"]];
        let rows: Vec<Vec<String>> = rows.iter().map(|row| row.map(ToOwned::to_owned).to_vec()).collect();
        expect![[r#"
            NAME         STATE    MESSAGE
            prod         Synced
            a-long-name  Blocked  values.yaml:3: no image
        "#]]
        .assert_eq(&plain(&table(&["NAME", "STATE", "MESSAGE"], &rows, None)));
    }

    #[test]
    fn on_a_terminal_each_row_stays_one_line() {
        let rows = vec![vec!["prod".to_owned(), "word ".repeat(40)]];
        let text = plain(&table(&["NAME", "MESSAGE"], &rows, Some(40)));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(text.contains('…'), "{text}");
        let narrow = plain(&table(&["NAME", "MESSAGE"], &rows, Some(5)));
        assert_eq!(narrow.lines().nth(1).map(|line| line.chars().count()), Some(4 + 2 + NARROWEST_LAST_CELL));
    }

    #[test]
    fn a_message_with_line_ends_stays_one_line() {
        let rows = vec![vec!["prod".to_owned(), "a\nb\u{1b}[31m".to_owned()]];
        assert_eq!(plain(&table(&["NAME", "MESSAGE"], &rows, None)).lines().count(), 2);
    }

    #[test]
    fn revisions_are_shortened_where_they_stand() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let text = format!("runs r1.2@sha1:{id}; master@sha1:{id} waits");
        assert_eq!(short_revisions(&text), "runs r1.2@0123456; master@0123456 waits");
        assert_eq!(short_revisions("nothing@sha1:"), "nothing@");
        assert_eq!(short_revisions("plain"), "plain");
    }

    #[test]
    fn yaml_keeps_text_text() {
        let value = serde_json::json!({"a": "yes", "b": "1e3", "c": "x ".repeat(100), "d": "one\ntwo\n"});
        let text = yaml(&value).unwrap();
        assert_eq!(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap(), value, "{text}");
        assert!(text.contains("a: \"yes\"") || text.contains("a: 'yes'"), "{text}");
        assert!(!text.contains(">"), "{text}");
    }
}
