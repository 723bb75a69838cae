//! What refs a server has: its greeting, and protocol version 2's `ls-refs` (gitprotocol-v2), which names only what is
//! asked for. A server that does not speak version 2, or is to be pushed to, names everything in its greeting.

use std::collections::BTreeMap;
use std::io::Read;

use towpath_core::fault::Problem;
use towpath_core::lane::{Heads, is_branch_name, is_ref_name};
use towpath_core::revision::CommitId;

use super::packet::{DELIMITER, FLUSH, Packet, PacketReader, garbled, write_line};

/// Refs by their whole names, and what each stands on.
pub type Refs = BTreeMap<String, CommitId>;

/// Bytes of a greeting or of a list of refs.
pub const MAX_LISTING_BYTES: u64 = 16 << 20;
/// What the agent calls itself.
pub(super) const AGENT: &str = concat!("agent=towpath/", env!("CARGO_PKG_VERSION"));

/// What a server can do, by name; the value is what follows `=`.
pub(super) type Capabilities = BTreeMap<String, String>;

/// What is asked about refs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// How the names begin.
    pub prefixes: &'a [&'a str],
    /// Whether what an annotated tag leads to is given instead of the tag.
    pub is_peeled: bool,
}

impl<'a> Asked<'a> {
    /// What refs stand on.
    pub(super) fn below(prefixes: &'a [&'a str]) -> Self {
        Asked { prefixes, is_peeled: false }
    }
}

/// How a server begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It takes commands.
    V2(Capabilities),
    /// It has named its refs already.
    V0(Advertisement),
}

/// What a server names that does not speak version 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Advertisement {
    pub capabilities: Capabilities,
    pub refs: Refs,
    /// Of the refs that stand on a tag of its own (an annotated one), what that leads to.
    pub peeled: Refs,
    /// What it has besides, in repositories that it shares objects with.
    pub others: Vec<CommitId>,
}

/// Reads how a server begins.
///
/// # Errors
/// `Setup` when its repository has other ids than SHA-1, `Passing` when it is not in git's protocol.
pub(super) fn read_greeting<R: Read>(packets: &mut PacketReader<R>) -> Result<Greeting, Problem> {
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
    let mut found = Advertisement::default();
    let mut is_first = true;
    while let Some(text) = line {
        let mut reference = text;
        if std::mem::take(&mut is_first) {
            let zero = text.iter().position(|byte| *byte == 0).ok_or_else(garbled)?;
            text[zero + 1..].split(|byte| *byte == b' ').for_each(|one| add_capability(&mut found.capabilities, one));
            check_object_format(&found.capabilities)?;
            reference = &text[..zero];
        }
        match read_ref(reference)? {
            Some(Line { name: b".have", id, .. }) => found.others.push(id),
            Some(Line { name, id, .. }) => match name.strip_suffix(b"^{}") {
                Some(name) => found.peeled.extend(named(name).map(|name| (name, id))),
                None => found.refs.extend(named(name).map(|name| (name, id))),
            },
            None => {}
        }
        line = packets.line()?;
    }
    Ok(Greeting::V0(found))
}

impl Advertisement {
    /// The answer to what is asked.
    pub(super) fn answer(&self, asked: Asked<'_>) -> Refs {
        let mut refs = self.refs.clone();
        if asked.is_peeled {
            refs.extend(self.peeled.iter().map(|(name, id)| (name.clone(), *id)));
        }
        below(refs, asked.prefixes)
    }
}

