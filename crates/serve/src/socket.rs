//! The socket of a connection, from its accept to its close.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::activity::Activity;
use crate::connection::Phase;
use crate::goaway::HeldPong;

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream that notes what is heard and that holds its place among the server's connections until it is
/// closed, whoever owns it then: after an upgrade that is not the server.
pub(crate) struct Socket {
    stream: Stream,
    activity: Arc<Activity>,
    phase: watch::Receiver<Phase>,
    /// Made at the first read after an upgrade: nobody else can end the task that reads then.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pong: Option<HeldPong>,
    _place: OwnedSemaphorePermit,
}

// === impl Stream ===

macro_rules! with_stream {
    ($stream:expr, $name:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($name) => $call,
            Stream::Unix($name) => $call,
        }
    };
}

// === impl Socket ===

impl Socket {
    pub(crate) fn new(
        stream: Stream,
        activity: Arc<Activity>,
        phase: watch::Receiver<Phase>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { stream, activity, phase, cut: None, pong: None, _place: place }
    }

    /// An error once an upgraded connection is cut; a reader is woken by it.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let cut = self.cut.get_or_insert_with(|| {
            let mut phase = self.phase.clone();
            Box::pin(async move {
                // An error says that the server is gone, which cuts as well.
                let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
            })
        });
        match cut.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // A finished future must not be polled again, and the next read must fail too.
                self.cut = None;
                Err(cut_off())
            }
        }
    }

    fn check_cut(&self) -> io::Result<()> {
        if self.activity.is_upgraded() && *self.phase.borrow() == Phase::Cut {
            return Err(cut_off());
        }
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.activity.is_upgraded() {
            this.poll_cut(cx)?;
        }
        loop {
            if let Some(pong) = &mut this.pong {
                if pong.poll_release(cx, buf).is_ready() {
                    this.pong = None;
                    return Poll::Ready(Ok(()));
                }
            }
            let before = buf.filled().len();
            ready!(with_stream!(&mut this.stream, stream => Pin::new(stream).poll_read(cx, buf)))?;
            let read = &buf.filled()[before..];
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.activity.heard(read);
            if let Some(pong) = &mut this.pong {
                pong.let_through(read);
            } else if this.activity.is_going_away() {
                this.pong = HeldPong::take(buf, before);
            }
            // Nothing read would mean the end of the stream; it was only the PONG.
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let wrote = with_stream!(&mut self.stream, stream => Pin::new(stream).poll_write(cx, buf));
        self.activity.wrote(wrote.is_pending());
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_cut()?;
        let wrote = with_stream!(&mut self.stream, stream => {
            Pin::new(stream).poll_write_vectored(cx, bufs)
        });
        self.activity.wrote(wrote.is_pending());
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        with_stream!(&self.stream, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(&mut self.stream, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(&mut self.stream, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("stream", &self.stream).finish_non_exhaustive()
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the server stopped")
}
