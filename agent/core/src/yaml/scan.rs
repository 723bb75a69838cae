//! The structure of a text: where everything stands, by the events of `granit_parser`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::value::{parse, translate};
use super::{Document, Flaw, is_invisible, too_deep, too_many_nodes};
use crate::limits;
use granit_parser::{Event, Parser, ScalarStyle};

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

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
