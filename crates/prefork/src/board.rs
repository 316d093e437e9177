//! The board: memory that every worker writes and the master reads, also after SIGKILL.
//!
//! It is made before the first fork, so that all processes share it. A worker writes through its
//! [`BoardPulse`]; nobody else writes its row while it lives, but for the master's order to leave.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farrier_exchange::End;
use farrier_heartbeat::{Pulse, RequestHead, State, Ticket};
use farrier_serve::ConnectionEvent;
use farrier_shared::memory::{MemoryError, SharedMemory, shared_struct};

use crate::settings::MAX_WORKERS;

/// Two generations of every worker, and some that are slow to leave.
const ROWS: usize = 2 * MAX_WORKERS + 64;

/// Requests that a row names; those beyond are only counted. One bit each in [`Row::taken`].
const ENTRIES: usize = 64;

/// Requests in flight that a log line names; of the rest it says how many there are.
const NAMED_REQUESTS: usize = 8;

/// Words of eight bytes that an entry has for method and path.
const TEXT_WORDS: usize = 14;

/// The shared memory of a master and its workers.
#[derive(Debug)]
pub(crate) struct Board {
    rows: SharedMemory<Row>,
    /// What the times on the board count from: the monotonic clock is the same in every process.
    origin: Instant,
}

shared_struct! {
    /// One process's part of the board.
    #[repr(C, align(128))]
    #[derive(Debug)]
    pub(crate) struct Row {
        /// 0 while the row is free; written by the master only.
        pid: AtomicI32,
        /// 1 once the master has told the process to leave; written by the master only.
        dismissed: AtomicU8,
        state: AtomicU8,
        /// Nanoseconds from the origin to the end of its grace, written before `dismissed`; 0 for none.
        grace_end: AtomicU64,
        /// Open ones.
        connections: AtomicU32,
        /// Nanoseconds from the origin to the last beat.
        beat: AtomicU64,
        started: AtomicU64,
        finished: AtomicU64,
        /// A bit for each entry in use.
        taken: AtomicU64,
        entries: [Entry; ENTRIES],
    }
}

shared_struct! {
    /// A request in flight.
    #[repr(C, align(128))]
    #[derive(Debug)]
    struct Entry {
        /// Bytes of text; 0 while the entry is not written. Stored last, so whoever sees it sees the rest.
        length: AtomicU32,
        /// Nanoseconds from the origin to the beginning.
        began: AtomicU64,
        text: [AtomicU64; TEXT_WORDS],
    }
}

/// A row's index on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowId(usize);

/// What the board says of a process.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) state: State,
    pub(crate) beat: Instant,
    pub(crate) started: u64,
    pub(crate) finished: u64,
    pub(crate) connections: u32,
}

/// A request that was in flight when the board was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestInFlight {
    /// Method and path, cut to fit.
    pub(crate) request: String,
    pub(crate) age: Duration,
}

/// Requests in flight, for a log line.
pub(crate) struct InFlightList<'a>(pub(crate) &'a [RequestInFlight]);

/// A worker's [`Pulse`], on the board that it shares with the master.
///
/// Every method is a few atomic operations on the worker's own cache lines; no system call, no lock.
pub struct BoardPulse {
    board: Arc<Board>,
    row: RowId,
}

impl Board {
    /// # Errors
    ///
    /// The kernel's: no memory, no descriptor.
    pub(crate) fn new() -> Result<Self, MemoryError> {
        Ok(Self { rows: SharedMemory::new("farrier-board", ROWS)?, origin: Instant::now() })
    }

