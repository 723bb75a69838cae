//! Text: quotes, case, cutting, joining, indenting.

use std::borrow::Cow;

use serde_json::Value;

use super::super::output::Text;
use super::{Arguments, Helper, Item, bounded, data, text_of, value_of};

pub(super) const HELPERS: &[Helper] = &[
    Helper::new("quote", "quote value", (1, 1), quote),
    Helper::new("squote", "squote value", (1, 1), squote),
    Helper::new("upper", "upper text", (1, 1), |mut arguments| Ok(Item::string(arguments.text(0)?.to_uppercase()))),
    Helper::new("lower", "lower text", (1, 1), |mut arguments| Ok(Item::string(arguments.text(0)?.to_lowercase()))),
    Helper::new("title", "title text", (1, 1), title),
    Helper::new("trim", "trim text", (1, 1), |arguments| reshape(arguments, 0, |text| Ok(text.trim().to_owned()))),
    Helper::new("trimPrefix", "trimPrefix prefix text", (2, 2), |mut arguments| {
        let (prefix, text) = (arguments.text(0)?, arguments.text(1)?);
        Ok(Item::string(text.strip_prefix(&*prefix).unwrap_or(&text)))
    }),
    Helper::new("trimSuffix", "trimSuffix suffix text", (2, 2), |mut arguments| {
        let (suffix, text) = (arguments.text(0)?, arguments.text(1)?);
        Ok(Item::string(text.strip_suffix(&*suffix).unwrap_or(&text)))
    }),
    Helper::new("replace", "replace old new text", (3, 3), replace),
    Helper::new("contains", "contains part text", (2, 2), |mut arguments| {
        let (part, text) = (arguments.text(0)?, arguments.text(1)?);
        Ok(Item::owned(text.contains(&*part)))
    })
    .test(),
    Helper::new("hasPrefix", "hasPrefix prefix text", (2, 2), |mut arguments| {
        let (prefix, text) = (arguments.text(0)?, arguments.text(1)?);
        Ok(Item::owned(text.starts_with(&*prefix)))
    })
    .test(),
    Helper::new("hasSuffix", "hasSuffix suffix text", (2, 2), |mut arguments| {
        let (suffix, text) = (arguments.text(0)?, arguments.text(1)?);
        Ok(Item::owned(text.ends_with(&*suffix)))
    })
    .test(),
    Helper::new("trunc", "trunc length text", (2, 2), trunc),
    Helper::new("join", "join separator list", (2, 2), join),
    Helper::new("split", "split separator text", (2, 2), split),
    Helper::new("indent", "indent columns text", (2, 2), |arguments| indent(arguments, "")),
    Helper::new("nindent", "nindent columns text", (2, 2), |arguments| indent(arguments, "\n")),
];

fn quote(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let original = arguments.text(0)?;
    Ok(Item::Quoted { text: data::double_quoted(&original), original })
}

fn squote(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let original = arguments.text(0)?;
    if original.chars().any(char::is_control) {
        return Err("the text has line ends or control characters, which single quotes cannot hold: use quote".into());
    }
    Ok(Item::Quoted { text: format!("'{}'", original.replace('\'', "''")), original })
}

fn title(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let text = arguments.text(0)?;
    let mut titled = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins {
            titled.extend(c.to_uppercase());
        } else {
            titled.push(c);
        }
        begins = !c.is_alphanumeric();
    }
    Ok(Item::string(titled))
}

/// Applies a function that only moves text about: what is structure stays structure.
fn reshape<'s>(
    mut arguments: Arguments<'s>,
    index: usize,
    change: impl Fn(&str) -> Result<String, String>,
) -> Result<Item<'s>, String> {
    Ok(match arguments.take(index) {
        Item::Quoted { text, original } => Item::Quoted { text: change(&text)?, original },
        Item::Yaml { value, .. } => Item::Text(Text::plain(change(&data::block(&value))?)),
        // Cutting would tear what the text knows of itself; indenting keeps it and has its own way.
        Item::Text(text) if text.inserts.is_empty() => Item::Text(Text::plain(change(&text.text)?)),
        other => Item::string(change(&text_of(&value_of(other))?)?),
    })
}

fn indent<'s>(mut arguments: Arguments<'s>, before: &str) -> Result<Item<'s>, String> {
    let columns = arguments.whole(0)?;
    let columns = usize::try_from(columns).ok().filter(|columns| *columns <= 80);
    let Some(columns) = columns else { return Err("an indent is a number from 0 to 80".into()) };
    let size = |text: &str| bounded(text.len() + (text.matches('\n').count() + 1) * columns);
    let pad = |text: &str| -> Result<String, String> {
        size(text)?;
        Ok(format!("{before}{}", Text::plain(text.to_owned()).indented(columns).text))
    };
    if let Item::Text(text) = &arguments.items[1] {
        size(&text.text)?;
        let mut output = super::super::output::Output::default();
        output.write(before);
        output.write_text(&text.indented(columns));
        return Ok(Item::Text(output.finish()));
    }
    reshape(arguments, 1, pad)
}

fn replace(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let (old, new, text) = (arguments.text(0)?, arguments.text(1)?, arguments.text(2)?);
    if old.is_empty() {
        return Err("there is nothing to replace: the old text is empty".into());
    }
    bounded(text.len().saturating_add(text.matches(&*old).count().saturating_mul(new.len())))?;
    Ok(Item::string(text.replace(&*old, &new)))
}

fn trunc(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let length = arguments.whole(0)?;
    let text = arguments.text(1)?;
    let kept = usize::try_from(length.unsigned_abs()).unwrap_or(usize::MAX);
    let skipped = if length < 0 { text.chars().count().saturating_sub(kept) } else { 0 };
    Ok(Item::string(text.chars().skip(skipped).take(kept).collect::<String>()))
}

fn join(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let separator = arguments.text(0)?;
    let list = arguments.list(1)?;
    let parts = list.iter().map(text_of).collect::<Result<Vec<_>, _>>()?;
    bounded(parts.iter().map(|part| part.len() + separator.len()).sum())?;
    Ok(Item::string(parts.join(&separator)))
}

fn split(mut arguments: Arguments<'_>) -> Result<Item<'_>, String> {
    let (separator, text) = (arguments.text(0)?, arguments.text(1)?);
    if separator.is_empty() {
        return Err("the separator is empty".into());
    }
    let parts: Vec<Value> = text.split(&*separator).map(Value::from).collect();
    Ok(Item::Value(Cow::Owned(Value::Array(parts))))
}
