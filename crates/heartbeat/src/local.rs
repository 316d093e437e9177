//! A pulse that only its own process reads.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farrier_exchange::End;

use crate::{Pulse, RequestHead, State, Ticket};

/// A [`Pulse`] in the process's own memory, for apps that run without the launcher.
///
/// It counts requests and does not keep their paths: nobody could read them once the process hangs.
#[derive(Debug)]
pub struct LocalPulse {
    made: Instant,
    /// Nanoseconds from `made` to the last beat.
    beat: AtomicU64,
    state: AtomicU8,
    started: AtomicU64,
    finished: AtomicU64,
}

impl LocalPulse {
    /// A pulse in state [`State::Booting`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            made: Instant::now(),
            beat: AtomicU64::new(0),
            state: AtomicU8::new(State::Booting.code()),
            started: AtomicU64::new(0),
            finished: AtomicU64::new(0),
        }
    }

    /// Requests that began since the pulse was made.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Requests that ended since the pulse was made, however they ended.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished.load(Ordering::Relaxed)
    }

    /// Requests that began and have not ended.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        // Read in this order: a request that ends in between must not make the difference negative.
        let finished = self.finished.load(Ordering::Acquire);
        self.started().saturating_sub(finished)
    }
}

impl Default for LocalPulse {
    fn default() -> Self {
        Self::new()
    }
}

impl Pulse for LocalPulse {
    fn beat(&self) {
        let nanos = u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.beat.store(nanos, Ordering::Relaxed);
    }

    fn beat_age(&self) -> Duration {
        let beat = Duration::from_nanos(self.beat.load(Ordering::Relaxed));
        self.made.elapsed().saturating_sub(beat)
    }

    fn set_state(&self, state: State) {
        self.state.store(state.code(), Ordering::Relaxed);
    }

    fn state(&self) -> State {
        State::from_code(self.state.load(Ordering::Relaxed)).unwrap_or_default()
    }

    fn begin(&self, _: RequestHead<'_>) -> Ticket {
        self.started.fetch_add(1, Ordering::Relaxed);
        Ticket::NONE
    }

    fn end(&self, _: Ticket, _: &End) {
        self.finished.fetch_add(1, Ordering::Release);
    }
}
