//! `towpath get --orphans`: what is not in git and is still there.

use jiff::Timestamp;
use kube::ResourceExt;
use towpath_core::status::KeptStatus;

use super::super::exit::{Code, Failure};
use super::super::output;
use crate::resources::Environment;

const HEADER: [&str; 5] = ["ENVIRONMENT", "OBJECT", "IS", "SINCE", "WHY"];

/// Prints every kept member and every orphan of some environments.
pub(super) fn print(environments: &[Environment], is_wide: bool) -> Result<Code, Failure> {
    let rows = rows(environments, Timestamp::now());
    for environment in environments {
        let found = environment.status.clone().unwrap_or_default().leftovers;
        let unlisted = (found.kept_count as usize).saturating_sub(found.kept.len())
            + (found.orphan_count as usize).saturating_sub(found.orphans.len());
        if unlisted > 0 {
            output::progress(&format!("{} has {unlisted} more that are not listed", environment.name_any()));
        }
    }
    if rows.is_empty() {
        output::progress("everything that is there is in git");
        return Ok(Code::Done);
    }
    output::data(&output::table(&HEADER, &rows, if is_wide { None } else { output::terminal_width() }))?;
    Ok(Code::Done)
}

fn rows(environments: &[Environment], now: Timestamp) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for environment in environments {
        let found = environment.status.clone().unwrap_or_default().leftovers;
        let row = |word: &str, object: &KeptStatus| {
            let since = object.since.map_or_else(|| "-".to_owned(), |since| output::age(since, now));
            vec![environment.name_any(), object.object.clone(), word.to_owned(), since, object.reason.clone()]
        };
        rows.extend(found.kept.iter().map(|object| row("kept", object)));
        rows.extend(found.orphans.iter().map(|object| row("orphan", object)));
    }
    rows
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_object_is_named_with_its_reason() {
        let environment: Environment = serde_json::from_value(json!({
            "apiVersion": "towpath.dev/v1alpha1",
            "kind": "Environment",
            "metadata": {"name": "prod"},
            "spec": {"repository": "shop", "lane": "master", "path": "prod"},
            "status": {
                "kept": [{"object": "ConfigMap shop/old", "reason": "spec.prune is off", "since": "2026-01-01T11:57:00Z"}],
                "orphans": [{"object": "ConfigMap shop/copy", "reason": "a copied label"}],
            },
        }))
        .unwrap();
        let rows = rows(&[environment], "2026-01-01T12:00:00Z".parse().unwrap());
        expect![[r#"
            ENVIRONMENT  OBJECT               IS      SINCE  WHY
            prod         ConfigMap shop/old   kept    3m     spec.prune is off
            prod         ConfigMap shop/copy  orphan  -      a copied label
        "#]]
        .assert_eq(&anstream::adapter::strip_str(&output::table(&HEADER, &rows, None)).to_string());
    }
}
