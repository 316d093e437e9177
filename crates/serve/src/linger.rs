//! The time between the last byte to a client and the close of its socket.
//!
//! A socket that is closed while the client still sends is *reset*: the client's next write fails, and what
//! it has not yet read may be lost (RFC 9112 section 9.6). HTTP/2 clients always send, if only window
//! updates for what they read; HTTP/1 clients do when nobody has read the rest of their request. So what
//! they send is read and thrown away for a while.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{self, Instant, Sleep};

/// How long the client may be silent. It only has to see the end, which closes its own side.
const QUIET: Duration = Duration::from_secs(2);

/// How long it may go on at most.
const LONGEST: Duration = Duration::from_secs(30);

pub(crate) struct Linger {
    /// Whether more is to be expected of the client.
    more: bool,
    end: Instant,
    quiet: Pin<Box<Sleep>>,
}

// === impl Linger ===

impl Linger {
    /// `more` says whether to wait even if nothing has come by now.
    pub(crate) fn new(more: bool) -> Self {
        Self { more, end: Instant::now() + LONGEST, quiet: Box::pin(time::sleep(QUIET)) }
    }

    /// Waits until the client has closed its side, or has had its time.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut impl AsyncRead>,
    ) -> Poll<()> {
        let mut wasted = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut wasted);
            match stream.as_mut().poll_read(cx, &mut buf) {
                Poll::Pending if self.more => return self.quiet.as_mut().poll(cx),
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.more = true;
                    let quiet = self.end.min(Instant::now() + QUIET);
                    self.quiet.as_mut().reset(quiet);
                }
                // Nothing to lose, or the end, or nobody is left to be kind to.
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl fmt::Debug for Linger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linger").field("end", &self.end).finish_non_exhaustive()
    }
}
