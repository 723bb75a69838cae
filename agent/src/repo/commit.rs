//! Commit objects as bytes: written as git writes them, and read strictly, so that what is shown is what was signed.

use std::fmt::Write as _;

use jiff::Timestamp;
use towpath_core::fault::Problem;
use towpath_core::names::AGENT;
use towpath_core::revision::{CommitId, TreeId, clean_line};

/// Parents of one commit.
pub const MAX_PARENTS: usize = 64;
/// Characters of what is wrong with a commit.
const SHOWN_CHARACTERS: usize = 80;

/// Who made a commit, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The name. What is read may be anything, so it is cleaned before it is shown.
    pub name: String,
    /// The address for mail.
    pub email: String,
    /// In whole seconds. It is written in UTC, and says nothing about order.
    pub at: Timestamp,
}

impl Person {
    /// The agent of a cluster, as its commits name it.
    pub fn agent_of(cluster: &str, at: Timestamp) -> Person {
        Person { name: AGENT.to_owned(), email: format!("{AGENT}@{cluster}"), at }
    }
}

/// A commit as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCommit {
    /// The list of its root folder.
    pub tree: TreeId,
    /// The commits before it.
    pub parents: Vec<CommitId>,
    /// Who wrote it.
    pub author: Person,
    /// Who committed it.
    pub committer: Person,
    /// Everything after the headers. What is not UTF-8 is replaced.
    pub message: String,
    /// The signature in its armour. Nobody has verified it.
    pub signature: Option<String>,
    /// What a signature must be for: the commit without it, to the byte.
    pub signed_payload: Vec<u8>,
}

/// A commit without a signature, as bytes.
///
/// # Errors
/// `Setup` when a part could not be read back as it was given.
pub(super) fn write(
    tree: TreeId,
    parents: &[CommitId],
    author: &Person,
    committer: &Person,
    message: &str,
) -> Result<Vec<u8>, Problem> {
    let refuse = |why: &str| Err(Problem::setup(format!("no commit can be made: {why}")));
    if parents.len() > MAX_PARENTS {
        return refuse("it has too many parents");
    }
    let mut text = format!("tree {tree}\n");
    for parent in parents {
        writeln!(text, "parent {parent}").expect("a string takes everything");
    }
    for (role, person) in [("author", author), ("committer", committer)] {
        let Person { name, email, at } = person;
        let is_plain = |text: &str| !text.contains(['<', '>']) && !text.contains(char::is_control);
        if name.trim() != name || name.is_empty() || !is_plain(name) || !is_plain(email) || email.contains(' ') {
            return refuse(&format!("{:?} is no name of an {role}", clean_line(name, SHOWN_CHARACTERS)));
        }
        if at.as_second() < 0 {
            return refuse("it is older than 1970");
        }
        writeln!(text, "{role} {name} <{email}> {} +0000", at.as_second()).expect("a string takes everything");
    }
    if message.contains('\0') {
        return refuse("its message holds a zero byte");
    }
    writeln!(text, "\n{}", message.strip_suffix('\n').unwrap_or(message)).expect("a string takes everything");
    Ok(text.into_bytes())
}

/// The same commit with a signature: a header `gpgsig`, whose lines after the first begin with a blank.
pub(super) fn sign(commit: &[u8], signature: &str) -> Vec<u8> {
    let end = headers_end(commit).expect("a commit that was written here has headers");
    let header = format!("gpgsig {}\n", signature.trim_end().replace('\n', "\n "));
    [&commit[..end], header.as_bytes(), &commit[end..]].concat()
}

/// Where the headers end: after the line end of the last one, before the empty line.
fn headers_end(commit: &[u8]) -> Option<usize> {
    commit.windows(2).position(|window| window == b"\n\n").map(|at| at + 1)
}

