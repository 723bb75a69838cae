//! The custom resources with every default filled in, and everything refused that means nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::ResourceExt;
use towpath_core::environment::{self, DeletionPolicy, DriftMode, LogMode, Preflight, SyncMode};
use towpath_core::fault::{Problem, Problems};
use towpath_core::health::HealthRules;
use towpath_core::ignore::Rule;
use towpath_core::lane::{BranchNames, LaneRule, is_branch_name};
use towpath_core::names::{self, EnvironmentName};
use towpath_core::pointer::Pointer;
use towpath_core::signature::PublicKey;

use super::{
    Allowed, BumpRule, Deletion, Drift, Environment, EnvironmentSpec, Ignore, LedgerRule, Logs, Preflights, Repository,
    Sync,
};

/// A Repository with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedRepository {
    /// Namespace of the custom resource, and of its Secret.
    pub home: String,
    /// Its name.
    pub name: String,
    /// Its generation.
    pub generation: i64,
    /// Where it is.
    pub url: String,
    /// The Secret for reading.
    pub secret: Option<String>,
    /// How often it is polled.
    pub interval: Duration,
    /// What the long-lived branches are called.
    pub branches: BranchNames,
    /// Other namespaces whose Environments may follow it; `*` stands for all.
    pub allowed_from: BTreeSet<String>,
    /// Other namespaces whose environments may have reverts pushed to it; `*` stands for all.
    pub rollbacks_from: BTreeSet<String>,
    /// Where ledgers are kept.
    pub ledger: Option<LedgerRule>,
    /// Whose signatures count for which cluster.
    pub peers: Vec<(String, PublicKey)>,
    /// Whether this agent writes what is said about the repository as a whole.
    pub steward: bool,
    /// The Secret for pushing.
    pub write_secret: Option<String>,
    /// Which repositories of components may be read, and with which Secret.
    pub components: Vec<Allowed>,
    /// Branches whose submodules follow their components.
    pub bumps: Vec<BumpRule>,
    /// The Secrets to look images up with.
    pub image_pull_secrets: Vec<String>,
}

/// Reads a duration such as `90s` or `1h30m`.
///
/// # Errors
/// When it is none, or not between 1 s and 24 h.
pub(super) fn duration(field: &str, text: &str) -> Result<Duration, Problem> {
    let refuse = |why: String| Problem::setup(format!("spec.{field}: {why}")).hint("write it as 30s, 5m or 1h30m");
    let duration: jiff::SignedDuration = text.parse().map_err(|_| refuse(format!("{text:?} is not a duration")))?;
    let duration = Duration::try_from(duration).map_err(|_| refuse(format!("{text:?} is negative")))?;
    if (Duration::from_secs(1)..=Duration::from_secs(24 * 3600)).contains(&duration) {
        Ok(duration)
    } else {
        Err(refuse(format!("{text:?} is not between 1s and 24h")))
    }
}

impl Repository {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// Everything in the spec that means nothing.
    pub fn resolve(&self) -> Result<ResolvedRepository, Problems> {
        let mut found = Vec::new();
        let interval = match &self.spec.interval {
            None => Duration::from_secs(60),
            Some(text) => duration("interval", text).unwrap_or_else(|problem| {
                found.push(problem);
                Duration::ZERO
            }),
        };
        let mut branches = BranchNames::default();
        let named = self.spec.branches.clone().unwrap_or_default();
        for (field, name, into) in
            [("develop", named.develop, &mut branches.develop), ("master", named.master, &mut branches.master)]
        {
            match name {
                Some(name) if is_branch_name(&name) => *into = name,
                Some(name) => {
                    found.push(Problem::setup(format!("spec.branches.{field}: {name:?} is not a branch name")));
                }
                None => {}
            }
        }
        let peers = self.spec.peers.iter().enumerate();
        let peers = peers.filter_map(|(place, peer)| peer.resolve(place, &mut found)).collect();
        let own = self.spec.secret_ref.as_ref();
        let mut components: Vec<Allowed> = Allowed::beside(&self.spec.url, own).into_iter().collect();
        let rules = self.spec.components.iter().enumerate();
        components.extend(rules.map(|(place, rule)| rule.resolve(place, &mut found)));
        let bumps = self.spec.bumps.iter().enumerate();
        let bumps = bumps.filter_map(|(place, bump)| bump.resolve(place, &mut found)).collect();
        Problems::check(found)?;
        Ok(ResolvedRepository {
            home: self.namespace().unwrap_or_default(),
            name: self.name_any(),
            generation: self.metadata.generation.unwrap_or_default(),
            url: self.spec.url.clone(),
            secret: self.spec.secret_ref.as_ref().map(|secret| secret.name.clone()),
            interval,
            branches,
            allowed_from: self.spec.allowed_from.iter().cloned().collect(),
            rollbacks_from: self.spec.rollbacks_from.iter().cloned().collect(),
            ledger: self.spec.ledger.as_ref().and_then(|ledger| ledger.resolve(self.spec.secret_ref.as_ref())),
            peers,
            steward: self.spec.steward,
            write_secret: self.spec.write_secret_ref.as_ref().or(own).map(|secret| secret.name.clone()),
            components,
            bumps,
            image_pull_secrets: self.spec.image_pull_secrets.clone(),
        })
    }
}

