//! Lists.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::{Arguments, Helper, Item, kind, logic};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("list", "list value …", (0, 256), |mut arguments| {
        let items: Vec<Value> = arguments.values().into_iter().map(Cow::into_owned).collect();
        Ok(Item::owned(items))
    }),
    Helper::new("first", "first list", (1, 1), |arguments| end(arguments, |items| items.first())).looks(),
    Helper::new("last", "last list", (1, 1), |arguments| end(arguments, |items| items.last())).looks(),
    Helper::new("uniq", "uniq list", (1, 1), uniq),
    Helper::new("sort", "sort list", (1, 1), sort),
    Helper::new("has", "has value list, or has key map", (2, 2), has).test(),
    Helper::new("len", "len list, map or text", (1, 1), len).looks(),
];

fn end<'s>(mut arguments: Arguments<'s>, pick: fn(&[Value]) -> Option<&Value>) -> Result<Item<'s>, String> {
    let nothing = "the list is empty";
    Ok(Item::Value(match arguments.list(0)? {
        Cow::Borrowed(items) => Cow::Borrowed(pick(items).ok_or(nothing)?),
        Cow::Owned(items) => Cow::Owned(pick(&items).ok_or(nothing)?.clone()),
    }))
}

fn uniq(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let mut seen = std::collections::HashSet::new();
    let items: Vec<Value> = arguments.list(0)?.iter().filter(|item| seen.insert(item.to_string())).cloned().collect();
    Ok(Item::owned(items))
}

fn sort(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let mut items = arguments.list(0)?.into_owned();
    if let Some(pair) = items.windows(2).find(|pair| logic::order(&pair[0], &pair[1]).is_none()) {
        return Err(format!("{} and {} have no order", kind(&pair[0]), kind(&pair[1])));
    }
    items.sort_by(|a, b| logic::order(a, b).unwrap_or(Ordering::Equal));
    Ok(Item::owned(items))
}

fn has(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let (wanted, container) = (arguments.value(0), arguments.value(1));
    Ok(Item::owned(match &*container {
        Value::Array(items) => items.contains(&wanted),
        Value::Object(map) => wanted.as_str().is_some_and(|key| map.contains_key(key)),
        other => return Err(format!("{} is neither a list nor a map", kind(other))),
    }))
}

fn len(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let value = arguments.value(0);
    Ok(Item::owned(match &*value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        Value::String(text) => text.chars().count(),
        other => return Err(format!("{} has no length", kind(other))),
    }))
}
