//! What a pool decides, apart from how it is done: who may have which connection, and when to open one.
//!
//! Nothing in here waits, does I/O or reads a clock; what a method decides is what it returns, and who calls it
//! carries that out. Two rules hold after each call: nobody waits while a connection is idle, and `slots` counts
//! every server session, those being opened and closed included, and is never above `max_connections`.

use std::collections::VecDeque;
use std::mem;

use tokio::time::Instant;

use super::live::Live;
use super::outage::{Attempt, Outage};
use crate::{AcquireError, CloseReason, Policy};

/// The state of a pool of connections `C`, for which `W` wait.
#[derive(Debug)]
pub(super) struct State<C, W> {
    max_connections: usize,
    max_connecting: usize,
    max_waiting: usize,
    slots: usize,
    connecting: usize,
    /// The longest unused first; given out from the end, so that surplus can age out.
    idle: Vec<Live<C>>,
    waiters: VecDeque<Waiter<W>>,
    next_ticket: u64,
    outage: Outage,
    last_attempt: Attempt,
    /// Connections of a generation before this one are not given out any more.
    trusted: u64,
    /// When the reaper wakes; `None` while there is none.
    reaping: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: u64,
    patience: Patience,
    waiter: W,
}

/// What a failed connect means to who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Another attempt may succeed before the deadline.
    UntilDeadline,
    /// The first failure is the answer.
    OneAttempt,
}

/// The answer to who wants a connection.
#[derive(Debug)]
#[must_use]
pub(super) struct Acquired<C, R> {
    /// To be closed: what was found too old on the way.
    pub(super) outlived: Vec<(Live<C>, CloseReason)>,
    pub(super) answer: Answer<C, R>,
}

#[derive(Debug)]
pub(super) enum Answer<C, R> {
    /// An idle connection, with its slot.
    Ready(Live<C>),
    /// A place in the queue, by its ticket; connects are to be started.
    Wait(u64, R),
    /// Nothing.
    Refused(AcquireError),
}

/// What becomes of a connection that came back.
#[derive(Debug)]
#[must_use]
pub(super) enum Returned<C, W> {
    /// It is closed, with its slot.
    Close(Live<C>, CloseReason),
    /// The first that waits gets it, with its slot; if that one is gone, it came back again.
    Hand(Live<C>, W),
    /// It is idle, and so is its slot.
    Idle(Reaping),
}

/// What becomes of the reaper, which looks at idle connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaping {
    /// Nothing.
    AsBefore,
    /// It begins, and looks at that time.
    Start(Instant),
    /// It looks sooner.
    Sooner,
}

