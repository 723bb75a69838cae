//! One request that moves refs on a server, and its report (gitprotocol-pack, "Pushing Data To a Server"). There is no
//! version 2 of this half: a server begins with its refs, in version 0 or 1.

use std::collections::BTreeMap;
use std::io::Read;

use towpath_core::fault::Problem;

use super::ls_refs::{AGENT, Advertisement, Capabilities};
use super::packet::{FLUSH, Packet, PacketReader, cut_short, garbled, server_said, write_line};
use super::push::Update;

/// Bytes of a report, and of the words that come with it.
pub const MAX_REPORT_BYTES: u64 = 4 << 20;
/// Bytes of the words that a server's hooks say and that are read.
const MAX_WORDS_BYTES: usize = 8 << 10;

/// How the server judged a push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Why the pack could not be stored, if it could not.
    pub unpack_failed: Option<String>,
    /// What became of each ref: why it was not moved, or nothing.
    pub refs: BTreeMap<String, Option<String>>,
    /// What the server or its hooks said to people.
    pub words: String,
}

/// What came of asking a server to move refs.
pub(super) enum Sent {
    /// Nothing was asked.
    Nothing,
    /// The server's answer.
    Report(Report),
    /// It was asked, and its answer did not arrive or says nothing.
    Lost(Problem),
}

/// What to ask of a server.
pub(super) struct Wanted<'a> {
    pub updates: Vec<&'a Update>,
    /// All that they need and the server lacks.
    pub pack: Vec<u8>,
}

/// Decides, by what the server has, what to ask, if anything.
pub(super) type Decide<'d, 'a> = dyn FnMut(&Advertisement) -> Result<Option<Wanted<'a>>, Problem> + 'd;

/// The request to move some refs, followed by the pack.
///
/// # Errors
/// `Setup` when the server would not report what it did.
pub(super) fn request(capabilities: &Capabilities, wanted: &Wanted<'_>) -> Result<Vec<u8>, Problem> {
    let Wanted { updates, pack } = wanted;
    if !capabilities.contains_key("report-status") {
        return Err(Problem::setup("the git server is too old: it does not report what became of a push")
            .hint("use git 1.5 or later there"));
    }
    let mut options = String::from(" report-status");
    for option in ["side-band-64k", "ofs-delta"] {
        if capabilities.contains_key(option) {
            options = format!("{options} {option}");
        }
    }
    if capabilities.contains_key("object-format") {
        options += " object-format=sha1";
    }
    if capabilities.contains_key("agent") {
        options = format!("{options} {AGENT}");
    }
    let mut request = Vec::with_capacity(pack.len() + 200 * updates.len());
    for (index, Update { name, old, new }) in updates.iter().enumerate() {
        let old = old.map_or_else(|| "0".repeat(40), |old| old.to_string());
        let options = if index == 0 { format!("\0{options}") } else { String::new() };
        write_line(&mut request, &format!("{old} {new} {name}{options}"));
    }
    request.extend(FLUSH);
    request.extend(pack);
    Ok(request)
}

/// Reads the report on a [`request`].
///
/// # Errors
/// `Passing` when it is cut short, garbled, or the server gave up.
pub(super) fn read_report<R: Read>(
    capabilities: &Capabilities,
    packets: &mut PacketReader<R>,
) -> Result<Report, Problem> {
    if !capabilities.contains_key("side-band-64k") {
        return read_lines(packets);
    }
    let (mut lines, mut words) = (Vec::new(), Vec::new());
    loop {
        match packets.next()? {
            // The stream has an end, so this has one.
            Packet::Data(data) => match data.split_first() {
                Some((1, data)) => lines.extend(data),
                Some((2, data)) => words.extend(data.iter().take(MAX_WORDS_BYTES.saturating_sub(words.len()))),
                Some((3, said)) => return Err(server_said(said)),
                _ => return Err(garbled()),
            },
            Packet::Flush => break,
            Packet::Delimiter => return Err(garbled()),
            Packet::End => return Err(cut_short()),
        }
    }
    let words = String::from_utf8_lossy(&words).into_owned();
    Ok(Report { words, ..read_lines(&mut PacketReader::new(lines.as_slice()))? })
}