    /// Takes a free row for a process that is about to be forked; `None` if there is none.
    pub(crate) fn take(&self) -> Option<RowId> {
        // Only the master takes and frees rows, and it has one thread.
        let free = self.rows.iter().position(|row| row.pid.load(Ordering::Relaxed) == 0)?;
        let row = &self.rows[free];
        row.state.store(State::Booting.code(), Ordering::Relaxed);
        row.dismissed.store(0, Ordering::Relaxed);
        row.grace_end.store(0, Ordering::Relaxed);
        row.connections.store(0, Ordering::Relaxed);
        row.beat.store(self.now(), Ordering::Relaxed);
        row.started.store(0, Ordering::Relaxed);
        row.finished.store(0, Ordering::Relaxed);
        for entry in &row.entries {
            entry.length.store(0, Ordering::Relaxed);
        }
        row.taken.store(0, Ordering::Relaxed);
        row.pid.store(-1, Ordering::Release);
        Some(RowId(free))
    }

    /// Notes whose the row is.
    pub(crate) fn occupy(&self, row: RowId, pid: i32) {
        self.rows[row.0].pid.store(pid, Ordering::Release);
    }

    /// Notes that the master tells the process to leave; before the signal that says so.
    pub(crate) fn dismiss(&self, row: RowId, grace_end: Option<Instant>) {
        let since = |end: Instant| end.saturating_duration_since(self.origin).as_nanos();
        let end = grace_end.map_or(0, |end| u64::try_from(since(end)).unwrap_or(0));
        self.rows[row.0].grace_end.store(end, Ordering::Relaxed);
        self.rows[row.0].dismissed.store(1, Ordering::Release);
    }

    /// Gives a row back whose process is gone.
    pub(crate) fn free(&self, row: RowId) {
        self.rows[row.0].pid.store(0, Ordering::Release);
    }

    pub(crate) fn read(&self, row: RowId) -> Reading {
        let row = &self.rows[row.0];
        // In this order: a request that ends in between must not make the difference negative.
        let finished = row.finished.load(Ordering::Acquire);
        Reading {
            state: row.state(),
            beat: self.origin + Duration::from_nanos(row.beat.load(Ordering::Relaxed)),
            started: row.started.load(Ordering::Relaxed),
            finished,
            connections: row.connections.load(Ordering::Relaxed),
        }
    }

    /// The requests in flight that have an entry, oldest first.
    pub(crate) fn in_flight(&self, row: RowId) -> Vec<RequestInFlight> {
        let row = &self.rows[row.0];
        let taken = row.taken.load(Ordering::Acquire);
        let now = self.now();
        let mut found: Vec<_> = (0..ENTRIES)
            .filter(|index| taken & (1 << index) != 0)
            .filter_map(|index| row.entries[index].read(now))
            .collect();
        found.sort_by_key(|request| Reverse(request.age));
        found
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Row {
    fn state(&self) -> State {
        State::from_code(self.state.load(Ordering::Acquire)).unwrap_or_default()
    }

    fn begin(&self, now: u64, method: &str, path: &str) -> Ticket {
        self.started.fetch_add(1, Ordering::Relaxed);
        let mut taken = self.taken.load(Ordering::Relaxed);
        loop {
            let free = taken.trailing_ones();
            if free as usize >= ENTRIES {
                return Ticket::NONE;
            }
            let with = taken | (1 << free);
            match self.taken.compare_exchange_weak(
                taken,
                with,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    self.entries[free as usize].write(now, method, path);
                    return Ticket::entry(free);
                }
                Err(current) => taken = current,
            }
        }
    }

    fn end(&self, ticket: Ticket) {
        if let Some(index) = ticket.index() {
            if let Some(entry) = self.entries.get(index as usize) {
                entry.length.store(0, Ordering::Relaxed);
                self.taken.fetch_and(!(1 << index), Ordering::Release);
            }
        }
        self.finished.fetch_add(1, Ordering::Release);
    }
}

impl Entry {
    fn write(&self, now: u64, method: &str, path: &str) {
        self.began.store(now, Ordering::Relaxed);
        let mut bytes = method.bytes().chain([b' ']).chain(path.bytes());
        let mut length = 0;
        for word in &self.text {
            let mut packed = [0; 8];
            let mut filled = 0;
            for (place, byte) in packed.iter_mut().zip(&mut bytes) {
                *place = byte;
                filled += 1;
            }
            word.store(u64::from_ne_bytes(packed), Ordering::Relaxed);
            length += filled;
            if filled < 8 {
                break;
            }
        }
        self.length.store(length, Ordering::Release);
    }

