//! Values in layers: later ones win, maps merge, lists and scalars replace, `null` deletes the key.
//!
//! Values are read as YAML 1.2 by `serde_yaml`: `yes`, `on` and `0644` are text here, `1.10` is the number 1.1. What
//! a template makes of them is read again as a manifest, where `yes` without quotes is a boolean; the lint says so.

use serde_json::{Map, Value};

use crate::fault::{Place, Problem};
use crate::lint;
use crate::yaml::{self, Scan, Step};

/// Layers of values, and what they come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    layers: Vec<Layer>,
    merged: Map<String, Value>,
}

/// One layer of values.
#[derive(Clone, Debug, PartialEq)]
struct Layer {
    source: String,
    map: Map<String, Value>,
}

/// Where one value comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained<'v> {
    /// Its keys, joined by dots.
    pub path: String,
    /// The value: a scalar, a list, or an empty map.
    pub value: &'v Value,
    /// The file, or whatever else the layer was called.
    pub source: &'v str,
}

impl Values {
    /// Puts a layer on top. `source` is the name of its file.
    pub fn push(&mut self, source: impl Into<String>, map: Map<String, Value>) {
        merge(&mut self.merged, &map);
        self.layers.push(Layer { source: source.into(), map });
    }

    /// What the layers come to, without the keys that a `null` deleted.
    pub fn merged(&self) -> Map<String, Value> {
        let mut merged = self.merged.clone();
        drop_nulls(&mut merged);
        merged
    }

    /// The names of the layers, the lowest first.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.source.as_str())
    }

    /// Every value and the layer that it comes from, in the order of the merged map.
    pub fn explain(&self) -> Vec<Explained<'_>> {
        let mut explained = Vec::new();
        let mut path = Vec::new();
        self.explain_map(&self.merged, &mut path, &mut explained);
        explained
    }

    fn explain_map<'v>(&'v self, map: &'v Map<String, Value>, path: &mut Vec<&'v str>, out: &mut Vec<Explained<'v>>) {
        for (key, value) in map {
            path.push(key);
            match value {
                Value::Null => {}
                Value::Object(inner) if !inner.is_empty() => self.explain_map(inner, path, out),
                _ => {
                    let layer = self.layers.iter().rev().find(|layer| find(&layer.map, path).is_some());
                    let source = layer.map_or("", |layer| layer.source.as_str());
                    out.push(Explained { path: path.join("."), value, source });
                }
            }
            path.pop();
        }
    }
}

/// The value at a path of keys.
pub fn find<'v>(map: &'v Map<String, Value>, path: &[&str]) -> Option<&'v Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(map.get(*first)?, |value, key| value.get(*key))
}

/// Puts `over` on top of `base`. A `null` stays, as the mark of a deleted key.
pub fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over),
            (Some(slot), value) => *slot = value.clone(),
            (None, value) => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

fn drop_nulls(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null());
    for value in map.values_mut() {
        if let Value::Object(inner) = value {
            drop_nulls(inner);
        }
    }
}

