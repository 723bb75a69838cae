//! Packets of git's wire protocol (gitprotocol-common): four hexadecimal digits of length, then that many bytes.
//!
//! What is read here comes from a server that nobody vouches for, so every length is bounded and nothing panics.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read};

use towpath_core::fault::Problem;
use towpath_core::revision::clean_line;

/// Bytes of one packet with its length, as git itself limits it.
pub(super) const MAX_PACKET_BYTES: usize = 65_520;

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// Its bytes.
    Data(&'a [u8]),
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: the end of a section.
    Delimiter,
    /// The stream ended between two packets.
    End,
}

/// Reads packets from a stream.
pub(super) struct PacketReader<R> {
    from: R,
    buffer: Vec<u8>,
}

impl<R: Read> PacketReader<R> {
    pub(super) fn new(from: R) -> Self {
        PacketReader { from, buffer: Vec::new() }
    }

    /// The next packet. `ERR` packets are given as the problem that they report.
    ///
    /// # Errors
    /// What the stream reports; `Passing` when it ends within a packet or is no sequence of packets.
    pub(super) fn next(&mut self) -> Result<Packet<'_>, Problem> {
        let mut length = [0; 4];
        match self.from.read(&mut length[..1]).map_err(stream_problem)? {
            0 => return Ok(Packet::End),
            _ => self.from.read_exact(&mut length[1..]).map_err(stream_problem)?,
        }
        let length = match read_length(length) {
            Some(0) => return Ok(Packet::Flush),
            Some(1) => return Ok(Packet::Delimiter),
            Some(length @ 4..=MAX_PACKET_BYTES) => length,
            _ => return Err(garbled()),
        };
        self.buffer.resize(length - 4, 0);
        self.from.read_exact(&mut self.buffer).map_err(stream_problem)?;
        match self.buffer.strip_prefix(b"ERR ") {
            Some(said) => Err(server_said(said)),
            None => Ok(Packet::Data(&self.buffer)),
        }
    }

    /// The next packet as a line, without its line end. `None` at the end of a message.
    ///
    /// # Errors
    /// As [`PacketReader::next`], and when the stream ends.
    pub(super) fn line(&mut self) -> Result<Option<&[u8]>, Problem> {
        match self.next()? {
            Packet::Data(line) => Ok(Some(line.strip_suffix(b"\n").unwrap_or(line))),
            Packet::Flush | Packet::Delimiter => Ok(None),
            Packet::End => Err(cut_short()),
        }
    }

    /// Reads what little may follow a message, so that the connection can be used again.
    pub(super) fn drain(mut self) {
        // Whatever goes wrong here, the answer is complete.
        let _ = io::copy(&mut self.from.by_ref().take(MAX_PACKET_BYTES as u64), &mut io::sink());
    }
}

fn read_length(digits: [u8; 4]) -> Option<usize> {
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
}

/// Appends a line as a packet.
pub(super) fn write_line(to: &mut Vec<u8>, line: &str) {
    let mut length = String::with_capacity(4);
    write!(length, "{:04x}", line.len() + 5).expect("a string takes everything");
    to.extend([length.as_bytes(), line.as_bytes(), b"\n"].concat());
}

/// The end of a message.
pub(super) const FLUSH: &[u8] = b"0000";
/// The end of a section.
pub(super) const DELIMITER: &[u8] = b"0001";

/// The problem of a stream that failed. Streams of this door carry a [`Problem`] in their errors.
pub(super) fn stream_problem(error: io::Error) -> Problem {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Problem>()) {
        Some(problem) => problem.clone(),
        None if error.kind() == ErrorKind::UnexpectedEof => cut_short(),
        None => {
            Problem::passing(format!("the connection to the git server broke: {}", clean_line(&error.to_string(), 200)))
        }
    }
}

/// The problem of an answer that ends too early.
pub(super) fn cut_short() -> Problem {
    Problem::passing("the answer of the git server was cut short")
}

/// The problem of an answer that is not in git's protocol.
pub(super) fn garbled() -> Problem {
    Problem::passing("the answer of the git server is not in git's protocol")
}

/// How the problem begins that a server reports.
const REFUSED: &str = "the git server refused: ";

/// The problem that a server reports in its own words.
pub(super) fn server_said(said: &[u8]) -> Problem {
    let said = clean_line(String::from_utf8_lossy(said).trim(), 200);
    Problem::passing(format!("{REFUSED}{said}"))
}

/// Whether a problem is one that a server reported.
pub(super) fn is_refusal(problem: &Problem) -> bool {
    problem.message.starts_with(REFUSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> PacketReader<&[u8]> {
        PacketReader::new(bytes)
    }

    #[test]
    fn packets_are_read_one_after_the_other() {
        let mut packets = reader(b"0006a\n0000000100050");
        assert_eq!(packets.line(), Ok(Some(&b"a"[..])));
        assert_eq!(packets.next(), Ok(Packet::Flush));
        assert_eq!(packets.next(), Ok(Packet::Delimiter));
        assert_eq!(packets.next(), Ok(Packet::Data(b"0")));
        assert_eq!(packets.next(), Ok(Packet::End));
    }

    #[test]
    fn what_is_no_packet_is_a_problem_and_no_panic() {
        for bytes in ["0", "000", "0006a", "00zz", "0002", "0003", "-001a", "+005a", " 005a", "fff1", "ffff", "<htm"] {
            assert!(reader(bytes.as_bytes()).next().is_err(), "{bytes}");
        }
    }

    #[test]
    fn the_longest_packet_is_read_and_a_longer_one_is_not() {
        let longest = [b"fff0".to_vec(), vec![b'x'; MAX_PACKET_BYTES - 4]].concat();
        assert!(matches!(reader(&longest).next(), Ok(Packet::Data(data)) if data.len() == MAX_PACKET_BYTES - 4));
        let longer = [b"fff1".to_vec(), vec![b'x'; MAX_PACKET_BYTES - 3]].concat();
        assert_eq!(reader(&longer).next(), Err(garbled()));
    }

    #[test]
    fn what_the_server_reports_is_cleaned() {
        let mut line = Vec::new();
        write_line(&mut line, "ERR access\u{1b}[31m denied");
        assert_eq!(reader(&line).next().unwrap_err().message, "the git server refused: access[31m denied");
    }
}
