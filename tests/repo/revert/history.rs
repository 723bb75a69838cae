//! Generated histories of a deploy repository: what people do to it, commit by commit.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use proptest::prelude::*;
use support::git_server::git;
use towpath_core::revision::CommitId;

/// Names that files have. Two in a folder, so that a folder has something left or is gone.
const NAMES: [&str; 8] =
    ["a.yaml", "b.yaml", "web/x.yaml", "web/y.yaml", "api/x.yaml", "api/deep/z.yaml", "new/x.yaml", "web"];
const SUBMODULES: [&str; 2] = ["components/web", "components/api"];
const LINES: usize = 12;

/// One thing that somebody does. The numbers choose among what is there.
#[derive(Clone, Copy, Debug)]
pub struct Deed {
    what: What,
    which: usize,
    value: usize,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Edit,
    Insert,
    DeleteLine,
    Add,
    Delete,
    Rename,
    RenameAndEdit,
    RenameFolder,
    Mode,
    Pin,
    Unpin,
}

/// One step of the main branch.
#[derive(Clone, Debug)]
pub enum Step {
    /// A commit of one deed, or a squash of several.
    Commit(Vec<Deed>),
    /// Topics that are merged with one merge commit, each commit by commit, while the branch moves on.
    Merge(Vec<Vec<Deed>>, Deed),
    /// A revert of the newest commit, which may be one itself.
    Revert,
}

/// Deeds; without renames, what conflicts has the same names everywhere.
fn deed(renames: bool) -> impl Strategy<Value = Deed> {
    let mut what = vec![
        (6, What::Edit),
        (2, What::Insert),
        (2, What::DeleteLine),
        (2, What::Add),
        (1, What::Delete),
        (1, What::Mode),
        (2, What::Pin),
        (1, What::Unpin),
    ];
    if renames {
        what.extend([(3, What::Rename), (2, What::RenameAndEdit), (1, What::RenameFolder)]);
    }
    let what =
        prop::strategy::Union::new_weighted(what.into_iter().map(|(weight, what)| (weight, Just(what))).collect());
    (what, 0..64_usize, 0..256_usize).prop_map(|(what, which, value)| Deed { what, which, value })
}

pub fn steps(renames: bool) -> impl Strategy<Value = Vec<Step>> {
    let deeds = || prop::collection::vec(deed(renames), 1..3);
    let step = prop_oneof![
        6 => deed(renames).prop_map(|deed| Step::Commit(vec![deed])),
        2 => prop::collection::vec(deed(renames), 2..5).prop_map(Step::Commit),
        2 => (deeds(), deed(renames)).prop_map(|(topic, meanwhile)| Step::Merge(vec![topic], meanwhile)),
        1 => (deeds(), deeds(), deed(renames)).prop_map(|(one, two, meanwhile)| Step::Merge(vec![one, two], meanwhile)),
        1 => Just(Step::Revert),
    ];
    prop::collection::vec(step, 4..10)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stored {
    File { lines: Vec<String>, is_executable: bool },
    Pin(usize),
}

/// All files at one commit.
type Files = BTreeMap<String, Stored>;

fn fresh(name: &str, value: usize) -> Stored {
    let lines = (0..LINES).map(|line| format!("{name}/{value}: key-{line} is {}", line * 7919 % 101)).collect();
    Stored::File { lines, is_executable: false }
}

/// Whether a name is free, of files and of folders.
fn is_free(files: &Files, name: &str) -> bool {
    let is_in = |other: &String| {
        other == name || other.starts_with(&format!("{name}/")) || name.starts_with(&format!("{other}/"))
    };
    !files.keys().any(is_in)
}

fn pick<T: Clone>(from: &[T], which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[which % from.len()].clone())
}

/// Does it, if there is something to do it to.
fn apply(files: &mut Files, Deed { what, which, value }: Deed) -> Option<()> {
    let is_file = |stored: &&Stored| matches!(stored, Stored::File { .. });
    let present: Vec<String> =
        files.iter().filter(|(_, stored)| is_file(stored)).map(|(name, _)| name.clone()).collect();
    let free: Vec<&str> = NAMES.into_iter().filter(|name| is_free(files, name)).collect();
    match what {
        What::Edit | What::Insert | What::DeleteLine | What::Mode => {
            let name = pick(&present, which)?;
            let Some(Stored::File { lines, is_executable }) = files.get_mut(&name) else { return None };
            let at = value % lines.len().max(1);
            match what {
                What::Mode => *is_executable = !*is_executable,
                What::Insert => lines.insert(at, format!("more {value}")),
                What::DeleteLine if lines.len() > 1 => drop(lines.remove(at)),
                _ => *lines.get_mut(at)? = format!("changed to {value}"),
            }
        }
        What::Add => {
            let name = pick(&free, which)?;
            files.insert(name.to_owned(), fresh(name, value % 3));
        }
        What::Delete => drop(files.remove(&pick(&present, which)?)),
        What::Rename | What::RenameAndEdit => {
            let (old, new) = (pick(&present, which)?, pick(&free, value)?);
            let mut stored = files.remove(&old)?;
            if let (What::RenameAndEdit, Stored::File { lines, .. }) = (what, &mut stored) {
                *lines.get_mut(value % LINES)? = format!("renamed {value}");
            }
            files.insert(new.to_owned(), stored);
        }
        What::RenameFolder => {
            let (old, new) = *[("web/", "site/"), ("api/", "apis/"), ("site/", "web/")].get(which % 3)?;
            if !is_free(files, new.trim_end_matches('/')) {
                return None;
            }
            let moved: Vec<String> = files.keys().filter(|name| name.starts_with(old)).cloned().collect();
            for name in moved {
                let stored = files.remove(&name)?;
                files.insert(name.replacen(old, new, 1), stored);
            }
        }
        What::Pin => drop(files.insert(pick(&SUBMODULES, which)?.to_owned(), Stored::Pin(value))),
        What::Unpin => drop(files.remove(pick(&SUBMODULES, which)?)),
    }
    Some(())
}

