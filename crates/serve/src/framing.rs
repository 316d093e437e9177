//! Follows an HTTP/1 connection from head to head, to see what hyper hides: a head with both Content-Length and
//! Transfer-Encoding.
//!
//! hyper lets Transfer-Encoding win and drops the other, as RFC 9112 section 6.3 permits. A proxy in front for
//! which Content-Length wins sees another request begin (request smuggling). What is no HTTP/1 is hyper's to
//! refuse: from there on it does not matter what is seen here.

use std::io;

use memchr::memchr;

/// Of a line only its first bytes matter: the longest name, and a length with some space before it.
const KEPT: usize = 64;

const LENGTH: &[u8] = b"content-length:";
const CODING: &[u8] = b"transfer-encoding:";

/// Where the next head begins cannot be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unclear {
    why: &'static str,
    /// How many of the bytes come before the line that is unclear; zero if it began before them.
    pub(crate) clear: usize,
}

/// Where in its messages a connection is.
#[derive(Debug)]
pub(crate) struct Framing {
    part: Part,
    /// The line that has begun and not ended, as far as it matters.
    line: [u8; KEPT],
    /// How long it is so far; it may be more than is kept.
    length: usize,
    /// Its last byte so far.
    last: u8,
}

/// A part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Lines up to an empty one. Exits: `Body`, `ChunkSize` or the next `Head`, at its end.
    Head(Seen),
    /// So many bytes. Exit: `Head`.
    Body(u64),
    /// A line. Exits: `Chunk`, `Trailers` (the size is 0).
    ChunkSize,
    /// So many bytes, its line end included. Exit: `ChunkSize`.
    Chunk(u64),
    /// Lines up to an empty one. Exit: the next `Head`.
    Trailers,
}

/// What a head has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The request line, before which empty lines are skipped.
    request: bool,
    length: Option<u64>,
    coding: bool,
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self { part: Part::Head(Seen::default()), line: [0; KEPT], length: 0, last: 0 }
    }

    /// Takes the next bytes, and says whether a head that ends in them has both lengths.
    ///
    /// # Errors
    ///
    /// Where the next head begins cannot be told: a number is longer than any that is meant, or a trailer has a
    /// LF alone, where hyper goes on and others see an end.
    pub(crate) fn is_ambiguous(&mut self, all: &[u8]) -> Result<bool, Unclear> {
        let mut bytes = all;
        let mut ambiguous = false;
        while !bytes.is_empty() {
            if let Part::Body(left) | Part::Chunk(left) = &mut self.part {
                let skipped =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                bytes = &bytes[skipped..];
                *left -= skipped as u64;
                if *left == 0 {
                    self.part = match self.part {
                        Part::Chunk(_) => Part::ChunkSize,
                        _ => Part::Head(Seen::default()),
                    };
                }
                continue;
            }
            let Some(end) = memchr(b'\n', bytes) else {
                self.keep(bytes);
                break;
            };
            let clear = all.len() - bytes.len();
            let unclear = |why| Unclear { why, clear };
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.length == 0 {
                ambiguous |= self.end_line(line, line.ends_with(b"\r\n")).map_err(unclear)?;
            } else {
                let crlf = if end == 0 { self.last == b'\r' } else { line.ends_with(b"\r\n") };
                self.keep(line);
                let kept = self.line;
                let kept = &kept[..self.length.min(KEPT)];
                ambiguous |= self.end_line(kept, crlf).map_err(unclear)?;
                self.length = 0;
            }
        }
        Ok(ambiguous)
    }

    /// Whether the bytes so far end inside of a request's body.
    pub(crate) fn is_in_body(&self) -> bool {
        !matches!(self.part, Part::Head(_))
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.line.get_mut(self.length..).unwrap_or_default();
        let taken = room.len().min(bytes.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.length += bytes.len();
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// Takes a whole line, or what is kept of it, and whether CR and LF end it.
    fn end_line(&mut self, line: &[u8], crlf: bool) -> Result<bool, &'static str> {
        let is_empty = matches!(line, b"\n" | b"\r\n");
        let mut ambiguous = false;
        self.part = match self.part {
            Part::Head(mut seen) if !is_empty => {
                seen.take(line)?;
                Part::Head(seen)
            }
            Part::Head(seen) => {
                ambiguous = seen.coding && seen.length.is_some();
                match seen {
                    Seen { coding: true, .. } => Part::ChunkSize,
                    Seen { length: Some(length @ 1..), .. } => Part::Body(length),
                    _ => Part::Head(Seen::default()),
                }
            }
            Part::ChunkSize => match number(line, 16)? {
                0 => Part::Trailers,
                size => Part::Chunk(size.saturating_add(2)),
            },
            Part::Trailers if !crlf => return Err("a trailer with a LF alone"),
            Part::Trailers if is_empty => Part::Head(Seen::default()),
            Part::Trailers | Part::Body(_) | Part::Chunk(_) => self.part,
        };
        Ok(ambiguous)
    }
}

