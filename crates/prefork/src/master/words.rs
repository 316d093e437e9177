//! What the master says of its processes in the log.

use std::fmt;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::Signal;

use super::state::{Child, Master};
use crate::arbiter::{Due, Pid, Place, Stage, Why};
use crate::board::InFlightList;
use crate::worker::status;

/// How a process ended.
#[derive(Clone, Copy)]
pub(super) enum Ending {
    Status(i32),
    /// Its number: real-time signals have no name.
    Signal(i32),
}

impl Master<'_> {
    /// Who fills a place, for a line of the log.
    pub(super) fn name_of(&self, place: Place) -> String {
        match (place, self.companion(place)) {
            (_, Some(companion)) => format!("companion {}", companion.name),
            (Place::Worker(slot), _) => format!("worker of slot {slot}"),
            (Place::Companion(_) | Place::Helper, None) => "process".to_owned(),
        }
    }

    pub(super) fn log_booting(&self, pid: Pid, child: &Child) {
        let generation = child.generation;
        match child.place {
            Place::Worker(slot) => {
                tracing::info!(worker = pid, slot, generation, "booting worker");
            }
            place => tracing::info!(process = pid, generation, "booting {}", self.name_of(place)),
        }
    }

    /// Says how a process ended, and, of a worker, which requests it took with it.
    pub(super) fn log_exit(&self, pid: Pid, child: &Child, ending: Ending) {
        match child.place {
            Place::Worker(slot) => self.log_worker_exit(pid, slot, child, ending),
            place => self.log_companion_exit(pid, &self.name_of(place), child, ending),
        }
    }

    fn log_companion_exit(&self, pid: Pid, name: &str, child: &Child, ending: Ending) {
        let generation = child.generation;
        match self.arbiter.stage(pid) {
            Some(Stage::Leaving { .. }) if ending.is_success() => {
                tracing::info!(process = pid, generation, "{name} left");
            }
            Some(Stage::Leaving { .. }) => {
                tracing::warn!(process = pid, generation, "{name} left: {ending}");
            }
            Some(Stage::Aborting { .. } | Stage::Killed) => {
                tracing::warn!(
                    process = pid,
                    generation,
                    "{name} gone, killed by the launcher: {ending}"
                );
            }
            Some(Stage::Booting { .. }) => {
                tracing::error!(
                    process = pid,
                    generation,
                    "{name} died before it had started: {ending}"
                );
            }
            Some(Stage::Ready) if ending.is_success() => {
                tracing::warn!(process = pid, generation, "{name} left by itself");
            }
            Some(Stage::Ready) | None => {
                tracing::error!(process = pid, generation, "{name} died: {ending}");
            }
        }
    }

    fn log_worker_exit(&self, pid: Pid, slot: usize, child: &Child, ending: Ending) {
        let generation = child.generation;
        let served = self.board.read(child.row).finished;
        let lost = self.board.in_flight(child.row);
        let lost = InFlightList(&lost);
        match self.arbiter.stage(pid) {
            Some(Stage::Leaving { .. }) if ending.is_success() && lost.0.is_empty() => {
                tracing::info!(worker = pid, slot, generation, served, "worker left");
            }
            Some(Stage::Leaving { .. }) => {
                tracing::warn!(
                    worker = pid,
                    slot,
                    generation,
                    served,
                    "worker left: {ending}; cut: {lost}"
                );
            }
            Some(Stage::Aborting { .. } | Stage::Killed) => {
                tracing::warn!(
                    worker = pid,
                    slot,
                    generation,
                    served,
                    "worker gone, killed by the launcher: {ending}; in flight: {lost}"
                );
            }
            Some(Stage::Booting { .. }) => {
                tracing::error!(
                    worker = pid,
                    slot,
                    generation,
                    "worker died before it was ready: {ending}"
                );
            }
            Some(Stage::Ready) if ending.is_success() && lost.0.is_empty() => {
                tracing::warn!(worker = pid, slot, generation, served, "worker left by itself");
            }
            Some(Stage::Ready) | None => {
                tracing::error!(
                    worker = pid,
                    slot,
                    generation,
                    served,
                    "worker died: {ending}; in flight: {lost}"
                );
            }
        }
    }

    /// What is known of a hung worker, before it is killed.
    pub(super) fn log_hung(&self, pid: Pid, silent: Duration) {
        let Some(child) = self.children.get(&pid) else {
            return;
        };
        let in_flight = self.board.in_flight(child.row);
        let generation = child.generation;
        let Place::Worker(slot) = child.place else {
            let (name, silent) = (self.name_of(child.place), silent.as_secs_f64());
            tracing::error!(process = pid, generation, "{name}: no heartbeat for {silent:.1} s");
            return;
        };
        tracing::error!(
            worker = pid,
            slot,
            generation,
            "worker timeout: no heartbeat for {:.1} s; in flight: {}",
            silent.as_secs_f64(),
            InFlightList(&in_flight)
        );
    }
}

impl Ending {
    /// What `waitpid` says of a process that has ended.
    pub(super) fn of(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Status(libc::WEXITSTATUS(status))
        }
    }

    pub(super) fn is_success(self) -> bool {
        matches!(self, Self::Status(0))
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => {
                write!(f, "exit status {status}")?;
                match *status {
                    status::NOT_STARTED => f.write_str(" (the app could not be started)"),
                    status::PANICKED => f.write_str(" (it panicked)"),
                    _ => Ok(()),
                }
            }
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "it has begun max_requests",
            Self::Lifetime => "it has lived for max_lifetime",
            Self::Memory => "it holds more memory than max_rss",
            Self::Preload => "it still holds what was preloaded before",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "the server stops",
            Self::Replaced => "it is replaced, or no longer wanted",
            Self::Recycled(why) => return why.fmt(f),
            Self::GraceOver => "it did not leave within graceful_timeout",
            Self::BootTimeout => "it did not become ready within boot_timeout",
            Self::NotPrepared => "the preparation did not end within boot_timeout",
            Self::NotPreloaded => "the preload did not end within boot_timeout",
            Self::Hung => "it is hung",
        })
    }
}
