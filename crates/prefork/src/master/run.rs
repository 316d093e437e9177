//! The loop: it waits, hears what happened, and carries out what the arbiter decides.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags};

use super::state::{Child, Master, Own};
use super::workers::send_signal;
use crate::arbiter::{Action, Event, Phase, Place, Stage, Verdict, Why};
use crate::ends;
use crate::hooks::ServerHooks;
use crate::pidfile::Pidfile;
use crate::poll::poll_until;
use crate::sockets::MasterListener;

impl Master<'_> {
    /// Runs until no process is left.
    pub(crate) fn run(mut self) -> Verdict {
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "{} starts", self.name);
        for address in &self.addresses {
            tracing::info!("listening on {address}");
        }
        // Who was told to stop while a hook held the start up forks nobody.
        self.take_signals();
        self.feed(Event::Tick);
        let verdict = loop {
            match self.arbiter.phase() {
                Phase::Stopped(verdict) => break verdict,
                Phase::Stopping { .. } => {
                    self.close_listeners();
                    self.no_reload("the server stops");
                }
                Phase::New { .. } | Phase::Preparing { .. } | Phase::Starting | Phase::Running => {}
            }
            self.wait();
            // What is judged is this moment, after all that came before it was heard, however long a hook took.
            let now = Instant::now();
            self.take_beats();
            self.take_reports();
            self.take_signals();
            self.take_commands();
            self.look_at_memory();
            let actions = self.arbiter.handle(Event::Tick, now);
            self.act(actions);
        };
        self.close_listeners();
        self.no_reload("the server does not run");
        if let Some(Own { control: Some(control), .. }) = &self.own {
            control.remove_file();
        }
        self.hooks.call("on_exit", ServerHooks::on_exit);
        self.pidfile.iter().for_each(Pidfile::remove);
        verdict
    }

    /// The one wait.
    fn wait(&self) {
        let mut deadline = self
            .arbiter
            .deadline()
            .into_iter()
            .chain(self.closing.filter(|_| !self.listeners.is_empty()))
            .chain(self.memory_look)
            .min();
        let mut watched = Vec::new();
        if let Some(own) = &self.own {
            watched.push(PollFd::new(own.signals.as_fd(), PollFlags::POLLIN));
            if let Some(control) = &own.control {
                watched.extend(control.interests().map(|(fd, flags)| PollFd::new(fd, flags)));
                deadline = deadline.into_iter().chain(control.deadline()).min();
            }
        }
        let reports = self.children.values().filter_map(|child| child.report.as_ref());
        watched.extend(reports.map(|report| PollFd::new(report.as_fd(), PollFlags::POLLIN)));
        poll_until(&mut watched, deadline);
    }

    pub(super) fn feed(&mut self, event: Event) {
        let actions = self.arbiter.handle(event, Instant::now());
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        let (new, old) = (self.arbiter.target(), self.target);
        if new != old {
            self.target = new;
            self.hooks.call("nworkers_changed", |hooks| hooks.nworkers_changed(new, Some(old)));
        }
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let Some(event) = self.carry_out(action) else {
                continue;
            };
            actions.extend(self.arbiter.handle(event, Instant::now()));
            if let Some(reread) = self.reread.take() {
                self.generations.entry(self.arbiter.generation()).or_insert(reread);
            }
        }
    }

    fn carry_out(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Prepare => Some(self.fork_prepare()),
            Action::Spawn { place, generation } => Some(match self.spawn(place, generation) {
                Ok(spawned) => spawned,
                Err(error) => {
                    let how = format!("no process could be forked: {error}");
                    tracing::error!(generation, "{}: {how}", self.name_of(place));
                    self.note_exit(place, how);
                    Event::SpawnFailed { place, generation }
                }
            }),
            Action::LogHung { pid, silent } => {
                self.log_hung(pid, silent);
                None
            }
            Action::LogDue { pid, why } => {
                if let Some(Child { place: Place::Worker(slot), .. }) = self.children.get(&pid) {
                    tracing::info!(worker = pid, slot, "worker is due for recycling: {why}");
                }
                None
            }
            Action::Signal { pid, signal, why } => {
                if why == Why::Stop {
                    // First: what the workers then find in the queues is all that will ever be there.
                    self.close_listeners();
                }
                if let Some(dry_run) = self.dry_run.as_mut().filter(|_| why == Why::NotPreloaded) {
                    dry_run.is_late = true;
                }
                if let Some(child) = self.children.get(&pid) {
                    let grace_end = match self.arbiter.stage(pid) {
                        Some(Stage::Leaving { deadline, .. }) => {
                            deadline.checked_sub(ends::MASTER_MARGIN)
                        }
                        _ => None,
                    };
                    self.board.dismiss(child.row, grace_end);
                    if matches!(why, Why::BootTimeout | Why::Hung) {
                        self.note_exit(child.place, why.to_string());
                    }
                }
                send_signal(pid, signal, why);
                None
            }
            Action::Reread => Some(self.reload_is_tried()),
            Action::Preload => Some(self.preload()),
            Action::Revert { generation, slot } => {
                self.generations.remove(&generation);
                let reason = self.exits.get(&Place::Worker(slot)).map_or("unknown", |(how, _)| how);
                let why = format!(
                    "the reload failed: its first worker did not become ready: {reason}; the old workers stay"
                );
                tracing::error!(generation, "{why}");
                self.reload_ends(Err(why));
                None
            }
            Action::Reloaded { generation } => {
                tracing::info!(generation, "the reload is over: every worker is new");
                self.reload_ends(Ok(()));
                None
            }
            Action::Proven { generation } => {
                if generation > 1 {
                    tracing::info!(generation, "the first worker of the new generation is ready");
                }
                let before = self.generations.len();
                self.generations.retain(|known, _| *known >= generation);
                let dropped = self.lives.is_preloaded() && self.generations.len() < before;
                dropped.then_some(Event::PreloadDropped)
            }
        }
    }

    /// The server stops: at first nobody new gets into the queues, and the workers serve who is there
    /// already; an empty queue is closed, so that who comes later is refused at once, also when a
    /// worker hangs and would keep the address open.
    fn close_listeners(&mut self) {
        let now = Instant::now();
        match self.closing {
            None => self.listeners.iter().for_each(MasterListener::take_nobody_new),
            Some(look) if now >= look => MasterListener::close_empty(&mut self.listeners),
            Some(_) => return,
        }
        self.closing = Some(now + ends::MASTER_LOOKS);
    }
}
