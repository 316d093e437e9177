//! What a connection is doing, and since when.
//!
//! hyper can limit the time for a request head, but its clock also runs while a kept-alive connection is
//! idle, it does not run before the HTTP version is known, and it makes a timer per request. So the
//! limits are kept here: the socket and the handler note what happens, and the connection's task looks at
//! it now and then with one timer.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize};
use std::sync::atomic::{Ordering, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::linger::LONGEST;
use crate::wire::{self, Preface, Tail};

/// Stands in for the moment when the drain began.
const NOT_DRAINING: u64 = u64::MAX;

/// Bytes of a response that are on their way as soon as they are written: what TCP sends before the first answer
/// (RFC 6928).
const TAKEN_AT_ONCE: usize = 14_600;

/// Looks are not more frequent than this, however small the limits are.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// How long a connection may wait for a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the last response to the next request.
    pub(crate) keepalive: Duration,
    /// From the connection, or from the first byte of a later request, to the end of the request's head.
    pub(crate) header_read: Duration,
    /// As `keepalive`, and for a first request too, but from the drain's begin at the earliest.
    pub(crate) drain_idle: Duration,
}

/// The notes on one connection, shared by its task, its socket and its requests.
#[derive(Debug)]
pub(crate) struct Activity {
    accepted: Instant,
    /// Requests that were begun, and chunks of their responses that were not yet written.
    pending: AtomicUsize,
    /// Whether a request was ever begun.
    served: AtomicBool,
    /// Whether the last request has a body.
    has_body: AtomicBool,
    /// The client does not take the bytes of a response that was produced.
    stalled: AtomicBool,
    /// Bytes that were written since the connection was last idle for so long that the client has them.
    written: AtomicUsize,
    /// What the connection does while nothing is in flight: a [`Waiting`].
    waiting: AtomicU8,
    /// Nanoseconds from `accepted` to the moment from which `waiting` counts.
    since: AtomicU64,
    /// Nanoseconds from `accepted` to the begin of the drain, or `NOT_DRAINING`.
    draining: AtomicU64,
    preface: Preface,
    /// Of HTTP/1.
    tail: Tail,
    /// The status of hyper's own answer to what is no request, or zero.
    refused_with: AtomicU16,
    /// A head had both Content-Length and Transfer-Encoding.
    ambiguous: AtomicBool,
    /// hyper does not know yet that the client has closed its sending half.
    half_closed: AtomicBool,
    upgraded: AtomicBool,
    closing: AtomicBool,
    /// The client was too slow with a request, and gets no answer to it.
    too_slow: AtomicBool,
    going_away: AtomicBool,
    /// An HTTP/2 client has answered the PING behind its GOAWAY.
    answered: AtomicBool,
    /// Bytes have come since GOAWAY, or since this was last asked.
    spoke: AtomicBool,
}

/// What a connection does while no request of it is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It was accepted and has sent nothing. Exits: `Speaking`, `Idle` (the preface of HTTP/2).
    Silent = 0,
    /// It has sent a part of a request's head, or a part of HTTP/2's preface. After a response it may as
    /// well be the rest of a body that the service left to somebody else; only hyper knows.
    /// Exit: `Idle`, at the end of that request or of the preface.
    Speaking = 1,
    /// It is kept alive. Exit: `Speaking` (HTTP/1 only, where bytes can only be a request).
    Idle = 2,
}

/// A request of a connection until the last byte of its response is with the kernel, or it is dropped.
#[derive(Debug)]
pub(crate) struct Pending(Arc<Activity>);

