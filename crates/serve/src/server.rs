//! The server: the accept loop and the drain.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task;
use tokio::time::{self, Instant};

use crate::acceptor::{Acceptor, Queue};
use crate::activity::Limits;
use crate::connection::{Accepted, Protocol};
use crate::drain::{Drain, Level, Phase};
use crate::hook::Hook;
use crate::listener::{Listener, Peer, Stream};
use crate::open::ConnectionEvent;
use crate::places::{Place, Places};
use crate::refused::Refused;
use crate::service::HttpService;

/// Stands for "no limit": about a year, since a timer of tokio's cannot sleep for ever.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// More connections than any process can have open, and no more than a semaphore of tokio's counts.
const MOST_OPEN: u32 = 1 << 28;

/// How long [`Server::serve`] waits for connections that it has cut to let go.
pub const CUT_PAUSE: Duration = Duration::from_millis(100);

/// A server: listeners, a service, and limits. [`serve`](Self::serve) runs it.
#[must_use = "a server does nothing until it serves"]
pub struct Server<S> {
    listeners: Vec<Listener>,
    service: S,
    keepalive: Duration,
    half_close_timeout: Duration,
    header_read_timeout: Duration,
    max_connections: usize,
    drain_idle: Duration,
    graceful_timeout: Duration,
    tolerant: bool,
    refused: Hook<Refused>,
    events: Hook<ConnectionEvent>,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that had something to lose when time was over: a request in flight, a part of one, another
    /// protocol. What they had not yet handed to the kernel by then is lost to their clients. Those that only
    /// waited for a request do not count.
    pub cut: usize,
}

impl<S> Server<S> {
    /// A server of `service` on all of `listeners`, with the limits that the setters name.
    pub fn new<L: Into<Listener>>(listeners: impl IntoIterator<Item = L>, service: S) -> Self {
        Self {
            listeners: listeners.into_iter().map(Into::into).collect(),
            service,
            keepalive: Duration::from_secs(5),
            half_close_timeout: Duration::from_millis(100),
            header_read_timeout: Duration::from_secs(10),
            max_connections: 1000,
            drain_idle: Duration::from_secs(2),
            graceful_timeout: Duration::from_secs(30),
            tolerant: false,
            refused: Hook::default(),
            events: Hook::default(),
        }
    }

    /// How long a connection is kept open for a next request; 5 seconds unless set.
    ///
    /// It counts from the last byte of the last response, however slowly the client takes that. Zero answers
    /// each HTTP/1 request with `Connection: close`; HTTP/2 connections then have the header-read timeout.
    /// While a request is in flight the connection is looked at ten times a second at most, so a limit that
    /// is shorter than 100 milliseconds may strike that much later.
    pub fn keepalive(mut self, time: Duration) -> Self {
        self.keepalive = time;
        self
    }

    /// How long a client may take to send a request's head; 10 seconds unless set, zero for no limit.
    ///
    /// It counts from the accept, and on a kept-alive connection from the first byte of the request; idle
    /// time before that is [`keepalive`](Self::keepalive)'s. A client that is too slow is disconnected
    /// without an answer.
    ///
    /// There is no limit for the time of a request's *body*, nor for a client that stops reading its
    /// response: only [`graceful_timeout`](Self::graceful_timeout) ends those. Where clients are not trusted a
    /// proxy in front or a timeout around the service has to. Nor does it limit the heads of HTTP/2, where
    /// one connection carries many: an HTTP/2 client that sends half a head is one that is idle.
    pub fn header_read_timeout(mut self, time: Duration) -> Self {
        self.header_read_timeout = time;
        self
    }

    /// How long a request goes on when its client has closed its sending half; 100 milliseconds unless set.
    ///
    /// A client that has nothing more to say (`printf … | nc`) still waits for its answer; one that has left looks
    /// the same until something is written to it, and its handler must not go on for nobody. So a request of
    /// which nothing is written for this time is dropped; a response that the client is slow to take goes on.
    /// Zero drops it at once. A reset connection is dropped at once, or within 100 milliseconds if the reset
    /// comes behind the end. On HTTP/2 a client that closes its half has left.
    ///
    /// Behind bytes that nobody reads, those of a next request or of a body, neither end nor reset is seen.
    pub fn half_close_timeout(mut self, time: Duration) -> Self {
        self.half_close_timeout = time;
        self
    }

