//! Reads YAML as the API server's own tools would, and writes YAML that reads back as the same.
//!
//! Two passes over one text: [`scan`] walks the events of `granit_parser` and knows where everything stands;
//! [`Scan::documents`] lets `serde_saphyr` decide what the values are, and nothing else decides that. Both hold
//! budgets that hostile input meets early: depth, nodes and bytes after aliases are expanded.

mod scan;
mod value;

use serde_json::Value;

pub use self::scan::{Placed, Scan, Step, Style, scan};
use self::value::parse;
use crate::fault::{Place, Problem};
use crate::limits;
use crate::manifest::Manifest;

/// What is wrong with a text, before it is known which file the text comes from. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Line.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
    /// What failed: lower case, no full stop.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Flaw {
    /// The problem that it is in a file.
    pub fn in_file(self, file: &str) -> Problem {
        let problem = Problem::content(self.message).at(Place::point(file, self.line, self.column));
        match self.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }

    fn new(line: u32, column: u32, message: impl Into<String>) -> Self {
        Flaw { line, column, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// One document: a map or a list or a scalar, with nulls dropped from maps.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What it says.
    pub body: Value,
    /// The line of its first content.
    pub line: u32,
}

/// Reads every document that has content. A text of comments only, or an empty one, has none.
///
/// # Errors
/// The first flaw: what follows it could mean anything.
pub fn read(text: &str) -> Result<Vec<Document>, Flaw> {
    scan(text)?.documents()
}

/// Characters that a reviewer cannot see.
pub fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn too_deep(line: u32, column: u32) -> Flaw {
    Flaw::new(line, column, format!("more than {} maps and lists within each other", limits::MAX_YAML_DEPTH))
}

fn too_many_nodes(line: u32, column: u32) -> Flaw {
    Flaw::new(
        line,
        column,
        format!("more than {} values in one document after its aliases are expanded", limits::MAX_YAML_NODES),
    )
}

/// What one plain scalar is read as; `None` where it is refused, or is no scalar by itself.
pub fn scalar(text: &str) -> Option<Value> {
    parse(text).ok().filter(|value| !value.is_array() && !value.is_object())
}

/// Manifests as YAML: `---` between them, and above each a comment that says where it comes from.
pub fn print(manifests: &[Manifest]) -> String {
    let mut text = String::new();
    for manifest in manifests {
        text.push_str("---\n# Source: ");
        text.push_str(&manifest.source.to_string());
        text.push('\n');
        text.push_str(&write(&Value::Object(manifest.body.clone())));
    }
    text
}

/// One value as YAML that every reader, also one of YAML 1.1, reads back as the same.
pub fn write(value: &Value) -> String {
    let options = serde_saphyr::ser_options! { yaml_12: false, folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(value, options).expect("JSON is always YAML")
}

#[cfg(test)]
mod tests;
