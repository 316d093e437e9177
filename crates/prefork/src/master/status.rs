//! What `status` answers, as JSON.

use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::state::{Child, Master};
use crate::arbiter::{Phase, Pid, Stage};

/// The server.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    name: &'a str,
    version: &'a str,
    pid: i32,
    /// preparing, starting, running, reloading, or stopping.
    state: &'a str,
    /// Seconds.
    uptime: f64,
    generation: u64,
    /// How many workers there should be.
    target: usize,
    listeners: &'a [String],
    /// How the last reload went; null before the first is over.
    last_reload: Option<ReloadStatus<'a>>,
    slots: Vec<SlotStatus<'a>>,
    workers: Vec<WorkerStatus>,
}

/// How a reload went.
#[derive(Debug, Serialize)]
pub(super) struct ReloadStatus<'a> {
    ok: bool,
    /// Why it failed, if it did.
    error: Option<&'a str>,
}

/// A worker's place.
#[derive(Debug, Serialize)]
pub(super) struct SlotStatus<'a> {
    slot: usize,
    /// Workers in a row that failed.
    failures: u32,
    /// Seconds until the next one is forked, if that has to wait.
    retry_in: Option<f64>,
    /// The last end that nobody has ordered.
    last_exit: Option<ExitStatus<'a>>,
}

/// How a worker ended.
#[derive(Debug, Serialize)]
pub(super) struct ExitStatus<'a> {
    how: &'a str,
    /// Seconds.
    age: f64,
}

/// One worker process.
#[derive(Debug, Serialize)]
pub(super) struct WorkerStatus {
    slot: usize,
    pid: i32,
    generation: u64,
    /// booting, ready, draining, hung, or killed.
    state: &'static str,
    /// Seconds since the last heartbeat.
    beat_age: f64,
    /// Open ones.
    connections: u32,
    /// Requests that began.
    requests: u64,
    in_flight: u64,
    oldest: Option<OldestRequest>,
    /// Seconds since the Unix epoch.
    started: f64,
}

/// The oldest request that is in flight.
#[derive(Debug, Serialize)]
pub(super) struct OldestRequest {
    /// Method and path.
    request: String,
    /// Seconds.
    age: f64,
}

impl Master<'_> {
    pub(super) fn status(&self) -> Status<'_> {
        let state = match self.arbiter.phase() {
            Phase::New { .. } | Phase::Preparing { .. } => "preparing",
            Phase::Starting => "starting",
            Phase::Running if self.arbiter.reloading() => "reloading",
            Phase::Running => "running",
            Phase::Stopping { .. } | Phase::Stopped(_) => "stopping",
        };
        let mut workers: Vec<_> = self
            .children
            .iter()
            .filter_map(|(&pid, child)| self.worker_status(pid, child))
            .collect();
        workers.sort_by_key(|worker| (worker.slot, worker.generation, worker.pid));
        Status {
            name: &self.name,
            version: env!("CARGO_PKG_VERSION"),
            pid: self.pid.as_raw(),
            state,
            uptime: self.began.elapsed().as_secs_f64(),
            generation: self.arbiter.generation(),
            target: self.arbiter.target(),
            listeners: &self.addresses,
            last_reload: self.last_reload.as_ref().map(|how| ReloadStatus {
                ok: how.is_ok(),
                error: how.as_ref().err().map(String::as_str),
            }),
            slots: (0..self.arbiter.target()).map(|slot| self.slot_status(slot)).collect(),
            workers,
        }
    }

    fn slot_status(&self, slot: usize) -> SlotStatus<'_> {
        let now = Instant::now();
        let (failures, retry_at) = self.arbiter.failures(slot, now);
        let wait = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
        SlotStatus {
            slot,
            failures,
            retry_in: retry_at.map(wait),
            last_exit: self
                .exits
                .get(&slot)
                .map(|(how, when)| ExitStatus { how, age: when.elapsed().as_secs_f64() }),
        }
    }

    fn worker_status(&self, pid: Pid, child: &Child) -> Option<WorkerStatus> {
        let (slot, generation, stage) = self.arbiter.worker(pid)?;
        let reading = self.board.read(child.row);
        let state = match stage {
            Stage::Booting { .. } => "booting",
            // A worker that somebody else sent SIGTERM drains without the master's order.
            Stage::Ready => reading.state.as_str(),
            Stage::Leaving { .. } => "draining",
            Stage::Aborting { .. } => "hung",
            Stage::Killed => "killed",
        };
        let oldest = self.board.in_flight(child.row).into_iter().next();
        Some(WorkerStatus {
            slot,
            pid,
            generation,
            state,
            beat_age: reading.beat.elapsed().as_secs_f64(),
            connections: reading.connections,
            requests: reading.started,
            in_flight: reading.started.saturating_sub(reading.finished),
            oldest: oldest.map(|oldest| OldestRequest {
                request: oldest.request,
                age: oldest.age.as_secs_f64(),
            }),
            started: child
                .started
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
        })
    }
}
