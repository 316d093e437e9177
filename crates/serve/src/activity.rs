//! What a connection is doing, and since when.
//!
//! hyper can limit the time for a request head, but its clock also runs while a kept-alive connection is
//! idle, it does not run before the HTTP version is known, and it makes a timer per request. So the two
//! limits are kept here: the socket and the handler note what happens, and the connection's task looks at
//! it now and then with one timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The first bytes of an HTTP/2 client (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may wait for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the last response to the next request.
    pub(crate) keepalive: Duration,
    /// From the connection, or from the first byte of a later request, to the end of the request's head.
    pub(crate) header_read: Duration,
}

/// The notes on one connection, shared by its task, its socket and its requests.
#[derive(Debug)]
pub(crate) struct Activity {
    accepted: Instant,
    in_flight: AtomicUsize,
    /// The client does not take the bytes of a response that was produced.
    stalled: AtomicBool,
    /// What the connection does while nothing is in flight: a [`Waiting`].
    waiting: AtomicU8,
    /// Nanoseconds from `accepted` to the moment from which `waiting` counts.
    since: AtomicU64,
    http2: AtomicBool,
    going_away: AtomicBool,
    upgraded: AtomicBool,
    last_response: AtomicBool,
}

/// What a connection does while no request of it is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It was accepted and has sent nothing. Exits: `Speaking`, `Idle` (the preface of HTTP/2).
    Silent = 0,
    /// It has sent a part of a request's head. Exit: `Idle`, at the end of that request.
    Speaking = 1,
    /// It is kept alive. Exit: `Speaking` (HTTP/1 only, where bytes can only be a request).
    Idle = 2,
}

/// A request of a connection, until its response was produced or dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Activity>);

/// What the connection's task finds when it looks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing to do before then.
    Fine(Instant),
    /// Kept alive for too long.
    Idle,
    /// The client is too slow with its request.
    Slow,
}

// === impl Activity ===

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            accepted: Instant::now(),
            in_flight: AtomicUsize::new(0),
            stalled: AtomicBool::new(false),
            waiting: AtomicU8::new(Waiting::Silent as u8),
            since: AtomicU64::new(0),
            http2: AtomicBool::new(false),
            going_away: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            last_response: AtomicBool::new(false),
        })
    }

    /// Notes a request whose head was read.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// Notes bytes from the client.
    pub(crate) fn heard(&self, bytes: &[u8]) {
        if self.in_flight.load(Ordering::Relaxed) > 0 {
            return;
        }
        match self.waiting() {
            // A client may open an HTTP/2 connection long before its first request.
            Some(Waiting::Silent) if bytes.starts_with(HTTP2_PREFACE) => {
                self.note_http2();
                self.wait(Waiting::Idle);
            }
            Some(Waiting::Silent) => self.wait(Waiting::Speaking),
            // On HTTP/2 it may be a ping or a window update.
            Some(Waiting::Idle) if !self.is_http2() => self.wait(Waiting::Speaking),
            _ => {}
        }
    }

    /// Notes whether the last write has to wait for the client.
    pub(crate) fn wrote(&self, stalled: bool) {
        if self.stalled.load(Ordering::Relaxed) != stalled {
            self.note_since();
            self.stalled.store(stalled, Ordering::Relaxed);
        }
    }

    pub(crate) fn note_http2(&self) {
        self.http2.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// Notes that an HTTP/2 client is sent GOAWAY.
    pub(crate) fn note_going_away(&self) {
        self.going_away.store(self.is_http2(), Ordering::Relaxed);
    }

    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.load(Ordering::Relaxed)
    }

    /// Notes that another protocol takes the socket over.
    pub(crate) fn note_upgrade(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed)
    }

    /// Asks that each further HTTP/1 response be the connection's last one, and for GOAWAY on HTTP/2.
    pub(crate) fn ask_for_last_response(&self) {
        self.last_response.store(true, Ordering::Relaxed);
    }

    pub(crate) fn wants_last_response(&self) -> bool {
        self.last_response.load(Ordering::Relaxed)
    }

    pub(crate) fn wants_goaway(&self) -> bool {
        self.is_http2() && self.wants_last_response()
    }

    /// What the connection waits for; `None` while a request is in flight or its response is on the way.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        if self.in_flight.load(Ordering::Acquire) > 0 || self.stalled.load(Ordering::Relaxed) {
            return None;
        }
        Some(match self.waiting.load(Ordering::Relaxed) {
            0 => Waiting::Silent,
            1 => Waiting::Speaking,
            _ => Waiting::Idle,
        })
    }

    /// Looks whether a limit is exceeded, and says when to look again.
    pub(crate) fn look(&self, limits: &Limits) -> Finding {
        let now = Instant::now();
        let next = now + limits.keepalive.min(limits.header_read);
        let (limit, exceeded) = match self.waiting() {
            None => return Finding::Fine(next),
            Some(Waiting::Idle) => (limits.keepalive, Finding::Idle),
            Some(Waiting::Silent | Waiting::Speaking) => (limits.header_read, Finding::Slow),
        };
        let since = Duration::from_nanos(self.since.load(Ordering::Relaxed));
        let deadline = self.accepted + since + limit;
        if deadline <= now { exceeded } else { Finding::Fine(deadline.min(next)) }
    }

    fn wait(&self, waiting: Waiting) {
        self.note_since();
        self.waiting.store(waiting as u8, Ordering::Relaxed);
    }

    fn note_since(&self) {
        let since = u64::try_from(self.accepted.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.since.store(since, Ordering::Relaxed);
    }
}

// === impl InFlight ===

impl InFlight {
    pub(crate) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Before the count: whoever reads zero must not see the idle time of an earlier pause.
        self.0.wait(Waiting::Idle);
        self.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}
