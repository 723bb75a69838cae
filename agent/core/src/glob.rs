//! Patterns of paths: `*` stands for any text within a folder, `**` for any folders.

use std::fmt;

/// Bytes of one pattern.
pub const MAX_PATTERN_BYTES: usize = 500;
/// Characters that mean something in the patterns of other tools and nothing in ours.
const FOREIGN: [char; 7] = ['?', '[', ']', '{', '}', '!', '\\'];

/// A pattern of paths from the root of a repository.
///
/// `migrations/**` is everything below that folder, at any depth; `**/values.yaml` is such a file anywhere, at the root
/// too; `config/*.yaml` is in that folder only. Without a star it is one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any folders, or none.
    Folders,
    /// One name, in which `*` stands for any text.
    Name(String),
}

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAGlob {
    /// Nothing would fit it.
    #[error("it names nothing")]
    Empty,
    /// It is longer than [`MAX_PATTERN_BYTES`].
    #[error("it is longer than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// It ends with a slash.
    #[error("a folder has no content of its own: write folder/** for all that is below it")]
    Folder,
    /// `.` or `..`, or two slashes.
    #[error("a path from the root has no . and .. and nothing empty in it")]
    NotFromTheRoot,
    /// `**` with something beside it.
    #[error("** stands alone between two slashes")]
    StarsBesideText,
    /// It uses what only other tools know.
    #[error("{0:?} has no meaning here: only * and ** have one")]
    Foreign(char),
}

impl Glob {
    /// Reads a pattern. A slash at its beginning means nothing, for it counts from the root anyway.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Glob, NotAGlob> {
        let path = text.strip_prefix('/').unwrap_or(text);
        if path.is_empty() {
            return Err(NotAGlob::Empty);
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(NotAGlob::TooLong);
        }
        if path.ends_with('/') {
            return Err(NotAGlob::Folder);
        }
        if let Some(foreign) = path.chars().find(|c| FOREIGN.contains(c) || c.is_control()) {
            return Err(NotAGlob::Foreign(foreign));
        }
        let mut parts = Vec::new();
        for name in path.split('/') {
            match name {
                "" | "." | ".." => return Err(NotAGlob::NotFromTheRoot),
                "**" if parts.last() == Some(&Part::Folders) => {}
                "**" => parts.push(Part::Folders),
                _ if name.contains("**") => return Err(NotAGlob::StarsBesideText),
                _ => parts.push(Part::Name(name.to_owned())),
            }
        }
        // What is below a folder is not the folder.
        if parts.last() == Some(&Part::Folders) {
            parts.push(Part::Name("*".to_owned()));
        }
        Ok(Glob { text: text.to_owned(), parts })
    }

    /// Whether a path from the root fits it.
    pub fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let (mut part, mut name) = (0, 0);
        // Where the last `**` was, and how far what it stands for reaches: only this one is ever tried again.
        let mut stars: Option<(usize, usize)> = None;
        while name < names.len() {
            match self.parts.get(part) {
                Some(Part::Folders) => {
                    stars = Some((part, name));
                    part += 1;
                }
                Some(Part::Name(pattern)) if fits(pattern, names[name]) => {
                    part += 1;
                    name += 1;
                }
                _ => {
                    let Some((at, reach)) = stars else { return false };
                    stars = Some((at, reach + 1));
                    (part, name) = (at + 1, reach + 1);
                }
            }
        }
        part == self.parts.len()
    }
}

impl fmt::Display for Glob {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether a name fits a pattern in which `*` stands for any text. What is between two stars is looked for from left to
/// right, so nothing is tried twice.
pub fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        let Some(place) = name.find(part) else { return false };
        name = &name[place + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_in_its_folder_and_two_stars_do_not() {
        for (pattern, path, does) in [
            ("values.yaml", "values.yaml", true),
            ("values.yaml", "config/values.yaml", false),
            ("/values.yaml", "values.yaml", true),
            ("migrations/**", "migrations/1.sql", true),
            ("migrations/**", "migrations/2026/1.sql", true),
            ("migrations/**", "migrations", false),
            ("migrations/**", "other/migrations/1.sql", false),
            ("**/migrations/**", "other/migrations/1.sql", true),
            ("**/migrations/**", "migrations/1.sql", true),
            ("**", "anything/at/all", true),
            ("**/**", "anything", true),
            ("**/values.yaml", "values.yaml", true),
            ("**/values.yaml", "a/b/values.yaml", true),
            ("**/values.yaml", "a/b/old-values.yaml", false),
            ("config/*.yaml", "config/web.yaml", true),
            ("config/*.yaml", "config/web/a.yaml", false),
            ("config/*/a.yaml", "config/web/a.yaml", true),
            ("a/**/b/**/c", "a/b/c", true),
            ("a/**/b/**/c", "a/x/b/y/b/z/c", true),
            ("a/**/b/**/c", "a/x/c", false),
            ("**/b/c", "b/b/c", true),
            ("**/b/*/c", "b/b/x/c", true),
            ("*", "a/b", false),
            ("*", "a", true),
        ] {
            assert_eq!(Glob::parse(pattern).unwrap().matches(path), does, "{pattern} {path}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let long = |bytes: usize| Glob::parse(&"a".repeat(bytes)).is_ok();
        assert!(long(MAX_PATTERN_BYTES) && !long(MAX_PATTERN_BYTES + 1));
        for (pattern, why) in [
            ("", NotAGlob::Empty),
            ("/", NotAGlob::Empty),
            ("migrations/", NotAGlob::Folder),
            ("../x", NotAGlob::NotFromTheRoot),
            ("./x", NotAGlob::NotFromTheRoot),
            ("a//b", NotAGlob::NotFromTheRoot),
            ("a/**.sql", NotAGlob::StarsBesideText),
            ("!a", NotAGlob::Foreign('!')),
            ("a.{sql,yaml}", NotAGlob::Foreign('{')),
            ("[ab]", NotAGlob::Foreign('[')),
            ("a?", NotAGlob::Foreign('?')),
            ("a\nb", NotAGlob::Foreign('\n')),
        ] {
            assert_eq!(Glob::parse(pattern), Err(why), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_is_tried_in_a_moment() {
        let pattern = Glob::parse(&format!("{}end", "**/a/".repeat(90))).unwrap();
        assert!(!pattern.matches(&"a/".repeat(2000)));
        assert!(!fits(&"a*".repeat(200), &format!("{}b", "a".repeat(100))));
    }
}
