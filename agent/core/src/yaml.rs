//! Reads YAML as the API server's own tools would, and writes YAML that reads back as the same.
//!
//! Two passes over one text: [`scan`] walks the events of `granit_parser` and knows where everything stands;
//! [`Scan::documents`] lets `serde_saphyr` decide what the values are, and nothing else decides that. Both hold
//! budgets that hostile input meets early: depth, nodes and bytes after aliases are expanded.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

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

/// One step of a text's structure.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<'t> {
    /// A map begins.
    Map,
    /// A map ends.
    MapEnd,
    /// A list begins.
    List,
    /// A list ends.
    ListEnd,
    /// The content of an anchor stands here once more.
    Alias,
    /// A scalar.
    Scalar {
        /// Its content: quotes, escapes and folding are undone.
        text: Cow<'t, str>,
        /// How it is written.
        style: Style,
        /// Whether it is a key of a map.
        is_key: bool,
        /// Whether its type is said by a tag.
        is_tagged: bool,
    },
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: its type follows from its characters.
    Plain,
    /// In quotes.
    Quoted,
    /// As a block after `|` or `>`.
    Block,
}

/// A [`Step`] and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed<'t> {
    /// The step.
    pub step: Step<'t>,
    /// Line.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
}

/// The structure of a text of YAML documents.
#[derive(Debug)]
pub struct Scan<'t> {
    text: &'t str,
    steps: Vec<Placed<'t>>,
    documents: Vec<Extent>,
}

/// Where one document with content lies.
#[derive(Debug)]
struct Extent {
    steps: Range<usize>,
    bytes: Range<usize>,
    /// Lines before it.
    skipped: u32,
}

/// A map or list that is not closed yet.
struct Open {
    /// For a map, whether its next scalar is a key.
    expects_key: Option<bool>,
    anchor: usize,
    before: Size,
    height: usize,
}

/// What a node comes to with its aliases expanded.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
    /// Maps and lists within each other.
    height: usize,
}

