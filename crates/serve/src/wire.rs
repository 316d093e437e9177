//! What a connection's bytes tell before hyper does: which protocol it is, whether a head is complete, and how
//! hyper answered what was no request.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

use http::StatusCode;

/// The first bytes of an HTTP/2 client (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Stands in for the matched bytes of the preface when others came.
const NO_PREFACE: u8 = u8::MAX;

/// How many bytes of HTTP/2's preface have come, or `NO_PREFACE`.
#[derive(Debug, Default)]
pub(crate) struct Preface(AtomicU8);

/// The last four bytes that have come.
#[derive(Debug, Default)]
pub(crate) struct Tail(AtomicU32);

/// The status of a response that begins with `bytes`, if one does.
pub(crate) fn status(bytes: &[u8]) -> Option<StatusCode> {
    let status = bytes.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5))?;
    StatusCode::from_bytes(status).ok()
}

impl Preface {
    /// Notes the next bytes of the connection.
    pub(crate) fn heard(&self, bytes: &[u8]) {
        let matched = self.0.load(Relaxed);
        let Some(missing) = HTTP2_PREFACE.get(usize::from(matched)..) else { return };
        let matched = if bytes.starts_with(missing) {
            HTTP2_PREFACE.len() as u8
        } else if missing.starts_with(bytes) {
            matched + bytes.len() as u8
        } else {
            NO_PREFACE
        };
        self.0.store(matched, Relaxed);
    }

    /// Whether all of it has come.
    pub(crate) fn is_complete(&self) -> bool {
        usize::from(self.0.load(Relaxed)) == HTTP2_PREFACE.len()
    }
}

impl Tail {
    /// Notes the next bytes of the connection.
    pub(crate) fn heard(&self, bytes: &[u8]) {
        let push = |tail, &byte| tail << 8 | u32::from(byte);
        self.0.store(bytes.iter().fold(self.0.load(Relaxed), push), Relaxed);
    }

    /// Whether the last bytes were the end of a head.
    pub(crate) fn is_end_of_head(&self) -> bool {
        let [.., before, last_but_one, last] = self.0.load(Relaxed).to_be_bytes();
        // A bare LF ends a line too (RFC 9112 section 2.2).
        last == b'\n' && (last_but_one == b'\n' || [before, last_but_one] == *b"\n\r")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_matched_however_it_is_cut() {
        let near_miss = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r";
        for size in 1..HTTP2_PREFACE.len() {
            for (bytes, expected) in [(HTTP2_PREFACE, true), (near_miss, false)] {
                let preface = Preface::default();
                for chunk in bytes.chunks(size) {
                    assert!(!preface.is_complete(), "{size}");
                    preface.heard(chunk);
                }
                assert_eq!(preface.is_complete(), expected, "{size}");
            }
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        for (bytes, ends) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], true),
            (b"GET / HTTP/1.1\n\n", true),
            (b"GET / HTTP/1.1\n\r\n", true),
            (b"GET / HTTP/1.1\r\n", false),
            (b"GET / HTTP/1.1\r\n\r", false),
            (b"", false),
        ] {
            for size in 1..=bytes.len().max(1) {
                let tail = Tail::default();
                bytes.chunks(size).for_each(|chunk| tail.heard(chunk));
                assert_eq!(tail.is_end_of_head(), ends, "{bytes:?} by {size}");
            }
        }
    }

    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 400 Bad Request\r\n"), Some(StatusCode::BAD_REQUEST));
        assert_eq!(status(b"HTTP/1.0 414"), Some(StatusCode::URI_TOO_LONG));
        for none in [&b""[..], b"HTTP/1.1 40", b"HTTP/2.0 200 ", b"{\"HTTP/1.1 400\": 1}"] {
            assert_eq!(status(none), None, "{none:?}");
        }
    }
}
