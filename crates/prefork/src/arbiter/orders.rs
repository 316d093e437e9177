//! What goes into an arbiter and what comes out of it.

use std::time::{Duration, Instant};

use crate::settings::Settings;

/// A process, as the kernel counts them.
pub(crate) type Pid = i32;

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A worker, in this slot.
    Worker(usize),
    /// The companion of this number.
    Companion(usize),
    /// The preparing process, or a preload's dry run.
    Helper,
}

/// The settings that decide.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) workers: usize,
    /// `None`: never.
    pub(crate) timeout: Option<Duration>,
    /// What a worker needs to beat, and more: who seems hung has so long to show that he is not.
    pub(crate) patience: Duration,
    /// `None`: never.
    pub(crate) boot_timeout: Option<Duration>,
    pub(crate) graceful_timeout: Duration,
    /// Whether the server starts only with all its companions.
    pub(crate) require_companions: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The preparing process was forked.
    Preparing(Pid),
    /// The preparing process could not be forked.
    Unprepared,
    /// A worker or companion was forked, as an [`Action::Spawn`] asked, and is due after `lifetime`.
    Spawned { pid: Pid, place: Place, generation: u64, lifetime: Option<Duration> },
    /// It could not be forked.
    SpawnFailed { place: Place, generation: u64 },
    /// A worker reported that it serves, or a companion that it has started.
    Ready(Pid),
    /// A process is gone and reaped; `success` is its exit status 0.
    Gone { pid: Pid, success: bool },
    /// A worker has served or grown as much as it may.
    Due { pid: Pid, why: Due },
    /// What was preloaded for older generations is dropped in the master.
    PreloadDropped,
    /// The last beat of a worker, from the board.
    Beat { pid: Pid, at: Instant },
    /// An order, by signal or by the control socket.
    Order(Order),
    /// The preload's dry run was forked, and has so long.
    DryRun { pid: Pid, limit: Option<Duration> },
    /// A reload can begin: what the settings say now; or `None`: they are wrong, or the preload has failed.
    Reread(Option<Limits>),
    /// Time went by.
    Tick,
}

/// What an operator can order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Stop {
        quick: bool,
    },
    Reload,
    /// One worker more.
    More,
    /// One worker fewer, but never none.
    Fewer,
}

/// What the master is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Fork the preparing process.
    Prepare,
    /// Fork a worker or companion; the answer is [`Event::Spawned`] or [`Event::SpawnFailed`].
    Spawn { place: Place, generation: u64 },
    /// Log what a hung worker is working on: it is about to be killed.
    LogHung { pid: Pid, silent: Duration },
    /// Log that a worker is to be recycled, when its turn comes.
    LogDue { pid: Pid, why: Due },
    /// Send a signal.
    Signal { pid: Pid, signal: WorkerSignal, why: Why },
    /// Read the settings again; the answer is [`Event::Reread`], or, if there is a preload, [`Event::DryRun`].
    Reread,
    /// The dry run has succeeded: preload in this process; the answer is [`Event::Reread`].
    Preload,
    /// The settings of the generation that failed to start, in this slot, are void.
    Revert { generation: u64, slot: usize },
    /// A new generation serves, and its settings are proven.
    Proven { generation: u64 },
    /// A reload is over: every worker is of the new generation.
    Reloaded { generation: u64 },
}

/// The signals that a master sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WorkerSignal {
    /// SIGTERM: drain and leave.
    Term,
    /// SIGQUIT: leave at once.
    Quit,
    /// SIGABRT.
    Abort,
    /// SIGKILL.
    Kill,
}

/// Why a worker is recycled: replaced though nothing is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// It has begun `max_requests`, and its jitter.
    Requests,
    /// It is `max_lifetime` old, less its jitter.
    Lifetime,
    /// It holds more memory than `max_rss`.
    Memory,
    /// It was forked when the master still had what was preloaded before.
    Preload,
}

/// Why a signal is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The server stops.
    Stop,
    /// There is a newer worker in its slot, or no use for the slot.
    Replaced,
    /// It is due, and its successor serves.
    Recycled(Due),
    /// It did not leave in its time.
    GraceOver,
    /// It did not become ready in its time.
    BootTimeout,
    /// The preparation took too long.
    NotPrepared,
    /// The preload's dry run took too long.
    NotPreloaded,
    /// Its heartbeat is late.
    Hung,
}

impl Place {
    /// What is there for it, of what there is for each worker and for each companion.
    pub(super) fn of<T>(
        self,
        mut workers: impl Iterator<Item = T>,
        mut companions: impl Iterator<Item = T>,
    ) -> Option<T> {
        match self {
            Self::Worker(slot) => workers.nth(slot),
            Self::Companion(companion) => companions.nth(companion),
            Self::Helper => None,
        }
    }
}

impl Limits {
    pub(crate) fn of(settings: &Settings) -> Self {
        let limit = |duration: Duration| (!duration.is_zero()).then_some(duration);
        Self {
            workers: settings.workers,
            timeout: limit(settings.timeout),
            patience: settings.beat_interval() + settings.beat_interval() / 4,
            boot_timeout: limit(settings.boot_timeout),
            graceful_timeout: settings.graceful_timeout,
            require_companions: settings.require_companions,
        }
    }
}
