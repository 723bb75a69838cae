//! What one document says: `serde_saphyr` decides that, and nothing else does.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Flaw, too_deep, too_many_nodes};
use crate::limits;

/// One document as a value.
pub(super) fn parse(text: &str) -> Result<Value, Flaw> {
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
pub(super) fn translate(line: u32, column: u32, message: &str) -> Flaw {
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
