//! What `status` answers, as JSON.

use std::time::{Instant, SystemTime};

use farrier_heartbeat::State;
use serde::Serialize;

use super::state::{Child, Master};
use crate::arbiter::{Phase, Pid, Place, Stage};

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
    companions: Vec<CompanionStatus<'a>>,
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

/// A companion, and its process if it has one now.
#[derive(Debug, Serialize)]
pub(super) struct CompanionStatus<'a> {
    name: &'a str,
    /// Processes in a row that failed.
    failures: u32,
    /// Seconds until the next one is forked, if that has to wait.
    retry_in: Option<f64>,
    /// The last end that nobody has ordered.
    last_exit: Option<ExitStatus<'a>>,
    process: Option<CompanionProcess>,
}

/// A companion's process.
#[derive(Debug, Serialize)]
pub(super) struct CompanionProcess {
    pid: i32,
    generation: u64,
    /// booting, ready, draining, hung, or killed.
    state: &'static str,
    /// Seconds since the last heartbeat.
    beat_age: f64,
    /// Seconds since the Unix epoch.
    started: f64,
}

/// What is said of each place, filled or not.
struct PlaceStatus<'a> {
    failures: u32,
    retry_in: Option<f64>,
    last_exit: Option<ExitStatus<'a>>,
}

/// How a process ended.
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
            companions: (0..self.companions.len())
                .map(|index| self.companion_status(index))
                .collect(),
        }
    }

    fn companion_status(&self, index: usize) -> CompanionStatus<'_> {
        let place = Place::Companion(index);
        let PlaceStatus { failures, retry_in, last_exit } = self.place_status(place);
        let mut children = self.children.iter().filter(|(_, child)| child.place == place);
        CompanionStatus {
            name: &self.companions[index].name,
            failures,
            retry_in,
            last_exit,
            process: children.next().and_then(|(&pid, child)| {
                let reading = self.board.read(child.row);
                Some(CompanionProcess {
                    pid,
                    generation: child.generation,
                    state: state(self.arbiter.stage(pid)?, reading.state),
                    beat_age: reading.beat.elapsed().as_secs_f64(),
                    started: child.since_the_epoch(),
                })
            }),
        }
    }

    fn slot_status(&self, slot: usize) -> SlotStatus<'_> {
        let PlaceStatus { failures, retry_in, last_exit } = self.place_status(Place::Worker(slot));
        SlotStatus { slot, failures, retry_in, last_exit }
    }

    fn place_status(&self, place: Place) -> PlaceStatus<'_> {
        let now = Instant::now();
        let (failures, retry_at) = self.arbiter.failures(place, now);
        let wait = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
        PlaceStatus {
            failures,
            retry_in: retry_at.map(wait),
            last_exit: self
                .exits
                .get(&place)
                .map(|(how, when)| ExitStatus { how, age: when.elapsed().as_secs_f64() }),
        }
    }

    fn worker_status(&self, pid: Pid, child: &Child) -> Option<WorkerStatus> {
        let Place::Worker(slot) = child.place else { return None };
        let reading = self.board.read(child.row);
        let oldest = self.board.in_flight(child.row).into_iter().next();
        Some(WorkerStatus {
            slot,
            pid,
            generation: child.generation,
            state: state(self.arbiter.stage(pid)?, reading.state),
            beat_age: reading.beat.elapsed().as_secs_f64(),
            connections: reading.connections,
            requests: reading.started,
            in_flight: reading.started.saturating_sub(reading.finished),
            oldest: oldest.map(|oldest| OldestRequest {
                request: oldest.request,
                age: oldest.age.as_secs_f64(),
            }),
            started: child.since_the_epoch(),
        })
    }
}

impl Child {
    /// When it was started, in seconds.
    fn since_the_epoch(&self) -> f64 {
        let since = self.started.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0.0, |since| since.as_secs_f64())
    }
}

/// What a process is doing, by what the master has told it and by what it says itself.
fn state(stage: Stage, said: State) -> &'static str {
    match stage {
        Stage::Booting { .. } => "booting",
        // One that somebody else sent SIGTERM drains without the master's order.
        Stage::Ready => said.as_str(),
        Stage::Leaving { .. } => "draining",
        Stage::Aborting { .. } => "hung",
        Stage::Killed => "killed",
    }
}
