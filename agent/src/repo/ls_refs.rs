//! The branches of a server by protocol v2's `ls-refs`: with a prefix, so that many other references cost nothing.
//!
//! <https://git-scm.com/docs/protocol-v2>. A server that speaks only v0 answers the first request with all its
//! references, and that answer is read instead.

use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use towpath_core::fault::Problem;
use towpath_core::lane::{Heads, is_branch_name};

use super::http::{Ask, HttpRemote, MAX_ADVERTISEMENT};

/// What is remembered of a server between polls.
#[derive(Default)]
pub(super) struct LsRefs {
    speaks_version_2: AtomicBool,
}

impl LsRefs {
    /// The branches of the server: one request once it is known to speak v2.
    ///
    /// # Errors
    /// As the request fails, or when the answer is not what the protocol says.
    pub(super) fn heads(&self, remote: &HttpRemote) -> Result<Heads, Problem> {
        if !self.speaks_version_2.load(Ordering::Relaxed) {
            let ask = Ask {
                method: Method::GET,
                path: "/info/refs?service=git-upload-pack",
                body: None,
                accept: Some("application/x-git-upload-pack-advertisement"),
                version_2: true,
            };
            let answer = remote.exchange(&ask, MAX_ADVERTISEMENT)?;
            match read_advertisement(&answer)? {
                Some(heads) => return Ok(heads),
                None => self.speaks_version_2.store(true, Ordering::Relaxed),
            }
        }
        let mut body = Vec::new();
        for line in ["command=ls-refs\n", "agent=git/2-towpath\n", "object-format=sha1\n"] {
            write_line(&mut body, line);
        }
        body.extend_from_slice(b"0001");
        write_line(&mut body, "ref-prefix refs/heads/\n");
        body.extend_from_slice(b"0000");
        let ask = Ask {
            method: Method::POST,
            path: "/git-upload-pack",
            body: Some(("application/x-git-upload-pack-request", &body)),
            accept: Some("application/x-git-upload-pack-result"),
            version_2: true,
        };
        let answer = remote.exchange(&ask, MAX_ADVERTISEMENT).inspect_err(|_| {
            // The server may have been replaced by another one.
            self.speaks_version_2.store(false, Ordering::Relaxed);
        })?;
        let mut heads = Heads::new();
        let mut lines = Lines(&answer);
        while let Some(line) = lines.next()? {
            match line {
                Line::Data(line) => heads.extend(head(line)),
                Line::Flush => return Ok(heads),
                Line::Delimiter => {}
            }
        }
        Err(broken("the list of branches ends too early"))
    }
}

/// The heads of a v0 advertisement; `None` for a server that speaks v2.
fn read_advertisement(answer: &[u8]) -> Result<Option<Heads>, Problem> {
    let mut heads = Heads::new();
    let mut lines = Lines(answer);
    let mut flushes = 0;
    let mut sections = 1;
    while let Some(line) = lines.next()? {
        match line {
            Line::Data(b"version 2\n" | b"version 2") => return Ok(None),
            Line::Data(line) if line.starts_with(b"# service=") => sections = 2,
            Line::Data(line) => {
                let end = line.iter().position(|byte| *byte == 0).unwrap_or(line.len());
                heads.extend(head(&line[..end]));
            }
            Line::Flush => {
                flushes += 1;
                if flushes == sections {
                    return Ok(Some(heads));
                }
            }
            Line::Delimiter => return Err(broken("a delimiter in the list of references")),
        }
    }
    Err(broken("the list of references ends too early"))
}

/// A branch from a line `<id> <name>[ attributes]`. What is no branch, or is called what no branch can be, is left out.
fn head(line: &[u8]) -> Option<(String, towpath_core::revision::CommitId)> {
    let line = std::str::from_utf8(line).ok()?.trim_end_matches('\n');
    let (id, rest) = line.split_once(' ')?;
    let name = rest.split(' ').next()?.strip_prefix("refs/heads/")?;
    is_branch_name(name).then_some(())?;
    Some((name.to_owned(), id.parse().ok()?))
}

fn write_line(into: &mut Vec<u8>, line: &str) {
    into.extend_from_slice(format!("{:04x}{line}", line.len() + 4).as_bytes());
}

fn broken(why: &str) -> Problem {
    Problem::passing(format!("the git server's answer cannot be read: {why}"))
}

/// Lines of git's pkt-line format: four hexadecimal digits of length, and the data.
struct Lines<'a>(&'a [u8]);

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Data(&'a [u8]),
    Flush,
    Delimiter,
}

impl<'a> Lines<'a> {
    /// The next line, `None` at the end.
    fn next(&mut self) -> Result<Option<Line<'a>>, Problem> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (digits, rest) = self.0.split_at_checked(4).ok_or_else(|| broken("a length is cut short"))?;
        let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
        let length = std::str::from_utf8(digits).ok().filter(|_| is_hex);
        let length = length
            .and_then(|text| usize::from_str_radix(text, 16).ok())
            .ok_or_else(|| broken("a length is no number"))?;
        let line = match length {
            0 => Line::Flush,
            1 => Line::Delimiter,
            2 | 3 => return Err(broken("a length means nothing")),
            _ => {
                let (data, rest) = rest.split_at_checked(length - 4).ok_or_else(|| broken("a line is cut short"))?;
                self.0 = rest;
                return if data.starts_with(b"ERR ") {
                    let said = String::from_utf8_lossy(&data[4..]);
                    Err(Problem::setup(format!(
                        "the git server says: {}",
                        towpath_core::revision::clean_line(&said, 300)
                    )))
                } else {
                    Ok(Some(Line::Data(data)))
                };
            }
        };
        self.0 = rest;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn lines(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for line in lines {
            match *line {
                "" => bytes.extend_from_slice(b"0000"),
                line => write_line(&mut bytes, line),
            }
        }
        bytes
    }

    #[test]
    fn an_old_server_lists_everything_and_only_branches_are_taken() {
        let answer = lines(&[
            "# service=git-upload-pack\n",
            "",
            &format!("{ID} HEAD\0multi_ack symref=HEAD:refs/heads/master\n"),
            &format!("{ID} refs/heads/master\n"),
            &format!("{ID} refs/heads/../../evil\n"),
            &format!("{ID} refs/heads/-x\n"),
            &format!("{ID} refs/tags/v1\n"),
            "",
        ]);
        let heads = read_advertisement(&answer).unwrap().unwrap();
        assert_eq!(heads.keys().collect::<Vec<_>>(), ["master"]);
    }

    #[test]
    fn a_new_server_says_so() {
        let answer = lines(&["# service=git-upload-pack\n", "", "version 2\n", "ls-refs\n", ""]);
        assert_eq!(read_advertisement(&answer), Ok(None));
    }

    #[test]
    fn an_empty_repository_has_no_branches() {
        let zero = "0".repeat(40);
        let answer = lines(&["# service=git-upload-pack\n", "", &format!("{zero} capabilities^{{}}\0multi_ack\n"), ""]);
        assert_eq!(read_advertisement(&answer).unwrap(), Some(Heads::new()));
    }

    #[test]
    fn a_broken_answer_is_an_error_and_never_an_empty_list() {
        for bad in [
            &b""[..],
            b"0",
            b"zzzz",
            b"+123abc",
            b"0003",
            b"0010short",
            b"fffe",
            &lines(&[&format!("{ID} refs/heads/a\n")]),
        ] {
            assert!(read_advertisement(bad).is_err(), "{}", bad.escape_ascii());
        }
        let refused = lines(&["ERR access denied\n"]);
        assert!(read_advertisement(&refused).unwrap_err().message.contains("access denied"));
    }
}
