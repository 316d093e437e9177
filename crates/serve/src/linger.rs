//! The time between the last byte to a client and the close of its socket.
//!
//! A socket that is closed while the client still sends is *reset*: the client's next write fails, and what
//! it has not yet read may be lost (RFC 9112 section 9.6). HTTP/2 clients always send, if only window
//! updates for what they read; HTTP/1 clients do when nobody has read the rest of their request, or when they
//! ask again before they have read. So what they send is read and thrown away for a while.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{self, Sleep};

/// How long at most. The client only has to see the end, which closes its own side; one that goes on all the same
/// would be here for ever.
pub(crate) const LONGEST: Duration = Duration::from_secs(2);

pub(crate) struct Linger {
    /// Whether more is to be expected of the client.
    more: bool,
    end: Pin<Box<Sleep>>,
}

impl Linger {
    /// `more` says whether to wait even if nothing has come by now.
    pub(crate) fn new(more: bool) -> Self {
        Self { more, end: Box::pin(time::sleep(LONGEST)) }
    }

    /// Waits until the client has closed its side, or has had its time.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut stream: Pin<&mut impl AsyncRead>,
    ) -> Poll<()> {
        let mut wasted = [0; 4096];
        while self.end.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut wasted);
            match stream.as_mut().poll_read(cx, &mut buf) {
                Poll::Pending if self.more => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.more = true,
                // Nothing to lose, or the end, or nobody is left to be kind to.
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl fmt::Debug for Linger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linger").field("more", &self.more).finish_non_exhaustive()
    }
}
