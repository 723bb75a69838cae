//! Reads a template: handlebars' own parser gives the tree, and this module turns it into a smaller one in which
//! every tag knows its line and column, every helper is known to exist, and every partial is named.
//!
//! What could recurse, or take time that grows faster than the source, is measured before the parser sees the source.

use std::collections::BTreeSet;
use std::sync::Arc;

use handlebars::template as hbs;
use serde_json::Value;

use super::helpers::{self, Helper};
use crate::fault::{Place, Problem};
use crate::limits;

/// A template that has been read.
#[derive(Debug)]
pub(super) struct Template {
    /// Path of its file.
    pub(super) file: Arc<str>,
    /// Its source, for excerpts.
    pub(super) source: String,
    pub(super) nodes: Vec<Node>,
    /// The partials that it names, and where.
    pub(super) partials: Vec<(String, Point)>,
    /// Every name that a path of it could reach the context by; `None` where it takes the context as a whole.
    pub(super) mentions: Option<BTreeSet<String>>,
}

/// Line and column, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    pub(super) line: u32,
    pub(super) column: u32,
}

#[derive(Debug)]
pub(super) enum Node {
    /// Text as it stands, and the line where it begins.
    Text { text: String, line: u32 },
    /// `{{expression}}`.
    Insert { expression: Expression, at: Point },
    /// `{{#if}}` and its like.
    Block(Box<Block>),
    /// `{{> name context key=value}}`.
    Partial(Box<Partial>),
}

#[derive(Debug)]
pub(super) struct Block {
    pub(super) kind: BlockKind,
    /// What is tested, walked through, or made the context.
    pub(super) subject: Expression,
    pub(super) include_zero: bool,
    /// `as |value key|`.
    pub(super) names: (Option<String>, Option<String>),
    pub(super) body: Vec<Node>,
    pub(super) inverse: Option<Vec<Node>>,
    pub(super) at: Point,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    If,
    Unless,
    Each,
    With,
}

#[derive(Debug)]
pub(super) struct Partial {
    pub(super) name: String,
    pub(super) context: Option<Expression>,
    pub(super) arguments: Vec<(String, Expression)>,
    /// What stands before the tag, where nothing else stands on its line: every line of the partial gets it.
    pub(super) indent: String,
    pub(super) at: Point,
}

#[derive(Debug)]
pub(super) enum Expression {
    Path(Path),
    Literal(Value),
    Call(Box<Call>),
    /// `include "name" context`: a partial as a value.
    Include(Box<Partial>),
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) helper: &'static Helper,
    pub(super) arguments: Vec<Expression>,
    pub(super) options: Vec<(String, Expression)>,
}

/// A path to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    /// As it is written.
    pub(super) raw: String,
    pub(super) base: Base,
    pub(super) parts: Vec<String>,
}

/// Where a path begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// The context of this many blocks outwards.
    Scope(usize),
    /// `@root`.
    Root,
    /// `@index`, `@key`, `@first`, `@last`, of this many loops outwards.
    Local(usize, String),
}

impl Path {
    /// Reads a path as handlebars writes it; handlebars' parser has let it through already.
    pub(super) fn parse(raw: &str) -> Path {
        let (mut rest, is_local) = match raw.strip_prefix('@') {
            Some(rest) => (rest, true),
            None => (raw, false),
        };
        let mut up = 0;
        let mut is_root = false;
        if is_local && (rest == "root" || rest.starts_with("root.") || rest.starts_with("root/")) {
            is_root = true;
            rest = rest["root".len()..].trim_start_matches(['.', '/']);
        }
        while let Some(outer) = rest.strip_prefix("../").or_else(|| rest.strip_prefix("...")) {
            up += 1;
            rest = outer;
        }
        if rest == ".." {
            up += 1;
            rest = "";
        }
        rest = rest.strip_prefix("./").unwrap_or(rest);
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let part = if let Some(quoted) = rest.strip_prefix('[') {
                let (part, after) = quoted.split_once(']').unwrap_or((quoted, ""));
                rest = after;
                part
            } else {
                let end = rest.find(['.', '/']).unwrap_or(rest.len());
                let (part, after) = rest.split_at(end);
                rest = after;
                part
            };
            rest = rest.strip_prefix(['.', '/']).unwrap_or(rest);
            if part != "this" {
                parts.push(part.to_owned());
            }
        }
        let base = if is_root {
            Base::Root
        } else if is_local && !parts.is_empty() {
            Base::Local(up, parts.remove(0))
        } else {
            Base::Scope(up)
        };
        Path { raw: raw.to_owned(), base, parts }
    }
}