impl Size {
    fn add(&mut self, other: Size) {
        self.nodes = self.nodes.saturating_add(other.nodes);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Reads every document that has content. A text of comments only, or an empty one, has none.
///
/// # Errors
/// The first flaw: what follows it could mean anything.
pub fn read(text: &str) -> Result<Vec<Document>, Flaw> {
    scan(text)?.documents()
}

/// Walks the structure of a text.
///
/// # Errors
/// When it is no YAML, or when it is YAML that nobody needs and an attacker could use: deep nesting, directives, tags
/// beyond the plain types, invisible characters in keys.
pub fn scan(text: &str) -> Result<Scan<'_>, Flaw> {
    if text.len() > limits::MAX_RENDERED_BYTES {
        return Err(Flaw::new(1, 1, format!("more than {} bytes of YAML", limits::MAX_RENDERED_BYTES)));
    }
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        return Err(Flaw::new(number(line), 1, "a NUL character"));
    }
    let options = granit_parser::options! {
        emit_comments: false,
        disallow_directives: true,
        flow_nesting_limit: limits::MAX_YAML_DEPTH + 1,
        block_nesting_limit: limits::MAX_YAML_DEPTH + 1,
    };
    let mut steps: Vec<Placed<'_>> = Vec::new();
    let mut documents: Vec<Extent> = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    // What each anchor stands for, and what the document comes to so far, with aliases expanded.
    let mut anchors: HashMap<usize, Size> = HashMap::new();
    let mut total = Size::default();
    let mut begin = (0, 0);
    let mut first_step = 0;
    // Whether the last scalar was the nothing that stands for an empty document.
    let mut is_blank = false;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let at = error.marker();
            translate(number(at.line()), number(at.col() + 1), &error.info())
        })?;
        let (line, column) = (number(span.start.line()), number(span.start.col() + 1));
        let is_key = match open.last_mut() {
            Some(Open { expects_key: Some(expects_key), .. }) if opens_node(&event) => {
                let is_key = *expects_key;
                *expects_key = !is_key;
                is_key
            }
            _ => false,
        };
        let mut close = |anchors: &mut HashMap<usize, Size>, total: &Size| {
            let Some(closed) = open.pop() else { return };
            let height = closed.height + 1;
            let size =
                Size { nodes: total.nodes - closed.before.nodes, bytes: total.bytes - closed.before.bytes, height };
            anchors.insert(closed.anchor, size);
            if let Some(parent) = open.last_mut() {
                parent.height = parent.height.max(height);
            }
        };
        let mut push = |step| steps.push(Placed { step, line, column });
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(tag.as_deref(), line, column)?;
                let size = Size { nodes: 1, bytes: text.len(), height: 0 };
                total.add(size);
                anchors.insert(anchor, size);
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    _ => Style::Block,
                };
                if is_key && text.chars().any(is_invisible) {
                    return Err(Flaw::new(line, column, format!("an invisible character in the key {text:?}"))
                        .hint("write the key again by hand"));
                }
                let is_absent = span.is_empty() && style == Style::Plain;
                is_blank = is_absent && tag.is_none();
                // The parser writes ~ for a scalar that is not there.
                let text = if is_absent { Cow::Borrowed("") } else { text };
                push(Step::Scalar { text, style, is_key, is_tagged: tag.is_some() });
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), line, column)?;
                if is_key {
                    return Err(Flaw::new(line, column, "a map as the key of a map").hint("quote it if it is text"));
                }
                push(Step::Map);
                open.push(Open { expects_key: Some(true), anchor, before: total, height: 0 });
                total.add(Size { nodes: 1, bytes: 0, height: 0 });
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), line, column)?;
                if is_key {
                    return Err(Flaw::new(line, column, "a list as the key of a map").hint("quote it if it is text"));
                }
                push(Step::List);
                open.push(Open { expects_key: None, anchor, before: total, height: 0 });
                total.add(Size { nodes: 1, bytes: 0, height: 0 });
            }
            Event::MappingEnd => {
                push(Step::MapEnd);
                close(&mut anchors, &total);
            }
            Event::SequenceEnd => {
                push(Step::ListEnd);
                close(&mut anchors, &total);
            }
            Event::Alias(anchor) => {
                if is_key {
                    return Err(Flaw::new(line, column, "an alias as the key of a map").hint("write the key out"));
                }
                let Some(size) = anchors.get(&anchor).copied() else {
                    return Err(Flaw::new(line, column, "an alias within what it stands for"));
                };
                total.add(size);
                if open.len() + size.height > limits::MAX_YAML_DEPTH {
                    return Err(too_deep(line, column));
                }
                if let Some(parent) = open.last_mut() {
                    parent.height = parent.height.max(size.height);
                }
                push(Step::Alias);
            }
            Event::DocumentStart(..) => {
                let offset = span.start.byte_offset().expect("a parser over a str knows its byte offsets");
                let line_start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
                if let Some(last) = documents.last_mut() {
                    last.bytes.end = last.bytes.end.min(line_start);
                }
                begin = (line_start, line - 1);
                first_step = steps.len();
                total = Size::default();
            }
            Event::DocumentEnd => {
                if is_blank && steps.len() == first_step + 1 {
                    steps.truncate(first_step);
                } else {
                    let bytes = begin.0..text.len();
                    documents.push(Extent { steps: first_step..steps.len(), bytes, skipped: begin.1 });
                }
            }
            _ => {}
        }
        if open.len() > limits::MAX_YAML_DEPTH {
            return Err(too_deep(line, column));
        }
        if total.nodes > limits::MAX_YAML_NODES {
            return Err(too_many_nodes(line, column));
        }
        if total.bytes > limits::MAX_RENDERED_BYTES {
            let limit = limits::MAX_RENDERED_BYTES;
            return Err(Flaw::new(line, column, format!("more than {limit} bytes after aliases are expanded")));
        }
    }
    Ok(Scan { text, steps, documents })
}

impl<'t> Scan<'t> {
    /// Every step, in order, over all documents.
    pub fn steps(&self) -> &[Placed<'t>] {
        &self.steps
    }

    /// The steps of one document.
    pub fn steps_of(&self, document: usize) -> &[Placed<'t>] {
        self.documents.get(document).map_or(&[], |extent| &self.steps[extent.steps.clone()])
    }

    /// How many documents have content.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether no document has content.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Reads every document that has content.
    ///
    /// # Errors
    /// The first flaw: a key said twice, a key that is no text, a number that JSON cannot hold, a budget.
    pub fn documents(&self) -> Result<Vec<Document>, Flaw> {
        self.documents
            .iter()
            .map(|extent| {
                let line = self.steps[extent.steps.start].line;
                let body = parse(&self.text[extent.bytes.clone()]).map_err(|mut flaw| {
                    // A flaw without a line is about the whole document.
                    flaw.line = if flaw.line == 0 { line } else { flaw.line + extent.skipped };
                    flaw.column = flaw.column.max(1);
                    flaw
                })?;
                Ok(Document { body, line })
            })
            .collect()
    }