/// What the connection's task finds when it looks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing to do before then.
    Fine(Instant),
    /// It waits for a request for too long.
    Idle,
    /// The client is too slow with its request.
    Slow,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            accepted: Instant::now(),
            pending: AtomicUsize::new(0),
            served: AtomicBool::new(false),
            has_body: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            written: AtomicUsize::new(0),
            waiting: AtomicU8::new(Waiting::Silent as u8),
            since: AtomicU64::new(0),
            draining: AtomicU64::new(NOT_DRAINING),
            preface: Preface::default(),
            tail: Tail::default(),
            refused_with: AtomicU16::new(0),
            ambiguous: AtomicBool::new(false),
            half_closed: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            too_slow: AtomicBool::new(false),
            going_away: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            spoke: AtomicBool::new(false),
        })
    }

    /// Notes a request whose head was read.
    pub(crate) fn begin(self: &Arc<Self>, has_body: bool) -> Pending {
        self.served.store(true, Relaxed);
        self.too_slow.store(false, Relaxed);
        self.has_body.store(has_body, Relaxed);
        self.pending.fetch_add(1, Relaxed);
        Pending(Arc::clone(self))
    }

    /// Whether a request was ever begun.
    pub(crate) fn has_served(&self) -> bool {
        self.served.load(Relaxed)
    }

    /// Notes bytes from the client.
    pub(crate) fn heard(&self, bytes: &[u8]) {
        self.spoke.store(true, Relaxed);
        // On HTTP/2 it may be a ping or a window update.
        if self.is_http2() {
            return;
        }
        self.preface.heard(bytes);
        if self.is_http2() {
            // A client may open a connection long before its first request.
            return self.wait(Waiting::Idle);
        }
        self.tail.heard(bytes);
        if self.pending.load(Relaxed) == 0 {
            match self.last_waiting() {
                // The time for the first head counts from the accept.
                Waiting::Silent => self.waiting.store(Waiting::Speaking as u8, Relaxed),
                Waiting::Idle => {
                    if self.at(&self.since).elapsed() >= LONGEST {
                        self.written.store(0, Relaxed);
                    }
                    self.wait(Waiting::Speaking);
                }
                Waiting::Speaking => {}
            }
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.preface.is_complete()
    }

    /// Notes a head with both Content-Length and Transfer-Encoding.
    pub(crate) fn note_ambiguous(&self) {
        self.ambiguous.store(true, Relaxed);
    }

    /// Whether a head had both Content-Length and Transfer-Encoding.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.ambiguous.load(Relaxed)
    }

    /// Notes what is about to be written.
    pub(crate) fn says(&self, bytes: &[u8]) {
        if self.pending.load(Relaxed) > 0 || self.is_http2() {
            return;
        }
        if let Some(status) = wire::status(bytes) {
            self.refused_with.store(status.as_u16(), Relaxed);
        }
    }

    /// The status of the last head that hyper wrote while no request was in flight.
    pub(crate) fn refused_with(&self) -> Option<StatusCode> {
        StatusCode::from_u16(self.refused_with.load(Relaxed)).ok()
    }

    /// Notes how many bytes were written, or that they have to wait for the client.
    pub(crate) fn wrote(&self, written: &Poll<io::Result<usize>>) {
        let stalled = written.is_pending();
        if let Poll::Ready(Ok(bytes)) = written {
            // One task writes.
            self.written.store(self.written.load(Relaxed) + bytes, Relaxed);
        }
        if self.stalled.load(Relaxed) != stalled {
            self.note_since();
            self.stalled.store(stalled, Relaxed);
        }
    }

    /// Notes that an HTTP/2 client is sent GOAWAY.
    pub(crate) fn note_going_away(&self) {
        self.spoke.store(false, Relaxed);
        self.going_away.store(self.is_http2(), Relaxed);
    }

    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.load(Relaxed)
    }

    /// Notes that the client has answered the PING behind its GOAWAY.
    pub(crate) fn note_answer(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Whether the client was told to go away, has nothing to wait for, and has not said a word since then
    /// or since this was last asked. One that has answered leaves by itself, with its last stream.
    pub(crate) fn ignores_goaway(&self) -> bool {
        let spoke = self.spoke.swap(false, Relaxed);
        let answered = self.answered.load(Relaxed);
        self.is_going_away() && !answered && !spoke && self.waiting().is_some()
    }

    /// Notes that another protocol takes the socket over.
    pub(crate) fn note_upgrade(&self) {
        self.upgraded.store(true, Relaxed);
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Relaxed)
    }

    /// Notes that the last byte was written.
    pub(crate) fn note_closing(&self) {
        self.closing.store(true, Relaxed);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Notes that the client was too slow with a request.
    pub(crate) fn note_too_slow(&self) {
        self.too_slow.store(true, Relaxed);
    }

    /// Whether the client was too slow with a request, and no other one was answered since.
    pub(crate) fn is_too_slow(&self) -> bool {
        self.too_slow.load(Relaxed)
    }

    /// How many bytes were written, from a moment on that does not lie in a request.
    pub(crate) fn written(&self) -> usize {
        self.written.load(Relaxed)
    }

    /// Whether the client does not take the bytes of a response that was produced.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// Whether the kernel may still have a part of the last responses: they are more than a client takes at once,
    /// and just written.
    pub(crate) fn may_be_unsent(&self) -> bool {
        self.written.load(Relaxed) > TAKEN_AT_ONCE && self.at(&self.since).elapsed() < LONGEST
    }

    /// Whether the client may be sending what nobody reads: the rest of a request that was refused, or of a
    /// body. HTTP/2 clients send window updates for what they read.
    pub(crate) fn may_say_more(&self) -> bool {
        self.is_http2() || self.has_body.load(Relaxed) || self.last_waiting() == Waiting::Speaking
    }

    /// Asks that each further HTTP/1 response be the connection's last one, and for GOAWAY on HTTP/2.
    pub(crate) fn note_drain(&self) {
        self.draining.store(self.now(), Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed) != NOT_DRAINING
    }

    /// What the connection waits for; `None` while a request is in flight or its response is on the way, and
    /// when the connection waits for no request any more.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        let busy = self.pending.load(Ordering::Acquire) > 0
            || self.stalled.load(Relaxed)
            || self.is_closing()
            || self.is_upgraded();
        (!busy).then(|| self.last_waiting())
    }

    /// Since when it is kept alive for a next request of which no byte has come; `None` if it is not, and
    /// once the server drains.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.waiting() == Some(Waiting::Idle) && !self.is_draining();
        is_idle.then(|| self.at(&self.since))
    }

    /// Whether a request of HTTP/1 is in flight.
    pub(crate) fn is_answering(&self) -> bool {
        self.pending.load(Ordering::Acquire) > 0 && !self.is_http2() && !self.is_upgraded()
    }

    /// Notes whether hyper has to hear yet that the client has closed its sending half.
    pub(crate) fn note_half_closed(&self, half_closed: bool) {
        self.half_closed.store(half_closed, Relaxed);
    }

    /// Whether hyper can hear now that the client has closed its sending half.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.half_closed.load(Relaxed) && !self.is_answering()
    }

    fn last_waiting(&self) -> Waiting {
        match self.waiting.load(Relaxed) {
            0 => Waiting::Silent,
            1 => Waiting::Speaking,
            _ => Waiting::Idle,
        }
    }

    /// Looks whether a limit is exceeded, and says when to look again.
    pub(crate) fn look(&self, limits: &Limits) -> Finding {
        let Limits { keepalive, header_read, drain_idle } = *limits;
        let now = Instant::now();
        let at = |nanos| self.at(nanos);
        let idle_over =
            self.is_draining().then(|| at(&self.draining).max(at(&self.since)) + drain_idle);
        let shortest = keepalive.min(header_read).min(idle_over.map_or(keepalive, |_| drain_idle));
        let next = now + shortest.max(SHORTEST_LOOK);
        let (deadline, exceeded) = match self.waiting() {
            None => return Finding::Fine(next),
            Some(Waiting::Speaking) => (at(&self.since) + header_read, Finding::Slow),
            Some(waiting) => {
                let limit = if waiting == Waiting::Silent { header_read } else { keepalive };
                let deadline = at(&self.since) + limit;
                (idle_over.map_or(deadline, |over| over.min(deadline)), Finding::Idle)
            }
        };
        if deadline <= now { exceeded } else { Finding::Fine(deadline.min(next)) }
    }

    fn wait(&self, waiting: Waiting) {
        self.note_since();
        self.waiting.store(waiting as u8, Relaxed);
    }

    fn note_since(&self) {
        self.since.store(self.now(), Relaxed);
    }

    fn at(&self, nanos: &AtomicU64) -> Instant {
        self.accepted + Duration::from_nanos(nanos.load(Relaxed))
    }

    /// Nanoseconds since the accept.
    fn now(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_nanos()).unwrap_or(NOT_DRAINING - 1)
    }
}

impl Pending {
    pub(crate) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Clone for Pending {
    fn clone(&self) -> Self {
        self.0.pending.fetch_add(1, Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Self(activity) = self;
        // Behind a request without a body there can only be a next head, and hyper has it already. Where a
        // body ends only hyper knows.
        let may_be_idle = activity.is_http2()
            || activity.has_body.load(Relaxed)
            || activity.tail.is_end_of_head();
        // Before the count: whoever reads zero must not see the idle time of an earlier pause.
        activity.wait(if may_be_idle { Waiting::Idle } else { Waiting::Speaking });
        activity.pending.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tiny_limits_do_not_make_a_busy_loop_of_a_request_in_flight() {
        let tiny = Duration::from_nanos(1);
        let limits = Limits { keepalive: tiny, header_read: tiny, drain_idle: tiny };
        let activity = Activity::new();
        let _in_flight = activity.begin(false);
        for _ in 0..2 {
            let next = activity.look(&limits);
            let Finding::Fine(next) = next else { panic!("{next:?}, and a request is in flight") };
            assert!(next >= Instant::now() + Duration::from_millis(50));
            activity.note_drain();
        }
    }
}
