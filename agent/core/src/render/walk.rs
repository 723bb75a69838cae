//! Walks a template with a context and writes what it renders to.
//!
//! Handlebars' parser read the template; the walk is our own, because every step of it has to be counted, every missing
//! value noted with its place while the walk goes on, and every inserted value remembered with the bytes it became.
//! What it writes is what handlebars' own engine would write: a test holds the two against each other.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use handlebars::JsonTruthy;
use serde_json::Value;

use super::helpers::{self, Arguments, Item, data};
use super::output::{Origin, Output, Text};
use super::template::{Base, Block, BlockKind, Expression, Node, Partial, Path, Point, Template};
use crate::fault::{Place, Problem};
use crate::limits;

/// The partials by name.
pub(super) type Partials = BTreeMap<String, Arc<Template>>;

/// Renders a template.
///
/// All problems are returned: the walk goes on after one, as far as it can.
pub(super) fn render(template: &Template, partials: &Partials, context: &Value) -> Result<Text, Vec<Problem>> {
    let mut walk = Walk {
        partials,
        root: context,
        output: Output::default(),
        steps: 0,
        depth: 0,
        partial_depth: 0,
        captured: 0,
        problems: Vec::new(),
        missing: BTreeSet::new(),
    };
    let scope = Scope { parent: None, this: context, names: &[], local: None };
    // What stopped the walk is among the problems.
    let _ = walk.nodes(&template.nodes, template, &scope);
    if walk.problems.is_empty() { Ok(walk.output.finish()) } else { Err(walk.problems) }
}

/// The walk ended before the template did. Why is among the problems.
struct Stopped;

struct Walk<'t> {
    partials: &'t Partials,
    root: &'t Value,
    output: Output,
    steps: u64,
    depth: usize,
    partial_depth: usize,
    /// Bytes of the outputs that are set aside while an `include` is rendered.
    captured: usize,
    problems: Vec<Problem>,
    /// What was found missing already, so that a loop says it once.
    missing: BTreeSet<(Arc<str>, Point, String)>,
}

/// What paths are looked up in.
#[derive(Clone, Copy)]
struct Scope<'s> {
    parent: Option<&'s Scope<'s>>,
    this: &'s Value,
    /// Block parameters and arguments of a partial.
    names: &'s [(&'s str, &'s Value)],
    local: Option<Local<'s>>,
}

/// `@index` and its like.
#[derive(Clone, Copy)]
struct Local<'s> {
    index: usize,
    count: usize,
    key: Option<&'s str>,
}

impl<'t> Walk<'t> {
    fn nodes<'s>(&mut self, nodes: &'t [Node], template: &'t Template, scope: &'s Scope<'s>) -> Result<(), Stopped>
    where
        't: 's,
    {
        for node in nodes {
            match node {
                Node::Text { text, line } => {
                    self.step(1, template, Point { line: *line, column: 1 })?;
                    self.output.write_source(text, &template.file, *line);
                }
                Node::Insert { expression, at } => {
                    self.step(1, template, *at)?;
                    let item = self.evaluate(expression, *at, template, scope)?;
                    self.insert(item, expression, *at, template, scope)?;
                }
                Node::Block(block) => {
                    self.step(1, template, block.at)?;
                    self.deeper(template, block.at, |walk| walk.block(block, template, scope))?;
                }
                Node::Partial(partial) => {
                    self.step(1, template, partial.at)?;
                    self.deeper(template, partial.at, |walk| walk.partial(partial, template, scope))?;
                }
            }
            if self.output.len() + self.captured > limits::MAX_TEMPLATE_OUTPUT_BYTES {
                let limit = limits::MAX_TEMPLATE_OUTPUT_BYTES;
                return Err(self.stop(template, point(node), format!("renders to more than {limit} bytes")));
            }
            if self.output.inserts() > limits::MAX_TEMPLATE_INSERTS {
                let limit = limits::MAX_TEMPLATE_INSERTS;
                let message = format!("inserts more than {limit} values that are no plain words");
                return Err(self.stop(template, point(node), message));
            }
        }
        Ok(())
    }

