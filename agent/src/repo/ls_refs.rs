//! What branches a server has: its greeting, and protocol version 2's `ls-refs` (gitprotocol-v2), which names only what
//! is asked for. A server that does not speak version 2 names everything in its greeting.

use std::collections::BTreeMap;
use std::io::Read;

use towpath_core::fault::Problem;
use towpath_core::lane::{Heads, is_branch_name};
use towpath_core::revision::CommitId;

use super::packet::{DELIMITER, FLUSH, Packet, PacketReader, garbled, write_line};

/// Bytes of a greeting or of a list of branches.
pub const MAX_LISTING_BYTES: u64 = 16 << 20;
/// What the agent calls itself.
pub(super) const AGENT: &str = concat!("agent=towpath/", env!("CARGO_PKG_VERSION"));

/// What a server can do, by name; the value is what follows `=`.
pub(super) type Capabilities = BTreeMap<String, String>;

/// How a server begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It takes commands.
    V2(Capabilities),
    /// It has named its branches already.
    V0 { capabilities: Capabilities, heads: Heads },
}

/// Reads how a server begins.
///
/// # Errors
/// `Setup` when its repository has other ids than SHA-1, `Passing` when it is not in git's protocol.
pub(super) fn read_greeting<R: Read>(packets: &mut PacketReader<R>) -> Result<Greeting, Problem> {
    let mut heads = Heads::new();
    let mut capabilities = None;
    let mut line = packets.line()?;
    if line.is_some_and(|line| line.starts_with(b"# service=")) {
        packets.line()?;
        line = packets.line()?;
    }
    if line == Some(b"version 2") {
        let mut capabilities = Capabilities::new();
        while let Some(line) = packets.line()? {
            add_capability(&mut capabilities, line);
        }
        check_object_format(&capabilities)?;
        return Ok(Greeting::V2(capabilities));
    }
    if line == Some(b"version 1") {
        line = packets.line()?;
    }
    while let Some(found) = line {
        let reference = match capabilities {
            Some(_) => found,
            None => {
                let zero = found.iter().position(|byte| *byte == 0).ok_or_else(garbled)?;
                let mut all = Capabilities::new();
                found[zero + 1..].split(|byte| *byte == b' ').for_each(|one| add_capability(&mut all, one));
                check_object_format(&all)?;
                capabilities = Some(all);
                &found[..zero]
            }
        };
        add_branch(&mut heads, reference)?;
        line = packets.line()?;
    }
    Ok(Greeting::V0 { capabilities: capabilities.unwrap_or_default(), heads })
}

/// The request for all branches.
pub(super) fn request(capabilities: &Capabilities) -> Vec<u8> {
    let mut request = Vec::new();
    write_line(&mut request, "command=ls-refs");
    write_common(&mut request, capabilities);
    request.extend(DELIMITER);
    write_line(&mut request, "ref-prefix refs/heads/");
    request.extend(FLUSH);
    request
}

/// What every command of version 2 begins with.
pub(super) fn write_common(request: &mut Vec<u8>, capabilities: &Capabilities) {
    if capabilities.contains_key("agent") {
        write_line(request, AGENT);
    }
    if capabilities.contains_key("object-format") {
        write_line(request, "object-format=sha1");
    }
}

/// Reads the answer to [`request`].
///
/// # Errors
/// `Passing` when it is not in git's protocol.
pub(super) fn read_answer<R: Read>(packets: &mut PacketReader<R>) -> Result<Heads, Problem> {
    let mut heads = Heads::new();
    loop {
        match packets.next()? {
            Packet::Data(line) => add_branch(&mut heads, line.strip_suffix(b"\n").unwrap_or(line))?,
            Packet::Flush => return Ok(heads),
            Packet::Delimiter | Packet::End => return Err(super::packet::cut_short()),
        }
    }
}

/// `<id> <ref>`, and in version 2 more after a blank. What is no branch, or has a name that git would not take, is as
/// if it were not there.
fn add_branch(heads: &mut Heads, line: &[u8]) -> Result<(), Problem> {
    if line.starts_with(b"shallow ") || line.starts_with(b"unborn ") {
        return Ok(());
    }
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (Some(id), Some(name)) = (words.next(), words.next()) else { return Err(garbled()) };
    let id: CommitId = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()).ok_or_else(garbled)?;
    let branch = name.strip_prefix(b"refs/heads/").and_then(|name| std::str::from_utf8(name).ok());
    if let Some(branch) = branch.filter(|name| is_branch_name(name)) {
        heads.insert(branch.to_owned(), id);
    }
    Ok(())
}

