//! `towpath components`: the release matrix, by an agent, which has the commits of the components.

use jiff::Timestamp;
use towpath_core::matrix::{Cell, Change, Column, Matrix, Spot};
use towpath_core::revision::clean_line;

use super::exit::{Code, Failure};
use super::output::{self, Document, Format};
use super::remote::Remote;
use crate::web::releases::Matrices;

/// Characters of one cell.
const MAX_CELL: usize = 300;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A column for each environment: the version that it runs, where that stands against the branch of its lane, and after an
arrow what its candidate would bring. `-o wide` has a line for each component of each environment, with image and commit.
What is not known is said with its reason.")]
pub(super) struct Args {
    /// Only this environment.
    environment: Option<String>,
    /// How it is printed.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

const WIDE_HEADER: [&str; 10] =
    ["ENVIRONMENT", "COMPONENT", "VERSION", "COMMIT", "BRANCH", "STANDING", "AGE", "NEXT", "IMAGE", "UNKNOWN"];

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let query: Vec<(&str, &str)> = args.environment.iter().map(|name| ("environment", name.as_str())).collect();
    let matrices: Matrices = args.remote.ask(&["components"], &query).await?;
    match args.output {
        Format::Json => output::document(&matrices, Document::Json)?,
        Format::Yaml => output::document(&matrices, Document::Yaml)?,
        Format::Name => {
            for matrix in &matrices.repositories {
                output::data(&matrix.names().iter().map(|name| format!("{}\n", clean(name))).collect::<String>())?;
            }
        }
        Format::Table => {
            for matrix in &matrices.repositories {
                output::data(&grid(matrix))?;
                for line in unknown(matrix) {
                    output::progress(&line);
                }
            }
        }
        Format::Wide => {
            let now = Timestamp::now();
            let rows: Vec<Vec<String>> = matrices.repositories.iter().flat_map(|matrix| rows(matrix, now)).collect();
            output::data(&output::table(&WIDE_HEADER, &rows, None))?;
        }
    }
    if matrices.repositories.iter().all(|matrix| matrix.names().is_empty()) {
        output::progress("no environment runs a revision with submodules that are known");
    }
    Ok(Code::Done)
}

fn clean(text: &str) -> String {
    clean_line(text, MAX_CELL)
}

fn grid(matrix: &Matrix) -> String {
    let names = matrix.names();
    if names.is_empty() {
        return String::new();
    }
    let environments: Vec<String> =
        matrix.environments.iter().map(|column| clean(&column.environment).to_uppercase()).collect();
    let header: Vec<&str> = ["COMPONENT"].into_iter().chain(environments.iter().map(String::as_str)).collect();
    let row = |name: &&str| {
        let cells = matrix.environments.iter().map(|column| brief(column, name));
        [clean(name)].into_iter().chain(cells).collect()
    };
    output::table(&header, &names.iter().map(row).collect::<Vec<_>>(), None)
}

fn brief(column: &Column, name: &str) -> String {
    let mut text = match column.spot(name) {
        Spot::Runs(cell) => format!("{} ({})", clean(&cell.title()), cell.standing()),
        Spot::Absent => "-".to_owned(),
        Spot::Unknown(_) => "unknown".to_owned(),
    };
    if let Some(next) = after(column, name) {
        text.push_str(&format!(" → {next}"));
    }
    text
}

fn after(column: &Column, name: &str) -> Option<String> {
    Some(match column.change(name)? {
        Change::To(cell) => clean(&cell.title()),
        Change::Goes => "removed".to_owned(),
        Change::Unknown(_) => "unknown".to_owned(),
    })
}