    fn block<'s>(&mut self, block: &'t Block, template: &'t Template, scope: &'s Scope<'s>) -> Result<(), Stopped>
    where
        't: 's,
    {
        let subject = self.evaluate(&block.subject, block.at, template, scope)?;
        let path = match (&subject, &block.subject) {
            (Item::Poison, _) => return Ok(()),
            (Item::Missing(_), Expression::Path(path)) => path.raw.clone(),
            (Item::Missing(path), _) => path.clone(),
            _ => String::new(),
        };
        let is_missing = matches!(subject, Item::Missing(_));
        let value = helpers::value_of(subject);
        let inverse = block.inverse.as_deref();
        match block.kind {
            BlockKind::If | BlockKind::Unless => {
                let is_true = value.is_truthy(block.include_zero) == (block.kind == BlockKind::If);
                let nodes = if is_true { &*block.body } else { inverse.unwrap_or_default() };
                self.nodes(nodes, template, scope)
            }
            BlockKind::With if value.is_truthy(false) => {
                let this: &Value = &value;
                let named = block.names.0.as_deref().map(|name| (name, this));
                let inner = Scope { parent: Some(scope), this, names: named.as_slice(), local: scope.local };
                self.nodes(&block.body, template, &inner)
            }
            BlockKind::Each if matches!(&*value, Value::Array(_) | Value::Object(_)) && !is_empty(&value) => {
                self.each(block, &value, template, scope)
            }
            BlockKind::With | BlockKind::Each => match inverse {
                Some(nodes) => self.nodes(nodes, template, scope),
                None if is_missing => self.miss(&path, block.at, template, scope, None),
                None if block.kind == BlockKind::Each && matches!(&*value, Value::Array(_) | Value::Object(_)) => {
                    Ok(())
                }
                None if value.is_null() => self.miss(&show(&block.subject), block.at, template, scope, Some("is null")),
                None if block.kind == BlockKind::With => Ok(()),
                None => {
                    let message =
                        format!("{} is {}, neither a list nor a map", show(&block.subject), helpers::kind(&value));
                    self.problem(template, block.at, message);
                    Ok(())
                }
            },
        }
    }

