//! The forked thread of a worker or companion: it is there when the runtime is not.

use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Instant;

use farrier_heartbeat::{Pulse, State};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;

use super::handle::Worker;
use super::process::{leave, panicked, status};
use super::supervised::Supervised;
use crate::ends;
use crate::hooks::{Hooks, ServerHooks};
use crate::poll::poll_until;
use crate::signals::{self, Came, WorkerSignals};
use crate::sockets::MasterListener;
use crate::sys;
use crate::unwind::said_by;

/// The forked thread's view of the process.
pub(super) struct Watch {
    signals: WorkerSignals,
    alive: Option<OwnedFd>,
    /// Copies of the listeners, for when the master is gone.
    listeners: Vec<MasterListener>,
    /// The master is gone: when to look at the listeners' queues, and when for the last time.
    closing: Option<(Instant, Instant)>,
    /// Ends when the fresh thread does.
    done: OwnedFd,
    supervised: Supervised,
    /// `None` in a companion.
    hooks: Option<(Hooks, Worker)>,
    /// Somebody else than the master said SIGTERM: when that is an order as well.
    told_alone: Option<Instant>,
    /// When the process ends, whatever the fresh thread does.
    deadline: Option<Instant>,
    told_quick: bool,
}

/// Runs the process's work in a fresh thread of this name, while the forked one watches; the exit status comes back.
/// `who` is the work's, for the log.
///
/// # Errors
///
/// The kernel's: no descriptor.
pub(super) fn run_watched(
    watch: impl FnOnce(OwnedFd) -> Watch,
    name: &str,
    who: &str,
    work: impl FnOnce() -> i32 + Send,
) -> io::Result<i32> {
    let (done, not_done) = pipe2(OFlag::O_CLOEXEC)?;
    let watch = watch(done);
    thread::scope(|scope| {
        let fresh =
            thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
                let _not_done = not_done;
                work()
            })?;
        watch.until_done();
        Ok(fresh.join().unwrap_or_else(|panic| panicked(who, &said_by(panic))))
    })
}

impl Watch {
    /// `done` ends when the fresh thread does.
    pub(super) fn of_worker(
        signals: WorkerSignals,
        alive: OwnedFd,
        listeners: Vec<MasterListener>,
        done: OwnedFd,
        worker: Worker,
        hooks: Hooks,
    ) -> Self {
        let supervised = worker.supervised.clone();
        let watch = Self::of_companion(signals, alive, done, supervised);
        Self { listeners, hooks: Some((hooks, worker)), ..watch }
    }

    /// The same for a process that serves nobody.
    pub(super) fn of_companion(
        signals: WorkerSignals,
        alive: OwnedFd,
        done: OwnedFd,
        supervised: Supervised,
    ) -> Self {
        Self {
            signals,
            alive: Some(alive),
            listeners: Vec::new(),
            closing: None,
            done,
            supervised,
            hooks: None,
            told_alone: None,
            deadline: None,
            told_quick: false,
        }
    }

    /// Waits for the fresh thread's end, and passes orders on to it; past its deadline the process ends
    /// here.
    pub(super) fn until_done(mut self) {
        loop {
            let (signalled, orphaned, done) = self.wait();
            if done {
                self.close_before_leaving();
                return;
            }
            if orphaned {
                self.alive = None;
                tracing::warn!("the master is gone: the process finishes what it does and leaves");
                self.listeners.iter().for_each(MasterListener::take_nobody_new_as_orphan);
                let now = Instant::now();
                self.closing = Some((now + ends::ORPHAN_LOOKS, now + ends::ORPHAN_CLOSES));
                self.drain();
            }
            if signalled {
                let signals: Vec<Came> = self.signals.pending().collect();
                for signal in signals {
                    match signal {
                        Ok(Signal::SIGTERM) if self.supervised.pulse.is_dismissed() => self.drain(),
                        // The master's order comes with a signal of its own.
                        Ok(Signal::SIGTERM) => {
                            self.told_alone
                                .get_or_insert_with(|| Instant::now() + ends::TOLD_ALONE);
                        }
                        Ok(Signal::SIGINT | Signal::SIGQUIT) => self.stop_quick(),
                        Ok(Signal::SIGABRT) => {
                            self.call("worker_abort", |hooks, worker| hooks.worker_abort(worker));
                            signals::die_of(Signal::SIGABRT);
                        }
                        Ok(order) if signals::is_order(order) => {
                            tracing::debug!(signal = %order, "ignored: this signal is for the master");
                        }
                        stray => signals::note_stray(stray),
                    }
                }
            }
            self.close_orphans();
            if self.told_alone.is_some_and(|at| Instant::now() >= at) {
                self.told_alone = None;
                self.drain();
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                tracing::warn!("the process did not finish in its time and ends now");
                // Nothing is flushed: whoever still runs may hold the lock of standard output.
                sys::exit_now(status::LEFT);
            }
        }
    }