/// A commit of a generated history.
#[derive(Clone, Debug)]
pub struct Made {
    pub id: CommitId,
    pub parents: usize,
    /// Its place on the main branch; none for one of a topic.
    pub on_main: Option<usize>,
}

#[derive(Default)]
struct Writer {
    is_repeating: bool,
    stream: Vec<u8>,
    commits: Vec<(Files, Vec<usize>, Option<usize>)>,
    on_main: usize,
}

impl Writer {
    /// Of some files many lines are the same, as in manifests.
    fn line<'a>(&self, line: &'a str) -> &'a str {
        let sum: usize = line.bytes().map(usize::from).sum();
        match sum % 5 {
            1 | 2 if self.is_repeating => "  - name: x",
            3 if self.is_repeating => "}",
            _ => line,
        }
    }

    /// Writes a commit, and gives its mark.
    fn commit(&mut self, files: &Files, parents: &[usize], is_on_main: bool) -> usize {
        self.commits.push((files.clone(), parents.to_vec(), is_on_main.then_some(self.on_main)));
        self.on_main += usize::from(is_on_main);
        let mark = self.commits.len();
        let branch = if is_on_main { "develop" } else { "topic" };
        let message = format!("change {mark}");
        let mut head = format!("reset refs/heads/{branch}\n");
        let _ = write!(head, "commit refs/heads/{branch}\nmark :{mark}\n");
        let _ = writeln!(head, "committer Robin Bargee <robin@example.org> {} +0000", 1_767_603_600 + 60 * mark);
        let _ = write!(head, "data {}\n{message}\n", message.len());
        for (number, parent) in parents.iter().enumerate() {
            let _ = writeln!(head, "{} :{parent}", if number == 0 { "from" } else { "merge" });
        }
        head += "deleteall\n";
        for (name, stored) in files {
            match stored {
                Stored::Pin(value) => drop(writeln!(head, "M 160000 {:040x} {name}", value + 1)),
                Stored::File { lines, is_executable } => {
                    let lines: Vec<&str> = lines.iter().map(|line| self.line(line)).collect();
                    let content = lines.join("\n") + "\n";
                    let mode = if *is_executable { "100755" } else { "100644" };
                    let _ = write!(head, "M {mode} inline {name}\ndata {}\n{content}\n", content.len());
                }
            }
        }
        self.stream.extend_from_slice(head.as_bytes());
        mark
    }
}

/// Writes a history on `develop` of a bare repository. Gives its commits, the oldest first.
pub fn write(repository: &Path, steps: &[Step], is_repeating: bool) -> Vec<Made> {
    let mut writer = Writer { is_repeating, ..Writer::default() };
    let mut files: Files = NAMES.iter().take(6).map(|name| ((*name).to_owned(), fresh(name, 0))).collect();
    files.insert(SUBMODULES[0].to_owned(), Stored::Pin(0));
    let mut head = writer.commit(&files, &[], true);
    for step in steps {
        match step {
            Step::Commit(deeds) => {
                for deed in deeds {
                    apply(&mut files, *deed);
                }
                head = writer.commit(&files, &[head], true);
            }
            Step::Merge(topics, meanwhile) => {
                let base = (head, files.clone());
                apply(&mut files, *meanwhile);
                head = writer.commit(&files, &[head], true);
                let mut parents = vec![head];
                for topic in topics {
                    let (mut tip, mut there) = base.clone();
                    for deed in topic {
                        apply(&mut there, *deed);
                        tip = writer.commit(&there, &[tip], false);
                        apply(&mut files, *deed);
                    }
                    parents.push(tip);
                }
                head = writer.commit(&files, &parents, true);
            }
            Step::Revert => {
                let (_, parents, _) = &writer.commits[head - 1];
                if let Some(parent) = parents.first() {
                    files = writer.commits[parent - 1].0.clone();
                    head = writer.commit(&files, &[head], true);
                }
            }
        }
    }
    let marks = repository.join("marks");
    let mut child = git(repository)
        .current_dir(repository)
        .args(["fast-import", "--quiet", "--force", "--export-marks=marks"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&writer.stream).unwrap();
    assert!(child.wait().unwrap().success());
    let text = std::fs::read_to_string(marks).unwrap();
    let ids: BTreeMap<usize, CommitId> = text
        .lines()
        .map(|line| line.trim_start_matches(':').split_once(' ').unwrap())
        .map(|(mark, id)| (mark.parse().unwrap(), id.parse().unwrap()))
        .collect();
    let made = |(at, (_, parents, on_main)): (usize, &(Files, Vec<usize>, Option<usize>))| Made {
        id: ids[&(at + 1)],
        parents: parents.len(),
        on_main: *on_main,
    };
    writer.commits.iter().enumerate().map(made).collect()
}
