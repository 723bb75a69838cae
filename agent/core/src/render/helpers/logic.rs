//! Choosing between values: defaults, tests, comparisons.

use std::cmp::Ordering;

use handlebars::JsonTruthy;
use serde_json::Value;

use super::{Arguments, Helper, Item, is_nothing, kind, value_of};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("default", "default fallback value", (2, 2), default).takes_missing().looks(),
    Helper::new("required", "required \"message\" value", (2, 2), required).takes_missing().looks(),
    Helper::new("coalesce", "coalesce value value …", (1, 32), coalesce).takes_missing().looks(),
    Helper::new("fail", "fail \"message\"", (1, 1), |mut arguments| Err(arguments.text(0)?)),
    Helper::new("ternary", "ternary value otherwise condition", (3, 3), ternary).takes_missing().looks(),
    Helper::new("eq", "eq a b", (2, 2), |arguments| equal(arguments, true)).test(),
    Helper::new("ne", "ne a b", (2, 2), |arguments| equal(arguments, false)).test(),
    Helper::new("gt", "gt a b", (2, 2), |arguments| compare(arguments, Ordering::is_gt)).test().looks(),
    Helper::new("gte", "gte a b", (2, 2), |arguments| compare(arguments, Ordering::is_ge)).test().looks(),
    Helper::new("lt", "lt a b", (2, 2), |arguments| compare(arguments, Ordering::is_lt)).test().looks(),
    Helper::new("lte", "lte a b", (2, 2), |arguments| compare(arguments, Ordering::is_le)).test().looks(),
    Helper::new("and", "and a b …", (1, 32), |arguments| Ok(Item::owned(arguments.items.into_iter().all(is_true))))
        .test()
        .takes_missing()
        .looks(),
    Helper::new("or", "or a b …", (1, 32), |arguments| Ok(Item::owned(arguments.items.into_iter().any(is_true))))
        .test()
        .takes_missing()
        .looks(),
    Helper::new("not", "not a", (1, 1), |mut arguments| Ok(Item::owned(!is_true(arguments.take(0)))))
        .test()
        .takes_missing()
        .looks(),
];

fn is_true(item: Item<'_>) -> bool {
    value_of(item).is_truthy(false)
}

fn default(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let chosen = usize::from(!is_nothing(&arguments.items[1]));
    Ok(arguments.take(chosen))
}

fn required(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    if is_nothing(&arguments.items[1]) {
        return Err(arguments.text(0)?);
    }
    Ok(arguments.take(1))
}

fn coalesce(arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let mut items = arguments.items.into_iter();
    items.find(|item| !is_nothing(item)).ok_or_else(|| "none of its values is there".to_owned())
}

fn ternary(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let chosen = usize::from(!is_true(arguments.take(2)));
    Ok(arguments.take(chosen))
}

fn equal(mut arguments: Arguments<'_>, wanted: bool) -> Result<Item<'_>, String> {
    Ok(Item::owned((arguments.value(0) == arguments.value(1)) == wanted))
}

fn compare(mut arguments: Arguments<'_>, test: fn(Ordering) -> bool) -> Result<Item<'_>, String> {
    let (a, b) = (arguments.value(0), arguments.value(1));
    match order(&a, &b) {
        Some(ordering) => Ok(Item::owned(test(ordering))),
        None => Err(format!("{} and {} have no order", kind(&a), kind(&b))),
    }
}

/// The order of two numbers or two texts.
pub(super) fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        _ => None,
    }
}
