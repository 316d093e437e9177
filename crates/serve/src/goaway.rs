//! Time for the streams that an HTTP/2 client opened before it saw GOAWAY.
//!
//! hyper says goodbye as RFC 9113 section 6.8 asks: a GOAWAY that still allows every stream, a PING, and when
//! the client has answered that, a GOAWAY that names the last stream it will serve. But clients answer
//! a PING before they send the requests that they have queued, sometimes in the same packet: what
//! comes behind the answer is refused, and lost if the client does not retry. So the answer is kept back
//! for a moment, while what follows it is let through.
//!
//! The answer is known by its payload, which is a constant of h2's (`Ping::SHUTDOWN`) and promised nowhere.
//! Should h2 change it, answers are no longer found, and hyper goes on as it always does: requests behind an
//! answer are refused then, which the test `an_http2_request_right_behind_the_answer_to_goaway_is_served`
//! shows, and clients that have answered are no longer told from mute ones.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{self, Sleep};

/// How long the answer is kept back: a client only has to flush what it has queued.
const MOMENT: Duration = Duration::from_millis(100);

/// The answer, a whole frame: 8 bytes of type PING with flag ACK on stream 0, and the eight bytes that
/// h2 puts into this PING and no other.
const PONG: [u8; 17] = [
    0, 0, 8, 6, 1, 0, 0, 0, 0, // head
    0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54,
];

/// The answer to the PING, and when it may be heard.
pub(crate) struct HeldPong {
    until: Pin<Box<Sleep>>,
    frames: Frames,
}

/// How far into a frame the bytes that were let through reach.
#[derive(Debug, Default)]
struct Frames {
    /// Bytes of a frame's head, of nine.
    head: u8,
    /// The length that the head tells, in its first three bytes.
    length: usize,
    /// Bytes of payload to come.
    payload: usize,
}

impl HeldPong {
    /// Takes the answer out of what was read into `buf` after its first `before` bytes.
    ///
    /// An answer that is split between two reads is not found; then hyper goes on as it always does.
    pub(crate) fn take(buf: &mut ReadBuf<'_>, before: usize) -> Option<Self> {
        let read = &mut buf.filled_mut()[before..];
        let at = read.windows(PONG.len()).position(|bytes| bytes == PONG)?;
        let end = at + PONG.len();
        let mut frames = Frames::default();
        frames.advance(&read[end..]);
        read.copy_within(end.., at);
        buf.set_filled(buf.filled().len() - PONG.len());
        Some(Self { until: Box::pin(time::sleep(MOMENT)), frames })
    }

    /// Notes bytes that were let through.
    pub(crate) fn let_through(&mut self, bytes: &[u8]) {
        self.frames.advance(bytes);
    }

    /// Puts the answer into `buf` when it is time, and between two frames.
    pub(crate) fn poll_release(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<()> {
        if !self.frames.is_between() || buf.remaining() < PONG.len() {
            return Poll::Pending;
        }
        self.until.as_mut().poll(cx).map(|()| buf.put_slice(&PONG))
    }
}

impl fmt::Debug for HeldPong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldPong").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl Frames {
    fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let taken = self.payload.min(bytes.len());
                self.payload -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            if self.head < 3 {
                self.length = self.length << 8 | usize::from(first);
            }
            self.head += 1;
            if self.head == 9 {
                *self = Self { payload: self.length, ..Self::default() };
            }
            bytes = rest;
        }
    }

    fn is_between(&self) -> bool {
        self.head == 0 && self.payload == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: [u8; 12] = [0, 0, 3, 0, 1, 0, 0, 0, 1, b'a', b'b', b'c'];

    #[test]
    fn frames_are_counted_however_the_bytes_are_cut() {
        let bytes = [DATA, DATA, DATA].concat();
        for size in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut seen = 0;
            for chunk in bytes.chunks(size) {
                frames.advance(chunk);
                seen += chunk.len();
                assert_eq!(frames.is_between(), seen % DATA.len() == 0, "{seen} of {size}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_comes_later_and_never_within_a_frame() {
        let mut memory = [0; 64];
        let mut buf = ReadBuf::new(&mut memory);
        buf.put_slice(b"old");
        buf.put_slice(&PONG);
        buf.put_slice(&DATA[..5]);
        let mut held = HeldPong::take(&mut buf, 3).unwrap();
        assert_eq!(buf.filled(), [b"old", &DATA[..5]].concat());

        let mut cx = Context::from_waker(std::task::Waker::noop());
        time::advance(2 * MOMENT).await;
        assert!(held.poll_release(&mut cx, &mut buf).is_pending(), "within a frame");
        held.let_through(&DATA[5..]);
        assert!(held.poll_release(&mut cx, &mut buf).is_ready());
        assert!(buf.filled().ends_with(&PONG));
    }
}
