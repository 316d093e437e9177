//! The socket of a connection, from its accept to its close.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::activity::Activity;
use crate::drain::Phase;
use crate::framing::{Framing, Unclear};
use crate::goaway::HeldPong;
use crate::half_close::HalfClose;
use crate::linger::Linger;
use crate::listener::Stream;
use crate::open::Open;

/// A stream that notes what is heard and that holds its place among the server's connections until its last byte
/// is written, whoever owns it then: after an upgrade that is not the server.
pub(crate) struct Socket {
    stream: Stream,
    activity: Arc<Activity>,
    reader: Cut,
    writer: Cut,
    pong: Option<HeldPong>,
    /// `None` where requests may be as ambiguous as they like.
    framing: Option<Framing>,
    /// Behind what was read last no request can be told from a body.
    unclear: Option<Unclear>,
    half_close: HalfClose,
    /// Once all is said.
    linger: Option<Linger>,
    /// Given back with the last byte.
    place: Option<OwnedSemaphorePermit>,
    _open: Open,
}

/// The end of an upgraded connection, as the task that reads or the one that writes waits for it: nobody
/// else can end them.
struct Cut {
    phase: watch::Receiver<Phase>,
    /// Made when there is something to wait for.
    reached: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

macro_rules! with_stream {
    ($stream:expr, $name:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($name) => $call,
            Stream::Unix($name) => $call,
        }
    };
}

impl Socket {
    pub(crate) fn new(
        stream: Stream,
        activity: Arc<Activity>,
        phase: watch::Receiver<Phase>,
        place: OwnedSemaphorePermit,
        open: Open,
        framing: Option<Framing>,
        half_close: HalfClose,
    ) -> Self {
        let (reader, writer) = (Cut::new(phase.clone()), Cut::new(phase));
        Self {
            stream,
            activity,
            reader,
            writer,
            pong: None,
            framing,
            unclear: None,
            half_close,
            linger: None,
            place: Some(place),
            _open: open,
        }
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        write: impl FnOnce(&mut Stream, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.activity.is_upgraded() {
            self.writer.poll(cx)?;
        }
        self.activity.says(bytes);
        let wrote = write(&mut self.stream, cx);
        self.activity.wrote(&wrote);
        wrote
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
            this.reader.poll(cx)?;
        }
        loop {
            if let Some(unclear) = this.unclear {
                return Poll::Ready(Err(unclear.into()));
            }
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
                // The rest of a body never comes, and who reads it may know at once.
                if this.framing.as_ref().is_some_and(Framing::is_in_body) {
                    return Poll::Ready(Ok(()));
                }
                let is_reset = || {
                    let error = with_stream!(&this.stream, stream => stream.take_error());
                    !matches!(error, Ok(None))
                };
                return this.half_close.poll(cx, &this.activity, is_reset).map(Ok);
            }
            this.activity.heard(read);
            if this.activity.is_http2() || this.activity.is_upgraded() {
                this.framing = None;
            }
            match this.framing.as_mut().map(|framing| framing.is_ambiguous(read)) {
                None | Some(Ok(false)) => {}
                Some(Ok(true)) => this.activity.note_ambiguous(),
                Some(Err(unclear)) => {
                    // What comes before is read first: a request that has begun is answered, and its body fails.
                    this.unclear = Some(unclear);
                    buf.set_filled(before + unclear.clear);
                    if unclear.clear > 0 {
                        return Poll::Ready(Ok(()));
                    }
                    continue;
                }
            }
            if let Some(pong) = &mut this.pong {
                pong.let_through(read);
            } else if this.activity.is_going_away() {
                this.pong = HeldPong::take(buf, before);
                if this.pong.is_some() {
                    this.activity.note_answer();
                }
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
        self.poll_write_with(
            cx,
            buf,
            |stream, cx| with_stream!(stream, stream => Pin::new(stream).poll_write(cx, buf)),
        )
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.first().map_or(&[][..], |first| first);
        self.poll_write_with(cx, first, |stream, cx| {
            with_stream!(stream, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
        })
    }

    fn is_write_vectored(&self) -> bool {
        with_stream!(&self.stream, stream => stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(&mut self.stream, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(with_stream!(&mut this.stream, stream => Pin::new(stream).poll_shutdown(cx)))?;
        }
        if this.activity.is_upgraded() {
            return Poll::Ready(Ok(()));
        }
        this.activity.note_closing();
        // From here on there is nothing to serve.
        this.place = None;
        if this.activity.is_too_slow() {
            // No answer is on its way that a reset would destroy.
            return Poll::Ready(Ok(()));
        }
        let more = || this.activity.may_say_more() || this.activity.may_be_unsent();
        let linger = this.linger.get_or_insert_with(|| Linger::new(more()));
        with_stream!(&mut this.stream, stream => linger.poll(cx, Pin::new(stream))).map(Ok)
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Cut {
    fn new(phase: watch::Receiver<Phase>) -> Self {
        Self { phase, reached: None }
    }

    /// An error once the connection is cut, of which the task is woken.
    fn poll(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let reached = self.reached.get_or_insert_with(|| {
            let mut phase = self.phase.clone();
            Box::pin(async move {
                // An error says that the server is gone, which cuts as well.
                let _ = phase.wait_for(|phase| *phase == Phase::Cut).await;
            })
        });
        if reached.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        // A finished future must not be polled again, and whoever asks again must fail too.
        self.reached = None;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server stopped"))
    }
}