/// Reads a template.
///
/// All problems of the template are returned, except that a template which is no handlebars has only that one.
pub(super) fn compile(file: &str, source: &str) -> Result<Template, Vec<Problem>> {
    check_source(file, source).map_err(|problem| vec![problem])?;
    let tree = hbs::Template::compile(source).map_err(|error| vec![unreadable(file, source, &error)])?;
    let mut compiler = Compiler {
        file,
        source,
        line_starts: std::iter::once(0).chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect(),
        problems: Vec::new(),
        partials: Vec::new(),
        mentions: Some(BTreeSet::new()),
    };
    let nodes = compiler.nodes(&tree, Point { line: 1, column: 1 });
    let Compiler { problems, partials, mentions, .. } = compiler;
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Template { file: file.into(), source: source.to_owned(), nodes, partials, mentions })
}

/// Handlebars' parser goes one call deeper for every block and every bracket, and its time grows with tags times
/// bytes. So both are measured first, by a reading of the source that knows comments, escapes and quotes.
fn check_source(file: &str, source: &str) -> Result<(), Problem> {
    let whole = |message: String| Problem::content(message).at(Place::file(file));
    if source.len() > limits::MAX_TEMPLATE_BYTES {
        return Err(whole(format!("more than the {} bytes that a template may have", limits::MAX_TEMPLATE_BYTES))
            .hint("split it into several templates or partials"));
    }
    let line_of = |at: usize| u32::try_from(source[..at].matches('\n').count() + 1).unwrap_or(u32::MAX);
    if let Some((at, c)) = source.char_indices().find(|(_, c)| is_reserved(*c)) {
        return Err(Problem::content(format!("a private-use character, U+{:04X}", u32::from(c)))
            .at(Place::line(file, line_of(at)))
            .hint("use an escape such as \"\\uE000\" within quotes"));
    }
    let mut tags = 0usize;
    // For every open block 1, and 1 for each `else` in it.
    let mut blocks: Vec<usize> = Vec::new();
    let mut at = 0;
    while let Some(found) = source[at..].find("{{") {
        let start = at + found;
        let backslashes = source[..start].bytes().rev().take_while(|byte| *byte == b'\\').count();
        if backslashes == 1 && start > at {
            at = start + 2;
            continue;
        }
        let inside = &source[start + 2..];
        if let Some(comment) = inside.strip_prefix('!') {
            let is_long = comment.trim_start().starts_with("--");
            let long_end = if is_long { inside.find("--}}").map(|end| end + 4) } else { None };
            let end = long_end.or_else(|| inside.find("}}").map(|end| end + 2));
            at = start + 2 + end.unwrap_or(inside.len());
            tags += 1;
            continue;
        }
        if let Some(raw) = inside.strip_prefix("{{") {
            // A raw block: nothing in it is a tag until it ends.
            tags += 1;
            at = start + 4 + raw.find("}}}}").map_or(raw.len(), |end| end + 4);
            if let Some(end) = source[at..].find("{{{{") {
                at += end;
                at += source[at..].find("}}}}").map_or(4, |end| end + 4);
            }
            continue;
        }
        tags += 1;
        let (end, depth) = tag_end(inside);
        if depth > limits::MAX_CALL_DEPTH {
            return Err(Problem::content(format!("more than {} calls within calls", limits::MAX_CALL_DEPTH))
                .at(Place::line(file, line_of(start))));
        }
        let name = inside[..end].trim_start_matches(['~', ' ', '\t', '\r', '\n']);
        if name.starts_with('#') {
            blocks.push(1);
        } else if name.starts_with('/') {
            blocks.pop();
        } else if let Some(chained) = blocks.last_mut()
            && (name.starts_with("else") || name.starts_with('^'))
        {
            // `{{else if}}` nests in what came before it.
            *chained += 1;
        }
        if blocks.iter().sum::<usize>() > limits::MAX_BLOCK_DEPTH {
            return Err(Problem::content(format!("more than {} blocks within blocks", limits::MAX_BLOCK_DEPTH))
                .at(Place::line(file, line_of(start))));
        }
        at = start + 2 + end;
    }
    if tags.saturating_mul(source.len()) > limits::MAX_TEMPLATE_WORK {
        return Err(whole(format!("{tags} tags in {} bytes are more than one template may have", source.len()))
            .hint("split it into several templates or partials"));
    }
    Ok(())
}

