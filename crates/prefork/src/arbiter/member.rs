//! The processes and the places that they fill, as an arbiter sees them.

use std::time::{Duration, Instant};

use super::orders::{Action, Due, Limits, Pid, Place, Why, WorkerSignal};
use crate::ends;

/// Failures in a row that are made good at once: of a worker that was never ready, and of one that died
/// soon after. A boot that fails once will most likely fail again.
const FREE_BOOTS: u32 = 1;
const FREE_DEATHS: u32 = 4;

/// The first wait after those; each further one is twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
pub(super) const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// A worker that was ready for so long is no failure of its slot when it dies.
const HEALTHY: Duration = Duration::from_secs(1);

/// A process that was forked.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) generation: u64,
    /// Which one it is of all that were ever forked; pids begin anew.
    pub(super) fork: u64,
    /// By which it was started, and by which it is judged.
    pub(super) limits: Limits,
    pub(super) stage: Stage,
    /// The last beat that the master read.
    pub(super) beat: Instant,
    /// The beat is late; if there is none until then, the worker is hung.
    pub(super) suspect: Option<Instant>,
    pub(super) ready_at: Option<Instant>,
    /// When it will be due by its age.
    pub(super) expires: Option<Instant>,
    /// Since when, and why, it is to be recycled.
    pub(super) due: Option<(Instant, Due)>,
}

/// What a worker process is doing, as the master sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has not reported ready. Exits: `Ready` (it did), `Leaving` (told to), `Killed` (`boot_timeout`),
    /// gone.
    Booting { deadline: Option<Instant> },
    /// It serves. Exits: `Leaving` (told to), `Aborting` (hung), gone.
    Ready,
    /// It got its one SIGTERM and drains, or its one SIGQUIT. Exits: `Aborting` (hung), `Killed` (at the
    /// deadline), gone.
    Leaving { deadline: Instant, quick: bool },
    /// It is hung and got SIGABRT. Exits: `Killed` (at the deadline), gone.
    Aborting { deadline: Instant },
    /// It got SIGKILL. Exit: gone.
    Killed,
}

/// A worker's slot, or a companion's, which its replacements inherit.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotState {
    /// Deaths in a row without a healthy life in between.
    pub(super) failures: u32,
    /// No spawn before this moment.
    pub(super) retry_at: Option<Instant>,
    /// A spawn is under way.
    pub(super) spawning: bool,
    /// The server stops, and no other process comes into this place.
    pub(super) is_last: bool,
}

impl Member {
    pub(super) fn is_worker(&self) -> bool {
        matches!(self.place, Place::Worker(_))
    }

    pub(super) fn is_companion(&self) -> bool {
        matches!(self.place, Place::Companion(_))
    }

    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        self.ready_at.is_some_and(|since| now.duration_since(since) >= HEALTHY)
    }

    /// Tells it to drain, once.
    pub(super) fn leave(&mut self, pid: Pid, why: Why, now: Instant, actions: &mut Vec<Action>) {
        if self.stage.is_active() {
            let deadline = now + self.limits.graceful_timeout + ends::MASTER_MARGIN;
            self.stage = Stage::Leaving { deadline, quick: false };
            actions.push(Action::Signal { pid, signal: WorkerSignal::Term, why });
        }
    }

    /// Tells a companion to drain when the server stops and has no worker any more: within the same grace.
    pub(super) fn leave_after_the_workers(
        &mut self,
        pid: Pid,
        end: Instant,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if self.stage.is_active() {
            let deadline = end.max(now + ends::LEAST_COMPANION) + ends::MASTER_MARGIN;
            self.stage = Stage::Leaving { deadline, quick: false };
            actions.push(Action::Signal { pid, signal: WorkerSignal::Term, why: Why::Stop });
        }
    }

    /// Tells it to leave at once, also when it drains already.
    pub(super) fn leave_quick(&mut self, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        let deadline = match self.stage {
            Stage::Leaving { deadline, quick: false } => deadline.min(now + ends::MASTER_QUICK),
            Stage::Booting { .. } | Stage::Ready => now + ends::MASTER_QUICK,
            Stage::Leaving { quick: true, .. } | Stage::Aborting { .. } | Stage::Killed => return,
        };
        self.stage = Stage::Leaving { deadline, quick: true };
        actions.push(Action::Signal { pid, signal: WorkerSignal::Quit, why: Why::Stop });
    }
}

impl Stage {
    /// Whether it serves or is going to.
    pub(super) fn is_active(self) -> bool {
        matches!(self, Self::Booting { .. } | Self::Ready)
    }

    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Booting { deadline } => deadline,
            Self::Leaving { deadline, .. } | Self::Aborting { deadline } => Some(deadline),
            Self::Ready | Self::Killed => None,
        }
    }
}

impl SlotState {
    pub(super) fn may_spawn(&self) -> bool {
        !self.spawning && self.retry_at.is_none()
    }

    /// Notes a failure: the next spawn waits the longer, the more there were.
    pub(super) fn failed(&mut self, was_ready: bool, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let free = if was_ready { FREE_DEATHS } else { FREE_BOOTS };
        self.retry_at = self.failures.checked_sub(free + 1).map(|doublings| {
            let factor = 2_u32.saturating_pow(doublings.min(16));
            now + FIRST_BACKOFF.saturating_mul(factor).min(LONGEST_BACKOFF)
        });
    }
}