    /// How many connections may be open at once (gunicorn's `worker_connections`); 1,000 unless set, at least one.
    ///
    /// A connection counts until its last byte is written, an upgraded one until it is closed. At the limit the
    /// server stops accepting: what comes then waits in the kernel's queue, where another process that shares
    /// the listener finds it.
    ///
    /// When a newcomer waits at the limit, an idle connection makes room: the one that is idle for longest, if
    /// that is more than a second, which is fixed. It is closed as after [`keepalive`](Self::keepalive),
    /// HTTP/2 with GOAWAY; a next one only if another newcomer waits, or if the place is not free within a
    /// second. Idle is what was kept alive and has sent no byte of a next request, so upgraded connections
    /// stay, and so do those that have not sent anything yet. With none to close, newcomers wait for a place.
    /// That they wait is logged as a warning, once a minute at most. A draining server closes nothing so.
    ///
    /// It counts connections, not requests: an HTTP/2 connection carries as many streams at once as hyper
    /// allows unless told otherwise (200 with hyper 1.12).
    pub fn max_connections(mut self, limit: usize) -> Self {
        self.max_connections = limit;
        self
    }

    /// How long a draining server keeps idle connections for one more request; 2 seconds unless set.
    ///
    /// It should exceed the time that clients pause between two requests. It is also how long connections
    /// are taken from the listeners' queues when [`max_connections`](Self::max_connections) are open.
    /// No longer than [`graceful_timeout`](Self::graceful_timeout), which ends idle connections too.
    pub fn drain_idle(mut self, time: Duration) -> Self {
        self.drain_idle = time;
        self
    }

    /// How long a drain may take at most before what is left is cut; 30 seconds unless set.
    pub fn graceful_timeout(mut self, time: Duration) -> Self {
        self.graceful_timeout = time;
        self
    }

    /// Whether to serve what hyper takes for a request and the standard does not; `false` unless set.
    ///
    /// A proxy in front may read such a request otherwise, and then one client's bytes become another one's
    /// request. So the server refuses, before any service sees it and with 400 unless it says so:
    ///
    /// - HTTP/1.1 without Host, any request with several or a malformed one, and on HTTP/2 one that is not
    ///   `:authority`;
    /// - the target `*` for other methods than OPTIONS, an authority for others than CONNECT, a user name in it;
    /// - Content-Length beside Transfer-Encoding, several lines of that, `chunked` more than once, another coding
    ///   (501).
    ///
    /// In any case the authority of an HTTP/1 request's target, if there is one, becomes its Host.
    pub fn tolerate_invalid_requests(mut self, tolerate: bool) -> Self {
        self.tolerant = tolerate;
        self
    }

    /// Calls `hook` with each request that the server itself refuses, so that no service sees it.
    ///
    /// That is what hyper answers with 400, 414 or 431, a head that does not come within
    /// [`header_read_timeout`](Self::header_read_timeout), which gets no answer, and what
    /// [`tolerate_invalid_requests`](Self::tolerate_invalid_requests) is about. The hook is called when the
    /// connection has ended, or in the last case when the request came, on the runtime: it must not block. A
    /// panic in it is caught and logged.
    ///
    /// What it cannot tell:
    ///
    /// - hyper has one kind of error for all that it cannot parse, so an unsupported version is
    ///   [`Malformed`](crate::RefusedReason::Malformed) like a bad header; [`Refused::detail`] has the words.
    /// - The method and the target are unknown: hyper keeps nothing of a head that it refuses.
    /// - HTTP/2 requests are refused inside h2, which resets their stream and tells nobody.
    /// - A client that leaves before the end of its head, or before it has taken the answer, was not refused.
    ///   Nor was one that sent no byte at all.
    ///
    /// ```
    /// # use farrier_serve::Server;
    /// # fn with_hook<S>(server: Server<S>) -> Server<S> {
    /// server.request_refused(|refused| eprintln!("{refused}"))
    /// # }
    /// ```
    pub fn request_refused(mut self, hook: impl Fn(&Refused) + Send + Sync + 'static) -> Self {
        self.refused = Hook::new(hook);
        self
    }

