//! How the rooms of this module read a status: what is absent or of another type reads as empty, for a status is
//! written by programs of every age.

use jiff::Timestamp;
use serde_json::Value;

/// A text; empty where there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number.
pub fn number(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// A whole number of a status, where absent means 0.
pub fn count(object: &Value, pointer: &str) -> i64 {
    number(object, pointer).unwrap_or(0)
}

/// Whether something is said to be true.
pub fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// A list; empty where there is none.
pub fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A point in time.
pub fn time(object: &Value, pointer: &str) -> Option<Timestamp> {
    text(object, pointer).parse().ok()
}

/// The outer addresses of a Service or an Ingress: names where there are such, else IPs.
pub fn addresses(object: &Value) -> Vec<&str> {
    let of = |address| Some(text(address, "/hostname")).filter(|name| !name.is_empty()).unwrap_or(text(address, "/ip"));
    list(object, "/status/loadBalancer/ingress").iter().map(of).collect()
}

/// One of an object's conditions.
pub struct Condition<'a>(&'a Value);

/// The condition of some type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<Condition<'a>> {
    list(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind).map(Condition)
}

/// The condition of some type if it is `True`.
pub fn true_condition<'a>(object: &'a Value, kind: &str) -> Option<Condition<'a>> {
    condition(object, kind).filter(|condition| condition.status() == "True")
}

/// The condition of some type if it is `False`.
pub fn false_condition<'a>(object: &'a Value, kind: &str) -> Option<Condition<'a>> {
    condition(object, kind).filter(|condition| condition.status() == "False")
}

impl<'a> Condition<'a> {
    /// `True`, `False`, `Unknown`.
    pub fn status(&self) -> &'a str {
        text(self.0, "/status")
    }

    /// One word.
    pub fn reason(&self) -> &'a str {
        text(self.0, "/reason")
    }

    /// The generation of the object that it is about, where its controller says so.
    pub fn observed_generation(&self) -> Option<i64> {
        number(self.0, "/observedGeneration")
    }

    /// When its status changed last.
    pub fn since(&self) -> Option<Timestamp> {
        time(self.0, "/lastTransitionTime")
    }

    /// What it says to people: `Reason: message`, or the one of them that there is.
    pub fn says(&self) -> String {
        reason_and_message(self.reason(), text(self.0, "/message"))
    }
}

/// `Reason: message` without a full stop, or the one of them that there is. A message that begins with its reason is
/// enough.
pub fn reason_and_message(reason: &str, message: &str) -> String {
    match (reason, message.trim().trim_end_matches('.')) {
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) if message.starts_with(reason) => message.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// `one, two`, or the one of them that there is.
pub fn joined(one: &str, two: &str) -> String {
    match (one, two) {
        (only, "") | ("", only) => only.to_owned(),
        (one, two) => format!("{one}, {two}"),
    }
}
