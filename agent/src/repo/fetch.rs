//! One request for a pack, and its answer, in protocol version 2 and 0.
//!
//! Everything that is present here is named at once and followed by `done`, so a fetch is one request without a round
//! of negotiation. A mirror knows few branches, and what the server sends too much is small.

use std::io::{Read, Write};

use towpath_core::fault::Problem;
use towpath_core::revision::CommitId;

use super::ls_refs::{AGENT, Capabilities, Greeting, write_common};
use super::packet::{
    DELIMITER, FLUSH, Packet, PacketReader, cut_short, garbled, server_said, stream_problem, write_line,
};

/// Bytes of one pack, and with it of one fetch.
pub const MAX_PACK_BYTES: u64 = 1 << 30;

/// What a fetch is to bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needed<'a> {
    /// Commits, each with the ref on which the server has it; or with its own id, where it is asked for by that alone.
    pub wanted: &'a [(String, CommitId)],
    /// What is here with all that it needs.
    pub haves: &'a [CommitId],
    /// How much of it.
    pub holds: Holds,
}

/// What a mirror holds of its commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// All that they need.
    Everything,
    /// The commits alone, without folders and files. Where a server sends more all the same, nobody counts on it.
    Commits,
}

/// The request for some commits.
///
/// # Errors
/// `Passing` when a ref is no longer there or a server gives no commits by their ids, `Setup` when it is too old.
pub(super) fn request(greeting: &Greeting, needed: Needed<'_>) -> Result<Vec<u8>, Problem> {
    let Needed { wanted, haves, holds } = needed;
    // What is sent as a difference to an object that is not in the pack needs that here.
    let options: &[&str] = match holds {
        Holds::Everything => &["thin-pack", "ofs-delta", "no-progress"],
        Holds::Commits => &["ofs-delta", "no-progress"],
    };
    let mut request = Vec::new();
    match greeting {
        Greeting::V2(capabilities) => {
            write_line(&mut request, "command=fetch");
            write_common(&mut request, capabilities);
            request.extend(DELIMITER);
            options.iter().for_each(|option| write_line(&mut request, option));
            let fetch = capabilities.get("fetch").map(String::as_str).unwrap_or_default();
            if holds == Holds::Commits && fetch.split(' ').any(|feature| feature == "filter") {
                write_line(&mut request, "filter tree:0");
            }
            wanted.iter().for_each(|(_, commit)| write_line(&mut request, &format!("want {commit}")));
        }
        Greeting::V0(found) => {
            let options = options_of_version_0(&found.capabilities, options)?;
            let gives_any = ["allow-any-sha1-in-want", "allow-reachable-sha1-in-want", "allow-tip-sha1-in-want"]
                .iter()
                .any(|capability| found.capabilities.contains_key(*capability));
            for (index, (name, commit)) in wanted.iter().enumerate() {
                // Only what a ref stands on may be asked for, and the ref may have moved since it was looked at.
                let stands =
                    if found.refs.values().any(|id| id == commit) { Some(commit) } else { found.refs.get(name) };
                let is_by_id = *name == commit.to_string();
                let stands = match stands {
                    Some(stands) => stands,
                    None if is_by_id && gives_any => commit,
                    None if is_by_id => return Err(server_said(b"it gives only what a branch or a tag stands on")),
                    None => return Err(Problem::passing(format!("{name} is no longer on the git server"))),
                };
                let options = if index == 0 { options.as_str() } else { "" };
                write_line(&mut request, &format!("want {stands}{options}"));
            }
            request.extend(FLUSH);
        }
    }
    haves.iter().for_each(|commit| write_line(&mut request, &format!("have {commit}")));
    write_line(&mut request, "done");
    if let Greeting::V2(_) = greeting {
        request.extend(FLUSH);
    }
    Ok(request)
}

fn options_of_version_0(capabilities: &Capabilities, known: &[&str]) -> Result<String, Problem> {
    if !capabilities.contains_key("side-band-64k") {
        return Err(
            Problem::setup("the git server is too old: it lacks side-band-64k").hint("use git 1.6 or later there")
        );
    }
    let usable = known.iter().filter(|option| capabilities.contains_key(**option)).map(|option| format!(" {option}"));
    Ok(format!(" side-band-64k{} {AGENT}", usable.collect::<String>()))
}