impl From<Unclear> for io::Error {
    fn from(unclear: Unclear) -> Self {
        Self::new(io::ErrorKind::InvalidData, unclear.why)
    }
}

impl Seen {
    fn take(&mut self, line: &[u8]) -> Result<(), &'static str> {
        if !self.request {
            self.request = true;
            return Ok(());
        }
        let value_of = |name: &[u8]| {
            let (start, value) = line.split_at_checked(name.len())?;
            start.eq_ignore_ascii_case(name).then_some(value)
        };
        // The first byte tells most lines apart.
        match line.first() {
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(LENGTH) {
                    let digits = value.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
                    self.length = Some(number(&value[digits.unwrap_or(value.len())..], 10)?);
                }
            }
            Some(b't' | b'T') => self.coding |= value_of(CODING).is_some(),
            _ => {}
        }
        Ok(())
    }
}

/// The number that a line begins with; one that is too large for this is refused by hyper.
///
/// # Errors
///
/// Nothing stands behind it, not even the end of the line: more of it was not kept.
fn number(line: &[u8], radix: u32) -> Result<u64, &'static str> {
    let mut number: u64 = 0;
    for byte in line {
        let Some(digit) = char::from(*byte).to_digit(radix) else {
            return Ok(number);
        };
        number = number.saturating_mul(radix.into()).saturating_add(digit.into());
    }
    Err("a number without end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each is, whole messages: some look like another in their bodies.
    const PLAIN: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\nGET / HTTP/1.1\nHost: a\n\n",
        "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length:   62\r\nA: b\r\n\r\n\
         POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: a\r\n\r\n\r\n",
        "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
         3E;a=b\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: a\r\n\r\n\r\n\
         \r\n1\r\n\n\r\n000\r\nContent-Length: 5\r\nTransfer-Encoding: a\r\n\r\n",
        "GET / HTTP/1.1\r\nX-Content-Length: 5\r\nContent-Length-X: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];

    const AMBIGUOUS: &[&str] = &[
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\nTRANSFER-encoding:chunked\nX: y\ncontent-LENGTH:0\n\n0\r\n\r\n",
    ];

    /// Whether it is seen in `bytes` that come `size` at a time, or something unclear is.
    fn seen(bytes: &str, size: usize) -> bool {
        let mut framing = Framing::new();
        let mut chunks = bytes.as_bytes().chunks(size);
        chunks.any(|bytes| !matches!(framing.is_ambiguous(bytes), Ok(false)))
    }

    /// Behind a line that is longer than what is kept of it, and behind a LF that some take for an end.
    #[test]
    fn no_head_is_hidden_behind_what_is_unclear() {
        let decoy = "GET / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
        for padding in [" ", "\t", "0"].map(|padding| padding.repeat(100)) {
            let length = format!("Content-Length: {padding}{}\r\n\r\n{decoy}", decoy.len());
            let body = format!("POST / HTTP/1.1\r\n{length}{}", AMBIGUOUS[0]);
            let chunk = format!("{}{:x}\r\n{decoy}\r\n0\r\n\r\n", "0".repeat(100), decoy.len());
            let coding = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
            let chunks = format!("{coding}{chunk}{}", AMBIGUOUS[0]);
            let trailer = format!("{coding}0\r\nA: b\n\r\n{}", AMBIGUOUS[0]);
            for bytes in [body, chunks, trailer] {
                for size in 1..=bytes.len() {
                    assert!(seen(&bytes, size), "{size}: {bytes:?}");
                }
            }
        }
    }

    #[test]
    fn both_lengths_are_seen_in_any_message_however_it_is_cut() {
        let plain = PLAIN.concat();
        for size in 1..=plain.len() {
            assert!(!seen(&plain, size), "{size}");
        }
        for ambiguous in AMBIGUOUS {
            for before in 0..=PLAIN.len() {
                let bytes = PLAIN[..before].concat() + ambiguous + PLAIN[0];
                for size in 1..=bytes.len() {
                    assert!(seen(&bytes, size), "{ambiguous:?} after {before}, {size}");
                }
            }
        }
    }

    /// It is hyper that answers those.
    #[test]
    fn what_is_no_number_is_not_unclear() {
        for bytes in [
            "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length:\n\n",
            "POST / HTTP/1.1\r\nContent-Length: five\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n",
        ] {
            for size in 1..=bytes.len() {
                assert!(!seen(bytes, size), "{size}: {bytes:?}");
            }
        }
    }

    #[test]
    fn no_bytes_are_too_strange() {
        for bytes in [
            "\n\n\n",
            "\0\r\u{7f}\n",
            "POST / HTTP/1.1\nTransfer-Encoding: x\n\nzz\nffffffffffffffffffffff\n",
        ] {
            for size in 1..=bytes.len() {
                let _ = seen(bytes, size);
            }
        }
    }
}
