//! The forks, and what a child gives up first.

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use nix::fcntl::OFlag;
use nix::unistd;

use super::recycling::Recycling;
use super::state::{Child, DryRun, Generation, Master, Own};
use crate::arbiter::{Event, Limits, Place};
use crate::audit::{audit, close_inherited};
use crate::hooks::WorkerProcess;
use crate::settings::Settings;
use crate::sys::{self, Forked};
use crate::worker::{self, CompanionWork, Seed, WorkerSeed, status};
use crate::{log, stdout};

impl Master<'_> {
    fn fork(&self) -> Result<Forked, Box<dyn std::error::Error>> {
        let audit = audit(&self.known())?;
        // A child would write again what is still in the buffer.
        stdout::settle();
        let forked = sys::fork(audit.single_threaded)?;
        if let Forked::Child = forked {
            if let Err(error) = close_inherited(&audit.inherited) {
                tracing::error!(%error, "a worker keeps what it inherited from this program's parent");
            }
        }
        Ok(forked)
    }

    /// What an audit would find and is the launcher's own.
    pub(super) fn known(&self) -> Vec<RawFd> {
        self.own.iter().flat_map(Own::not_shareable).map(|own| own.as_raw_fd()).collect()
    }

    /// The process that tries the preload before the master calls it.
    pub(super) fn fork_dry_run(
        &mut self,
        settings: Settings,
    ) -> Result<Event, Box<dyn std::error::Error>> {
        let (reader, report) = unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        match self.fork()? {
            Forked::Child => {
                drop(reader);
                self.give_up_what_is_the_masters();
                let load = || self.lives.try_out().map_err(|error| error.to_string());
                worker::end_with(|| worker::dry_run(self.pid, &report, load))
            }
            Forked::Parent(pid) => {
                let pid = pid.as_raw();
                tracing::info!(process = pid, "preloading, at first in a process of its own");
                let limit = Limits::of(&settings).boot_timeout;
                self.dry_run = Some(DryRun { pid, settings, report: reader, is_late: false });
                Ok(Event::DryRun { pid, limit })
            }
        }
    }

    pub(super) fn fork_prepare(&mut self) -> Event {
        let Some(work) = self.prepare.take() else {
            return Event::Unprepared;
        };
        match self.fork() {
            Ok(Forked::Child) => {
                let master = self.pid;
                self.give_up_what_is_the_masters();
                worker::end_with(|| worker::prepare(master, work))
            }
            Ok(Forked::Parent(pid)) => {
                tracing::info!(process = pid.as_raw(), "preparing");
                self.preparing = Some(pid.as_raw());
                Event::Preparing(pid.as_raw())
            }
            Err(error) => {
                tracing::error!("the preparing process could not be forked: {error}");
                Event::Unprepared
            }
        }
    }

    pub(super) fn spawn(
        &mut self,
        place: Place,
        generation: u64,
    ) -> Result<Event, Box<dyn std::error::Error>> {
        let current = self.generations.get(&generation).ok_or("its settings are void")?;
        let Generation { settings, life } = current.clone();
        let own = self.own.as_ref().ok_or("a child does not fork workers")?;
        let alive = own.alive.try_clone()?;
        let (reader, report) = unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        if let Place::Worker(slot) = place {
            let process = WorkerProcess { pid: None, slot, generation };
            self.hooks.call("pre_fork", |hooks| hooks.pre_fork(&process));
        }
        let row = self.board.take().ok_or("the board is full")?;
        // Drawn here: a child's copy of the state of chance would give each the same.
        let limits = match place {
            Place::Worker(_) => Recycling::draw(&settings),
            Place::Companion(_) | Place::Helper => Recycling::default(),
        };
        match self.fork() {
            Ok(Forked::Child) => {
                drop(reader);
                let listeners = mem::take(&mut self.listeners);
                self.give_up_what_is_the_masters();
                let board = Arc::clone(&self.board);
                let master = self.pid;
                let seed = Seed { generation, master, board, row, settings, report, alive };
                worker::end_with(|| match place {
                    Place::Worker(slot) => {
                        let max_requests = limits.max_requests;
                        let hooks = self.hooks.clone();
                        life.live(WorkerSeed { seed, slot, listeners, max_requests, hooks })
                    }
                    Place::Companion(_) | Place::Helper => {
                        drop(listeners);
                        self.companion(place).map_or(status::NOT_STARTED, |work| work.live(seed))
                    }
                })
            }
            Ok(Forked::Parent(pid)) => {
                let pid = pid.as_raw();
                self.board.occupy(row, pid);
                let child = Child {
                    place,
                    generation,
                    row,
                    started: SystemTime::now(),
                    forked: Instant::now(),
                    report: Some(reader),
                    max_rss: limits.max_rss,
                    failure: None,
                };
                self.log_booting(pid, &child);
                self.children.insert(pid, child);
                Ok(Event::Spawned { pid, place, generation, lifetime: limits.lifetime })
            }
            Err(error) => {
                self.board.free(row);
                Err(error)
            }
        }
    }

    /// The companion of a place.
    pub(super) fn companion(&self, place: Place) -> Option<&CompanionWork> {
        match place {
            Place::Companion(companion) => self.companions.get(companion),
            Place::Worker(_) | Place::Helper => None,
        }
    }

    /// In a child: closes what only the master may hold. No file is removed.
    fn give_up_what_is_the_masters(&mut self) {
        drop(self.own.take());
        // The file stays; its lock is the master's.
        self.pidfile = None;
        self.dry_run = None;
        self.children.clear();
        self.listeners.clear();
        log::forget_losses();
    }
}