/// Where a tag ends, from behind its `{{`, and how deep its brackets nest.
fn tag_end(inside: &str) -> (usize, usize) {
    let mut depth = 0usize;
    let mut deepest = 0;
    let mut quote = None;
    let mut escaped = false;
    for (offset, c) in inside.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[') => depth += 1,
            (None, '{') if offset > 0 => depth += 1,
            (None, ')' | ']') => depth = depth.saturating_sub(1),
            (None, '}') if inside[offset..].starts_with("}}") && depth == 0 => return (offset + 2, deepest),
            (None, '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    (inside.len(), deepest)
}

/// Characters that the check of inserted values needs for itself.
pub(super) fn is_reserved(c: char) -> bool {
    matches!(c, '\u{e000}'..='\u{e0ff}')
}

fn unreadable(file: &str, source: &str, error: &handlebars::TemplateError) -> Problem {
    let place = match error.pos() {
        Some((line, column)) => {
            let number = |value| u32::try_from(value).unwrap_or(u32::MAX);
            Place::point(file, number(line), number(column))
        }
        None => Place::file(file),
    };
    let problem = match error.reason() {
        handlebars::TemplateErrorReason::MismatchingClosedHelper(open, closed) => {
            Problem::content(format!("{{{{/{closed}}}}} closes a block that was opened as {{{{#{open}}}}}"))
        }
        handlebars::TemplateErrorReason::InvalidParam(text) => {
            Problem::content(format!("{text} is no value that a template can hold"))
        }
        _ => {
            let opened = source.matches("{{#").count();
            let closed = source.matches("{{/").count();
            let problem = Problem::content("not a template that handlebars can read");
            let line = error.pos().and_then(|(line, _)| source.lines().nth(line.saturating_sub(1))).unwrap_or_default();
            let tag = line.split_once("{{").map_or("", |(_, tag)| tag);
            if tag.contains(" | ") {
                problem.hint("there are no pipes: write {{quote value}} for {{ value | quote }}")
            } else if tag.trim_start_matches(['-', ' ']).starts_with('.') || tag.contains(" .Values") {
                problem.hint("this is a Go template: write {{values.name}} for {{ .Values.name }}")
            } else if opened > closed {
                problem.hint("a block is opened and not closed")
            } else if closed > opened {
                problem.hint("a block is closed that was not opened")
            } else {
                problem.hint("look for a tag that is not closed, or for \\{{ before braces that are meant as text")
            }
        }
    };
    problem.at(place)
}

struct Compiler<'s> {
    file: &'s str,
    source: &'s str,
    line_starts: Vec<usize>,
    problems: Vec<Problem>,
    partials: Vec<(String, Point)>,
    mentions: Option<BTreeSet<String>>,
}

impl Compiler<'_> {
    fn nodes(&mut self, template: &hbs::Template, outer: Point) -> Vec<Node> {
        let mut nodes = Vec::with_capacity(template.elements.len());
        for (index, element) in template.elements.iter().enumerate() {
            let at = template.mapping.get(index).map_or(outer, |mapping| {
                let number = |value| u32::try_from(value).unwrap_or(u32::MAX);
                Point { line: number(mapping.0), column: number(mapping.1) }
            });
            match element {
                hbs::TemplateElement::RawString(text) => {
                    if !text.is_empty() {
                        nodes.push(Node::Text { text: text.clone(), line: self.first_line(text, at) });
                    }
                }
                hbs::TemplateElement::Expression(tag) | hbs::TemplateElement::HtmlExpression(tag) => {
                    if let Some(expression) = self.tag(tag, at) {
                        nodes.push(Node::Insert { expression, at });
                    }
                }
                hbs::TemplateElement::HelperBlock(tag) => self.block(tag, at, &mut nodes),
                hbs::TemplateElement::PartialExpression(tag) => {
                    if let Some(partial) = self.partial(tag, at) {
                        nodes.push(Node::Partial(Box::new(partial)));
                    }
                }
                hbs::TemplateElement::PartialBlock(_) => self.refuse(
                    at,
                    "a partial with a block, {{#> name}}",
                    "give the partial what differs as arguments: {{> name key=value}}",
                ),
                hbs::TemplateElement::DecoratorExpression(_) | hbs::TemplateElement::DecoratorBlock(_) => {
                    self.refuse(at, "a decorator, {{*name}}", "put a partial into a file of its own");
                }
                hbs::TemplateElement::Comment(_) => {}
                _ => self.refuse(at, "a tag of an unknown sort", "see the manual for what templates may hold"),
            }
        }
        nodes
    }

    /// The line where a text begins. The mapping gives the place where its first character that is no blank stands,
    /// or the blanks before it; the parser may have taken blanks and a line end away.
    fn first_line(&self, text: &str, at: Point) -> u32 {
        let start = self.line_starts.get(at.line as usize - 1).copied().unwrap_or(self.source.len());
        let skipped_columns = self.source[start..].char_indices().nth(at.column as usize - 1).map_or(0, |(at, _)| at);
        let blanks = |text: &str| -> u32 {
            let blank = text.len() - text.trim_start().len();
            u32::try_from(text[..blank].matches('\n').count()).unwrap_or(0)
        };
        let first_visible = at.line + blanks(&self.source[start + skipped_columns..]);
        first_visible.saturating_sub(blanks(text)).max(1)
    }

    fn problem(&mut self, at: Point, message: impl Into<String>) -> &mut Problem {
        self.problems.push(Problem::content(message).at(Place::point(self.file, at.line, at.column)));
        self.problems.last_mut().expect("it was pushed just now")
    }

    fn refuse(&mut self, at: Point, what: &str, hint: &str) {
        self.problem(at, format!("refused: {what}")).hint = Some(hint.to_owned());
    }

    /// `{{name}}` is a helper where there is one of that name, else a path.
    fn tag(&mut self, tag: &hbs::HelperTemplate, at: Point) -> Option<Expression> {
        let is_bare = tag.params.is_empty() && tag.hash.is_empty();
        match &tag.name {
            hbs::Parameter::Path(path) if is_bare => {
                let raw = raw(path);
                match helpers::find(raw) {
                    Some(_) => self.call(raw, tag, at),
                    None if helpers::reason_against(raw).is_some() => self.call(raw, tag, at),
                    None => Some(self.path(raw)),
                }
            }
            hbs::Parameter::Name(name) => self.call(name, tag, at),
            hbs::Parameter::Path(path) => self.call(raw(path), tag, at),
            hbs::Parameter::Literal(value) => Some(Expression::Literal(value.clone())),
            parameter => self.expression(parameter, at),
        }
    }

    fn path(&mut self, raw: &str) -> Expression {
        let path = Path::parse(raw);
        let takes_all = path.parts.is_empty() && !matches!(path.base, Base::Local(..));
        if takes_all {
            self.mentions = None;
        } else if let Some(mentions) = &mut self.mentions {
            mentions.extend(path.parts.iter().cloned());
        }
        Expression::Path(path)
    }

    fn expression(&mut self, parameter: &hbs::Parameter, at: Point) -> Option<Expression> {
        match parameter {
            hbs::Parameter::Name(name) => Some(self.path(name)),
            hbs::Parameter::Path(path) => Some(self.path(raw(path))),
            hbs::Parameter::Literal(value) => {
                if let (Value::String(text), Some(mentions)) = (value, &mut self.mentions) {
                    // A key for `get` or `lookup`.
                    mentions.extend(text.split(['.', '/']).map(str::to_owned));
                }
                Some(Expression::Literal(value.clone()))
            }
            hbs::Parameter::Subexpression(inner) => match inner.as_element() {
                hbs::TemplateElement::Expression(tag) => match &tag.name {
                    hbs::Parameter::Name(name) => self.call(name, tag, at),
                    hbs::Parameter::Path(path) => self.call(raw(path), tag, at),
                    _ => {
                        self.refuse(at, "a helper whose name is computed", "write the helper's name");
                        None
                    }
                },
                _ => None,
            },
            _ => {
                self.refuse(at, "a value of an unknown sort", "see the manual for what templates may hold");
                None
            }
        }
    }

    fn call(&mut self, name: &str, tag: &hbs::HelperTemplate, at: Point) -> Option<Expression> {
        if name == "include" {
            return self.include(tag, at);
        }
        let Some(helper) = helpers::find(name) else {
            self.unknown_helper(name, at);
            return None;
        };
        let given = tag.params.len();
        if name == "lookup" && given > 2 {
            self.refuse(
                at,
                "a look-up in the cluster",
                "rendering reaches nothing outside the deploy repository; \
                lookup takes a map and a key",
            );
            return None;
        }
        if given < helper.arguments.0 || given > helper.arguments.1 {
            let mut hint = format!("write {}", helper.usage);
            if given == 0 {
                hint.push_str(&format!("; a value of that name is this.{name}"));
            }
            self.problem(at, format!("{name} is called with {given} arguments")).hint = Some(hint);
            return None;
        }
        let arguments = tag.params.iter().map(|parameter| self.expression(parameter, at)).collect::<Vec<_>>();
        let mut options = Vec::new();
        for (key, parameter) in sorted(&tag.hash) {
            if !helper.options.contains(&"*") && !helper.options.contains(&key) {
                self.problem(at, format!("{name} has no option {key}")).hint = Some(format!("write {}", helper.usage));
            }
            options.push(self.expression(parameter, at).map(|value| (key.to_owned(), value)));
        }
        let arguments = arguments.into_iter().collect::<Option<Vec<_>>>()?;
        let options = options.into_iter().collect::<Option<Vec<_>>>()?;
        Some(Expression::Call(Box::new(Call { helper, arguments, options })))
    }

    fn unknown_helper(&mut self, name: &str, at: Point) {
        if let Some(reason) = helpers::reason_against(name) {
            self.problem(at, format!("refused: the helper {name}")).hint = Some(reason.to_owned());
            return;
        }
        let near = super::nearest(name, helpers::names());
        self.problem(at, format!("unknown helper {name}")).hint = Some(match near {
            Some(near) => format!("did you mean {near}?"),
            None => "the helpers are a closed list; see the manual".to_owned(),
        });
    }

    fn include(&mut self, tag: &hbs::HelperTemplate, at: Point) -> Option<Expression> {
        let name = match tag.params.first() {
            Some(hbs::Parameter::Literal(Value::String(name))) => name.clone(),
            _ => {
                self.refuse(
                    at,
                    "an include whose partial is computed",
                    "write include \"name\", with the name in quotes",
                );
                return None;
            }
        };
        if tag.params.len() > 2 {
            self.problem(at, "include is called with more than a partial and a context").hint =
                Some("write include \"name\" context key=value".to_owned());
            return None;
        }
        let partial = self.named_partial(name, tag.params.get(1), &tag.hash, String::new(), at)?;
        Some(Expression::Include(Box::new(partial)))
    }

    fn partial(&mut self, tag: &hbs::DecoratorTemplate, at: Point) -> Option<Partial> {
        let name = match &tag.name {
            hbs::Parameter::Name(name) => name.trim_matches('\'').to_owned(),
            hbs::Parameter::Path(path) => raw(path).to_owned(),
            hbs::Parameter::Literal(Value::String(name)) => name.clone(),
            _ => {
                self.refuse(at, "a partial whose name is computed", "write the partial's name");
                return None;
            }
        };
        // Handlebars keeps the blanks before the tag also where something else stands on the line.
        let line_start = self.line_starts.get(at.line as usize - 1).copied().unwrap_or_default();
        let line = &self.source[line_start..];
        let tag_start = line.char_indices().nth(at.column as usize - 1).map_or(line.len(), |(at, _)| at);
        let (before, from_tag) = line.split_at(tag_start);
        let inside = from_tag.get(2..).unwrap_or_default();
        let after = inside[tag_end(inside).0..].lines().next().unwrap_or_default();
        let is_alone = before.trim().is_empty() && after.trim().is_empty();
        let indent = match &tag.indent {
            Some(indent) if is_alone => indent.clone(),
            _ => String::new(),
        };
        self.named_partial(name, tag.params.first(), &tag.hash, indent, at)
    }

    fn named_partial(
        &mut self,
        name: String,
        context: Option<&hbs::Parameter>,
        arguments: &std::collections::HashMap<String, hbs::Parameter>,
        indent: String,
        at: Point,
    ) -> Option<Partial> {
        if !is_partial_name(&name) {
            self.problem(at, format!("{name:?} is no name of a partial")).hint =
                Some("use letters, digits, _, - and / as in {{> web/labels}}".to_owned());
            return None;
        }
        let context = match context {
            Some(parameter) => Some(self.expression(parameter, at)?),
            None => None,
        };
        let arguments = sorted(arguments)
            .into_iter()
            .map(|(key, parameter)| Some((key.to_owned(), self.expression(parameter, at)?)))
            .collect::<Option<Vec<_>>>()?;
        self.partials.push((name.clone(), at));
        Some(Partial { name, context, arguments, indent, at })
    }

    fn block(&mut self, tag: &hbs::HelperTemplate, at: Point, nodes: &mut Vec<Node>) {
        let name = match &tag.name {
            hbs::Parameter::Name(name) => name.as_str(),
            hbs::Parameter::Path(path) => raw(path),
            _ => {
                self.refuse(at, "a block whose helper is computed", "write the helper's name");
                return;
            }
        };
        let body = tag.template.as_ref().map(|template| self.nodes(template, at)).unwrap_or_default();
        let inverse = tag.inverse.as_ref().map(|template| self.nodes(template, at));
        if name == "raw" {
            self.raw_block(tag, body, nodes);
            return;
        }
        let kind = match name {
            "if" => BlockKind::If,
            "unless" => BlockKind::Unless,
            "each" => BlockKind::Each,
            "with" => BlockKind::With,
            _ if helpers::find(name).is_some_and(|helper| helper.is_test) => BlockKind::If,
            _ if helpers::find(name).is_some() => {
                self.problem(at, format!("{name} is no block")).hint = Some(format!("write {{{{{name} …}}}}"));
                return;
            }
            _ => {
                self.unknown_helper(name, at);
                return;
            }
        };
        let is_own_block = matches!(name, "if" | "unless" | "each" | "with");
        let subject = if is_own_block {
            let [subject] = tag.params.as_slice() else {
                self.problem(at, format!("{name} is called with {} arguments", tag.params.len())).hint =
                    Some(format!("write {{{{#{name} value}}}}, or {{{{#{name} (eq a b)}}}}"));
                return;
            };
            self.expression(subject, at)
        } else {
            self.call(name, tag, at)
        };
        let include_zero = matches!(tag.hash.get("includeZero"), Some(hbs::Parameter::Literal(Value::Bool(true))));
        let name_of = |parameter: &hbs::Parameter| match parameter {
            hbs::Parameter::Name(name) => Some(name.clone()),
            _ => None,
        };
        let names = match &tag.block_param {
            Some(hbs::BlockParam::Single(value)) => (name_of(value), None),
            Some(hbs::BlockParam::Pair((value, key))) => (name_of(value), name_of(key)),
            _ => (None, None),
        };
        if let Some(subject) = subject {
            nodes.push(Node::Block(Box::new(Block { kind, subject, include_zero, names, body, inverse, at })));
        }
    }
}