/// The request for refs.
pub(super) fn request(capabilities: &Capabilities, asked: Asked<'_>) -> Vec<u8> {
    let mut request = Vec::new();
    write_line(&mut request, "command=ls-refs");
    write_common(&mut request, capabilities);
    request.extend(DELIMITER);
    if asked.is_peeled {
        write_line(&mut request, "peel");
    }
    asked.prefixes.iter().for_each(|prefix| write_line(&mut request, &format!("ref-prefix {prefix}")));
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
pub(super) fn read_answer<R: Read>(packets: &mut PacketReader<R>, asked: Asked<'_>) -> Result<Refs, Problem> {
    let mut refs = Refs::new();
    loop {
        match packets.next()? {
            Packet::Data(line) => {
                let Some(found) = read_ref(line.strip_suffix(b"\n").unwrap_or(line))? else { continue };
                let id = found.peeled.filter(|_| asked.is_peeled).unwrap_or(found.id);
                refs.extend(named(found.name).map(|name| (name, id)));
            }
            // A server need not heed the prefixes.
            Packet::Flush => return Ok(below(refs, asked.prefixes)),
            Packet::Delimiter | Packet::End => return Err(super::packet::cut_short()),
        }
    }
}

/// The refs whose names begin with one of some prefixes.
pub(super) fn below(mut refs: Refs, prefixes: &[&str]) -> Refs {
    refs.retain(|name, _| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    refs
}

/// The branches among some refs.
pub(super) fn heads(refs: &Refs) -> Heads {
    let branches = refs.iter().filter_map(|(name, id)| Some((name.strip_prefix("refs/heads/")?, *id)));
    branches.filter(|(name, _)| is_branch_name(name)).map(|(name, id)| (name.to_owned(), id)).collect()
}

/// A ref as a server names it.
struct Line<'a> {
    id: CommitId,
    name: &'a [u8],
    /// In version 2, what an annotated tag leads to.
    peeled: Option<CommitId>,
}

/// `<id> <name>`, and in version 2 more after a blank. `None` for what names no ref.
fn read_ref(line: &[u8]) -> Result<Option<Line<'_>>, Problem> {
    if line.starts_with(b"shallow ") || line.starts_with(b"unborn ") {
        return Ok(None);
    }
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(id), Some(name)) = (words.next(), words.next()) else { return Err(garbled()) };
    let id = read_id(id)?;
    let peeled = words.find_map(|word| word.strip_prefix(b"peeled:")).map(read_id).transpose()?;
    Ok(Some(Line { id, name, peeled }))
}

fn read_id(text: &[u8]) -> Result<CommitId, Problem> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(garbled)
}

