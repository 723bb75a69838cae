//! Commits of the deploy repository.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The id of a commit: 20 bytes (SHA-1), written as 40 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId([u8; 20]);

/// The id of a file's content in git: 20 bytes (SHA-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId([u8; 20]);

/// The id of a folder's list in git: 20 bytes (SHA-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId([u8; 20]);

/// Why a text is no object id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an object id: 40 hexadecimal digits are needed")]
pub struct NotAnObjectId(pub String);

macro_rules! object_id {
    ($name:ident) => {
        impl $name {
            /// From the raw 20 bytes.
            pub const fn from_bytes(bytes: [u8; 20]) -> Self {
                $name(bytes)
            }

            /// The raw 20 bytes.
            pub fn as_bytes(&self) -> &[u8; 20] {
                &self.0
            }

            /// The first 7 digits.
            pub fn short(&self) -> String {
                self.to_string()[..7].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnObjectId;

            fn from_str(text: &str) -> Result<Self, NotAnObjectId> {
                let mut bytes = [0; 20];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok($name(bytes)),
                    Err(_) => Err(NotAnObjectId(text.chars().take(80).collect())),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

object_id!(CommitId);
object_id!(BlobId);
object_id!(TreeId);

/// A commit of the deploy repository that the mirror holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The commit.
    pub commit: CommitId,
    /// The branch it was found on; the commit itself for an environment that names one.
    pub branch: String,
    /// First line of its message, control characters removed, at most 200 characters.
    pub subject: String,
    /// Its author's name, cleaned the same way.
    pub author: String,
    /// When it was committed, as its committer says. For display only: order is by the graph, never by dates.
    pub committed_at: Timestamp,
}

impl fmt::Display for Revision {
    /// `branch@sha1:<40 digits>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@sha1:{}", self.branch, self.commit)
    }
}

/// Text from a commit or a forge made fit for one line of a log, an Event or a page: control characters and
/// bidirectional overrides are dropped, and it ends after `limit` characters.
pub fn clean_line(text: &str, limit: usize) -> String {
    let is_override =
        |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}');
    text.chars().filter(|c| !c.is_control() && !is_override(*c)).take(limit).collect()
}

/// The same of a line that may be indented.
pub fn clean_indented(text: &str, limit: usize) -> String {
    let line = text.trim_start();
    format!("{}{}", " ".repeat(text.len() - line.len()), clean_line(line, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn an_id_reads_back() {
        let id: CommitId = ID.parse().unwrap();
        assert_eq!(id.to_string(), ID);
        assert_eq!(id.short(), "0123456");
        assert_eq!(serde_json::to_value(id).unwrap(), serde_json::json!(ID));
    }

    #[test]
    fn what_git_would_take_as_a_revision_is_no_id() {
        for bad in ["", "HEAD", ":/fix", "@{-1}", "0123", &ID[1..], "--force"] {
            assert!(bad.parse::<CommitId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn escapes_do_not_reach_a_terminal() {
        assert_eq!(clean_line("a\u{1b}[31mred\u{202e}\n b", 200), "a[31mred b");
        assert_eq!(clean_line("äöü", 2), "äö");
    }
}