/// Reads a commit. Whatever two readers could understand in two ways is refused: a header twice or out of order, a zero
/// byte, an id that is none.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(commit: &[u8]) -> Result<StoredCommit, &'static str> {
    if commit.contains(&0) {
        return Err("a zero byte in it");
    }
    let end = headers_end(commit).ok_or("its headers have no end")?;
    let mut headers = Headers { rest: &commit[..end] };
    let tree = headers.take(b"tree")?.ok_or("no tree")?;
    let tree = parse_id(tree.value)?;
    let mut parents = Vec::new();
    while let Some(parent) = headers.take(b"parent")? {
        parents.push(parse_id(parent.value)?);
        if parents.len() > MAX_PARENTS {
            return Err("too many parents");
        }
    }
    let author = read_person(headers.take(b"author")?.ok_or("no author")?.value)?;
    let committer = read_person(headers.take(b"committer")?.ok_or("no committer")?.value)?;

    let mut signature = None;
    let mut signed_payload = commit[..end - headers.rest.len()].to_vec();
    let mut seen: Vec<&[u8]> = vec![b"tree", b"parent", b"author", b"committer"];
    while let Some(header) = headers.next()? {
        // A merge of several signed tags has one of these for each.
        if header.name != b"mergetag" {
            if seen.contains(&header.name) {
                return Err("a header is there twice or out of order");
            }
            seen.push(header.name);
        }
        match header.name {
            b"gpgsig" => signature = Some(unfold(header.value)?),
            // git leaves these out of what was signed too. No repository with SHA-1 ids needs one.
            name if name.starts_with(b"gpgsig") => return Err("a signature for other ids than SHA-1"),
            _ => signed_payload.extend(header.whole),
        }
    }
    signed_payload.extend(&commit[end..]);
    let message = String::from_utf8_lossy(&commit[end + 1..]).into_owned();
    Ok(StoredCommit { tree, parents, author, committer, message, signature, signed_payload })
}

/// One header with the lines that continue it.
struct Header<'a> {
    name: &'a [u8],
    /// Without the last line end; further lines begin with a blank.
    value: &'a [u8],
    whole: &'a [u8],
}

struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    fn next(&mut self) -> Result<Option<Header<'a>>, &'static str> {
        let rest = self.rest;
        if rest.is_empty() {
            return Ok(None);
        }
        let ends = |at: &usize| rest[*at] == b'\n' && rest.get(at + 1) != Some(&b' ');
        let end = (0..rest.len()).find(ends).ok_or("a header without an end")?;
        let line = &rest[..end];
        let blank = line.iter().position(|byte| *byte == b' ').ok_or("a header without a value")?;
        let name = &line[..blank];
        if name.is_empty() || !name.iter().all(|byte| byte.is_ascii_graphic()) {
            return Err("a header without a name");
        }
        self.rest = &rest[end + 1..];
        Ok(Some(Header { name, value: &line[blank + 1..], whole: &rest[..=end] }))
    }

    /// The next header, if it is the named one.
    fn take(&mut self, name: &[u8]) -> Result<Option<Header<'a>>, &'static str> {
        let before = self.rest;
        match self.next()? {
            Some(header) if header.name == name => Ok(Some(header)),
            _ => {
                self.rest = before;
                Ok(None)
            }
        }
    }
}

fn parse_id<I: std::str::FromStr>(digits: &[u8]) -> Result<I, &'static str> {
    let is_lower = digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let text = std::str::from_utf8(digits).ok().filter(|_| is_lower);
    text.and_then(|text| text.parse().ok()).ok_or("an id that is none")
}

/// A value over several lines: `gpgsig` has its armour so.
fn unfold(value: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(value).map_err(|_| "a signature that is no text")?;
    Ok(text.replace("\n ", "\n") + "\n")
}