    /// Signals, the master's death, the fresh thread's end: which of them there are.
    fn wait(&self) -> (bool, bool, bool) {
        let mut watched = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.done.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(alive) = &self.alive {
            watched.push(PollFd::new(alive.as_fd(), PollFlags::POLLIN));
        }
        let look = self.closing.map(|(look, _)| look);
        let deadline = self.told_alone.into_iter().chain(look).chain(self.deadline).min();
        poll_until(&mut watched, deadline);
        let happened = |index: usize| watched.get(index).and_then(PollFd::any).unwrap_or(false);
        (happened(0), happened(2), happened(1))
    }

    /// Without a master nobody else closes the listeners: their queues would live on with the last process that
    /// has them, and a blocked one serves nobody. Closing is for all who share them, so it comes when they had
    /// their time to empty the queues.
    fn close_orphans(&mut self) {
        let now = Instant::now();
        let Some((look, last)) = self.closing.filter(|(look, _)| now >= *look) else {
            return;
        };
        if now < last {
            MasterListener::close_empty(&mut self.listeners);
        } else {
            self.listeners.drain(..).for_each(|listener| listener.close_for_all());
        }
        self.closing = (!self.listeners.is_empty()).then_some((look + ends::ORPHAN_LOOKS, last));
    }

    /// An orphan that leaves first closes the doors: a sibling that is stopped would keep them open.
    fn close_before_leaving(&mut self) {
        while let Some((look, _)) = self.closing {
            poll_until(&mut [], Some(look));
            self.close_orphans();
        }
    }

    fn call(&self, name: &'static str, call: impl FnOnce(&dyn ServerHooks, &Worker)) {
        if let Some((hooks, worker)) = &self.hooks {
            hooks.call(name, |hooks| call(hooks, worker));
        }
    }

    fn drain(&mut self) {
        self.told_alone = None;
        // Not if it drains at all: the app may have begun that, and has no such deadline.
        if self.deadline.is_some() {
            return;
        }
        self.leave_if_booting();
        self.supervised.pulse.set_state(State::Draining);
        self.supervised.drain.start();
        let end = self.supervised.grace_end(Instant::now().into());
        self.deadline = Some(end.into_std() + ends::WORKER_MARGIN);
    }

    fn stop_quick(&mut self) {
        if !mem::replace(&mut self.told_quick, true) {
            self.call("worker_int", |hooks, worker| hooks.worker_int(worker));
        }
        self.leave_if_booting();
        self.supervised.pulse.set_state(State::Draining);
        self.supervised.drain.stop_quick();
        let deadline = Instant::now() + ends::WORKER_QUICK;
        self.deadline = Some(self.deadline.map_or(deadline, |before| before.min(deadline)));
    }

    /// A worker that serves nobody has nothing to finish.
    fn leave_if_booting(&mut self) {
        if self.supervised.pulse.leave_unserved() {
            self.call("worker_exit", |hooks, worker| hooks.worker_exit(worker));
            self.close_before_leaving();
            leave(status::LEFT);
        }
    }
}
