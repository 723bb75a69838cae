//! Every file of one revision in memory. There is no working copy, so there is nothing to follow, to run or to
//! leave behind.
//!
//! The door that reads git feeds a [`TreeBuilder`], which holds the budget and the grammar of names, so that a
//! hostile commit is refused by name before its content is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fault::{Place, Problem};
use crate::limits;
use crate::revision::{BlobId, CommitId};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its id in git: equal ids mean equal bytes, so work on it can be cached.
    pub id: BlobId,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

/// Every file of a revision, by its path from the root (`a/b.yaml`), and the commit of every submodule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    files: BTreeMap<String, File>,
    submodules: BTreeMap<String, CommitId>,
}

impl Tree {
    /// A file by its path.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// A file as text, `None` where there is no such file.
    ///
    /// # Errors
    /// When it is not UTF-8, or when it is a Git LFS pointer.
    pub fn text(&self, path: &str) -> Result<Option<&str>, Problem> {
        let Some(file) = self.files.get(path) else { return Ok(None) };
        let text = std::str::from_utf8(&file.bytes).map_err(|error| {
            Problem::content(format!("not UTF-8 after byte {}", error.valid_up_to()))
                .at(Place::file(path))
                .hint("save the file as UTF-8")
        })?;
        if text.starts_with("version https://git-lfs.github.com/spec/") {
            return Err(Problem::content("this is a Git LFS pointer, not the file itself")
                .at(Place::file(path))
                .hint("keep manifests, values and configuration out of Git LFS"));
        }
        Ok(Some(text))
    }

    /// The path of a file as the tree holds it, `None` where there is no such file.
    pub fn path(&self, path: &str) -> Option<&str> {
        self.files.get_key_value(path).map(|(path, _)| path.as_str())
    }

    /// The files below a folder, in order of their paths. `""` and `"."` are the root. A folder named `a` does not
    /// hold `ab/c`.
    pub fn below<'a>(&'a self, folder: &str) -> impl Iterator<Item = (&'a str, &'a File)> + use<'a> {
        let prefix = match folder.trim_matches('/') {
            "" | "." => String::new(),
            folder => format!("{folder}/"),
        };
        let start = prefix.clone();
        self.files
            .range(start..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(|(path, file)| (path.as_str(), file))
    }

    /// The submodules: path and commit.
    pub fn submodules(&self) -> impl Iterator<Item = (&str, CommitId)> {
        self.submodules.iter().map(|(path, commit)| (path.as_str(), *commit))
    }

    /// The commit of the submodule in a folder.
    pub fn submodule(&self, path: &str) -> Option<CommitId> {
        self.submodules.get(path).copied()
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// Collects a [`Tree`], and refuses what goes beyond the budget or the grammar of names.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    tree: Tree,
    bytes: u64,
}

impl TreeBuilder {
    /// Judges the name of an entry before it is opened, and gives its path.
    ///
    /// # Errors
    /// When the name is one that git, a file system or a reader could be fooled with, or when the entry lies too deep.
    pub fn enter(&self, folder: &str, name: &[u8]) -> Result<String, Problem> {
        let refuse = |why: &str| {
            let shown: String = name.iter().take(80).flat_map(|byte| byte.escape_ascii()).map(char::from).collect();
            let place = if folder.is_empty() { Place::file(&shown) } else { Place::file(format!("{folder}/{shown}")) };
            Err(Problem::content(format!("refused name: {why}")).at(place).hint("rename the file"))
        };
        if name.len() > limits::MAX_NAME_BYTES {
            return refuse("longer than 255 bytes");
        }
        let Ok(name) = std::str::from_utf8(name) else { return refuse("not UTF-8") };
        if let Err(why) = check_name(name) {
            return refuse(why);
        }
        let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if path.split('/').count() > limits::MAX_DEPTH {
            return Err(Problem::content(format!("more than {} folders below each other", limits::MAX_DEPTH))
                .at(Place::file(path)));
        }
        Ok(path)
    }

