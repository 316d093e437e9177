//! One connection: hyper's future for it, its limits, and its part in the drain.

use std::future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time;
use tower_service::Service;

use crate::activity::{Activity, Finding, Limits, Waiting};
use crate::handler::Handler;
use crate::socket::{Socket, Stream};
use crate::{BoxError, Peer};

/// How long a client without requests in flight may take to answer a GOAWAY.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the server wants of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Requests. Exits: `LastResponses`, `Cut`.
    Serving,
    /// HTTP/1: each further response is the connection's last. HTTP/2: GOAWAY. Exits: `NoIdle`, `Cut`.
    LastResponses,
    /// What has no request in flight closes too. Exit: `Cut`.
    NoIdle,
    /// Drop everything. No exit.
    Cut,
}

/// How connections are served: one for the whole server.
#[derive(Debug)]
pub(crate) struct Protocol {
    builder: auto::Builder<TokioExecutor>,
    limits: Limits,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) place: OwnedSemaphorePermit,
}

// === impl Protocol ===

impl Protocol {
    pub(crate) fn new(limits: Limits, keeps_alive: bool) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // The limit for heads is in `activity`, which also says why.
        builder.http1().keep_alive(keeps_alive).header_read_timeout(None);
        Self { builder, limits }
    }

    /// Serves a connection until it is closed, or is upgraded, or is cut.
    pub(crate) async fn serve<S, B>(&self, accepted: Accepted, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let Accepted { stream, peer, mut phase, place } = accepted;
        let activity = Activity::new();
        let socket = Socket::new(stream, Arc::clone(&activity), phase.clone(), place);
        let handler = Handler::new(service, peer, Arc::clone(&activity));
        let io = TokioIo::new(socket);
        let mut connection = pin!(self.builder.serve_connection_with_upgrades(io, handler));
        let mut look = pin!(time::sleep(self.limits.keepalive.min(self.limits.header_read)));
        loop {
            tokio::select! {
                // The phase comes first: a request that the same turn reads must know of it.
                biased;
                changed = phase.changed() => {
                    let now = *phase.borrow_and_update();
                    // Without a server there is nobody to serve for.
                    if changed.is_err() || now == Phase::Cut {
                        return;
                    }
                    activity.ask_for_last_response();
                    if now == Phase::NoIdle {
                        // What has arrived already is a request, not idleness.
                        let polled = future::poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx)));
                        if polled.await.is_ready() {
                            return;
                        }
                    }
                    let close = match activity.waiting() {
                        // Its 101 is on the way out; then the socket is no longer ours.
                        _ if activity.is_upgraded() => false,
                        // hyper would close it with half a request read; its response will close it.
                        Some(Waiting::Speaking) => false,
                        _ => now == Phase::NoIdle,
                    };
                    if close {
                        break;
                    }
                }
                ended = future::poll_fn(|cx| match connection.as_mut().poll(cx) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended)),
                    // Also when it turns out to be HTTP/2 only after the phase has come.
                    Poll::Pending if activity.wants_goaway() => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }) => match ended {
                    Some(ended) => return note_end(peer, ended),
                    None => break,
                },
                () = look.as_mut() => match activity.look(&self.limits) {
                    Finding::Fine(next) => look.as_mut().reset(next),
                    Finding::Idle => break,
                    Finding::Slow => {
                        tracing::debug!(%peer, "the client was too slow with its request");
                        return;
                    }
                },
            }
        }

        activity.note_going_away();
        connection.as_mut().graceful_shutdown();
        loop {
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Cut) => return,
                ended = connection.as_mut() => return note_end(peer, ended),
                () = time::sleep(FAREWELL) => {
                    if activity.waiting().is_some() {
                        return;
                    }
                }
            }
        }
    }
}

fn note_end(peer: Peer, ended: Result<(), BoxError>) {
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "the connection failed");
    }
}
