//! YAML and JSON, and maps.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::super::output::Text;
use super::{Arguments, Helper, Item, kind, text_of};
use crate::{values, yaml};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("toYaml", "toYaml value indent=columns", (1, 1), to_yaml).options(&["indent"]),
    Helper::new("toJson", "toJson value", (1, 1), |mut arguments| {
        Ok(Item::Text(Text::plain(flow(&arguments.value(0)))))
    }),
    Helper::new("fromYaml", "fromYaml text", (1, 1), from_yaml),
    Helper::new("fromJson", "fromJson text", (1, 1), |mut arguments| {
        let value: Value = serde_json::from_str(&arguments.text(0)?)
            .map_err(|error| format!("no JSON, at line {} column {} of the text", error.line(), error.column()))?;
        Ok(Item::owned(value))
    }),
    Helper::new("dict", "dict key=value …", (0, 64), dict).options(&["*"]),
    Helper::new("merge", "merge map map …", (1, 32), merge),
    Helper::new("get", "get map \"path.to.key\" default", (2, 3), get).takes_missing().looks(),
    Helper::new("lookup", "lookup map key", (2, 2), get).looks(),
    Helper::new("keys", "keys map", (1, 1), |mut arguments| {
        let keys: Vec<Value> = map(&arguments.value(0))?.keys().map(|key| Value::from(key.as_str())).collect();
        Ok(Item::owned(keys))
    }),
    Helper::new("values", "values map", (1, 1), |mut arguments| {
        let values: Vec<Value> = map(&arguments.value(0))?.values().cloned().collect();
        Ok(Item::owned(values))
    }),
];

fn map(value: &Value) -> Result<&Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("{} is no map", kind(value)))
}

fn to_yaml(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let indent = match arguments.option("indent") {
        None => None,
        Some(columns) => match columns.as_u64() {
            Some(columns @ 0..=80) => Some(columns as usize),
            _ => return Err("an indent is a number from 0 to 80".into()),
        },
    };
    let value = arguments.value(0);
    if value.is_null() {
        return Err("null cannot be written".into());
    }
    Ok(Item::Yaml { value, indent })
}

fn from_yaml(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let text = arguments.text(0)?;
    let mut documents = yaml::read(&text).map_err(|flaw| {
        // What the text says stays out of the message: it could be a secret.
        format!("no YAML, at line {} column {} of the text", flaw.line, flaw.column)
    })?;
    match documents.len() {
        1 => Ok(Item::owned(documents.remove(0).body)),
        count => Err(format!("{count} YAML documents in the text, where one is needed")),
    }
}

fn dict(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let mut map = Map::new();
    let pairs = arguments.values();
    if !pairs.len().is_multiple_of(2) {
        return Err("a key without a value".into());
    }
    let mut pairs = pairs.into_iter();
    while let (Some(key), Some(value)) = (pairs.next(), pairs.next()) {
        map.insert(text_of(&key)?, value.into_owned());
    }
    for (key, item) in arguments.options {
        map.insert(key.to_owned(), super::value_of(item).into_owned());
    }
    Ok(Item::owned(map))
}

fn merge(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let mut merged = Map::new();
    for layer in arguments.values() {
        values::merge(&mut merged, map(&layer)?);
    }
    Ok(Item::owned(merged))
}

fn get(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let path = match &arguments.items[1] {
        Item::Missing(path) => return Ok(Item::Missing(path.clone())),
        _ => arguments.text(1)?,
    };
    let default = (arguments.len() == 3).then(|| arguments.take(2));
    let container = match arguments.take(0) {
        Item::Missing(path) => return Ok(default.unwrap_or(Item::Missing(path))),
        other => super::value_of(other),
    };
    let found = match container {
        Cow::Borrowed(value) => at(value, &path).map(Cow::Borrowed),
        Cow::Owned(value) => at(&value, &path).cloned().map(Cow::Owned),
    };
    match (found, default) {
        (Some(value), _) if !value.is_null() => Ok(Item::Value(value)),
        (_, Some(default)) => Ok(default),
        _ => Ok(Item::Missing(path)),
    }
}

/// The value under a key, or else at a path of keys joined by dots.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    let step = |value: &'v Value, key: &str| match value {
        Value::Object(map) => map.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    };
    step(value, path).or_else(|| path.split('.').try_fold(value, step))
}

/// A value on one line, as JSON, which is YAML too.
pub(in super::super) fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => double_quoted(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let entries: Vec<String> =
                map.iter().map(|(key, value)| format!("{}:{}", double_quoted(key), flow(value))).collect();
            format!("{{{}}}", entries.join(","))
        }
        other => other.to_string(),
    }
}

/// A value as a block of YAML. Every scalar stays on its line, so that no content of one can be taken for structure
/// wherever the block is put. A map or list that is empty, or a scalar, takes one line.
pub(in super::super) fn block(value: &Value) -> String {
    let mut text = String::new();
    write_block(value, 0, &mut text);
    while text.ends_with('\n') {
        text.pop();
    }
    text
}

fn write_block(value: &Value, column: usize, out: &mut String) {
    let pad = " ".repeat(column);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                let pad = if index == 0 { "" } else { &pad };
                let _ = write!(out, "{pad}{}:", scalar(key));
                write_below(value, column, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                let pad = if index == 0 { "" } else { &pad };
                let _ = write!(out, "{pad}- ");
                write_block(item, column + 2, out);
            }
        }
        Value::String(text) => {
            let _ = writeln!(out, "{}", scalar(text));
        }
        other => {
            let _ = writeln!(out, "{}", flow(other));
        }
    }
}

/// The value of a key: on the line below where it is a map or list, else beside it.
fn write_below(value: &Value, column: usize, out: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let _ = write!(out, "\n{}", " ".repeat(column + 2));
            write_block(value, column + 2, out);
        }
        Value::Array(items) if !items.is_empty() => {
            let _ = write!(out, "\n{}", " ".repeat(column + 2));
            write_block(value, column + 2, out);
        }
        _ => {
            out.push(' ');
            write_block(value, column + 2, out);
        }
    }
}

/// Text as one scalar: plain where no reader could take it for anything else.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | "nan" | "inf"
        );
    if is_plain { text.to_owned() } else { double_quoted(text) }
}

/// Text in double quotes, on one line.
pub(in super::super) fn double_quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control()
                || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{e000}'..='\u{e0ff}') =>
            {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_block_reads_as_people_write_it() {
        let value = json!({"app": "web", "on": true, "args": ["-v", "a b", {"x": 1, "z": []}], "m": {"k": "yes"}});
        let expected = "app: web\n\"on\": true\nargs:\n  - \"-v\"\n  - \"a b\"\n  - x: 1\n    z: []\nm:\n  k: \"yes\"";
        assert_eq!(block(&value), expected);
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            "[a-z0-9:#\\- \n'\"{}\\[\\],&*!|>%@~]{0,10}".prop_map(Value::from),
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
        fn a_block_and_a_flow_read_back_as_the_same(value in json_value()) {
            prop_assert_eq!(&yaml::read(&block(&value)).unwrap()[0].body, &value);
            prop_assert_eq!(&yaml::read(&flow(&value)).unwrap()[0].body, &value);
        }
    }
}
