//! Judges a pack while it streams by, before libgit2 unpacks it: a few kilobytes can stand for gigabytes, and libgit2
//! believes the sizes that it reads.

use std::io::{self, Write};

use flate2::{Decompress, FlushDecompress, Status};
use towpath_core::fault::Problem;

use super::packet::cut_short;

/// Objects of one pack.
pub const MAX_PACK_OBJECTS: u32 = 5_000_000;
/// Bytes of one object that is sent whole. libgit2 does not hold these in memory.
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;
/// Bytes of one object that is sent as a difference. libgit2 holds these in memory.
pub const MAX_DELTA_RESULT_BYTES: u64 = 128 << 20;
/// Bytes of all objects of one pack, unpacked.
pub const MAX_UNPACKED_BYTES: u64 = 16 << 30;

/// Bytes that the two sizes at the beginning of a difference can have.
const DELTA_SIZES_BYTES: usize = 20;
/// Bits of a size that are believed.
const MAX_SIZE_BITS: u32 = 56;

/// Passes a pack on as long as it stays within the limits.
pub(super) struct PackGuard<W> {
    to: W,
    state: State,
    objects_left: u32,
    unpacked: u64,
    inflate: Decompress,
    scratch: Box<[u8]>,
}

enum State {
    /// `PACK`, the version and the number of objects.
    Start(Vec<u8>),
    /// Type and size, in bytes with a continuation bit.
    Header(Option<Header>),
    /// How far back the base of a difference is, in bytes with a continuation bit.
    Offset(Header),
    /// The id of the base of a difference.
    Base(Header, u8),
    /// The compressed content.
    Content(Content),
    /// The hash of all before it, which libgit2 checks.
    Trailer(u8),
    /// Nothing more may come.
    End,
    /// Something was refused.
    Broken,
}

#[derive(Clone, Copy)]
struct Header {
    kind: u8,
    size: u64,
    bits: u32,
}

struct Content {
    size: u64,
    /// The first bytes of a difference, in which the size of its result stands.
    sizes: Option<Vec<u8>>,
}

impl<W: Write> PackGuard<W> {
    pub(super) fn new(to: W) -> Self {
        PackGuard {
            to,
            state: State::Start(Vec::new()),
            objects_left: 0,
            unpacked: 0,
            inflate: Decompress::new(true),
            scratch: vec![0; 64 << 10].into(),
        }
    }

    /// What the pack was passed on to, now that it is complete.
    ///
    /// # Errors
    /// `Passing` when it is not.
    pub(super) fn finish(self) -> Result<W, Problem> {
        if matches!(self.state, State::End) { Ok(self.to) } else { Err(cut_short()) }
    }

