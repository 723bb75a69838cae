//! The names of Towpath's own things, and names as types that cannot be swapped.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The one field manager. It is never changed: fields owned under another name would be orphaned.
pub const FIELD_MANAGER: &str = "towpath";

/// The API group of the custom resources and of the RBAC verbs.
pub const GROUP: &str = "towpath.dev";

/// Label on every managed object; its value is the environment's name.
pub const ENVIRONMENT_LABEL: &str = "towpath.dev/environment";

/// Label on every managed object; its value is the id of the ApplySet (KEP-3659).
pub const PART_OF_LABEL: &str = "applyset.kubernetes.io/part-of";

/// Label of the agent's pod that leads; the Service selects it.
pub const LEADER_LABEL: &str = "towpath.dev/leader";
/// Finalizer of an Environment whose members are deleted with it.
pub const FINALIZER: &str = "towpath.dev/members";

/// The agent's own name: of its Deployment, its account, its rights, and the value of their label
/// `app.kubernetes.io/name`.
pub const AGENT: &str = "towpath";

/// Label on the Jobs that the agent makes of a hook; its value is the hook's name in git, cut to 63 characters.
pub const HOOK_LABEL: &str = "towpath.dev/hook";

/// Annotation on the Jobs that the agent makes of a hook; its value says which run it is.
pub const HOOK_RUN_ANNOTATION: &str = "towpath.dev/hookRun";

/// The account an environment is applied with where it names none.
pub const DEFAULT_ACCOUNT: &str = "towpath-deployer";

/// Annotations that people put on objects in the deploy repository.
pub mod annotation {
    /// `Never`: the object is not deleted when it leaves git.
    pub const PRUNE: &str = "towpath.dev/prune";
    /// `"true"`: an object that exists already may be taken over.
    pub const ADOPT: &str = "towpath.dev/adopt";
    /// `Disabled`: the object is neither applied nor mended.
    pub const RECONCILE: &str = "towpath.dev/reconcile";
    /// `"true"`: the object may be deleted and created again where a field cannot be changed.
    pub const REPLACE: &str = "towpath.dev/replace";
    /// A whole number: a wave begins when the objects of all lower ones are healthy.
    pub const WAVE: &str = "towpath.dev/wave";
    /// `BeforeSync`, `AfterSync` or both: the Job is a hook, which runs once for each sync that changes something.
    pub const HOOK: &str = "towpath.dev/hook";
    /// JSON pointers, separated by commas or blanks: these fields are not sent.
    pub const IGNORE: &str = "towpath.dev/ignore";
    /// The reason: a rollback that would touch the object needs a person who overrides it.
    pub const NOT_REVERTIBLE: &str = "towpath.dev/notRevertible";
    /// All of the above. Any other annotation under `towpath.dev/` is a mark of the agent's own or a typing error.
    pub const FOR_OBJECTS: [&str; 8] = [PRUNE, ADOPT, RECONCILE, REPLACE, WAVE, HOOK, IGNORE, NOT_REVERTIBLE];

    /// On an Environment or Repository: any new value asks for a look now, and for a sync where it is manual.
    pub const REQUESTED_AT: &str = "towpath.dev/requestedAt";
    /// Who asked.
    pub const REQUESTED_BY: &str = "towpath.dev/requestedBy";
    /// Repository only: what a person asks of its steward, as JSON.
    pub const REQUEST: &str = "towpath.dev/request";
    /// Environment only: the deletions that a person has confirmed, as `<commit>:<digest of the list>`.
    pub const CONFIRM_PRUNE: &str = "towpath.dev/confirmPrune";
    /// Environment only: who confirmed them.
    pub const CONFIRMED_BY: &str = "towpath.dev/confirmedBy";
    /// Environment only: a rollback that a person asks for, as JSON.
    pub const ROLLBACK: &str = "towpath.dev/rollback";
    /// Environment only: who asks for it.
    pub const ROLLBACK_BY: &str = "towpath.dev/rollbackBy";
    /// Environment only: the id of the rollback that is done although something says that it must not be.
    pub const OVERRIDE: &str = "towpath.dev/override";
}

/// The name of an Environment: a DNS label, for it becomes a label value and a part of ref names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EnvironmentName(String);

/// Why a text is not a DNS label (RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: use up to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")]
pub struct NotADnsLabel(pub String);

impl FromStr for EnvironmentName {
    type Err = NotADnsLabel;

    fn from_str(text: &str) -> Result<Self, NotADnsLabel> {
        if is_dns_label(text) { Ok(EnvironmentName(text.to_owned())) } else { Err(NotADnsLabel(text.to_owned())) }
    }
}

impl EnvironmentName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvironmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for EnvironmentName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// One ledger: an environment of a cluster. The same names in another cluster are another ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerName {
    /// The cluster, as its agent names it.
    pub cluster: String,
    /// The environment.
    pub environment: EnvironmentName,
}

impl fmt::Display for LedgerName {
    /// `cluster/environment`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.environment)
    }
}

/// Whether a text is a DNS label as RFC 1123 has it: what namespaces and environments may be called.
pub fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether a text is a DNS subdomain (RFC 1123): what most objects may be called.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label_of_any_length)
}

fn is_dns_label_of_any_length(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_name_is_a_dns_label() {
        for good in ["prod", "a", "team-1-prod", &"x".repeat(63)] {
            assert!(good.parse::<EnvironmentName>().is_ok(), "{good}");
        }
        for bad in ["", "Prod", "-a", "a-", "a.b", "a/b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<EnvironmentName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn object_names_may_have_dots() {
        assert!(is_dns_subdomain("certificates.cert-manager.io"));
        assert!(!is_dns_subdomain("a..b"));
        assert!(!is_dns_subdomain("a b"));
    }
}
