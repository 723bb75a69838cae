//! How templates and partials include each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::template::Template;
use super::walk::Partials;
use crate::fault::{Place, Problem};

/// Where a template, or a partial it reaches, names a part of the context.
pub(super) fn mention(template: &Template, reached: &[&Arc<Template>], name: &str) -> Option<Place> {
    std::iter::once(template)
        .chain(reached.iter().map(|partial| &***partial))
        .find(|template| template.mentions.as_ref().is_some_and(|mentions| mentions.contains(name)))
        .map(|template| {
            let line = template.source.lines().position(|line| line.contains(name));
            match line.and_then(|line| u32::try_from(line + 1).ok()) {
                Some(line) => Place::line(&*template.file, line),
                None => Place::file(&*template.file),
            }
        })
}

/// The partials that a template reaches.
pub(super) fn reached<'p>(template: &Template, partials: &'p Partials) -> Vec<&'p Arc<Template>> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut open: Vec<&str> = Vec::new();
    for (name, _) in &template.partials {
        open.extend(partials.get_key_value(name).map(|(name, _)| name.as_str()));
    }
    while let Some(name) = open.pop() {
        if names.insert(name) {
            open.extend(
                partials[name]
                    .partials
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .filter(|name| partials.contains_key(*name)),
            );
        }
    }
    names.into_iter().map(|name| &partials[name]).collect()
}

/// Partials that reach themselves: they would never end.
pub(super) fn cycles(partials: &Partials) -> Vec<Problem> {
    let mut problems = Vec::new();
    // 0: not seen, 1: on the way, 2: done.
    let mut states: BTreeMap<&str, u8> = BTreeMap::new();
    for start in partials.keys() {
        let mut way: Vec<(&str, usize)> = vec![(start, 0)];
        while let Some((name, next)) = way.last_mut() {
            let (name, index) = (*name, *next);
            *next += 1;
            if index == 0 && states.insert(name, 1) == Some(2) {
                states.insert(name, 2);
                way.pop();
                continue;
            }
            let template = &partials[name];
            let Some((called, at)) = template.partials.get(index) else {
                states.insert(name, 2);
                way.pop();
                continue;
            };
            let Some((called, _)) = partials.get_key_value(called) else { continue };
            if let Some(first) = way.iter().position(|(on_the_way, _)| on_the_way == called) {
                let mut names: Vec<&str> = way[first..].iter().map(|(name, _)| *name).collect();
                names.push(called);
                problems.push(
                    Problem::content(format!("partials that include each other without end: {}", names.join(" > ")))
                        .at(Place::point(&*template.file, at.line, at.column)),
                );
            } else if states.get(called.as_str()) != Some(&2) {
                way.push((called, 0));
            }
        }
    }
    problems
}
