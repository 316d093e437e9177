//! What each process has that the master supervises: a worker and a companion.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use farrier_serve::{Drain, Level};
use nix::unistd::Pid;
use tokio::runtime::{Builder, Runtime};
use tokio::time;

use super::process::{self, status};
use crate::board::{Board, BoardPulse, RowId};
use crate::ends;
use crate::exit_work::ExitWork;
use crate::report::Report;
use crate::settings::Settings;
use crate::signals::WorkerSignals;

/// What the master gives to each.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) generation: u64,
    pub(crate) master: Pid,
    pub(crate) board: Arc<Board>,
    pub(crate) row: RowId,
    pub(crate) settings: Arc<Settings>,
    /// Where the process says that it is ready, and what else the master has to know.
    pub(crate) report: OwnedFd,
    /// A pipe whose other end only the master holds: its end is the master's death.
    pub(crate) alive: OwnedFd,
}

/// What the process knows of itself.
#[derive(Clone, Debug)]
pub(super) struct Supervised {
    pub(super) generation: u64,
    pub(super) pulse: Arc<BoardPulse>,
    pub(super) drain: Drain,
    pub(super) settings: Arc<Settings>,
    pub(super) exit_work: Arc<ExitWork>,
}

/// The pipes by which the process and its master hear of each other.
pub(super) struct Pipes {
    pub(super) report: OwnedFd,
    pub(super) alive: OwnedFd,
}

impl Supervised {
    pub(super) fn new(seed: Seed) -> (Self, Pipes) {
        let Seed { generation, board, row, settings, report, alive, master: _ } = seed;
        (Self::of(generation, board, row, settings), Pipes { report, alive })
    }

    pub(super) fn of(
        generation: u64,
        board: Arc<Board>,
        row: RowId,
        settings: Arc<Settings>,
    ) -> Self {
        let pulse = Arc::new(BoardPulse::new(board, row));
        Self { generation, pulse, drain: Drain::new(), settings, exit_work: Arc::default() }
    }

    /// As many threads as the settings say.
    pub(super) fn runtime(&self) -> io::Result<Runtime> {
        match self.settings.threads {
            0 | 1 => Builder::new_current_thread().enable_all().build(),
            threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
        }
    }

    /// Waits for the end of the grace, or for the order to stop at once, and says which; `told` becomes when
    /// the process was told to leave.
    pub(super) async fn time_is_over(&self, told: &Cell<Option<time::Instant>>) -> &'static str {
        self.drain.started().await;
        let now = time::Instant::now();
        told.set(Some(now));
        tokio::select! {
            biased;
            () = self.drain.reached(Level::Quick) => "by the order to stop at once",
            () = time::sleep_until(self.grace_end(now)) => "at the end of graceful_timeout",
        }
    }

    /// The end of its grace if it was `told` then: the master may give it less, when others had a part of it.
    pub(super) fn grace_end(&self, told: time::Instant) -> time::Instant {
        let own = told + self.settings.graceful_timeout;
        self.pulse.grace_end().map_or(own, |end| own.min(end.into()))
    }

    /// Does the work before the exit, in what is left of the grace.
    pub(super) async fn finish(&self, told: &Cell<Option<time::Instant>>) {
        let told = told.get().unwrap_or_else(time::Instant::now);
        self.exit_work.finish(self.grace_over(told)).await;
    }

    /// The same if the process could not start.
    pub(super) async fn finish_unstarted(&self) {
        self.exit_work.finish(time::sleep(ends::QUICK_EXIT_WORK)).await;
    }

    /// Ends when the work before the exit has to.
    async fn grace_over(&self, told: time::Instant) {
        let least = time::Instant::now() + ends::LEAST_EXIT_WORK;
        let quick = async {
            self.drain.reached(Level::Quick).await;
            time::sleep(ends::QUICK_EXIT_WORK).await;
        };
        tokio::select! {
            () = time::sleep_until(least.max(self.grace_end(told))) => {}
            () = quick => {}
        }
    }
}

/// What a process does first after the fork.
///
/// # Errors
///
/// The kernel's; or the master is dead.
pub(super) fn settle_in(master: Pid, name: &str) -> io::Result<WorkerSignals> {
    let signals = WorkerSignals::take()?;
    process::follow(master)?;
    process::name(&format!("farrier:{name}"));
    Ok(signals)
}

/// Says something to the master.
pub(super) fn say(report: &OwnedFd, what: &Report) {
    // If nobody reads it the master is dead, and the forked thread knows.
    let _ = nix::unistd::write(report, &what.to_bytes());
}

/// The exit status of a process that could not set itself up, and a line for it.
pub(super) fn not_set_up(error: &io::Error, name: &str) -> i32 {
    tracing::error!(%error, process = name, "a process could not set itself up");
    status::NOT_STARTED
}
