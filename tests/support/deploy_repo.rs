//! Deploy repositories made by hand: bare, without git's own program, with fixed authors and dates, so that the same
//! steps give the same commits.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicI64, Ordering};

use git2::build::TreeUpdateBuilder;
use git2::{FileMode, ObjectType, Oid, Repository, RepositoryInitOptions, Signature, Time};
use towpath_core::revision::CommitId;

/// 2026-01-05 09:00 UTC; each commit is a minute later than the one before.
const FIRST_COMMIT_AT: i64 = 1_767_603_600;

/// A bare repository that a test, the demo or the benchmark writes to.
///
/// Methods panic where a step is impossible: a mistake in the test.
#[derive(Debug)]
pub struct DeployRepo {
    folder: PathBuf,
    commits: AtomicI64,
}

impl DeployRepo {
    /// Creates a bare repository in a folder that is not there yet, with an unborn `develop`. Pushes over http are
    /// allowed.
    pub fn new(folder: impl AsRef<Path>) -> DeployRepo {
        without_configuration_of_the_machine();
        let folder = folder.as_ref().to_owned();
        let mut options = RepositoryInitOptions::new();
        options.bare(true).no_reinit(true).mkpath(true).external_template(false).initial_head("develop");
        let repository = Repository::init_opts(&folder, &options).expect("the folder can be made");
        let mut config = repository.config().expect("a new repository has a configuration");
        config.set_bool("http.receivepack", true).expect("the configuration can be written");
        DeployRepo { folder, commits: AtomicI64::new(0) }
    }

    /// Works on a bare repository that is there already.
    pub fn open(folder: impl AsRef<Path>) -> DeployRepo {
        without_configuration_of_the_machine();
        let folder = folder.as_ref().to_owned();
        Repository::open_bare(&folder).expect("there is a bare repository");
        DeployRepo { folder, commits: AtomicI64::new(100_000) }
    }

    /// The folder of the repository.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The address as a `file://` URL.
    pub fn url(&self) -> String {
        format!("file://{}", self.folder.display())
    }

    /// A handle for what the other methods do not offer.
    pub fn git(&self) -> Repository {
        Repository::open_bare(&self.folder).expect("the repository is there")
    }

    /// Writes files (path, content) on a branch, which begins with this commit if it is not there.
    pub fn commit(&self, branch: &str, message: &str, files: &[(&str, &str)]) -> CommitId {
        let git = self.git();
        let mut update = TreeUpdateBuilder::new();
        for (path, content) in files {
            let blob = git.blob(content.as_bytes()).expect("a file can be written");
            update.upsert(*path, blob, FileMode::Blob);
        }
        self.update(&git, branch, message, &mut update)
    }

    /// Removes a file.
    pub fn delete(&self, branch: &str, path: &str) -> CommitId {
        let mut update = TreeUpdateBuilder::new();
        update.remove(path);
        self.update(&self.git(), branch, &format!("remove {path}"), &mut update)
    }

    /// Writes one entry of any mode: `0o120000` for a symbolic link whose target is the content.
    pub fn entry(&self, branch: &str, path: &str, mode: FileMode, content: &[u8]) -> CommitId {
        let git = self.git();
        let blob = git.blob(content).expect("a file can be written");
        let mut update = TreeUpdateBuilder::new();
        update.upsert(path, blob, mode);
        self.update(&git, branch, &format!("write {path}"), &mut update)
    }

    /// Creates a branch where another one stands, or moves it there.
    pub fn branch(&self, new: &str, from: &str) -> CommitId {
        let head = self.head(from);
        self.force(new, head);
        head
    }

    /// Writes a folder of plain files on a branch.
    pub fn commit_folder(&self, branch: &str, message: &str, folder: &Path) -> CommitId {
        let mut files = Vec::new();
        read_folder(folder, "", &mut files);
        let git = self.git();
        let mut update = TreeUpdateBuilder::new();
        for (path, content) in &files {
            let blob = git.blob(content).expect("a file can be written");
            update.upsert(path.as_str(), blob, FileMode::Blob);
        }
        self.update(&git, branch, message, &mut update)
    }