fn add_capability(capabilities: &mut Capabilities, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (name, value) = text.split_once('=').unwrap_or((&text, ""));
    if !name.is_empty() {
        capabilities.insert(name.to_owned(), value.to_owned());
    }
}

fn check_object_format(capabilities: &Capabilities) -> Result<(), Problem> {
    match capabilities.get("object-format").map(String::as_str) {
        None | Some("sha1") => Ok(()),
        Some(_) => Err(Problem::setup("the repository has other ids than SHA-1, which Towpath does not read")
            .hint("use a repository with SHA-1 ids")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn message(lines: &[&str]) -> Vec<u8> {
        let mut message = Vec::new();
        lines.iter().for_each(|line| write_line(&mut message, line));
        message.extend(FLUSH);
        message
    }

    fn greeting(bytes: &[u8]) -> Result<Greeting, Problem> {
        read_greeting(&mut PacketReader::new(bytes))
    }

    #[test]
    fn a_greeting_of_version_2_names_what_the_server_can_do() {
        let bare = message(&["version 2", "agent=git/2.39", "ls-refs=unborn", "object-format=sha1"]);
        let after_http = [message(&["# service=git-upload-pack"]), bare.clone()].concat();
        for bytes in [bare, after_http] {
            let Ok(Greeting::V2(capabilities)) = greeting(&bytes) else { panic!("not version 2") };
            assert_eq!(capabilities["ls-refs"], "unborn");
        }
    }

    #[test]
    fn a_greeting_of_version_0_names_the_branches() {
        let first = format!("{ID} HEAD\0ofs-delta side-band-64k");
        let bytes = message(&[&first, &format!("{ID} refs/heads/develop"), &format!("{ID} refs/tags/v1")]);
        let Ok(Greeting::V0 { capabilities, heads }) = greeting(&bytes) else { panic!("not version 0") };
        assert!(capabilities.contains_key("ofs-delta"));
        assert_eq!(heads.keys().collect::<Vec<_>>(), ["develop"]);
    }

    #[test]
    fn an_empty_repository_has_no_branches() {
        let zero = "0".repeat(40);
        for bytes in [message(&[]), message(&[&format!("{zero} capabilities^{{}}\0ofs-delta")])] {
            assert!(matches!(greeting(&bytes), Ok(Greeting::V0 { heads, .. }) if heads.is_empty()));
        }
        assert_eq!(read_answer(&mut PacketReader::new(FLUSH)), Ok(Heads::new()));
    }

    #[test]
    fn hostile_names_are_as_if_they_were_not_there() {
        let lines: Vec<String> = [
            "refs/heads/../../x",
            "refs/heads/-x",
            "refs/heads/a..b",
            "refs/heads/@{-1}",
            "refs/heads/",
            "HEAD",
            "refs/heads/ok",
        ]
        .iter()
        .map(|name| format!("{ID} {name}"))
        .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let heads = read_answer(&mut PacketReader::new(&message(&lines)[..])).unwrap();
        assert_eq!(heads.keys().collect::<Vec<_>>(), ["ok"]);
        let not_text = [b"0042".as_slice(), ID.as_bytes(), b" refs/heads/\xff\xfe.......\n0000"].concat();
        assert!(read_answer(&mut PacketReader::new(&not_text[..])).is_ok_and(|heads| heads.is_empty()));
    }

    #[test]
    fn a_cut_or_garbled_list_is_a_problem_and_never_a_shorter_list() {
        let whole = message(&[&format!("{ID} refs/heads/a"), &format!("{ID} refs/heads/b")]);
        for end in 0..whole.len() {
            assert!(read_answer(&mut PacketReader::new(&whole[..end])).is_err(), "{end}");
        }
        for line in ["", "x", "0123 refs/heads/a", ID, &format!("{ID}0 refs/heads/a")] {
            assert!(read_answer(&mut PacketReader::new(&message(&[line])[..])).is_err(), "{line}");
        }
    }

    #[test]
    fn a_repository_with_longer_ids_is_refused() {
        let problem = greeting(&message(&["version 2", "object-format=sha256"])).unwrap_err();
        assert_eq!(problem.fault, towpath_core::fault::Fault::Setup);
    }
}