impl<C, W> State<C, W> {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            max_connections: policy.max_connections,
            max_connecting: policy.max_connecting,
            max_waiting: policy.max_waiting,
            slots: 0,
            connecting: 0,
            idle: Vec::new(),
            waiters: VecDeque::new(),
            next_ticket: 0,
            outage: Outage::default(),
            last_attempt: Attempt::default(),
            trusted: 0,
            reaping: None,
            closed: false,
        }
    }

    /// Somebody wants a connection; `wait` makes what waits and what it waits for. `first` is for who had one
    /// already.
    pub(super) fn acquire<R>(
        &mut self,
        first: bool,
        patience: Patience,
        now: Instant,
        wait: impl FnOnce() -> (W, R),
    ) -> Acquired<C, R> {
        let mut outlived = Vec::new();
        if self.closed {
            return Acquired { outlived, answer: Answer::Refused(AcquireError::Closed) };
        }
        while let Some(live) = self.idle.pop() {
            match live.outlived(now, self.trusted) {
                Some(reason) => outlived.push((live, reason)),
                None => return Acquired { outlived, answer: Answer::Ready(live) },
            }
        }
        self.outage.asked(now);
        let answer = match self.outage.refusal(now) {
            Some(refusal) => Answer::Refused(refusal),
            None if !first && self.is_full() => Answer::Refused(AcquireError::QueueFull),
            None => {
                let (waiter, waits_for) = wait();
                Answer::Wait(self.enqueue(first, patience, waiter), waits_for)
            }
        };
        Acquired { outlived, answer }
    }

    /// Whether the queue is full. Who waits for a connection that is in the making, or may be made at once, does
    /// not wait for a slot.
    fn is_full(&self) -> bool {
        let coming = self.connecting + self.max_connections.saturating_sub(self.slots);
        self.waiters.len() >= self.max_waiting.saturating_add(coming)
    }

    fn enqueue(&mut self, first: bool, patience: Patience, waiter: W) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let waiter = Waiter { ticket, patience, waiter };
        if first {
            self.waiters.push_front(waiter);
        } else {
            self.waiters.push_back(waiter);
        }
        ticket
    }

    /// Somebody waits no longer; what waited, unless it was answered before.
    #[must_use]
    pub(super) fn leave(&mut self, ticket: u64) -> Option<W> {
        let place = self.waiters.iter().position(|waiter| waiter.ticket == ticket)?;
        self.waiters.remove(place).map(|waiter| waiter.waiter)
    }

    /// The connects to start, as many as are wanted and may be under way; each has its slot.
    #[must_use]
    pub(super) fn connects(&mut self) -> Vec<Attempt> {
        let wanted = self.outage.wanted(self.waiters.len(), self.connecting, self.max_connecting);
        let count = wanted.min(self.max_connections.saturating_sub(self.slots));
        if self.closed || count == 0 {
            return Vec::new();
        }
        self.slots += count;
        self.connecting += count;
        let begin = |_| {
            let attempt = self.last_attempt.next();
            self.outage.begun(attempt);
            attempt
        };
        (0..count).map(begin).collect()
    }

    /// Whether a connect is to go on, and what to wait for before it; `None` when nobody wants a connection any
    /// more, or another attempt is enough to see whether the server is back.
    #[must_use]
    pub(super) fn connect_wanted(&self, attempt: Attempt) -> Option<Option<Instant>> {
        let wanted = !self.closed && !self.waiters.is_empty() && self.outage.goes_on(attempt);
        wanted.then(|| self.outage.retry_at())
    }

    /// A connect failed; those for whom waiting is of no use get its error.
    #[must_use]
    pub(super) fn connect_failed(
        &mut self,
        attempt: Attempt,
        error: &AcquireError,
        now: Instant,
        off: f64,
    ) -> Vec<W> {
        self.outage.failed(attempt, error.clone(), now, off);
        let is_denied = matches!(error, AcquireError::Denied(_));
        let (impatient, patient): (VecDeque<_>, _) = mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| is_denied || waiter.patience == Patience::OneAttempt);
        self.waiters = patient;
        impatient.into_iter().map(|waiter| waiter.waiter).collect()
    }

    /// The server took a new session.
    pub(super) fn connected(&mut self) {
        self.outage.over();
    }

    /// A connect is over, whatever came of it; its slot goes with the connection, or is free.
    pub(super) fn connecting_over(&mut self, attempt: Attempt) {
        self.connecting -= 1;
        self.outage.ended(attempt);
    }

    /// The server answered a health check.
    pub(super) fn answered(&mut self) {
        self.outage.unsuspected();
    }

    /// The server did not answer a health check: those who wait longer than they can, wait for it.
    pub(super) fn unanswered(&mut self, now: Instant) {
        self.outage.suspected(now);
    }

    /// A clean connection comes back, or is new.
    pub(super) fn returned(&mut self, mut live: Live<C>, now: Instant) -> Returned<C, W> {
        live.last_used = now;
        let reason = if self.closed {
            Some(CloseReason::Shutdown)
        } else if live.uses == 0 && !self.waiters.is_empty() {
            // Made for this waiter: it has its one use even with a `max_age` of zero.
            None
        } else {
            self.outlived(&live, now)
        };
        if let Some(reason) = reason {
            return Returned::Close(live, reason);
        }
        if let Some(Waiter { waiter, .. }) = self.waiters.pop_front() {
            return Returned::Hand(live, waiter);
        }
        let reaping = match (live.idle_until(), self.reaping) {
            (Some(expires), None) => Reaping::Start(expires),
            (Some(expires), Some(at)) if expires < at => Reaping::Sooner,
            _ => Reaping::AsBefore,
        };
        if reaping != Reaping::AsBefore {
            self.reaping = live.idle_until();
        }
        self.idle.push(live);
        Returned::Idle(reaping)
    }

    /// Why a connection must not be given out any more.
    pub(super) fn outlived(&self, live: &Live<C>, now: Instant) -> Option<CloseReason> {
        live.outlived(now, self.trusted)
    }

    /// The idle connections whose time is over, to be closed with their slots; and when the next one's is.
    #[must_use]
    pub(super) fn reap(&mut self, now: Instant) -> (Vec<(Live<C>, CloseReason)>, Option<Instant>) {
        let mut outlived = Vec::new();
        for live in mem::take(&mut self.idle) {
            match live.outlived(now, self.trusted) {
                Some(reason) => outlived.push((live, reason)),
                None => self.idle.push(live),
            }
        }
        self.reaping = self.idle.iter().filter_map(Live::idle_until).min();
        (outlived, self.reaping)
    }

    pub(super) fn reaper_gone(&mut self) {
        self.reaping = None;
    }

    /// Connections as old as one of `generation` are not given out any more; the idle ones of them, to be closed
    /// with their slots. `None` if that was known.
    #[must_use]
    pub(super) fn distrust(&mut self, generation: u64) -> Option<Vec<Live<C>>> {
        if generation < self.trusted {
            return None;
        }
        self.trusted = generation + 1;
        let (old, new) =
            mem::take(&mut self.idle).into_iter().partition(|live| live.generation <= generation);
        self.idle = new;
        Some(old)
    }

    /// A session is over; whether it was the last one.
    #[must_use]
    pub(super) fn slot_free(&mut self) -> bool {
        self.slots -= 1;
        self.slots == 0
    }

    /// Refuses whoever comes from now on; what is idle is to be closed with its slots, and who waits gets an error.
    #[must_use]
    pub(super) fn shut(&mut self) -> (Vec<Live<C>>, Vec<W>) {
        self.closed = true;
        let waiters = mem::take(&mut self.waiters).into_iter().map(|waiter| waiter.waiter);
        (mem::take(&mut self.idle), waiters.collect())
    }

    /// Takes what is idle, without a word to anybody.
    #[must_use]
    pub(super) fn take_idle(&mut self) -> Vec<Live<C>> {
        mem::take(&mut self.idle)
    }

    /// Why the deadline of one that waits has passed.
    pub(super) fn why_late(&self) -> AcquireError {
        match self.outage.error() {
            Some(error) => error.clone(),
            None if self.connecting > 0 => AcquireError::TimedOut,
            None => AcquireError::Exhausted,
        }
    }

    /// As if so many sessions were open.
    #[cfg(test)]
    pub(super) fn open_for_a_test(&mut self, slots: usize) {
        self.slots = slots;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many server sessions there are, those in the making and being closed included.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    pub(super) fn connecting(&self) -> usize {
        self.connecting
    }

    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }
}

#[cfg(test)]
mod tests;
