//! Reading what was rendered: its manifests, what is doubtful in it, and which line of which template it comes from.

use std::sync::Arc;

use serde_json::Value;

use super::cache::Piece;
use super::objects;
use super::output::Text;
use super::template::{self, Template};
use crate::fault::{Place, Problem};
use crate::lint;
use crate::manifest::Packed;
use crate::yaml::{Flaw, Scan};

/// Reads the manifests of a text and what is doubtful in it.
pub(super) fn read_piece(
    scan: Result<Scan<'_>, Flaw>,
    place: &dyn Fn(u32) -> Place,
    problems: &mut Vec<Problem>,
) -> Option<Piece> {
    let flawed = |flaw: Flaw| {
        let mut at = place(flaw.line);
        if at.column.is_none() && at.line == Some(flaw.line) {
            at.column = Some(flaw.column);
        }
        let problem = Problem::content(flaw.message).at(at);
        match flaw.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    };
    let scan = match scan {
        Ok(scan) => scan,
        Err(flaw) => {
            problems.push(flawed(flaw));
            return None;
        }
    };
    let documents = match scan.documents() {
        Ok(documents) => documents,
        Err(flaw) => {
            problems.push(flawed(flaw));
            return None;
        }
    };
    let mut warnings = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        let is_secret = document.body.get("kind").and_then(Value::as_str).is_none_or(|kind| kind.contains("Secret"));
        for doubt in lint::doubts(scan.steps_of(index)) {
            // What a Secret holds is never said.
            let message = if is_secret {
                "a scalar that other readers of YAML read as something else".to_owned()
            } else {
                format!("{} is applied as {}; other readers see {}", doubt.text, doubt.applied, doubt.other)
            };
            warnings.push(Problem::content(message).at(place(doubt.line)).hint("quote it if it is text"));
        }
        for (line, _) in lint::hidden(scan.steps_of(index)) {
            let hint = "write it again by hand, or as an escape within double quotes";
            warnings.push(Problem::content("a text with invisible characters").at(place(line)).hint(hint));
        }
    }
    let manifests = objects::manifests(documents, &scan, place, problems);
    let manifests: Vec<_> = manifests.into_iter().map(|manifest| Arc::new(Packed::of(manifest))).collect();
    let bytes = manifests.iter().map(|manifest| manifest.text().len()).sum();
    Some(Piece { manifests, warnings, bytes })
}

/// Characters that stand for values while they are checked may not come in by values.
pub(super) fn reserved(text: &Text) -> Vec<Problem> {
    let is_reserved = |c: char| template::is_reserved(c);
    let Some((at, c)) = text.text.char_indices().find(|(_, c)| is_reserved(*c)) else { return Vec::new() };
    let message = format!("a value with a private-use character, U+{:04X}", u32::from(c));
    let place = text.origin_at(at).map(|origin| Place::line(&*origin.file, origin.line));
    let problem = Problem::content(message).hint("write toYaml before it");
    vec![match place {
        Some(place) => problem.at(place),
        None => problem,
    }]
}

/// Adds the line of the template to a problem that was found in what it rendered to. Never where a Secret may be.
pub(super) fn excerpt(problem: &mut Problem, text: &Text, template: &Template, reached: &[&Arc<Template>]) {
    let is_about_text = problem.message.starts_with("not YAML") || problem.message.contains("is said twice");
    let Some(Place { file, line: Some(line), .. }) = &problem.place else { return };
    if !is_about_text || text.text.contains("Secret") {
        return;
    }
    let source = std::iter::once(template)
        .chain(reached.iter().map(|partial| &***partial))
        .find(|template| *template.file == **file)
        .and_then(|template| template.source.lines().nth(*line as usize - 1));
    if let Some(source) = source {
        let source: String = source.trim().chars().take(120).collect();
        problem.message = format!("{}, from the line `{source}`", problem.message);
    }
}

/// Where the lines of a text begin.
pub(super) struct LineStarts(Vec<usize>);

impl LineStarts {
    pub(super) fn of(text: &str) -> Self {
        LineStarts(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The template line that a line of the text comes from: that of its first character which is no blank.
    pub(super) fn origin(&self, text: &Text, line: u32, file: &str) -> Place {
        let start = self.0.get(line.saturating_sub(1) as usize).copied().unwrap_or(text.text.len());
        let rest = &text.text[start..];
        let blank = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        match text.origin_at(start + blank) {
            Some(origin) => Place::line(&*origin.file, origin.line),
            None => Place::file(file),
        }
    }
}