    /// Line and column of a field: of its key where it is in a map, of the item where it is in a list. Where the path
    /// ends early, the place of the last part that is there.
    pub fn place_of(&self, document: usize, path: &[&str]) -> Option<(u32, u32)> {
        let extent = self.documents.get(document)?;
        let steps = &self.steps[extent.steps.clone()];
        let mut found = (steps.first()?.line, steps.first()?.column);
        let mut at = 0;
        for part in path {
            let Some((place, value)) = child(steps, at, part) else { break };
            found = place;
            at = value;
        }
        Some(found)
    }
}

impl Scan<'_> {
    /// Line and column of every item of the list that is a field at the top of a document.
    pub fn places_of_items(&self, document: usize, field: &str) -> Vec<(u32, u32)> {
        let mut places = Vec::new();
        let steps = self.steps_of(document);
        if let Some((_, list)) = child(steps, 0, field)
            && matches!(steps.get(list), Some(Placed { step: Step::List, .. }))
        {
            let mut next = list + 1;
            while let Some(item) = steps.get(next).filter(|item| item.step != Step::ListEnd) {
                places.push((item.line, item.column));
                next = after(steps, next);
            }
        }
        places
    }
}

/// The place of a field of the map or list that begins at a step, and the step where its value begins.
fn child(steps: &[Placed<'_>], at: usize, part: &str) -> Option<((u32, u32), usize)> {
    match steps.get(at)?.step {
        Step::Map => {
            let mut next = at + 1;
            while let Some(Placed { step: Step::Scalar { text, .. }, line, column }) = steps.get(next) {
                if text == part {
                    return Some(((*line, *column), next + 1));
                }
                next = after(steps, next + 1);
            }
            None
        }
        Step::List => {
            let mut next = at + 1;
            for _ in 0..part.parse::<usize>().ok()? {
                next = after(steps, next);
            }
            let item = steps.get(next).filter(|item| item.step != Step::ListEnd)?;
            Some(((item.line, item.column), next))
        }
        _ => None,
    }
}

/// The step after the whole node that begins at a step.
fn after(steps: &[Placed<'_>], at: usize) -> usize {
    let mut depth = 0usize;
    for (index, placed) in steps.iter().enumerate().skip(at) {
        match placed.step {
            Step::Map | Step::List => depth += 1,
            Step::MapEnd | Step::ListEnd => depth = depth.saturating_sub(1),
            Step::Scalar { .. } | Step::Alias => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    steps.len()
}

fn opens_node(event: &Event<'_>) -> bool {
    matches!(event, Event::Scalar(..) | Event::MappingStart(..) | Event::SequenceStart(..) | Event::Alias(_))
}

/// Tags that say no more than a plain value could are let through; `!!binary`, sets, dates and everybody's own are not.
fn check_tag(tag: Option<&granit_parser::Tag>, line: u32, column: u32) -> Result<(), Flaw> {
    let Some(tag) = tag else { return Ok(()) };
    match tag.core_suffix() {
        Some("str" | "int" | "float" | "bool" | "null" | "map" | "seq") => Ok(()),
        _ => Err(Flaw::new(line, column, format!("refused: the tag {}", tag.original()))
            .hint("write the value without a tag")),
    }
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

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// What one plain scalar is read as; `None` where it is refused, or is no scalar by itself.
pub fn scalar(text: &str) -> Option<Value> {
    parse(text).ok().filter(|value| !value.is_array() && !value.is_object())
}

/// One document as a value.
fn parse(text: &str) -> Result<Value, Flaw> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        reject_unsupported_tags: true,
        with_snippet: false,
        emit_comments: false,
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: limits::MAX_YAML_NODES,
            max_replay_stack_depth: 16,
        },
        budget: serde_saphyr::budget! {
            max_events: 4 * limits::MAX_YAML_NODES,
            max_aliases: 10_000,
            max_anchors: 10_000,
            max_depth: limits::MAX_YAML_DEPTH,
            max_nodes: limits::MAX_YAML_NODES,
            max_total_scalar_bytes: limits::MAX_RENDERED_BYTES,
            max_recorded_anchor_bytes: limits::MAX_RENDERED_BYTES,
            // What counts is how much comes out, and that is bounded.
            enforce_alias_anchor_ratio: false,
        },
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| Node.deserialize(deserializer))
        .map_err(|error| {
            let error = error.without_snippet();
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            let mut message = error.to_string();
            // The place is said beside the message, so it is taken out of it.
            if let Some(at) = message.find(" at line ") {
                message.truncate(at);
            }
            translate(u32::try_from(line).unwrap_or(0), u32::try_from(column).unwrap_or(0), &message)
        })
}

/// A parser's message in the words of this program.
fn translate(line: u32, column: u32, message: &str) -> Flaw {
    let lower = message.to_lowercase();
    if lower.starts_with("duplicate mapping key") {
        let key = message["duplicate mapping key".len()..].trim_start_matches([':', ' ']);
        let key = key.split_once(", set ").map_or(key, |(key, _)| key);
        return Flaw::new(line, column, format!("the key {key} is said twice")).hint("keep one of the two");
    }
    if lower.starts_with("a key that is") {
        return Flaw::new(line, column, message).hint("quote it");
    }
    if lower.starts_with("non-finite") || lower.starts_with("a number that") {
        return Flaw::new(line, column, "a number that JSON cannot hold").hint("quote it if it is text");
    }
    if lower.contains("nesting") || lower.contains("recursion") || lower.contains("depth") {
        return too_deep(line, column);
    }
    if lower.contains("budget") || lower.contains("alias replay") || lower.contains("replayed") {
        return too_many_nodes(line, column);
    }
    Flaw::new(line, column, format!("not YAML: {}", message.trim()))
}

/// Reads one node as JSON.
#[derive(Clone, Copy)]
struct Node;

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, a list or a scalar")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // Go writes 1e3 as 1000, and the API server wants it so where a whole number is needed.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() < EXACT {
            return Ok(Value::Number((value as i64).into()));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that JSON cannot hold"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(self)? {
            let Value::String(key) = key else {
                let key = if key.is_null() { "null".to_owned() } else { key.to_string() };
                return Err(A::Error::custom(format!("a key that is read as {key}, not as text")));
            };
            let value = entries.next_value_seed(self)?;
            if !value.is_null() {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
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
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn body(text: &str) -> Value {
        let mut documents = read(text).unwrap_or_else(|flaw| panic!("{text:?}: {flaw:?}"));
        assert_eq!(documents.len(), 1, "{text:?}");
        documents.remove(0).body
    }

    #[test]
    fn scalars_are_read_as_the_api_server_reads_them() {
        for (text, expected) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("0644", json!(420)),
            ("0o17", json!(15)),
            ("1_000", json!(1000)),
            ("1e3", json!(1000)),
            ("1.0", json!(1)),
            ("1.10", json!(1.1)),
            ("12:30:45", json!("12:30:45")),
            ("2001-01-01", json!("2001-01-01")),
            ("0x1F", json!(31)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("!!str 1", json!("1")),
            ("'yes'", json!("yes")),
        ] {
            assert_eq!(body(&format!("a: {text}")), json!({ "a": expected }), "{text}");
        }
    }

    #[test]
    fn documents_know_their_lines_and_empty_ones_are_skipped() {
        let lines = |text| read(text).unwrap().into_iter().map(|document| document.line).collect::<Vec<_>>();
        assert_eq!(lines("# c\n---\n# c\n\na: 1\n---\n---\n# c\n---\n\nb: 1\n...\n---\nc: 1\n---\n"), [5, 11, 14]);
        assert_eq!(lines("--- {a: 1}\n--- [b]\n"), [1, 2]);
        for empty in ["", "\n", "# only this\n", "---\n", "---\n...\n", "---\n# x\n---\n"] {
            assert!(lines(empty).is_empty(), "{empty:?}");
        }
        assert_eq!(body("null"), Value::Null);
        assert_eq!(body("\u{feff}a: b\r\n"), json!({"a": "b"}));
    }

    #[test]
    fn nulls_leave_maps_and_stay_in_lists() {
        assert_eq!(body("a: ~\nb:\nc: [~, 1]\nd: {e: null}\n"), json!({"c": [null, 1], "d": {}}));
    }

    #[test]
    fn merge_keys_are_applied() {
        assert_eq!(body("x: &x {a: 1, b: 1}\nz:\n  <<: *x\n  b: 2\n")["z"], json!({"a": 1, "b": 2}));
    }

    #[test]
    fn what_readers_could_read_differently_is_refused_with_its_place() {
        for (text, line, message) in [
            ("a: 1\nb: 1\na: 2\n", 3, "the key a is said twice"),
            ("x: 1\n---\na: 1\n\n'a': 2\n", 5, "the key a is said twice"),
            ("\n1: x", 2, "a key that is read as 1, not as text"),
            ("on: x", 1, "a key that is read as true, not as text"),
            ("~: x", 1, "a key that is read as null, not as text"),
            ("{a: 1}: x", 1, "a map as the key of a map"),
            ("a: !!binary aGk=", 1, "refused: the tag !!binary"),
            ("a: !!python/object:os.system x", 1, "refused: the tag"),
            ("a: !mine b", 1, "refused: the tag !mine"),
            ("%YAML 1.1\n---\na: b", 1, "directives"),
            ("a: .inf", 1, "a number that JSON cannot hold"),
            ("a: 1e400", 1, "a number that JSON cannot hold"),
            ("a: *nobody", 1, "anchor"),
            ("a: &a [*a]", 1, "an alias within what it stands for"),
            ("x: &x 1\n---\ny: *x", 3, "anchor"),
            ("ad\u{200b}min: 1", 1, "an invisible character in the key"),
            ("a: b\0c", 1, "a NUL character"),
            ("a:\n  b:\n c: d", 3, "not YAML"),
        ] {
            let flaw = read(text).unwrap_err();
            assert!(flaw.message.contains(message) && flaw.line == line, "{text:?}: {flaw:?}");
        }
    }

    #[test]
    fn aliases_cannot_blow_up() {
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = vec![format!("*a{}", level - 1); 9].join(", ");
            laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(read(&laughs).unwrap_err().message.contains("aliases"));
        let quadratic = format!("big: &big {:?}\nl: [{}]\n", "x".repeat(100_000), vec!["*big"; 10_000].join(", "));
        assert!(read(&quadratic).unwrap_err().message.contains("aliases"));
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..100 {
            deep.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(read(&deep).unwrap_err().message.contains("within each other"));
    }

    #[test]
    fn depth_has_a_limit() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(limits::MAX_YAML_DEPTH)).is_ok());
        for depth in [limits::MAX_YAML_DEPTH + 1, 100_000] {
            let flaw = read(&nested(depth)).unwrap_err();
            assert!(flaw.message.contains("within each other"), "{flaw:?}");
        }
        let indented: String = (0..100_000).map(|depth| format!("{}a:\n", " ".repeat(depth.min(300)))).collect();
        assert!(read(&indented).is_err());
        assert!(read(&"- ".repeat(100_000)).is_err());
    }

    #[test]
    fn nodes_have_a_limit() {
        // The list itself is a node too.
        let list = |items: usize| "- 1\n".repeat(items);
        assert!(read(&list(limits::MAX_YAML_NODES - 1)).is_ok());
        assert!(read(&list(limits::MAX_YAML_NODES)).is_err());
    }

    #[test]
    fn fields_have_places() {
        let scan = scan("a: 1\n---\nb:\n  - c\n  - d: {e: f}\n").unwrap();
        assert_eq!(scan.place_of(1, &["b", "1", "d", "e"]), Some((5, 9)));
        assert_eq!(scan.place_of(1, &["b", "7"]), Some((3, 1)));
        assert_eq!(scan.place_of(2, &["b"]), None);
    }

    #[test]
    fn what_is_written_cannot_be_read_as_something_else() {
        let value = json!({"a": "yes", "b": "0644", "c": "1.10", "d": "12:30", "e": "null", "f": "# x", "g": "a: b"});
        let text = write(&value);
        assert_eq!(body(&text), value);
        assert!(text.contains("a: \"yes\"") || text.contains("a: 'yes'"), "{text}");
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            "[a-z0-9:#\\- \n\t'\"{}\\[\\],&*!|>%@~.]{0,90}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z0-9:#\\- \n'~]{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in value()) {
            prop_assert_eq!(body(&write(&json!({ "x": &value }))), json!({ "x": value }));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[a-c:\\-\\[\\]{}&*!|>'\"#%\n ,~<.0-1]{0,60}") {
            let _ = read(&text);
        }
    }
}
