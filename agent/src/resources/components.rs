//! What a Repository says about the repositories of its components: which may be read, and which branches move by
//! themselves to what is new there.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use towpath_core::fault::Problem;
use towpath_core::lane::LaneRule;

use super::SecretReference;
use super::resolve::duration;
use crate::repo::Remote;

/// How long moves of components are gathered, where nothing is said.
const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

/// Repositories of components that may be read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ComponentRule {
    /// What their addresses begin with, up to a slash: `https://git.example.com/shop`, `ssh://git@git.example.com/libs`,
    /// `git@git.example.com:libs`.
    #[schemars(length(min = 1, max = 2048))]
    pub prefix: String,
    /// A Secret like that of the Repository. It is shown to these addresses only. Without one nothing is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
}

/// Whether the submodules of a branch follow their components.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BumpSpec {
    /// `develop`, `release` (the newest rX.Y), `master`, or the name of a branch.
    #[schemars(length(min = 1, max = 200))]
    pub lane: String,
    /// `Commit` commits each move of a component's branch of the same name to the deploy branch; `Off` does not.
    #[serde(default)]
    pub bump: Bump,
    /// How long moves are gathered into one commit, such as `30s`: 10 s by default, `0s` for not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub window: Option<String>,
    /// What is done about a bump by hand to a commit that is not on the component's branch of the same name.
    #[serde(default)]
    pub outside: Outside,
}

/// Whether submodules follow their components.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Bump {
    /// Only by hand.
    #[default]
    Off,
    /// By commits of the steward.
    Commit,
}

/// What is done about a bump to a commit outside the branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outside {
    /// It is refused.
    #[default]
    Refuse,
    /// It is done, and the commit says so.
    Warn,
}

/// [`ComponentRule`], resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Without a slash at its end.
    prefix: String,
    /// Whether what lies in folders below is covered too.
    is_deep: bool,
    /// The Secret to read with.
    pub secret: Option<String>,
}

/// [`BumpSpec`], resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BumpRule {
    /// Which branch.
    pub lane: LaneRule,
    /// Whether it moves by itself.
    pub bump: Bump,
    /// How long moves are gathered.
    pub window: Duration,
    /// What is done about a commit outside the branch.
    pub outside: Outside,
}

impl ComponentRule {
    pub(super) fn resolve(&self, place: usize, found: &mut Vec<Problem>) -> Allowed {
        let prefix = self.prefix.trim_end_matches('/');
        // What would be no address with a name after it matches nothing, or more than was meant.
        let read = match prefix.ends_with(':') {
            true => Err(Problem::setup(format!("{prefix:?} names no group of repositories"))),
            false => format!("{prefix}/x").parse::<Remote>(),
        };
        if let Err(problem) = read {
            let message = format!("spec.components[{place}].prefix: {}", problem.message);
            found.push(Problem { message, ..problem });
        }
        Allowed {
            prefix: prefix.to_owned(),
            is_deep: true,
            secret: self.secret_ref.as_ref().map(|secret| secret.name.clone()),
        }
    }
}

impl BumpSpec {
    pub(super) fn resolve(&self, place: usize, found: &mut Vec<Problem>) -> Option<BumpRule> {
        let field = format!("bumps[{place}]");
        let window = match self.window.as_deref() {
            None => Ok(DEFAULT_WINDOW),
            Some("0s") => Ok(Duration::ZERO),
            Some(text) => duration(&format!("{field}.window"), text),
        };
        let lane = LaneRule::parse(&self.lane)
            .map_err(|error| error.to_string())
            .and_then(|lane| match lane {
                LaneRule::Commit(_) => Err("a commit does not move".to_owned()),
                lane => Ok(lane),
            })
            .map_err(|error| Problem::setup(format!("spec.{field}.lane: {error}")));
        match (lane, window) {
            (Ok(lane), Ok(window)) => Some(BumpRule { lane, bump: self.bump, window, outside: self.outside }),
            (lane, window) => {
                found.extend([lane.err(), window.err()].into_iter().flatten());
                None
            }
        }
    }
}

impl Allowed {
    /// What may be read where nothing is said: what lies in the same folder as the deploy repository, with its Secret.
    pub(super) fn beside(deploy: &str, secret: Option<&SecretReference>) -> Option<Allowed> {
        let deploy = deploy.trim_end_matches('/');
        let end = deploy.rfind('/').or_else(|| deploy.rfind(':'))?;
        Some(Allowed {
            prefix: deploy[..end].to_owned(),
            is_deep: false,
            secret: secret.map(|secret| secret.name.clone()),
        })
    }

