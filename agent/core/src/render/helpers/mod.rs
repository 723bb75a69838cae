//! The helpers of templates: a closed list of pure functions, in the argument order of Sprig, as Helm's users know it.
//!
//! A helper sees values and gives a value. It reads no clock, no environment, no file and no cluster, so that one
//! revision renders to the same bytes whenever and wherever it is rendered.

pub(super) mod data;
mod encoding;
mod lists;
mod logic;
mod numbers;
mod text;

use std::borrow::Cow;

use serde_json::Value;

use super::output::Text;
use crate::limits;

/// A value on its way through a template.
#[derive(Clone, Debug)]
pub(super) enum Item<'s> {
    /// There is nothing at this path.
    Missing(String),
    /// A problem was noted where this should have come from.
    Poison,
    /// A value. As text it must stay within one scalar.
    Value(Cow<'s, Value>),
    /// Text in quotes, and what it reads as.
    Quoted { text: String, original: String },
    /// Text that is structure on purpose.
    Text(Text),
    /// A value that is written as YAML where it is inserted.
    Yaml { value: Cow<'s, Value>, indent: Option<usize> },
}

impl Item<'_> {
    pub(super) fn string(text: impl Into<String>) -> Self {
        Item::Value(Cow::Owned(Value::String(text.into())))
    }

    pub(super) fn owned(value: impl Into<Value>) -> Self {
        Item::Value(Cow::Owned(value.into()))
    }
}

/// One helper.
#[derive(Debug)]
pub(super) struct Helper {
    pub(super) name: &'static str,
    /// How it is written.
    pub(super) usage: &'static str,
    /// How many arguments it takes, at least and at most.
    pub(super) arguments: (usize, usize),
    /// The options it takes; `*` for any.
    pub(super) options: &'static [&'static str],
    /// Whether it may stand as a block: `{{#eq a b}}`.
    pub(super) is_test: bool,
    /// Whether it is told of missing values instead of them being a problem.
    pub(super) takes_missing: bool,
    /// Whether its cost grows with the size of its arguments.
    pub(super) copies: bool,
    pub(super) run: for<'s> fn(Arguments<'s>) -> Result<Item<'s>, String>,
}

impl Helper {
    const fn new(
        name: &'static str,
        usage: &'static str,
        arguments: (usize, usize),
        run: for<'s> fn(Arguments<'s>) -> Result<Item<'s>, String>,
    ) -> Helper {
        Helper { name, usage, arguments, options: &[], is_test: false, takes_missing: false, copies: true, run }
    }

    const fn options(mut self, options: &'static [&'static str]) -> Helper {
        self.options = options;
        self
    }

    const fn test(mut self) -> Helper {
        self.is_test = true;
        self
    }

    const fn takes_missing(mut self) -> Helper {
        self.takes_missing = true;
        self
    }

    /// It only looks at its arguments, or hands one of them on.
    const fn looks(mut self) -> Helper {
        self.copies = false;
        self
    }
}

/// What a helper is called with.
#[derive(Debug)]
pub(super) struct Arguments<'s> {
    pub(super) items: Vec<Item<'s>>,
    pub(super) options: Vec<(&'s str, Item<'s>)>,
}

impl<'s> Arguments<'s> {
    fn len(&self) -> usize {
        self.items.len()
    }

    /// An argument as it is.
    fn take(&mut self, index: usize) -> Item<'s> {
        std::mem::replace(&mut self.items[index], Item::Poison)
    }

    /// An argument as a value.
    fn value(&mut self, index: usize) -> Cow<'s, Value> {
        value_of(self.take(index))
    }

    /// Every argument as a value, in order.
    fn values(&mut self) -> Vec<Cow<'s, Value>> {
        std::mem::take(&mut self.items).into_iter().map(value_of).collect()
    }

    /// An argument as text. Numbers and booleans are written out; null, lists and maps are no text.
    fn text(&mut self, index: usize) -> Result<String, String> {
        text_of(&self.value(index))
    }

    /// An argument as a whole number.
    fn whole(&mut self, index: usize) -> Result<i64, String> {
        let value = self.value(index);
        value.as_i64().ok_or_else(|| format!("{} is no whole number", kind(&value)))
    }

    /// An argument as a list.
    fn list(&mut self, index: usize) -> Result<Cow<'s, [Value]>, String> {
        match self.value(index) {
            Cow::Borrowed(Value::Array(items)) => Ok(Cow::Borrowed(items)),
            Cow::Owned(Value::Array(items)) => Ok(Cow::Owned(items)),
            other => Err(format!("{} is no list", kind(&other))),
        }
    }

    fn option(&mut self, name: &str) -> Option<Cow<'s, Value>> {
        let at = self.options.iter().position(|(key, _)| *key == name)?;
        Some(value_of(self.options.swap_remove(at).1))
    }
}

