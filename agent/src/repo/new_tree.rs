//! The files of a commit that is to be written, held to the same grammar and limits as trees that are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use git2::{ObjectType, Oid};
use towpath_core::fault::{Place, Problem};
use towpath_core::limits;
use towpath_core::revision::{BlobId, TreeId};
use towpath_core::tree::TreeBuilder;

/// Every file of a commit that is to be written.
#[derive(Debug, Default)]
pub struct NewTree {
    root: Folder,
    files: usize,
    /// Holds the grammar of names and the budget.
    judge: TreeBuilder,
}

#[derive(Debug, Default)]
pub(super) struct Folder(BTreeMap<String, Entry>);

#[derive(Debug)]
enum Entry {
    Folder(Folder),
    /// With its bytes, or without where the mirror must have them.
    File(Oid, Option<Arc<[u8]>>),
    /// A folder that the mirror must have, with all that is in it.
    Known(Oid),
}

impl NewTree {
    /// Adds a file by its path from the root (`a/b.yaml`).
    ///
    /// # Errors
    /// `Content` when the path or the size is one that would be refused when it is read, or when the path is there.
    pub fn file(&mut self, path: &str, bytes: impl Into<Arc<[u8]>>) -> Result<(), Problem> {
        let bytes = bytes.into();
        self.judge.admit(path, bytes.len() as u64)?;
        let id = Oid::hash_object(ObjectType::Blob, &bytes)
            .map_err(|error| Problem::passing(format!("a file has no id: {}", error.message())))?;
        self.add(path, Entry::File(id, Some(bytes)))
    }

    /// Adds a file whose content the mirror has already.
    ///
    /// # Errors
    /// As [`NewTree::file`].
    pub fn known(&mut self, path: &str, id: BlobId) -> Result<(), Problem> {
        let id = Oid::from_bytes(id.as_bytes()).expect("an id has 20 bytes");
        self.add(path, Entry::File(id, None))
    }

    /// Adds a folder that the mirror has already, with all that is in it. Its files do not count here: they were judged
    /// when they were written or read.
    ///
    /// # Errors
    /// As [`NewTree::file`].
    pub fn known_folder(&mut self, path: &str, id: TreeId) -> Result<(), Problem> {
        let id = Oid::from_bytes(id.as_bytes()).expect("an id has 20 bytes");
        self.add(path, Entry::Known(id))
    }

    pub(super) fn root(&self) -> &Folder {
        &self.root
    }

    fn add(&mut self, path: &str, file: Entry) -> Result<(), Problem> {
        let mut above = String::new();
        for name in path.split('/') {
            above = self.judge.enter(&above, name.as_bytes())?;
        }
        if self.files == limits::MAX_FILES {
            let message = format!("more than {} files in one commit", limits::MAX_FILES);
            return Err(Problem::content(message).at(Place::file(path)));
        }
        let taken = || Problem::content("the name is there twice").at(Place::file(path));
        let (folders, name) = path.rsplit_once('/').map_or((None, path), |(folders, name)| (Some(folders), name));
        let mut folder = &mut self.root;
        for name in folders.into_iter().flat_map(|folders| folders.split('/')) {
            let entry = folder.0.entry(name.to_owned()).or_insert_with(|| Entry::Folder(Folder::default()));
            match entry {
                Entry::Folder(below) => folder = below,
                Entry::File(..) | Entry::Known(_) => return Err(taken()),
            }
        }
        if folder.0.contains_key(name) {
            return Err(taken());
        }
        folder.0.insert(name.to_owned(), file);
        self.files += 1;
        Ok(())
    }
}

/// One object that a commit needs.
pub(super) struct Needed<'a> {
    pub id: Oid,
    pub kind: ObjectType,
    /// `None` where the mirror must have it.
    pub bytes: Option<&'a [u8]>,
}