/// Why something is not known, a line each.
fn unknown(matrix: &Matrix) -> Vec<String> {
    let mut lines = Vec::new();
    for column in &matrix.environments {
        let mut say = |why: &str| {
            let line = format!("{}: not known: {}", clean(&column.environment), clean(why));
            if !lines.contains(&line) {
                lines.push(line);
            }
        };
        if column.running.is_none() {
            say(column.unknown.as_deref().unwrap_or("it runs nothing yet"));
        }
        let next = column.next.iter();
        let running = column.running.iter();
        running.clone().flat_map(|running| &running.problems).for_each(|why| say(why));
        next.clone().flat_map(|next| &next.problems).for_each(|why| say(why));
        let cells = running.flat_map(|running| &running.components).chain(next.flat_map(|next| &next.components));
        cells.flat_map(|cell: &Cell| &cell.unknown).for_each(|why| say(why));
    }
    lines
}

fn rows(matrix: &Matrix, now: Timestamp) -> Vec<Vec<String>> {
    let dash = || "-".to_owned();
    let row = |column: &Column, name: &str| {
        let head = [clean(&column.environment), clean(name)];
        let next = after(column, name).unwrap_or_else(dash);
        let rest = match column.spot(name) {
            Spot::Runs(cell) => [
                cell.version.as_deref().map_or_else(dash, clean),
                cell.commit.short(),
                clean(&cell.branch),
                cell.standing(),
                cell.committed_at.map_or_else(dash, |at| output::age(at, now)),
                next,
                cell.image.as_deref().map_or_else(dash, clean),
                clean(&cell.unknown.join("; ")),
            ],
            Spot::Absent => [dash(), dash(), dash(), dash(), dash(), next, dash(), String::new()],
            Spot::Unknown(why) => [dash(), dash(), dash(), "unknown".to_owned(), dash(), next, dash(), clean(why)],
        };
        head.into_iter().chain(rest).collect()
    };
    let names = matrix.names();
    matrix.environments.iter().flat_map(|column| names.iter().map(move |name| row(column, name))).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn matrix() -> Matrix {
        let cell = |name: &str, version: &str, ahead: usize, behind: usize| {
            json!({
                "name": name, "path": format!("components/{name}"), "commit": "ab".repeat(20), "branch": "r1.2",
                "version": version, "committedAt": "2026-01-05T09:00:00Z", "ahead": ahead, "behind": behind,
                "image": format!("harbor.example/{name}:{version}"),
            })
        };
        let unknown = json!({
            "name": "api", "path": "components/api", "commit": "cd".repeat(20), "branch": "r1.2",
            "unknown": ["component components/api (../api.git): 401\u{1b}[31m"],
        });
        let prod = json!({
            "environment": "prod", "lane": "master",
            "running": {"revision": "master@sha1:00", "components": [unknown, cell("web", "v1.0-3-abababa", 0, 2)]},
            "next": {"revision": "master@sha1:11", "components": [cell("web", "v1.0-5-cdcdcdc", 0, 0)], "removed": ["api"]},
        });
        let test = json!({"environment": "test", "lane": "release"});
        serde_json::from_value(json!({"repository": "shop/shop", "environments": [test, prod]})).unwrap()
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn the_matrix_names_what_runs_what_comes_and_what_is_not_known() {
        expect![[r#"
            COMPONENT  TEST     PROD
            api        unknown  cdcdcdc (unknown) → removed
            web        unknown  v1.0-3-abababa (2 behind) → v1.0-5-cdcdcdc
        "#]]
        .assert_eq(&plain(&grid(&matrix())));
        assert_eq!(
            unknown(&matrix()),
            ["test: not known: it runs nothing yet", "prod: not known: component components/api (../api.git): 401[31m",]
        );
        let now = "2026-01-07T09:00:00Z".parse().unwrap();
        let wide = plain(&output::table(&WIDE_HEADER, &rows(&matrix(), now), None));
        assert!(wide.lines().nth(4).unwrap().ends_with("v1.0-5-cdcdcdc  harbor.example/web:v1.0-3-abababa"), "{wide}");
        assert!(wide.contains("2 behind  2d"), "{wide}");
    }
}