/// An item as a value; text of any sort becomes a string, which must stay within one scalar again.
pub(super) fn value_of(item: Item<'_>) -> Cow<'_, Value> {
    match item {
        Item::Missing(_) | Item::Poison => Cow::Owned(Value::Null),
        Item::Value(value) => value,
        Item::Quoted { text, .. } => Cow::Owned(Value::String(text)),
        Item::Text(text) => Cow::Owned(Value::String(text.text)),
        Item::Yaml { value, .. } => Cow::Owned(Value::String(data::block(&value))),
    }
}

fn text_of(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(format!("{} is no text", kind(value))),
    }
}

/// What a value is, in words. Never what it holds: it could be a secret.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// Nothing, for `default` and its like: missing, null, or the empty text. `false` and 0 are something.
fn is_nothing(item: &Item<'_>) -> bool {
    match item {
        Item::Missing(_) => true,
        Item::Value(value) => value.is_null() || value.as_str() == Some(""),
        _ => false,
    }
}

/// Refuses a result before it is made.
fn bounded(bytes: usize) -> Result<(), String> {
    if bytes > limits::MAX_TEMPLATE_OUTPUT_BYTES {
        return Err(format!("the result has more than {} bytes", limits::MAX_TEMPLATE_OUTPUT_BYTES));
    }
    Ok(())
}

/// The groups of helpers.
const GROUPS: [&[Helper]; 6] =
    [logic::HELPERS, text::HELPERS, data::HELPERS, lists::HELPERS, numbers::HELPERS, encoding::HELPERS];

/// The helper of a name.
pub(super) fn find(name: &str) -> Option<&'static Helper> {
    GROUPS.iter().copied().flatten().find(|helper| helper.name == name)
}

/// The names of all helpers and blocks.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let blocks = ["if", "unless", "each", "with", "raw", "include"];
    blocks.into_iter().chain(GROUPS.iter().copied().flatten().map(|helper| helper.name))
}

/// Why a helper that people know from elsewhere is not there.
pub(super) fn reason_against(name: &str) -> Option<&'static str> {
    let clock = "rendering has no clock: the same revision renders to the same bytes; put the date into values";
    let chance =
        "rendering has no chance: the same revision renders to the same bytes; make the secret elsewhere and name it";
    Some(match name {
        "now" | "date" | "dateInZone" | "dateModify" | "ago" | "htmlDate" | "unixEpoch" => clock,
        "uuid" | "uuidv4" | "shuffle" | "htpasswd" | "bcrypt" | "derivePassword" => chance,
        _ if name.starts_with("rand") || name.starts_with("gen") && name[3..].starts_with(char::is_uppercase) => chance,
        "env" | "expandenv" => "the agent's environment is no part of the deploy repository; put it into values",
        "file" | "Files" | "readFile" => "files become ConfigMaps in config/<name>/; other content belongs into values",
        "tpl" => "a value is never rendered as a template; write the expression in the template",
        "exec" | "shell" | "http" | "getHostByName" => "rendering reaches nothing outside the deploy repository",
        "log" => "a template has no log; use fail to stop with a message",
        "helperMissing" | "blockHelperMissing" => "helpers are a closed list",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_usages_begin_with_them() {
        let mut seen = std::collections::BTreeSet::new();
        for helper in GROUPS.iter().copied().flatten() {
            assert!(seen.insert(helper.name), "{}", helper.name);
            assert!(helper.usage.starts_with(helper.name), "{}", helper.usage);
            assert_eq!(reason_against(helper.name), None, "{}", helper.name);
        }
    }
}
