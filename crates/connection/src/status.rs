//! What a pool has done and is doing, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// It reached `max_age`.
    Age,
    /// It lay unused for `idle_timeout`.
    Idle,
    /// Its health check failed.
    Unusable,
    /// It was found broken when it came back.
    Dead,
    /// An operation on it was dropped midway.
    Poisoned,
    /// Its rollback or reset failed, took too long or left it unclean.
    ResetFailed,
    /// Another one found that the server is no longer the one to write to, or does not answer, and this
    /// one was as old.
    Generation,
    /// The pool was closed.
    Shutdown,
    /// Its runtime ended before it could be closed.
    Abandoned,
}

/// A snapshot of a pool: gauges of now and counters since its start.
///
/// `opened` = `closed` + `idle` + `in_use` + `maintaining`, as soon as nothing moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The bound: `max_connections`.
    pub max_connections: usize,
    /// Connections that wait for a request.
    pub idle: usize,
    /// Connections in a request's or job's hands.
    pub in_use: usize,
    /// Connections in the making.
    pub connecting: usize,
    /// Connections being rolled back, reset or closed; they count against the bound.
    pub maintaining: usize,
    /// Requests that wait for a connection.
    pub waiting: usize,
    /// Connections opened.
    pub opened: u64,
    /// Attempts to connect that failed.
    pub connect_failures: u64,
    /// Connections closed, for whatever reason.
    pub closed: u64,
    /// Connections closed, by reason; those that never occurred are left out.
    pub closed_by: Vec<(CloseReason, u64)>,
    /// Connections that were given out.
    pub acquired: u64,
    /// Requests for a connection that had to wait.
    pub waited: u64,
    /// Requests for a connection that were given up at the deadline.
    pub timeouts: u64,
    /// Requests for a connection that were refused because the queue was full.
    pub rejected: u64,
    /// Health checks made.
    pub checks: u64,
    /// Health checks that failed.
    pub check_failures: u64,
    /// Transactions left open and rolled back.
    pub rollbacks: u64,
    /// Sessions reset.
    pub resets: u64,
    /// Sessions of cancelled operations ended at the server.
    pub kills: u64,
    /// Attempts to end such a session that failed; each is repeated unless the server refuses.
    pub kill_failures: u64,
    /// Such sessions left to end by themselves, because the side channel led to another server.
    pub kills_at_other_server: u64,
}

/// The counters of a pool; relaxed, since each stands alone.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) opened: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) acquired: Counter,
    pub(crate) waited: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) rejected: Counter,
    pub(crate) checks: Counter,
    pub(crate) check_failures: Counter,
    pub(crate) rollbacks: Counter,
    pub(crate) resets: Counter,
    pub(crate) kills: Counter,
    pub(crate) kill_failures: Counter,
    pub(crate) kills_at_other_server: Counter,
    closed: [Counter; CloseReason::ALL.len()],
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl CloseReason {
    const ALL: [Self; 9] = [
        Self::Age,
        Self::Idle,
        Self::Unusable,
        Self::Dead,
        Self::Poisoned,
        Self::ResetFailed,
        Self::Generation,
        Self::Shutdown,
        Self::Abandoned,
    ];
}

impl Status {
    /// How many connections were closed for `reason`.
    #[must_use]
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed_by.iter().find(|(of, _)| *of == reason).map_or(0, |(_, count)| *count)
    }
}

impl Counters {
    pub(crate) fn closed(&self, reason: CloseReason) {
        self.closed[reason as usize].add();
    }

    /// Everything but the gauges.
    pub(crate) fn snapshot(&self) -> Status {
        let closed_by: Vec<_> = CloseReason::ALL
            .into_iter()
            .map(|reason| (reason, self.closed[reason as usize].get()))
            .filter(|(_, count)| *count > 0)
            .collect();
        Status {
            opened: self.opened.get(),
            connect_failures: self.connect_failures.get(),
            closed: closed_by.iter().map(|(_, count)| count).sum(),
            closed_by,
            acquired: self.acquired.get(),
            waited: self.waited.get(),
            timeouts: self.timeouts.get(),
            rejected: self.rejected.get(),
            checks: self.checks.get(),
            check_failures: self.check_failures.get(),
            rollbacks: self.rollbacks.get(),
            resets: self.resets.get(),
            kills: self.kills.get(),
            kill_failures: self.kill_failures.get(),
            kills_at_other_server: self.kills_at_other_server.get(),
            ..Status::default()
        }
    }
}

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