fn read_lines<R: Read>(packets: &mut PacketReader<R>) -> Result<Report, Problem> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut report = Report::default();
    let unpacked = packets.line()?.and_then(|line| line.strip_prefix(b"unpack ")).ok_or_else(garbled)?;
    if unpacked != b"ok" {
        report.unpack_failed = Some(text(unpacked));
    }
    while let Some(line) = packets.line()? {
        let line = text(line);
        let (name, why) = match line.split_once(' ') {
            Some(("ok", name)) => (name, None),
            Some(("ng", rest)) => {
                let (name, why) = rest.split_once(' ').unwrap_or((rest, ""));
                (name, Some(why.to_owned()))
            }
            _ => return Err(garbled()),
        };
        report.refs.insert(name.to_owned(), why);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use towpath_core::revision::CommitId;

    use super::*;

    fn capabilities(names: &[&str]) -> Capabilities {
        names.iter().map(|name| ((*name).to_owned(), String::new())).collect()
    }

    fn lines(lines: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        lines.iter().for_each(|line| write_line(&mut bytes, line));
        bytes.extend(FLUSH);
        bytes
    }

    fn on_bands(parts: &[(u8, &[u8])]) -> Vec<u8> {
        let packet =
            |(band, part): &(u8, &[u8])| [format!("{:04x}", part.len() + 5).as_bytes(), &[*band], part].concat();
        [parts.iter().flat_map(packet).collect::<Vec<_>>(), FLUSH.to_vec()].concat()
    }

    fn read(names: &[&str], bytes: &[u8]) -> Result<Report, Problem> {
        read_report(&capabilities(names), &mut PacketReader::new(bytes))
    }

    #[test]
    fn a_request_names_what_the_server_can_do_once() {
        let update = |name: &str, old| Update { name: name.into(), old, new: CommitId::from_bytes([2; 20]) };
        let updates = [update("refs/x/a", None), update("refs/x/b", Some(CommitId::from_bytes([1; 20])))];
        let wanted = Wanted { updates: updates.iter().collect(), pack: b"PACK".to_vec() };
        let names = ["report-status", "side-band-64k", "atomic", "agent"];
        let bytes = String::from_utf8(request(&capabilities(&names), &wanted).unwrap()).unwrap();
        let (zero, one, two) = ("0".repeat(40), "01".repeat(20), "02".repeat(20));
        let first = format!("{zero} {two} refs/x/a\0 report-status side-band-64k {AGENT}\n");
        assert!(bytes[4..].starts_with(&first), "{bytes:?}");
        assert!(bytes.ends_with(&format!("{one} {two} refs/x/b\n0000PACK")), "{bytes:?}");
        assert!(request(&capabilities(&["side-band-64k"]), &wanted).is_err());
    }

    #[test]
    fn a_report_says_what_became_of_each_ref() {
        let report = lines(&["unpack ok", "ok refs/x/a", "ng refs/x/b hook declined"]);
        let expected = [("refs/x/a".to_owned(), None), ("refs/x/b".to_owned(), Some("hook declined".to_owned()))];
        let found = read(&["report-status"], &report).unwrap();
        assert_eq!(found.refs, expected.into());
        let (start, end) = report.split_at(10);
        let on_bands = on_bands(&[(2, b"counting"), (1, start), (1, b""), (2, b" no\n"), (1, end)]);
        let found_on_bands = read(&["report-status", "side-band-64k"], &on_bands).unwrap();
        assert_eq!((found_on_bands.refs, found_on_bands.words.as_str()), (found.refs, "counting no\n"));
        let failed = read(&[], &lines(&["unpack index-pack abnormal exit", "ng refs/x/a unpacker error"])).unwrap();
        assert_eq!(failed.unpack_failed.as_deref(), Some("index-pack abnormal exit"));
    }

    #[test]
    fn a_cut_or_garbled_report_is_never_a_good_one() {
        let report = lines(&["unpack ok", "ok refs/x/a"]);
        let whole = on_bands(&[(1, &report)]);
        assert!(read(&["side-band-64k"], &whole).is_ok());
        for end in 0..whole.len() {
            assert!(read(&["side-band-64k"], &whole[..end]).is_err(), "{end}");
        }
        for end in 0..report.len() {
            assert!(read(&[], &report[..end]).is_err(), "{end}");
            assert!(read(&["side-band-64k"], &on_bands(&[(1, &report[..end])])).is_err(), "{end}");
        }
        for bad in
            [lines(&["ok refs/x/a"]), lines(&["unpack ok", "so refs/x/a"]), lines(&["unpack ok", ""]), lines(&[])]
        {
            assert!(read(&[], &bad).is_err());
        }
        assert!(read(&["side-band-64k"], &on_bands(&[(1, &report), (3, b"disk full")])).is_err());
        assert!(read(&["side-band-64k"], &on_bands(&[(4, &report)])).is_err());
    }

    #[test]
    fn what_hooks_say_without_end_is_not_kept() {
        let words = vec![b'x'; 60_000];
        let report = lines(&["unpack ok", "ok refs/x/a"]);
        let found = read(&["side-band-64k"], &on_bands(&[(2, &words), (2, &words), (1, &report)])).unwrap();
        assert_eq!(found.words.len(), MAX_WORDS_BYTES);
    }
}