    fn each<'s>(
        &mut self,
        block: &'t Block,
        value: &'s Value,
        template: &'t Template,
        scope: &'s Scope<'s>,
    ) -> Result<(), Stopped>
    where
        't: 's,
    {
        let round = |walk: &mut Self, this: &Value, local: Local<'_>| {
            walk.step(1, template, block.at)?;
            let key = local.key.map_or_else(|| Value::from(local.index), Value::from);
            let mut names: Vec<(&str, &Value)> = Vec::new();
            names.extend(block.names.0.as_deref().map(|name| (name, this)));
            names.extend(block.names.1.as_deref().map(|name| (name, &key)));
            let inner = Scope { parent: Some(scope), this, names: &names, local: Some(local) };
            walk.nodes(&block.body, template, &inner)
        };
        match value {
            Value::Array(items) => {
                let count = items.len();
                items
                    .iter()
                    .enumerate()
                    .try_for_each(|(index, item)| round(self, item, Local { index, count, key: None }))
            }
            Value::Object(map) => {
                let count = map.len();
                map.iter()
                    .enumerate()
                    .try_for_each(|(index, (key, item))| round(self, item, Local { index, count, key: Some(key) }))
            }
            _ => Ok(()),
        }
    }

    fn partial<'s>(&mut self, partial: &'t Partial, template: &'t Template, scope: &'s Scope<'s>) -> Result<(), Stopped>
    where
        't: 's,
    {
        let Some(called) = self.partials.get(&partial.name) else {
            let near = super::nearest(&partial.name, self.partials.keys().map(String::as_str));
            let problem = self.problem(template, partial.at, format!("there is no partial {}", partial.name));
            problem.hint = near.map(|near| format!("did you mean {near}?"));
            return Ok(());
        };
        if self.partial_depth >= limits::MAX_PARTIAL_DEPTH {
            let message = format!("more than {} partials within partials", limits::MAX_PARTIAL_DEPTH);
            return Err(self.stop(template, partial.at, message));
        }
        let context = match &partial.context {
            None => Cow::Borrowed(scope.this),
            Some(expression) => match self.evaluate(expression, partial.at, template, scope)? {
                Item::Missing(path) => return self.miss(&path, partial.at, template, scope, None),
                Item::Poison => return Ok(()),
                item => helpers::value_of(item),
            },
        };
        let mut arguments = Vec::with_capacity(partial.arguments.len());
        for (name, expression) in &partial.arguments {
            match self.evaluate(expression, partial.at, template, scope)? {
                Item::Missing(path) => self.miss(&path, partial.at, template, scope, None)?,
                Item::Poison => {}
                item => arguments.push((name.as_str(), helpers::value_of(item))),
            }
        }
        let names: Vec<(&str, &Value)> = arguments.iter().map(|(name, value)| (*name, &**value)).collect();
        let inner = Scope { parent: Some(scope), this: &context, names: &names, local: scope.local };
        let outer_indent = self.output.indent.len();
        self.output.indent.push_str(&partial.indent);
        self.partial_depth += 1;
        let result = self.nodes(&called.nodes, called, &inner);
        self.partial_depth -= 1;
        self.output.indent.truncate(outer_indent);
        result
    }

    fn evaluate<'s>(
        &mut self,
        expression: &'t Expression,
        at: Point,
        template: &'t Template,
        scope: &'s Scope<'s>,
    ) -> Result<Item<'s>, Stopped>
    where
        't: 's,
    {
        match expression {
            Expression::Literal(value) => Ok(Item::Value(Cow::Borrowed(value))),
            Expression::Path(path) => Ok(self.look_up(path, scope)),
            Expression::Include(partial) => {
                let outer = std::mem::take(&mut self.output);
                self.captured += outer.len();
                let result = self.deeper(template, at, |walk| walk.partial(partial, template, scope));
                let included = std::mem::replace(&mut self.output, outer).finish();
                self.captured -= self.output.len();
                result.map(|()| Item::Text(included))
            }
            Expression::Call(call) => {
                self.step(1, template, at)?;
                let mut items = Vec::with_capacity(call.arguments.len());
                let mut options = Vec::with_capacity(call.options.len());
                let mut is_poisoned = false;
                let named = call.options.iter().map(|(name, expression)| (Some(name.as_str()), expression));
                for (name, argument) in call.arguments.iter().map(|expression| (None, expression)).chain(named) {
                    let item = self.evaluate(argument, at, template, scope)?;
                    match &item {
                        Item::Missing(path) if !call.helper.takes_missing => {
                            self.miss(path, at, template, scope, None)?;
                            is_poisoned = true;
                        }
                        Item::Poison => is_poisoned = true,
                        item => self.step(weight(item, call.helper.copies), template, at)?,
                    }
                    match name {
                        Some(name) => options.push((name, item)),
                        None => items.push(item),
                    }
                }
                if is_poisoned {
                    return Ok(Item::Poison);
                }
                match (call.helper.run)(Arguments { items, options }) {
                    Ok(Item::Missing(_)) => Ok(Item::Missing(show(expression))),
                    Ok(item) => Ok(item),
                    Err(message) => {
                        let is_own_message = matches!(call.helper.name, "fail" | "required");
                        // A wrong type is most often a wrong order of arguments.
                        let hint = message.contains(" is no ").then(|| format!("write {}", call.helper.usage));
                        let message = if is_own_message { message } else { format!("{}: {message}", call.helper.name) };
                        self.problem(template, at, message).hint = hint;
                        Ok(Item::Poison)
                    }
                }
            }
        }
    }

    fn look_up<'s>(&self, path: &'t Path, scope: &'s Scope<'s>) -> Item<'s>
    where
        't: 's,
    {
        let missing = || Item::Missing(path.raw.clone());
        let (start, parts) = match &path.base {
            Base::Root => (self.root, &*path.parts),
            Base::Local(up, name) => {
                let local = outwards(scope, *up).and_then(|scope| scope.local);
                return match (local, name.as_str()) {
                    (Some(local), "index") => Item::owned(local.index),
                    (Some(local), "first") => Item::owned(local.index == 0),
                    (Some(local), "last") => Item::owned(local.index + 1 == local.count),
                    (Some(Local { key: Some(key), .. }), "key") => Item::string(key),
                    _ => missing(),
                };
            }
            Base::Scope(0) => {
                let named = path.parts.first().and_then(|first| {
                    let scopes = std::iter::successors(Some(scope), |scope| scope.parent);
                    let mut names = scopes.flat_map(|scope| scope.names.iter().copied());
                    names.find(|(name, _)| name == first).map(|(_, value)| value)
                });
                match named {
                    Some(value) => (value, &path.parts[1..]),
                    None => (scope.this, &*path.parts),
                }
            }
            Base::Scope(up) => match outwards(scope, *up) {
                Some(scope) => (scope.this, &*path.parts),
                None => return missing(),
            },
        };
        match follow(start, parts) {
            Some(value) => Item::Value(Cow::Borrowed(value)),
            None => missing(),
        }
    }

    fn insert<'s>(
        &mut self,
        item: Item<'s>,
        expression: &'t Expression,
        at: Point,
        template: &'t Template,
        scope: &'s Scope<'s>,
    ) -> Result<(), Stopped>
    where
        't: 's,
    {
        let origin = Origin { file: Arc::clone(&template.file), line: at.line, column: at.column };
        self.output.come_from(origin.clone());
        match item {
            Item::Poison => {}
            Item::Missing(path) => return self.miss(&path, at, template, scope, None),
            Item::Value(value) => match &*value {
                Value::Null => return self.miss(&show(expression), at, template, scope, Some("is null")),
                Value::Array(_) | Value::Object(_) => {
                    let message = format!("{} is {}, not text", show(expression), helpers::kind(&value));
                    self.problem(template, at, message).hint = Some("write toYaml or toJson before it".to_owned());
                }
                Value::String(text) => {
                    if is_harmless(text) || matches!(expression, Expression::Literal(_)) {
                        self.output.write(text);
                    } else {
                        self.output.insert(text, origin, show(expression), None);
                    }
                }
                other => self.output.write(&other.to_string()),
            },
            Item::Quoted { text, original } => self.output.insert(&text, origin, show(expression), Some(original)),
            Item::Text(text) => self.output.write_text(&text),
            Item::Yaml { value, indent } => self.write_yaml(&value, indent),
        }
        Ok(())
    }

    /// Writes a value as YAML at the column where the tag stands, or at the one that was asked for; on one line where
    /// something stands before the tag and no column was asked for.
    fn write_yaml(&mut self, value: &Value, indent: Option<usize>) {
        let is_nested = matches!(value, Value::Object(_) | Value::Array(_)) && !is_empty(value);
        let before = self.output.line_so_far();
        let is_line_blank = before.chars().all(|c| c == ' ');
        let column = before.len();
        if !is_nested {
            self.output.write(&data::block(value));
            return;
        }
        let (column, pad) = match indent {
            None if is_line_blank => (column, 0),
            None => {
                self.output.write(&data::flow(value));
                return;
            }
            Some(wanted) if is_line_blank => (wanted, wanted.saturating_sub(column)),
            Some(wanted) => {
                self.output.write("\n");
                (wanted, wanted)
            }
        };
        let block = data::block(value);
        for (index, line) in block.lines().enumerate() {
            if index > 0 {
                self.output.write("\n");
            }
            let pad = if index == 0 { pad } else { column };
            self.output.write(&format!("{}{line}", " ".repeat(pad)));
        }
    }

    fn deeper(
        &mut self,
        template: &Template,
        at: Point,
        walk: impl FnOnce(&mut Self) -> Result<(), Stopped>,
    ) -> Result<(), Stopped> {
        if self.depth >= limits::MAX_RENDER_DEPTH {
            let message = format!("more than {} blocks and partials within each other", limits::MAX_RENDER_DEPTH);
            return Err(self.stop(template, at, message));
        }
        self.depth += 1;
        let result = walk(self);
        self.depth -= 1;
        result
    }

    fn step(&mut self, steps: u64, template: &Template, at: Point) -> Result<(), Stopped> {
        self.steps += steps;
        if self.steps > limits::MAX_TEMPLATE_STEPS {
            let message = format!("takes more than {} steps", limits::MAX_TEMPLATE_STEPS);
            let stopped = self.stop(template, at, message);
            if let Some(problem) = self.problems.last_mut() {
                problem.hint = Some("look for loops within loops".to_owned());
            }
            return Err(stopped);
        }
        Ok(())
    }

    fn stop(&mut self, template: &Template, at: Point, message: String) -> Stopped {
        self.problem(template, at, message);
        Stopped
    }

    fn problem(&mut self, template: &Template, at: Point, message: String) -> &mut Problem {
        self.problems.push(Problem::content(message).at(Place::point(&*template.file, at.line, at.column)));
        self.problems.last_mut().expect("it was pushed just now")
    }

    /// Notes a missing value, once for each place.
    fn miss(
        &mut self,
        path: &str,
        at: Point,
        template: &Template,
        scope: &Scope<'_>,
        how: Option<&str>,
    ) -> Result<(), Stopped> {
        if !self.missing.insert((Arc::clone(&template.file), at, path.to_owned())) {
            return Ok(());
        }
        if self.missing.len() > limits::MAX_MISSING_VARIABLES {
            let message =
                format!("more than {} missing variables; the rest is not shown", limits::MAX_MISSING_VARIABLES);
            return Err(self.stop(template, at, message));
        }
        let hint = advice(path, self.root, scope);
        let message = match how {
            Some(how) => format!("variable {path} {how}"),
            None => format!("{MISSING}{path}"),
        };
        self.problem(template, at, message).hint = hint;
        Ok(())
    }
}