impl Environment {
    /// Namespace and name of its Repository.
    pub fn repository_id(&self) -> (String, String) {
        let named = &self.spec.repository;
        let (namespace, name) = named.split_once('/').map_or((None, named.as_str()), |(home, name)| (Some(home), name));
        (namespace.map(str::to_owned).or_else(|| self.namespace()).unwrap_or_default(), name.to_owned())
    }

    /// Fills in the defaults.
    ///
    /// # Errors
    /// Everything in the spec that means nothing.
    pub fn resolve(&self) -> Result<environment::Environment, Problems> {
        let (repository_home, repository) = self.repository_id();
        let EnvironmentSpec {
            repository: _,
            lane,
            path,
            namespace,
            values,
            sync,
            service_account_name,
            allow,
            prune,
            drift,
            preflight,
            take_over,
            ignore,
            timeout,
            health,
            logs,
            after,
            rollback,
            image_pull_secrets,
            suspend,
            deletion_policy,
            moved_from,
        } = self.spec.clone();
        let home = self.namespace().unwrap_or_default();
        let mut found = Vec::new();
        let name = self.name_any().parse().map_err(|error| Problem::setup(format!("metadata.name: {error}")));
        let lane = LaneRule::parse(&lane).map_err(|error| Problem::setup(format!("spec.lane: {error}")));
        let path = clean_path(&path);
        let timeout = timeout.map_or(Ok(Duration::from_secs(600)), |text| duration("timeout", &text));
        let account = service_account_name.unwrap_or_else(|| names::DEFAULT_ACCOUNT.to_owned());
        if !names::is_dns_subdomain(&account) {
            found.push(Problem::setup(format!("spec.serviceAccountName: {account:?} is not a name")));
        }
        if !names::is_dns_label(&repository_home) && repository_home != home || !names::is_dns_subdomain(&repository) {
            let named = &self.spec.repository;
            found.push(
                Problem::setup(format!("spec.repository: {named:?} is no Repository"))
                    .hint("write its name, or namespace/name where it is in another namespace"),
            );
        }
        let moved_from = moved_from.map(|earlier| match earlier.parse::<EnvironmentName>() {
            Ok(earlier) if earlier.as_str() != self.name_any() => Ok(earlier),
            Ok(_) => Err(Problem::setup("spec.movedFrom: it names the Environment itself")),
            Err(error) => Err(Problem::setup(format!("spec.movedFrom: {error}"))),
        });
        let moved_from = moved_from.transpose().unwrap_or_else(|problem| {
            found.push(problem);
            None
        });
        let namespace = namespace.unwrap_or_else(|| home.clone());
        let allow = allow.unwrap_or_default();
        for namespace in allow.namespaces.iter().chain([&namespace]) {
            if !names::is_dns_label(namespace) {
                found.push(Problem::setup(format!("{namespace:?} is not the name of a namespace")));
            }
        }
        let ignore: Vec<Rule> =
            ignore.into_iter().enumerate().map(|(place, rule)| rule.resolve(place, &mut found)).collect();
        for (place, name) in image_pull_secrets.iter().enumerate() {
            if !names::is_dns_subdomain(name) {
                found.push(Problem::setup(format!("spec.imagePullSecrets[{place}]: {name:?} is not a name")));
            }
        }
        let after = after.iter().enumerate();
        let after = after.filter_map(|(place, after)| after.resolve(place, &mut found)).collect();
        let rollback = rollback.map(|rollback| rollback.resolve(&mut found)).unwrap_or_default();
        let health = HealthRules::read(&health).unwrap_or_else(|problems| {
            found.extend(problems.into_vec());
            HealthRules::default()
        });
        match (name, lane, path, timeout) {
            (Ok(name), Ok(lane), Ok(path), Ok(timeout)) if found.is_empty() => Ok(environment::Environment {
                name,
                home,
                uid: self.uid().unwrap_or_default(),
                generation: self.metadata.generation.unwrap_or_default(),
                repository_home,
                repository,
                lane,
                path,
                namespace,
                values,
                sync: match sync {
                    Sync::Automatic => SyncMode::Automatic,
                    Sync::Manual => SyncMode::Manual,
                },
                account,
                allowed_namespaces: allow.namespaces.into_iter().collect(),
                allowed_cluster_kinds: allow.cluster_kinds.into_iter().collect(),
                prune: prune.unwrap_or(true),
                drift: match drift {
                    Drift::Correct => DriftMode::Correct,
                    Drift::Report => DriftMode::Report,
                },
                preflight: match preflight {
                    Preflights::Always => Preflight::Always,
                    Preflights::Never => Preflight::Never,
                },
                take_over: take_over.into_iter().filter(|manager| manager != names::FIELD_MANAGER).collect(),
                ignore,
                timeout,
                health,
                logs: match logs {
                    Logs::Failing => LogMode::Failing,
                    Logs::Never => LogMode::Never,
                },
                after,
                rollback,
                image_pull_secrets,
                suspend,
                deletion_policy: match deletion_policy {
                    Deletion::Orphan => DeletionPolicy::Orphan,
                    Deletion::Prune => DeletionPolicy::Prune,
                },
                moved_from,
            }),
            (name, lane, path, timeout) => {
                found.extend([name.err(), lane.err(), path.err(), timeout.err()].into_iter().flatten());
                Err(Problems::check(found).expect_err("something was found, or everything would be resolved"))
            }
        }
    }
}