/// Reads the answer to [`request`], and writes the pack in it to `pack`.
///
/// # Errors
/// `Passing` when the answer is cut short, garbled or a refusal, and whatever `pack` reports.
pub(super) fn read_answer<R: Read>(
    greeting: &Greeting,
    packets: &mut PacketReader<R>,
    pack: &mut dyn Write,
) -> Result<(), Problem> {
    match greeting {
        Greeting::V2(_) => loop {
            // Sections before the pack (which commits are common) say nothing that is needed.
            match packets.next()? {
                Packet::Data(line) if line.strip_suffix(b"\n").unwrap_or(line) == b"packfile" => break,
                Packet::Data(_) | Packet::Delimiter => {}
                Packet::Flush | Packet::End => return Err(cut_short()),
            }
        },
        Greeting::V0(_) => {
            let line = packets.line()?.ok_or_else(cut_short)?;
            if line != b"NAK" && !line.starts_with(b"ACK ") {
                return Err(garbled());
            }
        }
    }
    loop {
        match packets.next()? {
            Packet::Data(data) => match data.split_first() {
                Some((1, data)) => pack.write_all(data).map_err(stream_problem)?,
                Some((2, _progress)) => {}
                Some((3, said)) => return Err(server_said(said)),
                // Version 0 says it again for each known commit that it took for granted by an earlier one.
                _ if matches!(greeting, Greeting::V0(_)) && data.starts_with(b"ACK ") => {}
                _ => return Err(garbled()),
            },
            Packet::Flush => return Ok(()),
            Packet::Delimiter => return Err(garbled()),
            Packet::End => return Err(cut_short()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ls_refs::Advertisement;
    use super::super::packet::is_refusal;
    use super::*;

    fn answer(version_2: bool, parts: &[&[u8]]) -> Result<Vec<u8>, Problem> {
        let bytes: Vec<u8> = parts
            .iter()
            .flat_map(|part| {
                if part.is_empty() {
                    b"0000".to_vec()
                } else {
                    [format!("{:04x}", part.len() + 4).as_bytes(), part].concat()
                }
            })
            .collect();
        let greeting = match version_2 {
            true => Greeting::V2(Capabilities::new()),
            false => Greeting::V0(Advertisement::default()),
        };
        let mut pack = Vec::new();
        read_answer(&greeting, &mut PacketReader::new(&bytes[..]), &mut pack).map(|()| pack)
    }

    #[test]
    fn the_pack_is_what_comes_on_the_first_band() {
        assert_eq!(answer(true, &[b"packfile\n", b"\x01PA", b"\x02counting", b"\x01CK", b""]), Ok(b"PACK".to_vec()));
        assert_eq!(answer(false, &[b"NAK\n", b"\x01PACK", b""]), Ok(b"PACK".to_vec()));
        assert_eq!(answer(false, &[b"ACK 00\n", b"\x01PACK", b""]), Ok(b"PACK".to_vec()));
        assert_eq!(answer(false, &[b"ACK 00\n", b"ACK 00\n", b"\x01PACK", b""]), Ok(b"PACK".to_vec()));
    }

    #[test]
    fn an_answer_without_its_end_is_cut_short() {
        let cut: [&[&[u8]]; 4] = [&[], &[b"packfile\n"], &[b"packfile\n", b"\x01PACK"], &[b""]];
        for parts in cut {
            assert_eq!(answer(true, parts), Err(cut_short()));
        }
    }

    #[test]
    fn a_refusal_within_the_answer_is_told() {
        let said = answer(true, &[b"packfile\n", b"\x03out of\x1b memory\n", b""]).unwrap_err();
        assert_eq!(said.message, "the git server refused: out of memory");
        assert!(answer(true, &[b"ERR not our ref"]).unwrap_err().message.contains("not our ref"));
        assert_eq!(answer(false, &[b"PACK"]), Err(garbled()));
        assert_eq!(answer(true, &[b"packfile\n", b"\x04x", b""]), Err(garbled()));
    }

    #[test]
    fn an_old_server_is_asked_only_for_what_it_named() {
        let (old, new) = (CommitId::from_bytes([1; 20]), CommitId::from_bytes([2; 20]));
        let capabilities: Capabilities = [("side-band-64k".to_owned(), String::new())].into();
        let refs = [("refs/heads/develop".to_owned(), new)].into();
        let greeting = Greeting::V0(Advertisement { capabilities, refs, ..Advertisement::default() });
        let request = |name: &str| {
            let needed = Needed { wanted: &[(name.to_owned(), old)], haves: &[], holds: Holds::Everything };
            request(&greeting, needed).map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let text = request("refs/heads/develop").unwrap();
        assert!(text.contains(&format!("want {new} side-band-64k agent=")), "{text}");
        assert!(request("gone").is_err());
        assert!(is_refusal(&request(&old.to_string()).unwrap_err()));
    }

    #[test]
    fn commits_alone_are_asked_for_where_the_server_can_leave_out_the_rest() {
        let commit = CommitId::from_bytes([1; 20]);
        let text = |features: &str, holds| {
            let capabilities: Capabilities = [("fetch".to_owned(), features.to_owned())].into();
            let needed = Needed { wanted: &[("refs/heads/a".into(), commit)], haves: &[], holds };
            String::from_utf8(request(&Greeting::V2(capabilities), needed).unwrap()).unwrap()
        };
        assert!(text("shallow filter", Holds::Commits).contains("0012filter tree:0\n"));
        assert!(!text("shallow filter", Holds::Everything).contains("filter"));
        for features in ["", "shallow", "shallow sparse-filters"] {
            let text = text(features, Holds::Commits);
            assert!(!text.contains("filter") && !text.contains("thin-pack"), "{text}");
        }
    }
}
