//! Names the plain scalars that readers of YAML disagree about.
//!
//! kubectl and the API server read YAML 1.1, most editors and libraries read 1.2, and a person reads neither. What
//! `serde_saphyr` reads is what is applied; `serde_yaml` stands for the other reading, and a short list of YAML 1.1's
//! own forms for what neither of them knows.

use serde_json::Value;

use crate::yaml::{self, Placed, Step, Style};

/// A scalar whose type is not what everybody would read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Line.
    pub line: u32,
    /// Column in characters.
    pub column: u32,
    /// The scalar as it is written.
    pub text: String,
    /// What is applied, in words: `the boolean true`.
    pub applied: String,
    /// What others read, in words.
    pub other: String,
}

/// The doubtful scalars among some steps of a text.
pub fn doubts<'s>(steps: impl IntoIterator<Item = &'s Placed<'s>>) -> Vec<Doubt> {
    steps
        .into_iter()
        .filter_map(|placed| {
            let Step::Scalar { text, style: Style::Plain, is_tagged: false, .. } = &placed.step else { return None };
            let (applied, other) = doubt(text)?;
            Some(Doubt { line: placed.line, column: placed.column, text: text.clone().into_owned(), applied, other })
        })
        .collect()
}

/// Places of texts with characters that a reviewer cannot see, or that turn the direction of what is around them.
pub fn hidden<'s>(steps: impl IntoIterator<Item = &'s Placed<'s>>) -> Vec<(u32, u32)> {
    let has_hidden = |placed: &&Placed<'_>| match &placed.step {
        Step::Scalar { text, .. } => !text.is_ascii() && text.chars().any(yaml::is_invisible),
        _ => false,
    };
    steps.into_iter().filter(has_hidden).map(|placed| (placed.line, placed.column)).collect()
}

/// Numbers of a values file that do not come out as they are written: `1.10` is inserted as `1.1`, and a commit such as
/// `12e4567` is a number at all.
pub fn changed_numbers<'s>(steps: impl IntoIterator<Item = &'s Placed<'s>>) -> Vec<Doubt> {
    steps
        .into_iter()
        .filter_map(|placed| {
            let Step::Scalar { text, style: Style::Plain, is_tagged: false, is_key: false } = &placed.step else {
                return None;
            };
            let could_change = text.len() <= 64
                && text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))
                && text.contains(['.', 'e', 'E']);
            if !could_change {
                return None;
            }
            let serde_yaml::Value::Number(number) = serde_yaml::from_str(text).ok()? else { return None };
            let comes_out = number.to_string();
            (comes_out != **text).then(|| Doubt {
                line: placed.line,
                column: placed.column,
                text: text.clone().into_owned(),
                applied: format!("the number {comes_out}"),
                other: format!("the text {text}"),
            })
        })
        .collect()
}

/// What is applied for a plain scalar, and what others read; `None` where all agree.
pub fn doubt(text: &str) -> Option<(String, String)> {
    if !is_suspicious(text) {
        return None;
    }
    let applied = yaml::scalar(text)?;
    let applied_in_words = in_words(&applied);
    let Ok(newer) = serde_yaml::from_str::<serde_yaml::Value>(text) else {
        return Some((applied_in_words, "an error".to_owned()));
    };
    let newer = plain_json(&newer);
    if applied != newer {
        return Some((applied_in_words, in_words(&newer)));
    }
    if let Some(older) = yaml_1_1(text)
        && older != applied_in_words
    {
        return Some((applied_in_words, older));
    }
    // A version such as 1.10 loses its last digit.
    let loses_a_digit = applied.is_number() && text.contains('.') && text.ends_with('0') && !text.ends_with(".0");
    loses_a_digit.then(|| (applied_in_words, format!("the text {text}")))
}

/// Whether a scalar is worth two parsers: most texts begin with other letters, or hold letters no number has.
fn is_suspicious(text: &str) -> bool {
    let Some(first) = text.bytes().next() else { return false };
    if text.len() > 64 {
        return false;
    }
    if first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.') {
        let is_plain_number = text.len() <= 18 && first != b'0' && text.bytes().all(|byte| byte.is_ascii_digit());
        let could_be_a_number =
            text.bytes().all(|byte| byte.is_ascii_hexdigit() || b"+-._:xXoOiInNfFaA".contains(&byte));
        return could_be_a_number && !is_plain_number;
    }
    let is_word = |word: &&str| text.eq_ignore_ascii_case(word) && text != "true" && text != "false";
    text == "~" || ["y", "n", "yes", "no", "on", "off", "true", "false", "null"].iter().any(is_word)
}

