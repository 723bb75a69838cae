//! `notRevertible` of `towpath.yaml`: paths whose changes may not be taken back.

use serde_json::Value;

use super::Reader;
use crate::fault::Problem;
use crate::glob::Glob;

/// Patterns of `notRevertible` in one `towpath.yaml`, all entries together.
pub const MAX_NOT_REVERTIBLE: usize = 200;

/// Paths whose changes may not be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRevertible {
    /// Which; at least one.
    pub paths: Vec<Glob>,
    /// Why, in the words of whoever wrote it; empty where nothing is said.
    pub reason: String,
}

impl Reader<'_, '_> {
    pub(super) fn not_revertible(&mut self, value: &Value) -> Vec<NotRevertible> {
        let Value::Array(entries) = value else {
            self.problem(&["notRevertible"], "notRevertible is no list".to_owned(), "write `- paths: [migrations/**]`");
            return Vec::new();
        };
        let mut rules = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let index = index.to_string();
            let at = ["notRevertible", index.as_str()];
            let mut rule = NotRevertible { paths: Vec::new(), reason: String::new() };
            let mut is_said = false;
            for (key, value) in self.map(entry, &at, &["paths", "reason"]) {
                let field = ["notRevertible", index.as_str(), key];
                match key {
                    "paths" => {
                        let texts = self.texts(value, &field);
                        is_said = !texts.is_empty();
                        for (text, place) in texts {
                            match Glob::parse(&text) {
                                Ok(path) => rule.paths.push(path),
                                Err(why) => {
                                    let message = format!("{} cannot be {text:?}: {why}", field.join("."));
                                    let hint = "write paths from the root, such as migrations/** or **/values.yaml";
                                    self.problems.push(Problem::content(message).at(place).hint(hint));
                                }
                            }
                        }
                    }
                    "reason" => rule.reason = self.text(value, &field).unwrap_or_default(),
                    _ => {}
                }
            }
            if !is_said {
                self.problem(&at, format!("{} names no paths", at.join(".")), "write `paths: [migrations/**]`");
            }
            rules.push(rule);
        }
        let patterns: usize = rules.iter().map(|rule| rule.paths.len()).sum();
        if patterns > MAX_NOT_REVERTIBLE {
            let message = format!("notRevertible has {patterns} paths, and {MAX_NOT_REVERTIBLE} may be");
            self.problem(&["notRevertible"], message, "say more with one pattern: ** stands for any folders");
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_declarations;
    use super::*;

    #[test]
    fn paths_that_may_not_be_taken_back_are_not_endless() {
        let of = |count: usize| read_declarations(&format!("notRevertible: [{{paths: [{}]}}]", "a/**, ".repeat(count)));
        assert_eq!(of(MAX_NOT_REVERTIBLE).unwrap().not_revertible[0].paths.len(), MAX_NOT_REVERTIBLE);
        assert!(of(MAX_NOT_REVERTIBLE + 1).unwrap_err()[0].message.contains("201 paths, and 200 may be"));
    }
}