    /// Judges a file by its size before it is loaded.
    ///
    /// # Errors
    /// When it, or the tree with it, is over the budget.
    pub fn admit(&mut self, path: &str, size: u64) -> Result<(), Problem> {
        if size > limits::MAX_FILE_BYTES {
            return Err(Problem::content(format!(
                "{size} bytes, more than the {} a file may have",
                limits::MAX_FILE_BYTES
            ))
            .at(Place::file(path))
            .hint("keep large files out of the deploy repository"));
        }
        if self.tree.files.len() >= limits::MAX_FILES {
            return Err(Problem::content(format!("more than {} files in one revision", limits::MAX_FILES))
                .at(Place::file(path)));
        }
        self.bytes += size;
        if self.bytes > limits::MAX_TREE_BYTES {
            return Err(Problem::content(format!("more than {} bytes in one revision", limits::MAX_TREE_BYTES))
                .at(Place::file(path)));
        }
        Ok(())
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When the path is there already.
    pub fn file(&mut self, path: String, file: File) -> Result<(), Problem> {
        self.unique(&path)?;
        self.tree.files.insert(path, file);
        Ok(())
    }

    /// Adds a submodule.
    ///
    /// # Errors
    /// When the path is there already.
    pub fn submodule(&mut self, path: String, commit: CommitId) -> Result<(), Problem> {
        self.unique(&path)?;
        self.tree.submodules.insert(path, commit);
        Ok(())
    }

    /// The refusal of a symbolic link: following one is how files from outside come in.
    pub fn symlink(path: &str) -> Problem {
        Problem::content("refused: a symbolic link")
            .at(Place::file(path))
            .hint("a deploy repository has plain files only; copy the file, or use a partial or a values file")
    }

    /// The tree.
    pub fn build(self) -> Tree {
        self.tree
    }

    fn unique(&self, path: &str) -> Result<(), Problem> {
        if self.tree.files.contains_key(path) || self.tree.submodules.contains_key(path) {
            return Err(Problem::content("malformed tree: the name is there twice").at(Place::file(path)));
        }
        Ok(())
    }
}

/// The grammar of one file or folder name, by what git's own `verify_path` and the file systems of developers'
/// machines refuse or fold together.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name == "." || name == ".." {
        return Err("empty, . or ..");
    }
    if name.chars().any(|c| c.is_control() || matches!(c, '/' | '\\')) {
        return Err("a control character, / or \\");
    }
    if name
        .chars()
        .any(|c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'))
    {
        return Err("an invisible character");
    }
    if name.ends_with(' ') || name.ends_with('.') {
        return Err("a blank or a dot at its end");
    }
    let folded = name.to_lowercase();
    if folded == ".git" || folded.starts_with("git~") || folded.starts_with(".git:") {
        return Err("it stands for git's own folder");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File { id: BlobId::from_bytes([0; 20]), bytes: text.as_bytes().into() }
    }

    #[test]
    fn names_that_fool_somebody_are_refused() {
        let builder = TreeBuilder::default();
        let long = "x".repeat(256);
        let bad: [&[u8]; 16] = [
            b"",
            b".",
            b"..",
            b".git",
            b".GIT",
            b"git~1",
            ".git\u{200b}".as_bytes(),
            b"a/b",
            b"a\\b",
            b"a\r",
            b"a ",
            b"a.",
            b"a\nb",
            b"a\0b",
            long.as_bytes(),
            b"\xff\xfe",
        ];
        for name in bad {
            assert!(builder.enter("", name).is_err(), "{}", name.escape_ascii());
        }
        for name in ["a", ".gitmodules", ".gitignore", ".gitlab-ci.yml", "größe.yaml", "a b", &"x".repeat(255)] {
            assert!(builder.enter("", name.as_bytes()).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_refusal_shows_the_name_escaped() {
        let problem = TreeBuilder::default().enter("conf", b"a\x1b[31m").unwrap_err();
        assert_eq!(problem.place, Some(Place::file("conf/a\\x1b[31m")));
    }

    #[test]
    fn depth_has_a_limit() {
        let builder = TreeBuilder::default();
        let folders = |count: usize| vec!["d"; count].join("/");
        assert!(builder.enter(&folders(limits::MAX_DEPTH - 1), b"f").is_ok());
        assert!(builder.enter(&folders(limits::MAX_DEPTH), b"f").is_err());
    }

    #[test]
    fn size_has_a_limit_for_a_file_and_for_all() {
        let mut builder = TreeBuilder::default();
        assert!(builder.admit("a", limits::MAX_FILE_BYTES + 1).is_err());
        for _ in 0..limits::MAX_TREE_BYTES / limits::MAX_FILE_BYTES {
            builder.admit("a", limits::MAX_FILE_BYTES).unwrap();
        }
        assert!(builder.admit("a", 1).is_err());
    }

    #[test]
    fn the_number_of_files_has_a_limit() {
        let mut builder = TreeBuilder::default();
        for number in 0..limits::MAX_FILES {
            builder.admit("f", 0).unwrap();
            builder.file(format!("f{number}"), file("")).unwrap();
        }
        assert!(builder.admit("one more", 0).is_err());
    }

    #[test]
    fn the_same_name_twice_is_a_malformed_tree() {
        let mut builder = TreeBuilder::default();
        builder.file("a".into(), file("1")).unwrap();
        assert!(builder.file("a".into(), file("2")).is_err());
        assert!(builder.submodule("a".into(), CommitId::from_bytes([1; 20])).is_err());
    }

    #[test]
    fn a_folder_does_not_hold_its_namesakes() {
        let mut builder = TreeBuilder::default();
        for path in ["a/x", "a/y/z", "ab/x", "b"] {
            builder.file(path.into(), file("")).unwrap();
        }
        let tree = builder.build();
        let names = |folder| tree.below(folder).map(|(path, _)| path).collect::<Vec<_>>();
        assert_eq!(names("a"), ["a/x", "a/y/z"]);
        assert_eq!(names("a/"), ["a/x", "a/y/z"]);
        assert_eq!(names("."), ["a/x", "a/y/z", "ab/x", "b"]);
    }

    #[test]
    fn a_git_lfs_pointer_is_refused() {
        let mut builder = TreeBuilder::default();
        builder.file("v.yaml".into(), file("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")).unwrap();
        assert!(builder.build().text("v.yaml").unwrap_err().message.contains("LFS"));
    }
}
