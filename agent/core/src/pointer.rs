//! JSON pointers (RFC 6901): the way to a field as people write it.

use std::fmt;

use serde_json::{Map, Value};

use crate::names;

/// Whether steps lead to what makes an object itself, or ours.
pub(crate) fn is_identity(steps: &[String]) -> bool {
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    match steps[..] {
        ["apiVersion" | "kind" | "metadata"] | ["metadata", "labels"] => true,
        ["metadata", "name" | "namespace" | "uid", ..] => true,
        ["metadata", "labels", label] => matches!(label, names::ENVIRONMENT_LABEL | names::PART_OF_LABEL),
        _ => false,
    }
}

/// A checked pointer to a field of an object. It is never the whole object, nor its identity, nor our labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer(Vec<String>);

/// Why a text is not a pointer that may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAPointer {
    /// It is not of the form.
    #[error("{0:?} is not a JSON pointer such as /spec/replicas")]
    Malformed(String),
    /// It points at what makes the object ours or itself.
    #[error("{0:?} is the identity of the object, or a mark of ours")]
    Identity(String),
}

impl Pointer {
    /// Reads a pointer.
    ///
    /// # Errors
    /// [`NotAPointer`] where it is none, or points at what is not left out or left to others.
    pub fn parse(text: &str) -> Result<Pointer, NotAPointer> {
        let malformed = || NotAPointer::Malformed(text.to_owned());
        let rest = text.strip_prefix('/').filter(|rest| !rest.is_empty()).ok_or_else(malformed)?;
        let mut steps = Vec::new();
        for step in rest.split('/') {
            // `~` is written ~0 and `/` ~1; nothing else follows a ~.
            let is_escaped = step.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
            if step.is_empty() || !is_escaped {
                return Err(malformed());
            }
            steps.push(step.replace("~1", "/").replace("~0", "~"));
        }
        if is_identity(&steps) { Err(NotAPointer::Identity(text.to_owned())) } else { Ok(Pointer(steps)) }
    }

    /// Orders pointers so that of two elements of a list the one that stands first comes first.
    pub fn by_place(&self, other: &Pointer) -> std::cmp::Ordering {
        let place = |step: &String| step.parse::<usize>().unwrap_or(usize::MAX);
        let ours = self.0.iter().map(|step| (place(step), step));
        ours.cmp(other.0.iter().map(|step| (place(step), step)))
    }

    /// The steps, outermost first.
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// Takes what it points to out of an object, if it is there.
    pub fn remove(&self, body: &mut Map<String, Value>) {
        let Some((last, parents)) = self.0.split_last() else { return };
        let Some((first, rest)) = parents.split_first() else {
            body.shift_remove(last);
            return;
        };
        let Some(parent) = body.get_mut(first).and_then(|value| rest.iter().try_fold(value, below)) else { return };
        match parent {
            Value::Object(map) => drop(map.shift_remove(last)),
            Value::Array(list) => {
                if let Some(index) = last.parse::<usize>().ok().filter(|index| *index < list.len()) {
                    list.remove(index);
                }
            }
            _ => {}
        }
    }
}

fn below<'a>(value: &'a mut Value, step: &String) -> Option<&'a mut Value> {
    match value {
        Value::Object(map) => map.get_mut(step),
        Value::Array(list) => list.get_mut(step.parse::<usize>().ok()?),
        _ => None,
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pointer_reads_as_it_was_written() {
        for text in ["/spec/replicas", "/metadata/annotations/a.b~1c", "/a~0b/0"] {
            assert_eq!(Pointer::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_pointer_or_the_identity_is_refused() {
        for bad in ["", "/", "spec/replicas", "/spec//replicas", "/a~2", "/a~", "/spec/"] {
            assert!(matches!(Pointer::parse(bad), Err(NotAPointer::Malformed(_))), "{bad}");
        }
        for bad in
            ["/kind", "/metadata", "/metadata/name", "/metadata/labels", "/metadata/labels/towpath.dev~1environment"]
        {
            assert!(matches!(Pointer::parse(bad), Err(NotAPointer::Identity(_))), "{bad}");
        }
    }

    #[test]
    fn only_what_it_points_to_goes() {
        let removed = |pointer: &str| {
            let mut body =
                json!({"spec": {"list": [1, {"a": 2, "b": 3}], "x/y": 4}, "data": 5}).as_object().unwrap().clone();
            Pointer::parse(pointer).unwrap().remove(&mut body);
            Value::Object(body)
        };
        assert_eq!(removed("/data"), json!({"spec": {"list": [1, {"a": 2, "b": 3}], "x/y": 4}}));
        assert_eq!(removed("/spec/x~1y"), json!({"spec": {"list": [1, {"a": 2, "b": 3}]}, "data": 5}));
        assert_eq!(removed("/spec/list/1/a"), json!({"spec": {"list": [1, {"b": 3}], "x/y": 4}, "data": 5}));
        assert_eq!(removed("/spec/list/0"), json!({"spec": {"list": [{"a": 2, "b": 3}], "x/y": 4}, "data": 5}));
        for nowhere in ["/nothing", "/spec/list/7", "/spec/list/1/c/d", "/data/x"] {
            assert_eq!(removed(nowhere), json!({"spec": {"list": [1, {"a": 2, "b": 3}], "x/y": 4}, "data": 5}));
        }
    }
}