/// A path without `.` and slashes at its ends; `""` for the root.
fn clean_path(path: &str) -> Result<String, Problem> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if path.starts_with('/') || parts.contains(&"..") || path.contains(['\\', '\0', '\n']) {
        return Err(Problem::setup(format!("spec.path: {path:?} leaves the repository"))
            .hint("name a folder by its path from the root of the repository"));
    }
    Ok(parts.join("/"))
}

impl Ignore {
    /// Reads the pointers of the rule in this place of the list.
    fn resolve(self, place: usize, found: &mut Vec<Problem>) -> Rule {
        let mut pointers = Vec::new();
        for (index, text) in self.pointers.iter().enumerate() {
            match Pointer::parse(text) {
                Ok(pointer) => pointers.push(pointer),
                Err(error) => {
                    found.push(Problem::setup(format!("spec.ignore[{place}].pointers[{index}]: {error}")));
                }
            }
        }
        if self.pointers.is_empty() && self.managers.is_empty() {
            let problem = Problem::setup(format!("spec.ignore[{place}]: neither pointers nor managers"));
            found.push(problem.hint("name the fields, or whose fields they are"));
        }
        for (index, manager) in self.managers.iter().enumerate() {
            if manager.is_empty() || manager == names::FIELD_MANAGER {
                let text = format!("spec.ignore[{place}].managers[{index}]: {manager:?} is no other manager");
                found.push(Problem::setup(text));
            }
        }
        let managers = self.managers.into_iter().collect();
        Rule { group: self.group, kind: self.kind, name: self.name, pointers, managers }
    }
}

#[cfg(test)]
mod tests {
    use towpath_core::health::HealthRule;

    use super::*;

    fn environment(change: impl FnOnce(&mut Environment)) -> Result<environment::Environment, Problems> {
        let yaml = "{repository: shop, lane: master, path: environments/prod}";
        let mut environment = Environment::new("prod", serde_saphyr::from_str(yaml).unwrap());
        environment.metadata.namespace = Some("shop".into());
        change(&mut environment);
        environment.resolve()
    }

    #[test]
    fn a_health_rule_that_cannot_be_read_is_named() {
        let rule = |current: &str| HealthRule {
            api_version: "example.org/v1".into(),
            kind: "Database".into(),
            in_progress: None,
            failed: None,
            current: current.into(),
        };
        let with = |rules: Vec<HealthRule>| environment(|environment| environment.spec.health = rules);
        assert!(with(vec![rule("status.ready")]).unwrap().health.cover("example.org", "Database"));
        let problems = with(vec![rule("status.ready"), rule("status.(")]).unwrap_err();
        let text = problems.to_string();
        assert!(text.contains("spec.health[1].current: ") && text.contains("two rules for Database"), "{text}");
        assert!(problems.iter().all(|problem| problem.fault == towpath_core::fault::Fault::Setup));
    }

