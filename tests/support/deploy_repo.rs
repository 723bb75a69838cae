//! A deploy repository as a bare repository on disk, written commit by commit.
//!
//! Authors and dates are fixed, so that the same commits have the same ids.

use std::path::{Path, PathBuf};

use git2::{FileMode, Index, IndexEntry, IndexTime, Oid, Repository, Signature, Time};

/// A repository that tests push to.
///
/// # Panics
/// Every method panics when git refuses what it is asked: a test that cannot set its scene has failed.
pub struct DeployRepo {
    path: PathBuf,
    repository: Repository,
}

impl DeployRepo {
    /// Makes an empty repository.
    pub fn new(path: &Path) -> DeployRepo {
        let repository = Repository::init_bare(path).expect("a repository can be made");
        DeployRepo { path: path.to_owned(), repository }
    }

    /// Its address on this machine.
    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The repository itself, for what the methods here do not offer.
    pub fn git(&self) -> &Repository {
        &self.repository
    }

    /// The commit that a branch stands on.
    pub fn head(&self, branch: &str) -> Option<Oid> {
        self.repository.refname_to_id(&reference(branch)).ok()
    }

    /// Writes files on top of a branch, which is made if it is not there.
    pub fn commit(&self, branch: &str, message: &str, files: &[(&str, &str)]) -> Oid {
        self.change(branch, message, |index| {
            for (path, content) in files {
                let id = self.repository.blob(content.as_bytes()).expect("a file can be written");
                index.add(&entry(path, id, FileMode::Blob)).expect("an entry can be added");
            }
        })
    }

    /// Writes a folder of plain files on top of a branch.
    pub fn commit_folder(&self, branch: &str, message: &str, folder: &Path) -> Oid {
        let mut files = Vec::new();
        read_folder(folder, "", &mut files);
        self.change(branch, message, |index| {
            for (path, content) in &files {
                let id = self.repository.blob(content).expect("a file can be written");
                index.add(&entry(path, id, FileMode::Blob)).expect("an entry can be added");
            }
        })
    }

    /// Deletes a file on a branch.
    pub fn delete(&self, branch: &str, path: &str) -> Oid {
        let message = format!("Delete {path}");
        self.change(branch, &message, |index| index.remove_path(Path::new(path)).expect("the file is there"))
    }

    /// Sets a submodule to a commit.
    pub fn submodule(&self, branch: &str, path: &str, commit: Oid) -> Oid {
        let message = format!("Move {path} to {:.7}", commit.to_string());
        self.change(branch, &message, |index| {
            index.add(&entry(path, commit, FileMode::Commit)).expect("an entry can be added");
        })
    }

    /// Writes an entry with any mode on top of a branch: a symbolic link, for one.
    pub fn odd_entry(&self, branch: &str, path: &str, content: &[u8], mode: FileMode) -> Oid {
        let id = self.repository.blob(content).expect("a file can be written");
        self.change(branch, "Odd", |index| index.add(&entry(path, id, mode)).expect("an entry can be added"))
    }

    /// Commits a tree that was made by hand, entries as `(mode, name, id)` in the order given.
    pub fn raw_tree(&self, entries: &[(u32, &[u8], Oid)]) -> Oid {
        let mut bytes = Vec::new();
        for (mode, name, id) in entries {
            bytes.extend_from_slice(format!("{mode:o} ").as_bytes());
            bytes.extend_from_slice(name);
            bytes.push(0);
            bytes.extend_from_slice(id.as_bytes());
        }
        let odb = self.repository.odb().expect("there is an object database");
        odb.write(git2::ObjectType::Tree, &bytes).expect("any bytes can be written as a tree")
    }

    /// Puts a branch on a commit of a tree without parents, whatever the tree holds.
    pub fn commit_tree(&self, branch: &str, tree: Oid) -> Oid {
        let who = who();
        let line =
            format!("{} <{}> {} +0000", who.name().unwrap_or_default(), who.email().unwrap_or_default(), 1_700_000_000);
        let text = format!("tree {tree}\nauthor {line}\ncommitter {line}\n\nBy hand\n");
        let odb = self.repository.odb().expect("there is an object database");
        let commit =
            odb.write(git2::ObjectType::Commit, text.as_bytes()).expect("any bytes can be written as a commit");
        self.force(branch, commit);
        commit
    }

    /// Makes a branch where another one stands, or moves it there.
    pub fn branch(&self, new: &str, from: &str) {
        self.force(new, self.head(from).expect("the branch is there"));
    }

    /// Puts a branch on a commit, whatever it stood on.
    pub fn force(&self, branch: &str, commit: Oid) {
        self.repository.reference(&reference(branch), commit, true, "force").expect("a branch can be set");
    }

    /// Deletes a branch.
    pub fn delete_branch(&self, branch: &str) {
        let mut found = self.repository.find_reference(&reference(branch)).expect("the branch is there");
        found.delete().expect("a branch can be deleted");
    }

    /// Merges a branch into another one by a merge commit.
    pub fn merge(&self, into: &str, from: &str) -> Oid {
        let commit = |branch| {
            let head = self.head(branch).expect("the branch is there");
            self.repository.find_commit(head).expect("it stands on a commit")
        };
        let (ours, theirs) = (commit(into), commit(from));
        let mut index = self.repository.merge_commits(&ours, &theirs, None).expect("they can be merged");
        assert!(!index.has_conflicts(), "{from} conflicts with {into}");
        let tree = index.write_tree_to(&self.repository).expect("a tree can be written");
        let tree = self.repository.find_tree(tree).expect("it was just written");
        let message = format!("Merge branch '{from}' into {into}");
        self.repository
            .commit(Some(&reference(into)), &who(), &who(), &message, &tree, &[&ours, &theirs])
            .expect("a commit can be written")
    }

    fn change(&self, branch: &str, message: &str, change: impl FnOnce(&mut Index)) -> Oid {
        let parent = self.head(branch).map(|head| self.repository.find_commit(head).expect("it stands on a commit"));
        let mut index = Index::new().expect("an index can be made");
        if let Some(parent) = &parent {
            index.read_tree(&parent.tree().expect("a commit has a tree")).expect("a tree can be read");
        }
        change(&mut index);
        let tree = index.write_tree_to(&self.repository).expect("a tree can be written");
        let tree = self.repository.find_tree(tree).expect("it was just written");
        let parents: Vec<_> = parent.iter().collect();
        self.repository
            .commit(Some(&reference(branch)), &who(), &who(), message, &tree, &parents)
            .expect("a commit can be written")
    }
}

fn reference(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

fn who() -> Signature<'static> {
    Signature::new("Ada", "ada@example.com", &Time::new(1_700_000_000, 0)).expect("the signature is valid")
}

fn entry(path: &str, id: Oid, mode: FileMode) -> IndexEntry {
    let never = IndexTime::new(0, 0);
    IndexEntry {
        ctime: never,
        mtime: never,
        dev: 0,
        ino: 0,
        mode: u32::from(mode),
        uid: 0,
        gid: 0,
        file_size: 0,
        id,
        flags: 0,
        flags_extended: 0,
        path: path.as_bytes().to_vec(),
    }
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).expect("the folder is there").flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            read_folder(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push((name, std::fs::read(entry.path()).expect("the file can be read")));
        }
    }
}
