//! Rules of an Environment about fields that are not its own: left out, or left to a manager.

use std::collections::BTreeSet;

use crate::glob::fits;
use crate::manifest::ObjectKey;
use crate::pointer::Pointer;

/// One rule of `spec.ignore`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The API group; `None` for any, empty for the core group.
    pub group: Option<String>,
    /// The kind; `None` for any.
    pub kind: Option<String>,
    /// The name, in which `*` stands for any text; `None` for any.
    pub name: Option<String>,
    /// The fields; none means all.
    pub pointers: Vec<Pointer>,
    /// Whose fields; none means that the fields are never sent.
    pub managers: BTreeSet<String>,
}

impl Rule {
    /// Whether it is about an object.
    pub fn is_about(&self, key: &ObjectKey) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.group, &key.group)
            && is(&self.kind, &key.kind)
            && self.name.as_deref().is_none_or(|pattern| fits(pattern, &key.name))
    }

    /// Whether its fields are left out whoever owns them.
    pub fn leaves_out(&self) -> bool {
        self.managers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Identity;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::from(Identity {
            group: "apps".into(),
            kind: "Deployment".into(),
            namespace: Some("web".into()),
            name: name.into(),
        })
    }

    #[test]
    fn a_rule_without_limits_is_about_everything() {
        assert!(Rule::default().is_about(&key("web")));
        assert!(
            Rule { group: Some("apps".into()), kind: Some("Deployment".into()), ..Rule::default() }.is_about(&key("x"))
        );
        assert!(!Rule { group: Some(String::new()), ..Rule::default() }.is_about(&key("web")));
        assert!(!Rule { kind: Some("Service".into()), ..Rule::default() }.is_about(&key("web")));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, fits) in [
            ("web", "web", true),
            ("web", "web-1", false),
            ("*", "web", true),
            ("web-*", "web-1", true),
            ("web-*", "web", false),
            ("*-web", "a-web", true),
            ("*-web", "a-web-b", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("a*a", "a", false),
            ("**", "", true),
        ] {
            let rule = Rule { name: Some(pattern.into()), ..Rule::default() };
            assert_eq!(rule.is_about(&key(name)), fits, "{pattern} {name}");
        }
    }
}