    /// Merges a branch into another one with a merge commit.
    pub fn merge(&self, into: &str, from: &str) -> CommitId {
        let git = self.git();
        let ours = git.find_commit(oid(self.head(into))).expect("the head is a commit");
        let theirs = git.find_commit(oid(self.head(from))).expect("the head is a commit");
        let mut index = git.merge_commits(&ours, &theirs, None).expect("the branches can be merged");
        assert!(!index.has_conflicts(), "{from} into {into} has conflicts");
        let tree = index.write_tree_to(&git).expect("a tree can be written");
        self.write(&git, into, &format!("Merge branch '{from}' into {into}"), tree, &[ours.id(), theirs.id()])
    }

    /// Reverts a commit on a branch; of a merge, what it brought to its first parent.
    pub fn revert(&self, branch: &str, commit: CommitId) -> CommitId {
        let git = self.git();
        let bad = git.find_commit(oid(commit)).expect("the commit is there");
        let ours = git.find_commit(oid(self.head(branch))).expect("the head is a commit");
        let mainline = u32::from(bad.parent_count() > 1);
        let mut index = git.revert_commit(&bad, &ours, mainline, None).expect("the commit can be reverted");
        assert!(!index.has_conflicts(), "the revert of {commit} has conflicts");
        let tree = index.write_tree_to(&git).expect("a tree can be written");
        let subject = bad.summary().ok().flatten().unwrap_or_default();
        let message = format!("Revert \"{subject}\"\n\nThis reverts commit {commit}.");
        self.write(&git, branch, &message, tree, &[ours.id()])
    }

    /// Picks a commit onto a branch, with its author and message.
    pub fn cherry_pick(&self, branch: &str, commit: CommitId) -> CommitId {
        let git = self.git();
        let picked = git.find_commit(oid(commit)).expect("the commit is there");
        let ours = git.find_commit(oid(self.head(branch))).expect("the head is a commit");
        let mut index = git.cherrypick_commit(&picked, &ours, 0, None).expect("the commit can be picked");
        assert!(!index.has_conflicts(), "{commit} does not fit {branch}");
        let tree = index.write_tree_to(&git).and_then(|tree| git.find_tree(tree)).expect("a tree can be written");
        let committer = Signature::new("Kim Lock", "kim@example.org", &Time::new(FIRST_COMMIT_AT, 0));
        let (who, message) = (committer.expect("a good name"), picked.message().unwrap_or_default());
        let made = git.commit(Some(&refname(branch)), &picked.author(), &who, message, &tree, &[&ours]);
        commit_id(made.expect("a commit can be written"))
    }

    /// Sets a submodule to a commit, and names it in `.gitmodules` (with `branch = .`) if it is not there.
    pub fn submodule(&self, branch: &str, path: &str, url: &str, commit: CommitId) -> CommitId {
        let git = self.git();
        let before = self.text(branch, ".gitmodules").unwrap_or_default();
        let header = format!("[submodule \"{path}\"]\n");
        let mut update = TreeUpdateBuilder::new();
        if !before.contains(&header) {
            let content = format!("{before}{header}\tpath = {path}\n\turl = {url}\n\tbranch = .\n");
            let blob = git.blob(content.as_bytes()).expect("a file can be written");
            update.upsert(".gitmodules", blob, FileMode::Blob);
        }
        update.upsert(path, oid(commit), FileMode::Commit);
        self.update(&git, branch, &format!("{path}: move to {}", commit.short()), &mut update)
    }

    /// Makes a tag without a message on a commit.
    pub fn tag(&self, name: &str, commit: CommitId) {
        self.git().reference(&format!("refs/tags/{name}"), oid(commit), false, "tag").expect("a ref can be written");
    }

    /// Deletes a branch.
    pub fn delete_branch(&self, branch: &str) {
        self.git().find_reference(&refname(branch)).and_then(|mut branch| branch.delete()).expect("there is a branch");
    }

    /// Moves a branch to any commit, as a forced push does, and creates it if it is not there.
    pub fn force(&self, branch: &str, commit: CommitId) {
        self.git().reference(&refname(branch), oid(commit), true, "force").expect("a ref can be written");
    }