    /// Judges some of the bytes, at least one, and gives how many.
    fn judge(&mut self, bytes: &[u8]) -> Result<usize, Problem> {
        let byte = bytes[0];
        let goes_on = byte & 0x80 != 0;
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Start(mut start) => {
                start.push(byte);
                self.state = if start.len() < 12 { State::Start(start) } else { self.begin(&start)? };
            }
            State::Header(header) => {
                let header = match header {
                    None => Header { kind: byte >> 4 & 7, size: u64::from(byte & 15), bits: 4 },
                    Some(Header { kind, size, bits }) if bits < MAX_SIZE_BITS => {
                        Header { kind, size: size | u64::from(byte & 0x7f) << bits, bits: bits + 7 }
                    }
                    Some(_) => return Err(damaged()),
                };
                self.state = match header.kind {
                    _ if goes_on => State::Header(Some(header)),
                    1..=4 => self.content(header.size, None)?,
                    6 => State::Offset(header),
                    7 => State::Base(header, 20),
                    _ => return Err(damaged()),
                };
            }
            State::Offset(header) if goes_on => self.state = State::Offset(header),
            State::Offset(header) | State::Base(header, 1) => {
                self.state = self.content(header.size, Some(Vec::new()))?;
            }
            State::Base(header, left) => self.state = State::Base(header, left - 1),
            State::Content(content) => return self.inflate(bytes, content),
            State::Trailer(left) => self.state = if left > 1 { State::Trailer(left - 1) } else { State::End },
            State::End | State::Broken => return Err(damaged()),
        }
        Ok(1)
    }

    fn begin(&mut self, start: &[u8]) -> Result<State, Problem> {
        if !start.starts_with(b"PACK\0\0\0\x02") {
            return Err(damaged());
        }
        self.objects_left = start[8..].iter().fold(0, |count, byte| count << 8 | u32::from(*byte));
        if self.objects_left > MAX_PACK_OBJECTS {
            return Err(too_much("objects", u64::from(self.objects_left), u64::from(MAX_PACK_OBJECTS)));
        }
        Ok(self.next_object())
    }

    fn next_object(&mut self) -> State {
        if self.objects_left == 0 {
            return State::Trailer(20);
        }
        self.objects_left -= 1;
        State::Header(None)
    }

    fn content(&mut self, size: u64, sizes: Option<Vec<u8>>) -> Result<State, Problem> {
        let limit = if sizes.is_some() { MAX_DELTA_RESULT_BYTES } else { MAX_OBJECT_BYTES };
        self.add(size, limit)?;
        self.inflate.reset(true);
        Ok(State::Content(Content { size, sizes }))
    }

    fn add(&mut self, size: u64, limit: u64) -> Result<(), Problem> {
        if size > limit {
            return Err(too_much("bytes in one object", size, limit));
        }
        self.unpacked += size;
        if self.unpacked > MAX_UNPACKED_BYTES {
            return Err(too_much("bytes in all objects", self.unpacked, MAX_UNPACKED_BYTES));
        }
        Ok(())
    }

    fn inflate(&mut self, bytes: &[u8], mut content: Content) -> Result<usize, Problem> {
        let (read_before, written_before) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(bytes, &mut self.scratch, FlushDecompress::None)
            .map_err(|_the_stream_is_broken| damaged())?;
        let read = (self.inflate.total_in() - read_before) as usize;
        let written = (self.inflate.total_out() - written_before) as usize;
        if self.inflate.total_out() > content.size {
            return Err(damaged());
        }
        let is_done = status == Status::StreamEnd;
        if let Some(sizes) = &mut content.sizes {
            let missing = DELTA_SIZES_BYTES - sizes.len();
            sizes.extend(&self.scratch[..written.min(missing)]);
            if is_done || sizes.len() == DELTA_SIZES_BYTES {
                let result = result_size(sizes).ok_or_else(damaged)?;
                self.add(result, MAX_DELTA_RESULT_BYTES)?;
                content.sizes = None;
            }
        }
        if is_done && self.inflate.total_out() != content.size {
            return Err(damaged());
        }
        if !is_done && read == 0 && written == 0 {
            return Err(damaged());
        }
        self.state = if is_done { self.next_object() } else { State::Content(content) };
        Ok(read)
    }
}

impl<W: Write> Write for PackGuard<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let judged = self.judge(rest).map_err(io::Error::other)?;
            rest = &rest[judged..];
        }
        self.to.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The second of the two sizes that a difference begins with: that of its result.
fn result_size(sizes: &[u8]) -> Option<u64> {
    let mut bytes = sizes.iter();
    let mut read = || {
        let (mut size, mut bits) = (0, 0);
        loop {
            let byte = *bytes.next()?;
            if bits > MAX_SIZE_BITS {
                return None;
            }
            size |= u64::from(byte & 0x7f) << bits;
            bits += 7;
            if byte & 0x80 == 0 {
                return Some(size);
            }
        }
    };
    read()?;
    read()
}

fn damaged() -> Problem {
    Problem::passing("the pack that the git server sent is damaged")
}

