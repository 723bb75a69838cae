//! `towpath changelog`: what lies between two revisions, by an agent, which has the commits of the components.

use towpath_core::changelog::{Changelog, ComponentMove, Moved};
use towpath_core::commits::Log;
use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;

use super::exit::{Code, Failure};
use super::output::{self, Document};
use super::remote::Remote;

/// Characters of one text.
const MAX_TEXT: usize = 300;

/// How a changelog is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
    /// Markdown, for a release note.
    Markdown,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each end is an environment (what it runs), a sync (prod@3), a branch that an environment follows, or a commit of the
deploy repository: prod..test, prod@3..prod@5, r1.2..master. refs/heads/NAME is the branch where an environment has the
same name. Merges are one line each, by their first parents.")]
pub(super) struct Args {
    /// From where to where, such as prod..test.
    #[arg(value_name = "FROM..TO")]
    range: String,
    /// The Repository, where both ends are in several.
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// How it is printed.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: Args) -> Result<Code, Failure> {
    let (from, to) = ends(&args.range)?;
    let mut query = vec![("from", from), ("to", to)];
    query.extend(args.repository.as_deref().map(|name| ("repository", name)));
    let told: Changelog = args.remote.ask(&["changelog"], &query).await?;
    match args.output {
        Format::Json => output::document(&told, Document::Json)?,
        Format::Markdown => output::data(&told.markdown())?,
        Format::Text => output::data(&text(&told))?,
    }
    Ok(Code::Done)
}

fn ends(range: &str) -> Result<(&str, &str), Problem> {
    let ends = range.split_once("..").filter(|(from, to)| !from.is_empty() && !to.is_empty() && !to.starts_with('.'));
    ends.ok_or_else(|| {
        Problem::setup(format!("{:?} is no range", clean(range))).hint("write FROM..TO, such as prod..test")
    })
}

fn clean(text: &str) -> String {
    clean_line(text, MAX_TEXT)
}

fn text(told: &Changelog) -> String {
    let short = |revision: &str| output::short_revisions(&clean(revision));
    let mut text = format!(
        "{} {} → {} {}\n",
        clean(&told.from.name),
        short(&told.from.revision),
        clean(&told.to.name),
        short(&told.to.revision)
    );
    for problem in &told.problems {
        text.push_str(&format!("not known: {}\n", clean(problem)));
    }
    for ComponentMove { name, from, to, moved } in &told.components {
        let pin = |pin: &Option<String>| pin.as_deref().map_or_else(|| "none".to_owned(), clean);
        text.push_str(&format!("\n{}  {} → {}  ({})\n", clean(name), pin(from), pin(to), moved.way.words()));
        write_moved(&mut text, moved);
    }
    if !told.unchanged.is_empty() {
        let names: Vec<String> = told.unchanged.iter().map(|name| clean(name)).collect();
        text.push_str(&format!("\nunchanged: {}\n", names.join(", ")));
    }
    text.push_str(&format!("\ndeploy repository  ({})\n", told.deploy.way.words()));
    write_moved(&mut text, &told.deploy);
    text
}

fn write_moved(text: &mut String, moved: &Moved) {
    if let Some(why) = &moved.unknown {
        text.push_str(&format!("  not known: {}\n", clean(why)));
    }
    let mut lines = |log: &Log, sign: char| {
        for commit in &log.commits {
            let (day, short) = (commit.authored_at.strftime("%Y-%m-%d"), commit.commit.short());
            text.push_str(&format!("  {sign} {short} {day} {} ({})\n", clean(&commit.subject), clean(&commit.author)));
        }
        if log.more > 0 {
            text.push_str(&format!("  {sign} and {} more\n", log.more));
        }
    };
    lines(&moved.coming, '+');
    lines(&moved.going, '-');
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_range_has_two_ends() {
        assert_eq!(ends("prod@3..prod@5").unwrap(), ("prod@3", "prod@5"));
        assert_eq!(ends("r1.2..master").unwrap(), ("r1.2", "master"));
        for bad in ["prod", "..prod", "prod..", "prod...test", ""] {
            assert!(ends(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_comes_and_goes_is_listed_and_no_escape_reaches_the_terminal() {
        let commit = |byte: &str, subject: &str| {
            json!({
                "commit": byte.repeat(20), "subject": subject, "author": "Ada", "authoredAt": "2026-01-05T09:00:00Z",
            })
        };
        let told: Changelog = serde_json::from_value(json!({
            "from": {"name": "prod", "revision": format!("master@sha1:{}", "ab".repeat(20))},
            "to": {"name": "test", "revision": format!("r1.2@sha1:{}", "cd".repeat(20))},
            "deploy": {"way": "Forward", "coming": {"commits": [commit("ef", "Bump \u{1b}[31mweb")], "more": 3}},
            "components": [
                {"name": "web", "from": "v1.0-5", "to": "v1.0-4", "way": "Back",
                 "going": {"commits": [commit("01", "A fix")], "more": 0}},
                {"name": "api", "to": "v2.0", "way": "Added"},
            ],
            "unchanged": ["db"],
        }))
        .unwrap();
        expect![[r#"
            prod master@abababa → test r1.2@cdcdcdc

            web  v1.0-5 → v1.0-4  (downgrade)
              - 0101010 2026-01-05 A fix (Ada)

            api  none → v2.0  (added)

            unchanged: db

            deploy repository  (forward)
              + efefefe 2026-01-05 Bump [31mweb (Ada)
              + and 3 more
        "#]]
        .assert_eq(&text(&told));
    }
}