    /// Where a branch stands.
    pub fn head(&self, branch: &str) -> CommitId {
        self.try_head(branch).unwrap_or_else(|| panic!("there is no branch {branch}"))
    }

    /// Where a branch stands, if it is there.
    pub fn try_head(&self, branch: &str) -> Option<CommitId> {
        self.git().refname_to_id(&refname(branch)).ok().map(commit_id)
    }

    /// A file on a branch, if it is there.
    pub fn text(&self, branch: &str, path: &str) -> Option<String> {
        let git = self.git();
        let commit = git.find_commit(oid(self.try_head(branch)?)).expect("the head is a commit");
        let entry = commit.tree().expect("a commit has a tree").get_path(Path::new(path)).ok()?;
        let blob = git.find_blob(entry.id()).ok()?;
        Some(String::from_utf8_lossy(blob.content()).into_owned())
    }

    /// Writes a tree object from raw entries (mode, name, id), however wrong they are.
    pub fn raw_tree(&self, entries: &[(&str, &[u8], Oid)]) -> Oid {
        let entry =
            |(mode, name, id): &(&str, &[u8], Oid)| [mode.as_bytes(), b" ", name, b"\0", id.as_bytes()].concat();
        let bytes: Vec<u8> = entries.iter().flat_map(entry).collect();
        self.raw_object(ObjectType::Tree, &bytes)
    }

    /// Writes a file's content.
    pub fn blob(&self, content: &[u8]) -> Oid {
        self.git().blob(content).expect("a file can be written")
    }

    /// Writes any object from its bytes, however wrong they are.
    pub fn raw_object(&self, kind: ObjectType, bytes: &[u8]) -> Oid {
        self.git().odb().and_then(|odb| odb.write(kind, bytes)).expect("an object can be written")
    }

    /// Commits a tree that was made by hand.
    pub fn commit_tree(&self, branch: &str, message: &str, tree: Oid) -> CommitId {
        let parents: Vec<Oid> = self.try_head(branch).map(oid).into_iter().collect();
        self.write(&self.git(), branch, message, tree, &parents)
    }

    fn update(&self, git: &Repository, branch: &str, message: &str, update: &mut TreeUpdateBuilder) -> CommitId {
        let head = self.try_head(branch).map(oid);
        let before = match head {
            Some(head) => git.find_commit(head).and_then(|commit| commit.tree()),
            None => git.treebuilder(None).and_then(|builder| builder.write()).and_then(|empty| git.find_tree(empty)),
        };
        let before = before.expect("a commit has a tree");
        let tree = update.create_updated(git, &before).expect("the tree can be changed");
        self.write(git, branch, message, tree, &head.into_iter().collect::<Vec<_>>())
    }

    fn write(&self, git: &Repository, branch: &str, message: &str, tree: Oid, parents: &[Oid]) -> CommitId {
        let seconds = FIRST_COMMIT_AT + 60 * self.commits.fetch_add(1, Ordering::Relaxed);
        let person = Signature::new("Robin Bargee", "robin@example.org", &Time::new(seconds, 0)).expect("a good name");
        // Raw, so that a tree that git would never write can be committed.
        let mut text = format!("tree {tree}\n");
        for parent in parents {
            text += &format!("parent {parent}\n");
        }
        let line = format!("{} <{}> {seconds} +0000", person.name().unwrap_or_default(), "robin@example.org");
        text += &format!("author {line}\ncommitter {line}\n\n{message}\n");
        let commit = self.raw_object(ObjectType::Commit, text.as_bytes());
        git.reference(&refname(branch), commit, true, "commit").expect("a ref can be written");
        commit_id(commit)
    }
}

/// Whatever git is configured to on this machine does not reach the tests.
fn without_configuration_of_the_machine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(towpath::repo::init);
}

fn refname(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

/// A commit's id as libgit2 has it.
pub fn oid(commit: CommitId) -> Oid {
    Oid::from_bytes(commit.as_bytes()).expect("an id has 20 bytes")
}

/// A commit's id as core has it.
pub fn commit_id(oid: Oid) -> CommitId {
    CommitId::from_bytes(oid.as_bytes().try_into().expect("an id has 20 bytes"))
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