    /// Calls `hook` when a connection was accepted, with each request on it that the service is given, and when it is
    /// closed: to count what is open and what is served.
    ///
    /// It is called on the runtime: it must not block. A panic in it is caught and logged.
    ///
    /// ```
    /// # use std::sync::{Arc, atomic::{AtomicUsize, Ordering::Relaxed}};
    /// # use farrier_serve::{ConnectionEvent, Server};
    /// # fn with_hook<S>(server: Server<S>, open: Arc<AtomicUsize>) -> Server<S> {
    /// server.on_connection(move |event| match event {
    ///     ConnectionEvent::Opened => drop(open.fetch_add(1, Relaxed)),
    ///     ConnectionEvent::Closed => drop(open.fetch_sub(1, Relaxed)),
    ///     _ => {}
    /// })
    /// # }
    /// ```
    pub fn on_connection(
        mut self,
        hook: impl Fn(&ConnectionEvent) + Send + Sync + 'static,
    ) -> Self {
        self.events = Hook::new(hook);
        self
    }

    /// Serves until `drain` is started and the last connection is gone.
    ///
    /// The drain is *soft*, so that no request is lost of a client that pauses less than
    /// [`drain_idle`](Self::drain_idle), also if it never looks before it writes and never retries:
    ///
    /// 1. The server accepts what is in the listeners' queues at this moment and lets go of the listeners.
    ///    When [`max_connections`](Self::max_connections) are open it goes on for up to `drain_idle`,
    ///    as places become free: if no other process shares the listeners, the kernel resets what is left.
    /// 2. Each further HTTP/1 response carries `Connection: close`; HTTP/2 connections get a GOAWAY at
    ///    once, and requests that cross it are served. An idle HTTP/1 connection stays open, because its
    ///    client may be sending in this very moment; so does one that was accepted and has not sent
    ///    anything yet.
    /// 3. Connections that stay idle for `drain_idle` are closed. It counts from the begin of the drain, or
    ///    from the end of a response whose head had left before and did not say `close`. Requests in flight
    ///    and upgraded connections go on.
    /// 4. After [`graceful_timeout`](Self::graceful_timeout), or at once on [`Drain::stop_quick`], what is
    ///    left is cut and counted.
    ///
    /// It returns as soon as no connection is left. An accept that fails (too many open files) is logged
    /// and tried again, and a panic in the service costs its own connection, or on HTTP/2 its own stream.
    ///
    /// A connection whose client may still be sending (HTTP/2, a body that nobody read, a refused request, a
    /// response so large that the client may ask again before it has read) is not closed in its face, which
    /// would reset it: after the last byte the server reads on and throws away, until the client closes too, for
    /// two seconds at most. Its place is free from the last byte on. A client that is too slow with a head gets
    /// no answer, and is not waited for.
    ///
    /// # What a client can lose
    ///
    /// - HTTP/1 requests that are pipelined behind one in flight when the drain begins are not answered: the
    ///   response before them says `close` (RFC 9112 section 9.3.2 has clients repeat them).
    /// - A client that closes the sending half of its connection, and is not answered within
    ///   [`half_close_timeout`](Self::half_close_timeout), is taken for one that left: the service's future is
    ///   dropped.
    /// - Behind a request *with* a body, half a head that came in the same packet as the body's end counts as
    ///   idleness: only hyper knows where the body ended.
    /// - When a service answers and leaves the request's body to a task that reads on for longer than
    ///   [`keepalive`](Self::keepalive) or [`header_read_timeout`](Self::header_read_timeout), or than a
    ///   second at the limit of [`max_connections`](Self::max_connections), the HTTP/1 connection is
    ///   closed at the end of that body, though its client was not told.
    /// - An HTTP/2 client that is silent for two seconds after GOAWAY, does not answer the PING that comes
    ///   with it, and waits for no response, is disconnected.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O and time enabled, and when cloning the service panics.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listeners and cuts every connection.
    pub async fn serve(self, drain: Drain) -> Drained
    where
        S: HttpService,
    {
        let limit = u32::try_from(self.max_connections.max(1)).unwrap_or(u32::MAX);
        // A place is given back with the last byte, before the connection is closed.
        let open = Arc::new(Semaphore::new(MOST_OPEN as usize));
        let phases = watch::Sender::new(Phase::Serving);
        let protocol = Arc::new(self.protocol());
        let spawn = |(stream, peer, place): (Stream, Peer, Place)| {
            // Nobody has so many connections.
            let Ok(counted) = Arc::clone(&open).try_acquire_owned() else { return };
            let mut phase = phases.subscribe();
            if *phase.borrow() != Phase::Serving {
                phase.mark_changed();
            }
            let accepted = Accepted { stream, peer, phase, place, counted };
            let (protocol, service) = (Arc::clone(&protocol), self.service.clone());
            task::spawn(async move { protocol.serve(accepted, service).await });
        };

        let mut acceptor = Acceptor::new(self.listeners, Places::new(limit));
        let mut started = pin!(drain.started());
        loop {
            tokio::select! {
                biased;
                () = started.as_mut() => break,
                Some(accepted) = acceptor.accept(Queue::Wait) => spawn(accepted),
            }
            // A busy process must not take more connections than it can begin to serve: a sibling that
            // shares the listener takes the next one, and should this process die, it is not lost.
            task::yield_now().await;
        }

        let began = Instant::now();
        let grace = self.graceful_timeout.min(NO_LIMIT);
        phases.send_replace(Phase::LastResponses);
        // Lets the runtime learn of connections that arrived together with the order.
        task::yield_now().await;
        tokio::select! {
            biased;
            () = drain.reached(Level::Quick) => {}
            // Tokio lets a task do only so much in one turn, and a queue looks empty when that is used up.
            () = task::unconstrained(async {
                // Nobody else would serve them, should this be the last process with these listeners.
                while let Some(accepted) = acceptor.accept(Queue::Leave).await {
                    spawn(accepted);
                }
            }) => {}
            () = time::sleep_until(began + self.drain_idle.min(grace)) => {}
        }
        drop(acceptor);

        tokio::select! {
            biased;
            _ = open.acquire_many(MOST_OPEN) => return Drained { cut: 0 },
            () = drain.reached(Level::Quick) => {}
            () = time::sleep_until(began + grace) => {}
        }
        let left = MOST_OPEN as usize - open.available_permits();
        phases.send_replace(Phase::Cut);
        let _ = time::timeout(CUT_PAUSE, open.acquire_many(MOST_OPEN)).await;
        Drained { cut: left.saturating_sub(protocol.cut_idle()) }
    }