impl Compiler<'_> {
    /// Handlebars' parser loses the blanks with which the text of a raw block begins.
    fn raw_block(&self, tag: &hbs::HelperTemplate, body: Vec<Node>, nodes: &mut Vec<Node>) {
        let mapping = tag.template.as_ref().and_then(|template| template.mapping.first());
        if let Some(mapping) = mapping {
            let (line, column) = (mapping.0, mapping.1);
            let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.source.len());
            let text = &self.source[start..];
            let start = start + text.char_indices().nth(column.saturating_sub(1)).map_or(0, |(at, _)| at);
            let before = &self.source[..start];
            let blanks = &before[before.trim_end().len()..];
            // Where the tag ends its line, that line end belongs to the tag.
            let blanks = blanks.split_once('\n').map_or(blanks, |(_, after)| after);
            if !blanks.is_empty() {
                let line = u32::try_from(line).unwrap_or(u32::MAX);
                nodes.push(Node::Text { text: blanks.to_owned(), line });
            }
        }
        nodes.extend(body);
    }
}

/// The text of a path; handlebars keeps it with the path.
fn raw(path: &handlebars::Path) -> &str {
    match path {
        handlebars::Path::Relative((_, raw)) | handlebars::Path::Local((_, _, raw)) => raw,
    }
}

fn sorted(hash: &std::collections::HashMap<String, hbs::Parameter>) -> Vec<(&str, &hbs::Parameter)> {
    let mut entries: Vec<_> = hash.iter().map(|(key, parameter)| (key.as_str(), parameter)).collect();
    entries.sort_by_key(|(key, _)| *key);
    entries
}

/// Whether a partial may be called so.
pub(super) fn is_partial_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    name.len() <= limits::MAX_NAME_BYTES && name.split('/').all(|part| !part.is_empty() && part.chars().all(good))
}