/// A name that git would take. Any other one is as if it were not there.
fn named(name: &[u8]) -> Option<String> {
    std::str::from_utf8(name).ok().filter(|name| is_ref_name(name)).map(str::to_owned)
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
    const HEADS: Asked<'_> = Asked { prefixes: &["refs/heads/"], is_peeled: false };

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
        let bytes = message(&[
            &first,
            &format!("{ID} refs/heads/develop"),
            &format!("{ID} refs/tags/v1"),
            &format!("{ID} refs/tags/v1^{{}}"),
            &format!("{ID} .have"),
        ]);
        let Ok(Greeting::V0(found)) = greeting(&bytes) else { panic!("not version 0") };
        assert!(found.capabilities.contains_key("ofs-delta"));
        assert_eq!(found.refs.keys().collect::<Vec<_>>(), ["refs/heads/develop", "refs/tags/v1"]);
        assert_eq!(heads(&found.refs).keys().collect::<Vec<_>>(), ["develop"]);
        assert_eq!(found.others.len(), 1);
        assert_eq!(found.peeled.keys().collect::<Vec<_>>(), ["refs/tags/v1"]);
    }

    #[test]
    fn an_annotated_tag_is_what_it_leads_to_where_that_is_asked_for() {
        let tag = "f".repeat(40);
        let asked = Asked { prefixes: &["refs/tags/v"], is_peeled: true };
        let first = format!("{tag} refs/tags/v1.0\0side-band-64k");
        let old = message(&[&first, &format!("{ID} refs/tags/v1.0^{{}}"), &format!("{tag} refs/tags/v1.1")]);
        let Ok(Greeting::V0(old)) = greeting(&old) else { panic!("not version 0") };
        let lines = [format!("{tag} refs/tags/v1.0 x:y peeled:{ID}"), format!("{tag} refs/tags/v1.1")];
        let new = message(&lines.each_ref().map(String::as_str));
        let read = |asked| read_answer(&mut PacketReader::new(&new[..]), asked).unwrap();
        for (found, expected) in [
            (old.answer(asked), ID),
            (read(asked), ID),
            (old.answer(Asked::below(asked.prefixes)), tag.as_str()),
            (read(Asked::below(asked.prefixes)), tag.as_str()),
        ] {
            assert_eq!(found["refs/tags/v1.0"].to_string(), expected);
            assert_eq!(found["refs/tags/v1.1"].to_string(), tag);
        }
        let garbled = message(&[&format!("{tag} refs/tags/v1.0 peeled:{}", &ID[1..])]);
        assert!(read_answer(&mut PacketReader::new(&garbled[..]), asked).is_err());
        let text = String::from_utf8(request(&Capabilities::new(), asked)).unwrap();
        assert!(text.contains("0009peel\n"), "{text}");
    }

    #[test]
    fn an_empty_repository_has_no_branches() {
        let zero = "0".repeat(40);
        for bytes in [message(&[]), message(&[&format!("{zero} capabilities^{{}}\0ofs-delta")])] {
            assert!(matches!(greeting(&bytes), Ok(Greeting::V0(found)) if found.refs.is_empty()));
        }
        assert_eq!(read_answer(&mut PacketReader::new(FLUSH), HEADS), Ok(Refs::new()));
    }

    #[test]
    fn hostile_names_are_as_if_they_were_not_there() {
        let lines: Vec<String> = [
            "refs/heads/../../x",
            "refs/heads/-x",
            "refs/heads/a..b",
            "refs/heads/@{-1}",
            "refs/heads/",
            "refs/heads/HEAD",
            "HEAD",
            "refs/heads/ok",
        ]
        .iter()
        .map(|name| format!("{ID} {name}"))
        .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let refs = read_answer(&mut PacketReader::new(&message(&lines)[..]), Asked::below(&["refs/"])).unwrap();
        assert_eq!(refs.keys().collect::<Vec<_>>(), ["refs/heads/-x", "refs/heads/HEAD", "refs/heads/ok"]);
        assert_eq!(heads(&refs).keys().collect::<Vec<_>>(), ["ok"]);
        let not_text = [b"0042".as_slice(), ID.as_bytes(), b" refs/heads/\xff\xfe.......\n0000"].concat();
        assert!(read_answer(&mut PacketReader::new(&not_text[..]), HEADS).is_ok_and(|refs| refs.is_empty()));
    }

    #[test]
    fn what_was_not_asked_for_is_left_out() {
        let lines = ["refs/heads/a", "refs/towpath/test/a/2026", "refs/towpathx/a", "refs/tags/v1"];
        let lines: Vec<String> = lines.iter().map(|name| format!("{ID} {name}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let asked = ["refs/heads/", "refs/towpath/"];
        let refs = read_answer(&mut PacketReader::new(&message(&lines)[..]), Asked::below(&asked)).unwrap();
        assert_eq!(refs.keys().collect::<Vec<_>>(), ["refs/heads/a", "refs/towpath/test/a/2026"]);
    }

    #[test]
    fn a_cut_or_garbled_list_is_a_problem_and_never_a_shorter_list() {
        let whole = message(&[&format!("{ID} refs/heads/a"), &format!("{ID} refs/heads/b")]);
        for end in 0..whole.len() {
            assert!(read_answer(&mut PacketReader::new(&whole[..end]), HEADS).is_err(), "{end}");
        }
        for line in ["", "x", "0123 refs/heads/a", ID, &format!("{ID}0 refs/heads/a")] {
            assert!(read_answer(&mut PacketReader::new(&message(&[line])[..]), HEADS).is_err(), "{line}");
        }
    }

    #[test]
    fn a_repository_with_longer_ids_is_refused() {
        let problem = greeting(&message(&["version 2", "object-format=sha256"])).unwrap_err();
        assert_eq!(problem.fault, towpath_core::fault::Fault::Setup);
    }
}
