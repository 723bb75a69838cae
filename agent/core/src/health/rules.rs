//! Rules of an Environment for the health of kinds that no room here knows: expressions in CEL, in the manner of Flux's
//! `spec.healthCheckExprs`, whose entries can be carried over as they are.
//!
//! As with Flux an expression sees the fields of the object as variables (`status.phase`, `metadata`, `data`); the whole
//! object is `self`. After the generations were compared `inProgress` is asked, then `failed`, then `current`, and the
//! first that is true decides; if none is, the object is on its way.
//!
//! Expressions come from people and run where every environment's watches run. So they are short, cannot make a value
//! grow, and one that would take too many steps for the object at hand is not run.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::expression::{Expression, Facts};
use super::ObjectHealth;
use crate::fault::{Problem, Problems};
use crate::limits::{MAX_EXPRESSION_BYTES, MAX_HEALTH_RULES};
use crate::manifest::group_of;
use crate::revision::clean_line;

mod expression;

/// How the health of one kind is read, as people write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthRule {
    /// `apiVersion` of the objects, such as `example.org/v1`. Only its group counts.
    #[schemars(length(min = 1, max = 253))]
    pub api_version: String,
    /// Kind of the objects.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// An expression in CEL that is true while the object is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_EXPRESSION_BYTES))]
    pub in_progress: Option<String>,
    /// An expression in CEL that is true when the object has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_EXPRESSION_BYTES))]
    pub failed: Option<String>,
    /// An expression in CEL that is true when the object does what it was told.
    #[schemars(length(min = 1, max = MAX_EXPRESSION_BYTES))]
    pub current: String,
}

/// The rules of an environment, read once. A copy is cheap.
#[derive(Clone, Default)]
pub struct HealthRules(Arc<Vec<Rule>>);

struct Rule {
    source: HealthRule,
    in_progress: Option<Expression>,
    failed: Option<Expression>,
    current: Expression,
}

impl PartialEq for HealthRules {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.sources().eq(other.sources())
    }
}

impl fmt::Debug for HealthRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sources()).finish()
    }
}

impl HealthRules {
    /// Reads rules.
    ///
    /// # Errors
    /// `Setup` for each expression that cannot be read, knows a function that there is not, or could grow without
    /// bounds; for a kind that has two rules, and for Secrets; and for more than [`MAX_HEALTH_RULES`].
    pub fn read(sources: &[HealthRule]) -> Result<HealthRules, Problems> {
        if sources.len() > MAX_HEALTH_RULES {
            let problem = Problem::setup(format!("spec.health: {} rules are too many", sources.len()));
            return Err(problem.hint(format!("at most {MAX_HEALTH_RULES} can be told")).into());
        }
        let mut found = Vec::new();
        let mut rules: Vec<Rule> = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let id = (group_of(&source.api_version), source.kind.as_str());
            if rules.iter().any(|earlier| earlier.id() == id) {
                found.push(Problem::setup(format!("spec.health[{index}]: there are two rules for {}", source.kind)));
            }
            if id == ("", "Secret") {
                found.push(Problem::setup(format!("spec.health[{index}]: Secrets are not read by expressions")));
            }
            let mut read = |field: &str, text: &str| {
                Expression::read(text)
                    .map_err(|why| {
                        let text = clean_line(text, 200);
                        let hint = "see docs/health.md for what an expression may use";
                        found.push(
                            Problem::setup(format!("spec.health[{index}].{field}: {why} in {text:?}")).hint(hint),
                        );
                    })
                    .ok()
            };
            let in_progress = source.in_progress.as_deref().map(|text| read("inProgress", text));
            let failed = source.failed.as_deref().map(|text| read("failed", text));
            if let Some(current) = read("current", &source.current) {
                let (in_progress, failed) = (in_progress.flatten(), failed.flatten());
                rules.push(Rule { source: source.clone(), in_progress, failed, current });
            }
        }
        Problems::check(found)?;
        Ok(HealthRules(Arc::new(rules)))
    }

    /// Whether a kind has a rule.
    pub fn cover(&self, group: &str, kind: &str) -> bool {
        self.of(group, kind).is_some()
    }

    /// What the rules say of an object; `None` where none is for its kind.
    pub(super) fn assess(&self, object: &Value, group: &str, kind: &str) -> Option<ObjectHealth> {
        self.of(group, kind).map(|rule| rule.assess(object))
    }

    fn of(&self, group: &str, kind: &str) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.id() == (group, kind))
    }

    fn sources(&self) -> impl Iterator<Item = &HealthRule> {
        self.0.iter().map(|rule| &rule.source)
    }
}

impl Rule {
    fn id(&self) -> (&str, &str) {
        (group_of(&self.source.api_version), &self.source.kind)
    }

    fn assess(&self, object: &Value) -> ObjectHealth {
        let facts = Facts::of(object);
        let asked = [("inProgress", self.in_progress.as_ref()), ("failed", self.failed.as_ref())];
        for (field, expression) in asked.into_iter().chain([("current", Some(&self.current))]) {
            match expression.map(|expression| expression.is_true(&facts)) {
                None | Some(Ok(false)) => {}
                // A controller that has not looked at the object yet has written nothing to read.
                Some(Err(_)) if object.get("status").is_none() => {
                    return ObjectHealth::progressing("its controller has written no status yet");
                }
                Some(Err(why)) => return ObjectHealth::unknown(format!("spec.health, {field}: {why}")),
                Some(Ok(true)) => return verdict(field, object),
            }
        }
        ObjectHealth::progressing(with_phase("not current yet", object))
    }
}

fn verdict(field: &str, object: &Value) -> ObjectHealth {
    match field {
        "inProgress" => ObjectHealth::progressing(with_phase("in progress", object)),
        "failed" => ObjectHealth::degraded(with_phase("failed", object)),
        _ => ObjectHealth::healthy("current"),
    }
}

/// What the object itself says, where it says anything: the rule knows only yes and no.
fn with_phase(text: &str, object: &Value) -> String {
    use super::reading::{condition, reason_and_message, text as of};
    let ready = condition(object, "Ready").filter(|ready| ready.status() != "True").map(|ready| ready.says());
    let said = ready.filter(|said| !said.is_empty()).unwrap_or_else(|| {
        let phase = ["/status/phase", "/status/state"].into_iter().map(|path| of(object, path));
        let phase = phase.into_iter().find(|phase| !phase.is_empty()).unwrap_or_default();
        reason_and_message(phase, of(object, "/status/message"))
    });
    reason_and_message(text, &said)
}

#[cfg(test)]
mod tests;
