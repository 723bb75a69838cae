//! Arithmetic: whole numbers stay whole, and what does not fit is an error instead of something near it.

use serde_json::{Number, Value};

use super::{Arguments, Helper, Item, kind, logic};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("add", "add a b …", (2, 32), |arguments| fold(arguments, i64::checked_add, |a, b| a + b)),
    Helper::new("sub", "sub a b", (2, 2), |arguments| fold(arguments, i64::checked_sub, |a, b| a - b)),
    Helper::new("mul", "mul a b …", (2, 32), |arguments| fold(arguments, i64::checked_mul, |a, b| a * b)),
    Helper::new("div", "div a b", (2, 2), |arguments| fold(arguments, i64::checked_div, |a, b| a / b)),
    Helper::new("mod", "mod a b", (2, 2), |arguments| fold(arguments, i64::checked_rem, |a, b| a % b)),
    Helper::new("min", "min a b …", (1, 32), |arguments| pick(arguments, std::cmp::Ordering::is_lt)),
    Helper::new("max", "max a b …", (1, 32), |arguments| pick(arguments, std::cmp::Ordering::is_gt)),
];

fn numbers(mut arguments: Arguments<'_>) -> Result<Vec<Number>, String> {
    arguments
        .values()
        .into_iter()
        .map(|value| match &*value {
            Value::Number(number) => Ok(number.clone()),
            other => Err(format!("{} is no number", kind(other))),
        })
        .collect()
}

fn fold<'s>(
    arguments: Arguments<'s>,
    whole: fn(i64, i64) -> Option<i64>,
    broken: fn(f64, f64) -> f64,
) -> Result<Item<'s>, String> {
    let unfit = "the result is no number, or too large for one";
    let numbers = numbers(arguments)?;
    if let Some(mut wholes) = numbers.iter().map(Number::as_i64).collect::<Option<Vec<_>>>().map(Vec::into_iter) {
        let first = wholes.next().unwrap_or(0);
        return Ok(Item::owned(wholes.try_fold(first, whole).ok_or(unfit)?));
    }
    let mut floats = numbers.iter().map(|number| number.as_f64().unwrap_or(f64::NAN));
    let first = floats.next().unwrap_or(0.0);
    let result = floats.fold(first, broken);
    Ok(Item::owned(Number::from_f64(result).ok_or(unfit)?))
}

fn pick<'s>(arguments: Arguments<'s>, wins: fn(std::cmp::Ordering) -> bool) -> Result<Item<'s>, String> {
    let mut numbers = numbers(arguments)?.into_iter().map(Value::Number);
    let first = numbers.next().unwrap_or(Value::Null);
    Ok(Item::owned(
        numbers.fold(first, |best, next| if logic::order(&next, &best).is_some_and(wins) { next } else { best }),
    ))
}