impl Folder {
    /// Tells what this folder needs: first what is in it, then its list. Gives the id of the list.
    ///
    /// # Errors
    /// What `tell` reports.
    pub(super) fn each(&self, tell: &mut dyn FnMut(Needed<'_>) -> Result<(), Problem>) -> Result<Oid, Problem> {
        let mut entries = Vec::with_capacity(self.0.len());
        for (name, entry) in &self.0 {
            match entry {
                Entry::Folder(folder) => entries.push((format!("{name}/"), "40000", folder.each(tell)?)),
                Entry::File(id, bytes) => {
                    tell(Needed { id: *id, kind: ObjectType::Blob, bytes: bytes.as_deref() })?;
                    entries.push((name.clone(), "100644", *id));
                }
                Entry::Known(id) => {
                    tell(Needed { id: *id, kind: ObjectType::Tree, bytes: None })?;
                    entries.push((format!("{name}/"), "40000", *id));
                }
            }
        }
        // Git compares the names of folders as if they ended with a slash.
        entries.sort();
        let mut list = Vec::new();
        for (name, mode, id) in entries {
            let parts = [mode.as_bytes(), b" ", name.trim_end_matches('/').as_bytes(), b"\0", id.as_bytes()];
            list.extend(parts.concat());
        }
        let id = Oid::hash_object(ObjectType::Tree, &list)
            .map_err(|error| Problem::passing(format!("a folder has no id: {}", error.message())))?;
        tell(Needed { id, kind: ObjectType::Tree, bytes: Some(&list) })?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use towpath_core::fault::Fault;

    use super::*;

    #[test]
    fn a_path_follows_the_grammar_of_trees_that_are_read() {
        let mut tree = NewTree::default();
        for bad in ["", "/a", "a/", "a//b", ".", "../a", "a/../b", ".git/config", "a/.GIT/b", "a\\b", "a\nb", "a./b"] {
            assert_eq!(tree.file(bad, *b"x").unwrap_err().fault, Fault::Content, "{bad:?}");
        }
        let deep = vec!["d"; limits::MAX_DEPTH].join("/");
        assert!(tree.file(&deep, *b"x").is_ok());
        assert!(tree.file(&format!("e/{deep}"), *b"x").is_err());
    }

    #[test]
    fn a_path_is_either_a_file_or_a_folder() {
        let mut tree = NewTree::default();
        tree.file("a/b", *b"x").unwrap();
        for bad in ["a", "a/b", "a/b/c"] {
            assert!(tree.file(bad, *b"x").is_err(), "{bad}");
        }
        tree.file("a.b", *b"x").unwrap();
        tree.known("a/c", BlobId::from_bytes([7; 20])).unwrap();
    }

    #[test]
    fn size_and_number_have_the_limits_of_trees_that_are_read() {
        let mut tree = NewTree::default();
        let most = limits::MAX_FILE_BYTES as usize;
        assert!(tree.file("large", vec![0; most + 1]).is_err());
        assert!(tree.file("large", vec![0; most]).is_ok());
        for number in 1..limits::MAX_FILES {
            tree.known(&format!("f{number}"), BlobId::from_bytes([7; 20])).unwrap();
        }
        assert!(tree.known("one more", BlobId::from_bytes([7; 20])).is_err());
    }

    #[test]
    fn a_folder_stands_where_git_wants_it() {
        let mut tree = NewTree::default();
        for path in ["a/x", "a.b", "a0"] {
            tree.file(path, *b"x").unwrap();
        }
        let mut lists = Vec::new();
        let tell = &mut |needed: Needed<'_>| {
            lists.extend(needed.bytes.filter(|_| needed.kind == ObjectType::Tree).map(<[u8]>::to_vec));
            Ok(())
        };
        tree.root().each(tell).unwrap();
        let root = String::from_utf8_lossy(&lists[1]).into_owned();
        let at = |name: &str| root.find(name).unwrap();
        assert!(at("100644 a.b\0") < at("40000 a\0") && at("40000 a\0") < at("100644 a0\0"), "{root}");
    }
}