fn too_much(what: &str, amount: u64, limit: u64) -> Problem {
    Problem::content(format!("the history holds too much: {amount} {what}, more than {limit}"))
        .hint("keep large files out of the deploy repository, also out of its history")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::Compression;
    use flate2::read::ZlibEncoder;
    use towpath_core::fault::Fault;

    use super::*;

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        ZlibEncoder::new(bytes, Compression::fast()).read_to_end(&mut packed).unwrap();
        packed
    }

    fn header(kind: u8, mut size: u64) -> Vec<u8> {
        let mut bytes = vec![kind << 4 | (size & 15) as u8];
        size >>= 4;
        while size > 0 {
            *bytes.last_mut().unwrap() |= 0x80;
            bytes.push((size & 0x7f) as u8);
            size >>= 7;
        }
        bytes
    }

    fn varint(mut size: u64) -> Vec<u8> {
        let mut bytes = vec![(size & 0x7f) as u8];
        size >>= 7;
        while size > 0 {
            *bytes.last_mut().unwrap() |= 0x80;
            bytes.push((size & 0x7f) as u8);
            size >>= 7;
        }
        bytes
    }

    fn blob(content: &[u8]) -> Vec<u8> {
        [header(3, content.len() as u64), zlib(content)].concat()
    }

    /// A difference that claims to become `result` bytes.
    fn delta(result: u64) -> Vec<u8> {
        let content = [varint(1), varint(result), vec![0x90, 1]].concat();
        [header(7, content.len() as u64), vec![7; 20], zlib(&content)].concat()
    }

    fn pack(objects: &[Vec<u8>]) -> Vec<u8> {
        [b"PACK\0\0\0\x02".as_slice(), &(objects.len() as u32).to_be_bytes(), &objects.concat(), &[0; 20]].concat()
    }

    /// Judges a pack in pieces of some size.
    fn judge(pack: &[u8], piece: usize) -> Result<(), Problem> {
        let mut guard = PackGuard::new(Vec::new());
        for piece in pack.chunks(piece) {
            guard.write_all(piece).map_err(super::super::packet::stream_problem)?;
        }
        assert_eq!(guard.finish()?, pack);
        Ok(())
    }

    #[test]
    fn a_good_pack_passes_in_pieces_of_any_size() {
        let objects = [blob(b""), blob(&[b'x'; 200_000]), delta(5), blob(b"end")];
        for piece in [1, 2, 7, 1000, 1 << 20] {
            judge(&pack(&objects), piece).unwrap();
            judge(&pack(&[]), piece).unwrap();
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let pack = pack(&[blob(b"some content"), delta(5)]);
        for end in 0..pack.len() {
            assert!(judge(&pack[..end], 11).is_err(), "{end}");
        }
        assert!(judge(&[&pack[..], b"x"].concat(), 11).is_err());
    }

    #[test]
    fn a_difference_that_grows_to_gigabytes_is_refused_from_its_header() {
        assert_eq!(judge(&pack(&[delta(MAX_DELTA_RESULT_BYTES)]), 64), Ok(()));
        let problem = judge(&pack(&[delta(MAX_DELTA_RESULT_BYTES + 1)]), 64).unwrap_err();
        assert_eq!(problem.fault, Fault::Content, "{problem}");
        let many = vec![delta(MAX_DELTA_RESULT_BYTES); (MAX_UNPACKED_BYTES / MAX_DELTA_RESULT_BYTES) as usize];
        assert_eq!(judge(&pack(&many), 4096).unwrap_err().fault, Fault::Content);
    }

    #[test]
    fn a_size_that_is_a_lie_is_refused() {
        let lie = |size: u64| [header(3, size), zlib(&[0; 1000])].concat();
        assert!(judge(&pack(&[lie(999)]), 64).is_err());
        assert!(judge(&pack(&[lie(1001)]), 64).is_err());
        assert_eq!(judge(&pack(&[lie(MAX_OBJECT_BYTES + 1)]), 64).unwrap_err().fault, Fault::Content);
        let endless = [vec![0xb0], vec![0xff; 30]].concat();
        assert!(judge(&pack(&[endless]), 64).is_err());
    }

    #[test]
    fn too_many_objects_are_refused_before_the_first() {
        let mut start = b"PACK\0\0\0\x02".to_vec();
        start.extend((MAX_PACK_OBJECTS + 1).to_be_bytes());
        assert_eq!(judge(&start, 12).unwrap_err().fault, Fault::Content);
    }

    #[test]
    fn no_byte_makes_it_panic() {
        let good = pack(&[blob(b"some content"), delta(5)]);
        for at in 0..good.len() {
            for value in [0x00, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                // Whether it is refused here or by its hash later does not matter.
                let _ = judge(&bad, 16);
            }
        }
    }

    #[test]
    fn a_damaged_pack_is_fetched_again() {
        let mut pack = pack(&[blob(b"some content that is compressed")]);
        pack[20] ^= 0xff;
        assert_eq!(judge(&pack, 64).unwrap_err().fault, Fault::Passing);
    }
}