/// `Name <address> <seconds> <time zone>`.
fn read_person(line: &[u8]) -> Result<Person, &'static str> {
    const BAD: &str = "an author or committer that cannot be read";
    let line = String::from_utf8_lossy(line);
    if line.contains('\n') {
        return Err(BAD);
    }
    let (name, rest) = line.split_once('<').ok_or(BAD)?;
    let (email, rest) = rest.split_once("> ").ok_or(BAD)?;
    let (seconds, zone) = rest.split_once(' ').ok_or(BAD)?;
    let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    let is_zone = zone.len() == 5 && zone.starts_with(['+', '-']) && zone[1..].bytes().all(|b| b.is_ascii_digit());
    if !is_number || !is_zone || name.contains('>') || email.contains(['<', '>']) {
        return Err(BAD);
    }
    let seconds = seconds.parse().unwrap_or(i64::MAX);
    let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    Ok(Person { name: name.trim_end().to_owned(), email: email.to_owned(), at })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";
    const SIGNATURE: &str = "-----BEGIN SSH SIGNATURE-----\nAAAA\nBBBB\n-----END SSH SIGNATURE-----\n";

    fn person(name: &str) -> Person {
        Person { name: name.into(), email: "towpath@example.org".into(), at: "2026-11-21T10:00:00Z".parse().unwrap() }
    }

    fn written(message: &str) -> Vec<u8> {
        let id: CommitId = ID.parse().unwrap();
        write(ID.parse().unwrap(), &[id, id], &person("Towpath"), &person("Agent (test)"), message).unwrap()
    }

    #[test]
    fn what_was_written_reads_back() {
        for message in ["one line", "subject\n\nbody \u{1b}[31m\n\nTrailer: x\n", "", "\n\n\n"] {
            let bytes = written(message);
            let found = read(&bytes).unwrap();
            assert_eq!(found.message, format!("{}\n", message.strip_suffix('\n').unwrap_or(message)));
            assert_eq!((found.tree.to_string(), found.parents.len()), (ID.to_owned(), 2));
            assert_eq!((found.author, found.committer), (person("Towpath"), person("Agent (test)")));
            assert_eq!((found.signature, &found.signed_payload), (None, &bytes));

            let found = read(&sign(&bytes, SIGNATURE)).unwrap();
            assert_eq!(found.signature.as_deref(), Some(SIGNATURE));
            assert_eq!(found.signed_payload, bytes);
        }
    }

    #[test]
    fn what_would_not_read_back_is_not_written() {
        let id = ID.parse().unwrap();
        let parents = vec![ID.parse().unwrap(); MAX_PARENTS + 1];
        assert!(write(id, &parents[1..], &person("x"), &person("x"), "m").is_ok());
        assert!(write(id, &parents, &person("x"), &person("x"), "m").is_err());
        assert!(write(id, &[], &person("x"), &person("x"), "a\0b").is_err());
        for bad in ["", " x", "x\nparent", "x <y", "x>", "\u{1b}[31m"] {
            assert!(write(id, &[], &person(bad), &person("x"), "m").is_err(), "{bad:?}");
            assert!(write(id, &[], &person("x"), &person(bad), "m").is_err(), "{bad:?}");
        }
        for bad in ["a b", "a\nb", "a>"] {
            let person = Person { email: bad.into(), ..person("x") };
            assert!(write(id, &[], &person, &person, "m").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_commit_that_could_be_read_in_two_ways_is_refused() {
        let good = String::from_utf8(sign(&written("m"), SIGNATURE)).unwrap();
        let tree = format!("tree {ID}\n");
        let author = "author Towpath <towpath@example.org> 1795255200 +0000\n";
        let signature = &good[good.find("gpgsig").unwrap()..good.find("\n\n").unwrap() + 1];
        let replace = |old: &str, new: &str| {
            assert!(good.contains(old), "{old}");
            good.replacen(old, new, 1)
        };
        for (name, bad) in [
            ("two trees", replace(&tree, &tree.repeat(2))),
            ("a tree at the end", replace("\n\n", &format!("\n{tree}\n"))),
            ("no tree", replace(&tree, "")),
            ("a parent before the tree", format!("parent {ID}\n{good}")),
            ("a parent after the author", replace(author, &format!("{author}parent {ID}\n"))),
            ("a parent at the end", replace("\n\n", &format!("\nparent {ID}\n\n"))),
            ("two authors", replace(author, &author.repeat(2))),
            ("an author at the end", replace("\n\n", &format!("\n{author}\n"))),
            ("no author", replace(author, "")),
            ("two signatures", replace(signature, &signature.repeat(2))),
            ("two signatures apart", replace(signature, &format!("{signature}encoding UTF-8\n{signature}"))),
            ("a signature for SHA-256", replace("gpgsig ", "gpgsig-sha256 ")),
            ("two encodings", replace(signature, "encoding a\nencoding b\n")),
            ("an id in capitals", replace("abcdef", "ABCDEF")),
            ("a short id", replace(ID, &ID[1..])),
            ("a zero byte", replace("m\n", "m\0\n")),
            ("a header without a value", replace(signature, "gpgsig\n")),
            ("a line that continues nothing", format!(" x\n{good}")),
            ("a tree of two lines", replace(&tree, &format!("tree {ID}\n {ID}\n"))),
            ("an author of two lines", replace(" +0000\ncommitter", " +0000\n x\ncommitter")),
            ("no time", replace(" 1795255200 +0000", "")),
            ("a time that is none", replace("1795255200", "-1")),
            ("no end of the headers", good[..good.find("\n\n").unwrap() + 1].to_owned()),
            ("nothing", String::new()),
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{name}");
        }
        assert!(read(good.as_bytes()).is_ok());
    }

    #[test]
    fn other_headers_stay_in_what_was_signed() {
        let bytes = String::from_utf8(written("m")).unwrap();
        let bytes = bytes.replacen("\n\n", "\nencoding UTF-8\nmergetag object x\n tag y\nmergetag object z\n\n", 1);
        let signed = sign(bytes.as_bytes(), SIGNATURE);
        assert_eq!(read(&signed).unwrap().signed_payload, bytes.as_bytes());
    }

    #[test]
    fn no_cut_makes_it_panic() {
        let good = sign(&written("subject\n\nbody"), SIGNATURE);
        for end in 0..good.len() {
            // Whether a commit without the end of its message is refused does not matter here.
            let _ = read(&good[..end]);
        }
    }
}