    /// Serves until `signal` is ready, and then drains softly: [`serve`](Self::serve) with a drain of its own.
    ///
    /// # Panics
    ///
    /// As [`serve`](Self::serve) does.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listeners and cuts every connection.
    pub async fn serve_until(self, signal: impl Future<Output = ()>) -> Drained
    where
        S: HttpService,
    {
        let drain = Drain::new();
        let mut serving = pin!(self.serve(drain.clone()));
        tokio::select! {
            drained = serving.as_mut() => return drained,
            () = signal => drain.start(),
        }
        serving.await
    }

    fn protocol(&self) -> Protocol {
        let or_no_limit =
            |time: Duration| if time.is_zero() { NO_LIMIT } else { time.min(NO_LIMIT) };
        let header_read = or_no_limit(self.header_read_timeout);
        let keeps_alive = !self.keepalive.is_zero();
        let keepalive = if keeps_alive { self.keepalive.min(NO_LIMIT) } else { header_read };
        let drain_idle = self.drain_idle.min(NO_LIMIT);
        Protocol::new(
            Limits { keepalive, header_read, drain_idle },
            self.half_close_timeout.min(NO_LIMIT),
            keeps_alive,
            self.tolerant,
            self.refused.clone(),
            self.events.clone(),
        )
    }
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listeners", &self.listeners)
            .field("keepalive", &self.keepalive)
            .field("half_close_timeout", &self.half_close_timeout)
            .field("header_read_timeout", &self.header_read_timeout)
            .field("max_connections", &self.max_connections)
            .field("drain_idle", &self.drain_idle)
            .field("graceful_timeout", &self.graceful_timeout)
            .finish_non_exhaustive()
    }
}