/// Reads a values file: one map, or nothing.
///
/// # Errors
/// Every flaw found: no YAML, a key said twice, a key that is no text, more than one document.
pub fn read(file: &str, text: &str) -> Result<Map<String, Value>, Vec<Problem>> {
    let scan = yaml::scan(text).map_err(|flaw| vec![flaw.in_file(file)])?;
    let problem = |line, column, message: String| Problem::content(message).at(Place::point(file, line, column));
    let mut problems = repeated_keys(&scan)
        .into_iter()
        .map(|(key, line, column)| {
            problem(line, column, format!("the key {key} is said twice")).hint("keep one of the two")
        })
        .collect::<Vec<_>>();
    if scan.len() > 1 {
        problems.push(
            Problem::content("more than one document in a values file")
                .at(Place::file(file))
                .hint("keep one document: layers are files"),
        );
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if scan.is_empty() {
        return Ok(Map::new());
    }
    let whole_file = |message: String| vec![Problem::content(message).at(Place::file(file))];
    let unreadable = |error: serde_yaml::Error| {
        let at = error.location();
        let place = at.map_or(Place::file(file), |at| {
            let (line, column) = (u32::try_from(at.line()), u32::try_from(at.column()));
            Place::point(file, line.unwrap_or(u32::MAX), column.unwrap_or(u32::MAX))
        });
        let mut message = error.to_string();
        if let Some(at) = message.find(" at line ") {
            message.truncate(at);
        }
        vec![Problem::content(format!("values that cannot be read: {message}")).at(place)]
    };
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(unreadable)?;
    value.apply_merge().map_err(unreadable)?;
    match to_json(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(vec![
            Problem::content("values must be a map").at(Place::line(file, 1)).hint("write `key: value` lines"),
        ]),
        Err(message) => {
            Err(whole_file(message).into_iter().map(|problem| problem.hint("quote it if it is text")).collect())
        }
    }
}

/// What is doubtful in a values file that can be read.
pub fn warnings(file: &str, text: &str) -> Vec<Problem> {
    let Ok(scan) = yaml::scan(text) else { return Vec::new() };
    let at = |line, column| Place::point(file, line, column);
    let mut warnings = Vec::new();
    for doubt in lint::changed_numbers(scan.steps()) {
        let message = format!("{} is inserted as {}", doubt.text, doubt.applied);
        warnings.push(Problem::content(message).at(at(doubt.line, doubt.column)).hint("quote it if it is text"));
    }
    for (line, column) in lint::hidden(scan.steps()) {
        warnings.push(Problem::content("a text with invisible characters").at(at(line, column)));
    }
    warnings
}

/// Every key that a map of the text says more than once.
fn repeated_keys(scan: &Scan<'_>) -> Vec<(String, u32, u32)> {
    let mut repeated = Vec::new();
    let mut open: Vec<std::collections::HashSet<&str>> = Vec::new();
    for placed in scan.steps() {
        match &placed.step {
            Step::Map | Step::List => open.push(Default::default()),
            Step::MapEnd | Step::ListEnd => {
                open.pop();
            }
            Step::Scalar { text, is_key: true, .. } => {
                let is_new = open.last_mut().is_none_or(|keys| keys.insert(text));
                if !is_new {
                    repeated.push((text.clone().into_owned(), placed.line, placed.column));
                }
            }
            Step::Scalar { .. } | Step::Alias => {}
        }
    }
    repeated
}

fn to_json(value: serde_yaml::Value) -> Result<Value, String> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(text) => Value::String(text),
        Yaml::Number(number) => {
            if let Some(number) = number.as_i64() {
                Value::Number(number.into())
            } else if let Some(number) = number.as_u64() {
                Value::Number(number.into())
            } else {
                let number = number.as_f64().and_then(serde_json::Number::from_f64);
                Value::Number(number.ok_or("a number that JSON cannot hold")?)
            }
        }
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Yaml::Mapping(map) => {
            let mut object = Map::new();
            for (key, value) in map {
                let Yaml::String(key) = key else {
                    let key = serde_yaml::to_string(&key).unwrap_or_default();
                    return Err(format!("a key that is read as {}, not as text", key.trim()));
                };
                object.insert(key, to_json(value)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => to_json(tagged.value)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("a test layer is a map") };
        map
    }

    #[test]
    fn maps_merge_lists_replace_null_deletes() {
        let mut values = Values::default();
        values.push("values.yaml", map(json!({"a": {"x": 1, "y": 2}, "list": [1, 2], "gone": {"deep": 1}})));
        values.push("environments/test/values.yaml", map(json!({"a": {"y": 3}, "list": [9], "gone": null})));
        assert_eq!(Value::Object(values.merged()), json!({"a": {"x": 1, "y": 3}, "list": [9]}));
    }

    #[test]
    fn every_value_says_where_it_comes_from() {
        let mut values = Values::default();
        values.push("values.yaml", map(json!({"a": {"x": 1, "y": 2}, "b": []})));
        values.push("spec.values", map(json!({"a": {"y": 3}})));
        let said: Vec<_> = values.explain().into_iter().map(|one| format!("{} {}", one.path, one.source)).collect();
        assert_eq!(said, ["a.x values.yaml", "a.y spec.values", "b values.yaml"]);
    }

    #[test]
    fn a_values_file_is_yaml_1_2_with_merge_keys() {
        let text = "base: &b {a: 1}\nx:\n  <<: *b\n  c: yes\nmode: 0644\nn: 1.10\nbig: 3000000000\n";
        let expected =
            json!({"base": {"a": 1}, "x": {"a": 1, "c": "yes"}, "mode": "0644", "n": 1.1, "big": 3_000_000_000_u64});
        assert_eq!(Value::Object(read("values.yaml", text).unwrap()), expected);
        assert_eq!(read("values.yaml", "# nothing\n").unwrap(), Map::new());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for (text, message) in [
            ("a: 1\nb: 2\na: 3\n", "the key a is said twice"),
            ("a:\n  b: 1\n  b: 2\n", "the key b is said twice"),
            ("1: x\n", "a key that is read as 1, not as text"),
            ("- a\n", "values must be a map"),
            ("a: 1\n---\nb: 2\n", "more than one document"),
            ("a: !!binary aGk=\n", "refused: the tag"),
            ("a: [\n", "not YAML"),
            ("a: .inf\n", "a number that JSON cannot hold"),
        ] {
            let problems = read("values.yaml", text).unwrap_err();
            assert!(problems[0].message.contains(message), "{text:?}: {}", problems[0]);
        }
    }

    #[test]
    fn aliases_cannot_blow_up() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = vec![format!("*a{}", level - 1); 9].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(read("values.yaml", &text).is_err());
        let text = format!("big: &big {:?}\nl: [{}]\n", "x".repeat(100_000), vec!["*big"; 10_000].join(", "));
        assert!(read("values.yaml", &text).is_err());
    }

    /// Layers whose keys have the same shape in each: names beginning with m are maps.
    fn layer() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![Just(json!(1)), Just(json!("x")), Just(json!([1, 2]))];
        let flat = proptest::collection::btree_map("[s][a-c]", scalar, 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()));
        flat.prop_recursive(3, 16, 3, |inner| {
            (proptest::collection::btree_map("[m][a-c]", inner.clone(), 0..3), inner).prop_map(|(maps, flat)| {
                let mut map = map(flat);
                map.retain(|key, _| key.starts_with('s'));
                map.extend(maps);
                Value::Object(map)
            })
        })
    }

    proptest! {
        #[test]
        fn layers_of_one_shape_may_be_joined_in_any_grouping(a in layer(), b in layer(), c in layer()) {
            let (a, b, c) = (map(a), map(b), map(c));
            let mut left = a.clone();
            merge(&mut left, &b);
            merge(&mut left, &c);
            let mut upper = b;
            merge(&mut upper, &c);
            let mut right = a;
            merge(&mut right, &upper);
            prop_assert_eq!(left, right);
        }
    }
}