const MISSING: &str = "missing variable ";

/// Whether a problem is that a template misses something.
pub(super) fn is_missing(problem: &Problem) -> bool {
    problem.message.starts_with(MISSING)
}

/// What somebody may have meant by a path at which there is nothing.
fn advice(path: &str, root: &Value, scope: &Scope<'_>) -> Option<String> {
    if path.contains(' ') {
        return None;
    }
    let parsed = Path::parse(path);
    let (start, is_inner) = match &parsed.base {
        Base::Local(..) => return Some("@index, @key, @first and @last stand in {{#each}} only".to_owned()),
        Base::Root => (root, false),
        Base::Scope(0) => (scope.this, !std::ptr::eq(scope.this, root)),
        Base::Scope(up) => (outwards(scope, *up)?.this, true),
    };
    let names: Vec<&str> = parsed.parts.iter().map(String::as_str).collect();
    if is_inner && parsed.base == Base::Scope(0) && follow(root, &parsed.parts).is_some() {
        return Some(format!("within this block paths begin at its subject: write @root.{path}"));
    }
    // The deepest part that is there, and the keys beside the one that is not.
    let mut value = start;
    for (depth, name) in names.iter().enumerate() {
        match step_into(value, name) {
            Some(inner) => value = inner,
            None => {
                let map = match value {
                    Value::Object(map) => map,
                    Value::Array(items) => {
                        return Some(format!("{} is a list of {}", names[..depth].join("."), items.len()));
                    }
                    other => return Some(format!("{} is {}", names[..depth].join("."), helpers::kind(other))),
                };
                if depth == 0 && !is_inner {
                    let values = root.get("values").and_then(Value::as_object);
                    if values.is_some_and(|values| values.contains_key(*name)) {
                        return Some(format!("did you mean values.{path}?"));
                    }
                }
                if let Some(near) = super::nearest(name, map.keys().map(String::as_str)) {
                    let mut parts = names[..depth].to_vec();
                    parts.push(near);
                    parts.extend(&names[depth + 1..]);
                    return Some(format!("did you mean {}?", parts.join(".")));
                }
                let is_bare = names.len() == 1 && depth == 0;
                if is_bare && let Some(near) = super::nearest(name, helpers::names()) {
                    return Some(format!("if a helper was meant: there is {near}"));
                }
                return match names[0] {
                    "values" => Some("add it to values.yaml, or give it a default".to_owned()),
                    "components" => Some("components are the submodules of the deploy repository".to_owned()),
                    _ if is_bare => {
                        Some("templates see values, environment, cluster, lane, revision and components".to_owned())
                    }
                    _ => None,
                };
            }
        }
    }
    None
}