fn plain_json(value: &serde_yaml::Value) -> Value {
    match value {
        serde_yaml::Value::Bool(value) => Value::from(*value),
        serde_yaml::Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Value::from(number),
            (_, Some(number), _) => Value::from(number),
            // As the manifests have it: 1e3 is 1000.
            (_, _, Some(number)) if number.fract() == 0.0 && number.abs() < 9e15 => Value::from(number as i64),
            (_, _, Some(number)) => Value::from(number),
            _ => Value::Null,
        },
        serde_yaml::Value::String(text) => Value::from(text.as_str()),
        _ => Value::Null,
    }
}

fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text}"),
        Value::Array(_) | Value::Object(_) => "a collection".to_owned(),
    }
}

/// What go-yaml's reading of YAML 1.1, which kubectl and the API server use, makes of forms that the two parsers read
/// alike.
fn yaml_1_1(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.trim_start_matches(['+', '-']);
    if let Some(octal) = unsigned.strip_prefix("0o") {
        return octal.bytes().all(|byte| (b'0'..=b'7').contains(&byte)).then(|| format!("the text {text}"));
    }
    if matches!(&*lower, "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null") {
        let is_canonical = text == lower || text == text.to_ascii_uppercase() || is_capitalised(text);
        return (!is_canonical).then(|| format!("the text {text}"));
    }
    let is_underscored = text.contains('_') && unsigned.starts_with(|c: char| c.is_ascii_digit());
    if is_underscored && let Ok(number) = text.replace('_', "").parse::<f64>() {
        return Some(format!("the number {number}"));
    }
    // 12:30:45 is a number to the base 60 in YAML 1.1, though not for go-yaml.
    let is_sexagesimal = unsigned.split(':').count() > 1
        && unsigned.split(':').all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        && unsigned.split(':').skip(1).all(|part| part.len() <= 2 && part.parse::<u8>().is_ok_and(|part| part < 60));
    is_sexagesimal.then(|| "a number to the base 60".to_owned())
}

fn is_capitalised(text: &str) -> bool {
    let (first, rest) = text.split_at(1);
    first.chars().all(|c| c.is_ascii_uppercase()) && rest.chars().all(|c| c.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_list_of_scalars() {
        let mut said = String::new();
        for text in [
            "yes",
            "Yes",
            "YES",
            "yEs",
            "no",
            "No",
            "on",
            "On",
            "off",
            "y",
            "Y",
            "n",
            "true",
            "True",
            "TRUE",
            "tRue",
            "false",
            "null",
            "Null",
            "nULL",
            "~",
            "0",
            "1",
            "-1",
            "+1",
            "0644",
            "0755",
            "00",
            "08",
            "0o17",
            "0x1F",
            "0b11",
            "1_000",
            "1_000.5",
            "12:30:45",
            "1:2",
            "80:80",
            "1e3",
            "1E3",
            "1e400",
            "12e45",
            "1.10",
            "1.1",
            "1.0",
            ".5",
            "1.",
            ".inf",
            "-.inf",
            ".nan",
            "2001-01-01",
            "2001-01-01T00:00:00Z",
            "1.2.3",
            "v1",
            "1Gi",
            "18446744073709551615",
            "18446744073709551616",
            "123456789012345678901234",
            "=",
            "<<",
            "-",
            "1 000",
            "0.5m",
            "01234567890",
            "nan",
            "off-peak",
            "onward",
        ] {
            let line = match doubt(text) {
                Some((applied, other)) => format!("{text:<28} applied as {applied}, elsewhere {other}\n"),
                None => {
                    format!("{text:<28} {}\n", yaml::scalar(text).map_or("refused".into(), |value| in_words(&value)))
                }
            };
            said.push_str(&line);
        }
        expect_test::expect_file!["lint/scalars.txt"].assert_eq(&said);
    }

    #[test]
    fn numbers_that_change_and_characters_that_hide_are_found() {
        let scan = yaml::scan("a: 1.10\nb: 1.1\nc: 12e45\nd: 1.0\ne: \"1.10\"\nf: 1.2.3\ng: 0.50\nh: 3\n").unwrap();
        let found: Vec<_> = changed_numbers(scan.steps()).into_iter().map(|doubt| doubt.text).collect();
        assert_eq!(found, ["1.10", "12e45", "0.50"]);
        let scan = yaml::scan("a: fine\nb: größe\nc: ad\u{202e}min\n").unwrap();
        assert_eq!(hidden(scan.steps()), [(3, 4)]);
    }

    #[test]
    fn only_plain_scalars_are_doubted() {
        let scan = yaml::scan("a: yes\nb: 'yes'\nc: !!str yes\nd: |\n  yes\non: 1\n").unwrap();
        let found: Vec<_> = doubts(scan.steps()).into_iter().map(|doubt| (doubt.line, doubt.text)).collect();
        assert_eq!(found, [(1, "yes".to_owned()), (6, "on".to_owned())]);
    }
}