    /// Whether an address lies below, and by how much of it that is said.
    fn covers(&self, address: &str) -> Option<usize> {
        let rest = address.strip_prefix(&self.prefix)?;
        let is_below = rest.starts_with('/') || (rest.starts_with(':') && !self.prefix.contains("://"));
        let is_beside = !rest.is_empty() && !rest[1..].trim_start_matches('/').trim_end_matches('/').contains('/');
        (is_below && (self.is_deep || is_beside)).then_some(self.prefix.len())
    }
}

/// With which Secret an address may be read: that of the longest prefix.
///
/// # Errors
/// `Setup` where no prefix covers it, with the lines to add.
pub fn secret_for<'a>(allowed: &'a [Allowed], address: &str) -> Result<Option<&'a str>, Problem> {
    let longest =
        allowed.iter().filter_map(|allowed| Some((allowed.covers(address)?, allowed))).max_by_key(|(by, _)| *by);
    let refused = || {
        let group = address.rfind('/').map_or(address, |end| &address[..end]);
        Problem::setup(format!("{address} may not be read: it is not among the components of the Repository"))
            .hint(format!("add to the Repository's spec: components: [{{prefix: \"{group}\"}}]"))
    };
    longest.map(|(_, allowed)| allowed.secret.as_deref()).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(prefix: &str, secret: &str) -> Allowed {
        let rule = ComponentRule { prefix: prefix.into(), secret_ref: Some(SecretReference { name: secret.into() }) };
        let mut found = Vec::new();
        let allowed = rule.resolve(0, &mut found);
        assert_eq!(found, []);
        allowed
    }

    #[test]
    fn a_secret_goes_only_where_its_prefix_says() {
        let rules = [
            allowed("https://git.example/shop/", "shop"),
            allowed("https://git.example/shop/secret", "secret"),
            allowed("git@git.example:libs", "libs"),
        ];
        let secret = |address: &str| secret_for(&rules, address).ok().flatten();
        assert_eq!(secret("https://git.example/shop/web.git"), Some("shop"));
        assert_eq!(secret("https://git.example/shop/secret/web.git"), Some("secret"));
        assert_eq!(secret("git@git.example:libs/common.git"), Some("libs"));
        for other in [
            "https://git.example/shopping/web.git",
            "https://git.example.evil/shop/web.git",
            "http://git.example/shop/web.git",
            "ssh://git@git.example/shop/web.git",
            "https://git.example:8443/shop/web.git",
            "git@git.example:libs-of-others/x.git",
        ] {
            assert!(secret_for(&rules, other).is_err(), "{other}");
        }
        let refused = secret_for(&rules, "https://other.example/team/web.git").unwrap_err();
        assert!(refused.hint.unwrap().contains("components: [{prefix: \"https://other.example/team\"}]"));
    }

    #[test]
    fn what_lies_beside_the_deploy_repository_may_be_read() {
        for (deploy, address) in [
            ("https://git.example/shop/deploy.git", "https://git.example/shop/web.git"),
            ("git@git.example:shop/deploy.git", "git@git.example:shop/web.git"),
            ("git@git.example:deploy.git", "git@git.example:web.git"),
            ("/srv/git/deploy.git", "/srv/git/web.git"),
            ("file:///srv/git/deploy.git/", "file:///srv/git/web.git"),
        ] {
            let rules: Vec<_> = Allowed::beside(deploy, None).into_iter().collect();
            assert_eq!(secret_for(&rules, address), Ok(None), "{deploy}");
            assert!(secret_for(&rules, "https://other.example/web.git").is_err());
            let deeper = address.replace("web.git", "others/web.git");
            assert!(secret_for(&rules, &deeper).is_err(), "{deeper}");
        }
    }

    #[test]
    fn a_prefix_that_is_no_beginning_of_an_address_is_refused() {
        for bad in ["git.example/shop", "https://", "https://user:pw@git.example/x", "-oX", "http://git.example/x"] {
            let mut found = Vec::new();
            ComponentRule { prefix: bad.into(), secret_ref: None }.resolve(3, &mut found);
            assert!(found[0].message.starts_with("spec.components[3].prefix: "), "{bad}: {found:?}");
            assert!(!found[0].message.contains("pw"));
        }
    }
}