    #[test]
    fn an_environment_needs_only_repository_lane_and_path() {
        let resolved = environment(|_| {}).unwrap();
        assert_eq!(resolved.namespace, "shop");
        assert_eq!(resolved.account, "towpath-deployer");
        assert_eq!(resolved.timeout, Duration::from_secs(600));
        assert!(resolved.prune);
        assert_eq!(resolved.deletion_policy, DeletionPolicy::Orphan);
    }

    #[test]
    fn an_environment_cannot_be_moved_from_itself() {
        let moved = |from: &str| environment(|environment| environment.spec.moved_from = Some(from.into()));
        assert!(moved("prod").is_err());
        assert!(moved("").is_err());
        assert_eq!(moved("production").unwrap().moved_from, Some("production".parse().unwrap()));
    }

    #[test]
    fn what_means_nothing_is_refused_all_at_once() {
        let problems = environment(|environment| {
            environment.metadata.name = Some("Prod".into());
            environment.spec.lane = "--force".into();
            environment.spec.path = "../other".into();
            environment.spec.timeout = Some("-1s".into());
            environment.spec.moved_from = Some("Prod".into());
        })
        .unwrap_err();
        assert_eq!(problems.iter().count(), 5, "{problems}");
    }

    #[test]
    fn an_absurd_duration_is_refused() {
        for bad in ["-1s", "0s", "1e300h", "", "10", "25h", "999ms"] {
            assert!(environment(|environment| environment.spec.timeout = Some(bad.into())).is_err(), "{bad}");
        }
        for good in ["1s", "24h", "1h30m"] {
            assert!(environment(|environment| environment.spec.timeout = Some(good.into())).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_bad_rule_is_refused_with_its_field() {
        let refused = |rule: &str| {
            let rule = serde_saphyr::from_str(rule).unwrap();
            let problems = environment(|environment| environment.spec.ignore = vec![Ignore::default(), rule]);
            problems.unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(refused("{pointers: [/spec/replicas]}").contains("spec.ignore[0]: neither pointers nor managers"));
        let said = refused("{pointers: [/spec/replicas, spec.replicas]}");
        assert!(said.contains("spec.ignore[1].pointers[1]: \"spec.replicas\" is not a JSON pointer"), "{said}");
        let said = refused("{pointers: [/metadata/name]}");
        assert!(said.contains("spec.ignore[1].pointers[0]: \"/metadata/name\" is the identity"), "{said}");
        let said = refused("{managers: [towpath]}");
        assert!(said.contains("spec.ignore[1].managers[0]"), "{said}");
        let good = Ignore { managers: vec!["tuner".into()], ..Ignore::default() };
        let resolved = environment(|environment| environment.spec.ignore = vec![good]).unwrap();
        assert!(!resolved.ignore[0].leaves_out());
    }

    #[test]
    fn a_pull_secret_has_a_name() {
        let named = |name: &str| environment(|environment| environment.spec.image_pull_secrets = vec![name.into()]);
        assert_eq!(named("harbor").unwrap().image_pull_secrets, ["harbor"]);
        for bad in ["", "Harbor", "a/b"] {
            assert!(named(bad).unwrap_err().to_string().contains("spec.imagePullSecrets[0]"), "{bad}");
        }
    }

    #[test]
    fn an_empty_account_cannot_be_said() {
        assert!(environment(|environment| environment.spec.service_account_name = Some(String::new())).is_err());
    }

    #[test]
    fn a_path_is_cleaned() {
        assert_eq!(clean_path("./a//b/").unwrap(), "a/b");
        assert_eq!(clean_path(".").unwrap(), "");
        for bad in ["/etc", "a/../../b", "a\\b"] {
            assert!(clean_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repository_elsewhere_is_named_with_its_namespace() {
        let id = |named: &str| {
            environment(|environment| environment.spec.repository = named.into())
                .map(|resolved| format!("{} {}", resolved.repository_home, resolved.repository))
        };
        assert_eq!(id("shop").unwrap(), "shop shop");
        assert_eq!(id("infra/deploy").unwrap(), "infra deploy");
        for bad in ["", "/deploy", "infra/", "a/b/c", "Infra/deploy", "a b"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repository_has_defaults() {
        let repository = Repository::new("shop", serde_saphyr::from_str("{url: https://git.example/x.git}").unwrap());
        let resolved = repository.resolve().unwrap();
        assert_eq!(resolved.interval, Duration::from_secs(60));
        assert_eq!(resolved.branches.master, "master");
    }
}
