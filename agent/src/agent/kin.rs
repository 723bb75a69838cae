//! What Environments are to each other, by the board: who takes over whom, and who may have what another one drops.

use std::collections::BTreeSet;

use kube::{Resource, ResourceExt};
use towpath_core::environment;

use crate::board::{Board, Id};
use crate::resources::Environment;

/// The name of the Environment that takes over everything of this one. One that is being deleted does not.
pub(super) fn successor(board: &Board, id: &Id) -> Option<String> {
    let takes_over = |other: &Environment| {
        let is_beside = other.namespace().as_deref() == Some(&id.0) && other.name_any() != id.1;
        is_beside && other.spec.moved_from.as_deref() == Some(&id.1) && other.meta().deletion_timestamp.is_none()
    };
    board.environments().iter().find(|other| takes_over(other)).map(|other| other.name_any())
}

/// The other Environments that act, and may have objects in one of these namespaces (`None`: cluster-scoped).
pub(super) fn neighbours(board: &Board, id: &Id, places: &BTreeSet<Option<&str>>) -> Vec<environment::Environment> {
    let may_have_some = |other: &Environment| {
        let home = other.namespace().unwrap_or_default();
        let namespace = other.spec.namespace.as_deref().unwrap_or(&home);
        let allow = other.spec.allow.clone().unwrap_or_default();
        places.contains(&Some(namespace))
            || allow.namespaces.iter().any(|allowed| places.contains(&Some(allowed.as_str())))
            || (places.contains(&None) && !allow.cluster_kinds.is_empty())
    };
    let others = board.environments().into_iter().filter(|other| {
        let other_id = (other.namespace().unwrap_or_default(), other.name_any());
        let acts = !other.spec.suspend && other.meta().deletion_timestamp.is_none();
        other_id != *id && acts && may_have_some(other) && successor(board, &other_id).is_none()
    });
    others.filter_map(|other| other.resolve().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn put(board: &Board, name: &str, spec: &str, change: impl FnOnce(&mut Environment)) {
        let spec = format!("{{repository: shop, lane: master, path: prod, {spec}}}");
        let mut environment = Environment::new(name, serde_saphyr::from_str(&spec).unwrap());
        environment.metadata.namespace = Some("shop".into());
        change(&mut environment);
        board.environments.put(("shop".into(), name.into()), Arc::new(environment));
    }

    fn id(name: &str) -> Id {
        ("shop".into(), name.into())
    }

    #[test]
    fn the_one_that_names_it_takes_over_until_it_is_deleted_itself() {
        let board = Board::default();
        put(&board, "old", "", |_| {});
        assert_eq!(successor(&board, &id("old")), None);
        put(&board, "new", "movedFrom: old", |_| {});
        assert_eq!(successor(&board, &id("old")).as_deref(), Some("new"));
        assert_eq!(successor(&board, &id("new")), None);
        assert_eq!(successor(&board, &("elsewhere".into(), "old".into())), None, "only in its own namespace");
        put(&board, "new", "movedFrom: old", |environment| {
            environment.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        });
        assert_eq!(successor(&board, &id("old")), None);
    }

    #[test]
    fn only_those_are_neighbours_that_could_have_the_object() {
        let board = Board::default();
        put(&board, "one", "", |_| {});
        put(&board, "same", "", |_| {});
        put(&board, "asleep", "suspend: true", |_| {});
        put(&board, "far", "namespace: far", |_| {});
        put(&board, "allowed", "namespace: far, allow: {namespaces: [shop]}", |_| {});
        put(&board, "wide", "namespace: far, allow: {clusterKinds: [Namespace]}", |_| {});
        let names = |places: &[Option<&str>]| -> Vec<String> {
            let places = places.iter().copied().collect();
            neighbours(&board, &id("one"), &places).iter().map(|other| other.name.to_string()).collect()
        };
        assert_eq!(names(&[Some("shop")]), ["allowed", "same"]);
        assert_eq!(names(&[None]), ["wide"]);
        assert_eq!(names(&[Some("nowhere")]), Vec::<String>::new());
    }
}