fn outwards<'s>(scope: &'s Scope<'s>, up: usize) -> Option<&'s Scope<'s>> {
    (0..up).try_fold(scope, |scope, _| scope.parent)
}

fn follow<'v>(value: &'v Value, parts: &[String]) -> Option<&'v Value> {
    parts.iter().try_fold(value, |value, part| step_into(value, part))
}

fn step_into<'v>(value: &'v Value, part: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Text that is one scalar, or part of one, wherever it stands.
fn is_harmless(text: &str) -> bool {
    let inner =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'@' | b'+' | b'-' | b':');
    text.bytes().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        // As a whole scalar it would vanish.
        && !text.eq_ignore_ascii_case("null")
}

/// How much work an item is for a helper: its bytes by the line, and, where the helper copies or compares, its nodes.
fn weight(item: &Item<'_>, is_deep: bool) -> u64 {
    fn of(value: &Value, is_deep: bool) -> u64 {
        match value {
            Value::String(text) => 1 + text.len() as u64 / 64,
            Value::Array(items) if is_deep => 1 + items.iter().map(|item| of(item, true)).sum::<u64>(),
            Value::Object(map) if is_deep => {
                1 + map.iter().map(|(key, value)| key.len() as u64 / 64 + of(value, true)).sum::<u64>()
            }
            _ => 1,
        }
    }
    match item {
        Item::Missing(_) | Item::Poison => 0,
        Item::Value(value) | Item::Yaml { value, .. } => of(value, is_deep),
        Item::Quoted { text, .. } => 1 + text.len() as u64 / 64,
        Item::Text(text) => 1 + text.text.len() as u64 / 64,
    }
}

fn point(node: &Node) -> Point {
    match node {
        Node::Text { line, .. } => Point { line: *line, column: 1 },
        Node::Insert { at, .. } => *at,
        Node::Block(block) => block.at,
        Node::Partial(partial) => partial.at,
    }
}

/// An expression as it is written.
fn show(expression: &Expression) -> String {
    match expression {
        Expression::Path(path) => path.raw.clone(),
        Expression::Literal(value) => value.to_string(),
        Expression::Include(partial) => format!("include {:?}", partial.name),
        Expression::Call(call) => {
            let mut shown = call.helper.name.to_owned();
            for argument in &call.arguments {
                let argument = match argument {
                    Expression::Call(_) | Expression::Include(_) => format!("({})", show(argument)),
                    _ => show(argument),
                };
                shown.push(' ');
                shown.push_str(&argument);
            }
            shown
        }
    }
}