    fn read(&self, now: u64) -> Option<RequestInFlight> {
        let length = self.length.load(Ordering::Acquire) as usize;
        if length == 0 {
            return None;
        }
        let mut bytes: Vec<u8> =
            self.text.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        bytes.truncate(length);
        Some(RequestInFlight {
            request: String::from_utf8_lossy(&bytes).into_owned(),
            age: Duration::from_nanos(now.saturating_sub(self.began.load(Ordering::Relaxed))),
        })
    }
}

impl fmt::Display for InFlightList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none noted");
        }
        for (index, request) in self.0.iter().take(NAMED_REQUESTS).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{} ({:.1} s)", request.request, request.age.as_secs_f64())?;
        }
        match self.0.len().saturating_sub(NAMED_REQUESTS) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

impl BoardPulse {
    pub(crate) fn new(board: Arc<Board>, row: RowId) -> Self {
        Self { board, row }
    }

    /// The requests in flight that have an entry, oldest first.
    pub(crate) fn in_flight(&self) -> Vec<RequestInFlight> {
        self.board.in_flight(self.row)
    }

    /// Counts the open connections.
    pub(crate) fn note(&self, event: ConnectionEvent) {
        let connections = &self.row().connections;
        match event {
            ConnectionEvent::Opened => connections.fetch_add(1, Ordering::Relaxed),
            ConnectionEvent::Closed => connections.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    /// The worker serves from now on, unless it was told to leave before; whether it does.
    pub(crate) fn begin_to_serve(&self) -> bool {
        self.leave_booting_for(State::Ready)
    }

    /// The worker leaves, if it has not begun to serve; whether it does.
    pub(crate) fn leave_unserved(&self) -> bool {
        self.leave_booting_for(State::Draining)
    }

    /// Two threads want it, and one of them gets it.
    fn leave_booting_for(&self, next: State) -> bool {
        let (booting, next) = (State::Booting.code(), next.code());
        let state = &self.row().state;
        state.compare_exchange(booting, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether the master has told this worker to leave.
    pub(crate) fn is_dismissed(&self) -> bool {
        self.row().dismissed.load(Ordering::Acquire) != 0
    }

    /// Until when the master waits for this process, which it has told to leave.
    pub(crate) fn grace_end(&self) -> Option<Instant> {
        let end = self.row().grace_end.load(Ordering::Relaxed);
        (self.is_dismissed() && end > 0).then(|| self.board.origin + Duration::from_nanos(end))
    }

    fn row(&self) -> &Row {
        &self.board.rows[self.row.0]
    }
}

impl Pulse for BoardPulse {
    fn beat(&self) {
        self.row().beat.store(self.board.now(), Ordering::Relaxed);
    }

    fn beat_age(&self) -> Duration {
        let beat = self.row().beat.load(Ordering::Relaxed);
        Duration::from_nanos(self.board.now().saturating_sub(beat))
    }

    fn set_state(&self, state: State) {
        self.row().state.store(state.code(), Ordering::Release);
    }

    fn state(&self) -> State {
        self.row().state()
    }

    // A request that begins or ends is a beat as well: behind many ready tasks the beat's own is late.
    fn begin(&self, request: RequestHead<'_>) -> Ticket {
        let now = self.board.now();
        self.row().beat.store(now, Ordering::Relaxed);
        self.row().begin(now, request.method().as_str(), request.path())
    }

    fn end(&self, ticket: Ticket, _: &End) {
        self.beat();
        self.row().end(ticket);
    }
}

impl fmt::Debug for BoardPulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoardPulse")
            .field("row", &self.row.0)
            .field("state", &self.state())
            .field("beat_age", &self.beat_age())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
