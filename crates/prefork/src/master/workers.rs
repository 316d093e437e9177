//! The talk with the workers: beats, reports, signals, deaths.

use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd;

use super::state::{Child, Master};
use super::words::Ending;
use crate::arbiter::{Due, Event, Pid, Place, Stage, Why, WorkerSignal};
use crate::hooks::{WorkerExit, WorkerProcess};
use crate::report::Report;
use crate::sys;

impl Master<'_> {
    pub(super) fn take_beats(&mut self) {
        let now = Instant::now();
        for (&pid, child) in &self.children {
            let at = self.board.read(child.row).beat;
            self.arbiter.handle(Event::Beat { pid, at }, now);
        }
    }

    pub(super) fn take_reports(&mut self) {
        let waiting: Vec<Pid> = self
            .children
            .iter()
            .filter(|(_, child)| child.report.is_some())
            .map(|(&pid, _)| pid)
            .collect();
        for pid in waiting {
            self.take_report(pid);
        }
    }

    fn take_report(&mut self, pid: Pid) {
        let Some(report) = self.children.get(&pid).and_then(|child| child.report.as_ref()) else {
            return;
        };
        let mut said = [0; Report::LONGEST];
        match unistd::read(report, &mut said) {
            Ok(length) => {
                let mut rest = &said[..length];
                let is_over = rest.is_empty();
                while let Some((report, more)) = Report::first(rest) {
                    self.hear(pid, report);
                    rest = more;
                }
                if is_over {
                    self.report_over(pid);
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(worker = pid, %error, "a worker's report could not be read");
                self.report_over(pid);
            }
        }
    }

    fn hear(&mut self, pid: Pid, report: Report) {
        let Some(child) = self.children.get_mut(&pid) else { return };
        let Child { place, generation, .. } = *child;
        match (report, place) {
            (Report::Ready, Place::Worker(slot)) => {
                tracing::info!(worker = pid, slot, generation, "worker ready");
                let process = WorkerProcess { pid: Some(pid.unsigned_abs()), slot, generation };
                self.hooks.call("worker_ready", |hooks| hooks.worker_ready(&process));
                self.feed(Event::Ready(pid));
            }
            (Report::Ready, place) => {
                tracing::info!(process = pid, generation, "{} ready", self.name_of(place));
                self.feed(Event::Ready(pid));
            }
            (Report::Due, _) => self.feed(Event::Due { pid, why: Due::Requests }),
            (Report::Failure(why), _) => child.failure = Some(why),
        }
    }

    fn report_over(&mut self, pid: Pid) {
        if let Some(child) = self.children.get_mut(&pid) {
            child.report = None;
        }
    }

    /// One SIGCHLD may stand for many deaths.
    pub(super) fn reap(&mut self) {
        loop {
            match sys::reap() {
                Ok(Some((pid, status))) => self.reaped(pid, Ending::of(status)),
                Ok(None) | Err(Errno::ECHILD) => return,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waitpid failed");
                    return;
                }
            }
        }
    }

    fn reaped(&mut self, pid: Pid, ending: Ending) {
        if self.dry_run.as_ref().is_some_and(|run| run.pid == pid) {
            let success = self.dry_run_ended(ending);
            self.feed(Event::Gone { pid, success });
            return;
        }
        if self.preparing == Some(pid) {
            self.preparing = None;
            if !ending.is_success() {
                tracing::error!(process = pid, "the preparation did not succeed: {ending}");
            }
        }
        // It may have reported and died between two turns.
        self.take_report(pid);
        if let Some(child) = self.children.remove(&pid) {
            self.log_exit(pid, &child, ending);
            if let Place::Worker(slot) = child.place {
                let exit = self.exit_of(pid, slot, &child, ending);
                self.hooks.call("child_exit", |hooks| hooks.child_exit(&exit));
            }
            self.board.free(child.row);
            if matches!(self.arbiter.stage(pid), Some(Stage::Booting { .. } | Stage::Ready)) {
                self.note_exit(child.place, reason(&child, ending));
            }
        } else {
            tracing::debug!(process = pid, "reaped a process that is no worker: {ending}");
        }
        self.feed(Event::Gone { pid, success: ending.is_success() });
    }

    fn exit_of(&self, pid: Pid, slot: usize, child: &Child, ending: Ending) -> WorkerExit {
        let in_flight = self.board.in_flight(child.row).into_iter();
        WorkerExit {
            pid: pid.unsigned_abs(),
            slot,
            generation: child.generation,
            age: child.forked.elapsed(),
            requests: self.board.read(child.row).finished,
            reason: reason(child, ending),
            in_flight: in_flight.map(|request| request.request).collect(),
        }
    }

    pub(super) fn note_exit(&mut self, place: Place, how: String) {
        self.exits.insert(place, (how, Instant::now()));
    }
}

/// Why a process is gone: what it has said itself, or how it ended.
fn reason(child: &Child, ending: Ending) -> String {
    child.failure.clone().unwrap_or_else(|| ending.to_string())
}

/// Sends a signal to a process that this master has not reaped, so the pid is still its own.
pub(super) fn send_signal(pid: Pid, which: WorkerSignal, why: Why) {
    let signal = match which {
        WorkerSignal::Term => Signal::SIGTERM,
        WorkerSignal::Quit => Signal::SIGQUIT,
        WorkerSignal::Abort => Signal::SIGABRT,
        WorkerSignal::Kill => Signal::SIGKILL,
    };
    match which {
        WorkerSignal::Term | WorkerSignal::Quit => {
            tracing::debug!(process = pid, "{signal}: {why}");
        }
        WorkerSignal::Abort | WorkerSignal::Kill => {
            tracing::warn!(process = pid, "{signal}: {why}");
        }
    }
    match kill(unistd::Pid::from_raw(pid), signal) {
        // Dead and not yet reaped counts as there; gone altogether it cannot be.
        Ok(()) => {}
        Err(error) => tracing::error!(process = pid, %error, "{signal} could not be sent"),
    }
}
