//! One connection: hyper's future for it, its limits, and its part in the drain.

use std::future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{self, Instant};

use crate::activity::{Activity, Finding, Limits, Waiting};
use crate::drain::Phase;
use crate::error::BoxError;
use crate::framing::Framing;
use crate::half_close::HalfClose;
use crate::handler::Handler;
use crate::hook::Hook;
use crate::listener::{Peer, Stream};
use crate::open::{ConnectionEvent, Open};
use crate::places::Place;
use crate::refused::Refused;
use crate::service::HttpService;
use crate::socket::Socket;

/// How long an HTTP/2 client without requests in flight may be silent after its GOAWAY, until it has
/// answered it.
const FAREWELL: Duration = Duration::from_secs(2);

/// How connections are served: one for the whole server.
#[derive(Debug)]
pub(crate) struct Protocol {
    builder: auto::Builder<TokioExecutor>,
    limits: Limits,
    half_close: Duration,
    /// Whether requests that only hyper takes for valid are served.
    tolerant: bool,
    refused: Hook<Refused>,
    events: Hook<ConnectionEvent>,
    /// Connections that were cut with nothing to lose.
    cut_idle: AtomicUsize,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) place: Place,
    /// Its part in the count of what is open.
    pub(crate) counted: OwnedSemaphorePermit,
}

impl Protocol {
    pub(crate) fn new(
        limits: Limits,
        half_close: Duration,
        keeps_alive: bool,
        tolerant: bool,
        refused: Hook<Refused>,
        events: Hook<ConnectionEvent>,
    ) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // The limit for heads is in `activity`, which also says why.
        builder.http1().keep_alive(keeps_alive).header_read_timeout(None);
        Self {
            builder,
            limits,
            half_close,
            tolerant,
            refused,
            events,
            cut_idle: AtomicUsize::new(0),
        }
    }

    /// Serves a connection until it is closed, or is upgraded, or is cut. It wants a task of its own, which
    /// keeps its waker from begin to end.
    pub(crate) async fn serve(&self, accepted: Accepted, service: impl HttpService) {
        let Accepted { stream, peer, mut phase, place, counted } = accepted;
        let Place { permit, holder } = place;
        let activity = Activity::new();
        let task = future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        holder.serves(&activity, task);
        let open = Open::new(self.events.clone(), counted);
        let framing = (!self.tolerant).then(Framing::new);
        let half_close = HalfClose::new(self.half_close);
        let socket = Socket::new(
            stream,
            Arc::clone(&activity),
            phase.clone(),
            permit,
            open,
            framing,
            half_close,
        );
        let invalid = (!self.tolerant).then(|| self.refused.clone());
        let handler =
            Handler::new(service, peer, Arc::clone(&activity), invalid, self.events.clone());
        let io = TokioIo::new(socket);
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(io, handler));
        let mut look = pin!(time::sleep(self.limits.keepalive.min(self.limits.header_read)));
        loop {
            tokio::select! {
                // The phase comes first: a request that the same turn reads must know of it. The look comes
                // last: what has arrived already is a request, not idleness.
                biased;
                changed = phase.changed() => {
                    // Without a server there is nobody to serve for.
                    if changed.is_err() || *phase.borrow_and_update() == Phase::Cut {
                        return self.note_cut(&activity);
                    }
                    activity.note_drain();
                    look.as_mut().reset(Instant::now());
                }
                ended = future::poll_fn(|cx| match poll(connection.as_mut(), &activity, cx) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended)),
                    // Also when it turns out to be HTTP/2 only after the phase has come.
                    Poll::Pending if activity.is_http2() && activity.is_draining() => {
                        Poll::Ready(None)
                    }
                    // What has arrived already is a request, not idleness.
                    Poll::Pending if holder.must_leave() => {
                        tracing::debug!(%peer, "idle for longest, closed for a client that waits");
                        Poll::Ready(None)
                    }
                    Poll::Pending => Poll::Pending,
                }) => match ended {
                    Some(ended) => return self.note_end(peer, &activity, ended),
                    None => break,
                },
                () = look.as_mut() => match activity.look(&self.limits) {
                    Finding::Fine(next) => look.as_mut().reset(next),
                    Finding::Idle => break,
                    Finding::Slow => {
                        activity.note_too_slow();
                        // hyper ends what waits for a next head, and goes on with the rest of a body.
                        connection.as_mut().graceful_shutdown();
                        let polled = future::poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx)));
                        let over = polled.await.is_ready() || !activity.has_served();
                        if over || activity.is_closing() {
                            Refused::timeout(peer).tell(&self.refused);
                        }
                        if over {
                            return;
                        }
                        break;
                    }
                },
            }
        }

        // Nobody asks for its place again, however long it takes.
        drop(holder);
        activity.note_going_away();
        connection.as_mut().graceful_shutdown();
        loop {
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Cut) => {
                    return self.note_cut(&activity);
                }
                ended = future::poll_fn(|cx| poll(connection.as_mut(), &activity, cx)) => {
                    return self.note_end(peer, &activity, ended);
                }
                () = time::sleep(FAREWELL) => {
                    if activity.ignores_goaway() {
                        return;
                    }
                }
            }
        }
    }

    /// How many connections were cut with nothing to lose.
    pub(crate) fn cut_idle(&self) -> usize {
        self.cut_idle.load(Relaxed)
    }

    fn note_cut(&self, activity: &Activity) {
        let waits = matches!(activity.waiting(), Some(Waiting::Silent | Waiting::Idle));
        if waits || activity.is_closing() {
            self.cut_idle.fetch_add(1, Relaxed);
        }
    }

    fn note_end(&self, peer: Peer, activity: &Activity, ended: Result<(), BoxError>) {
        let Err(error) = ended else { return };
        match Refused::from_end(peer, &error, activity.refused_with()) {
            Some(refused) => refused.tell(&self.refused),
            None => tracing::debug!(%peer, error, "the connection failed"),
        }
    }
}

/// Polls hyper's future, once more if it can hear now of an end that was held back before.
fn poll<F: Future>(
    mut connection: Pin<&mut F>,
    activity: &Activity,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    match connection.as_mut().poll(cx) {
        Poll::Pending if activity.is_half_closed() => connection.poll(cx),
        polled => polled,
    }
}
