//! What a pool does: it carries out what its state decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::home::Home;
use super::live::Live;
use super::outage::{Attempt, Failure};
use super::shared::{Occupied, PooledConnection, Receiver, Sender, Shared, Slot};
use super::state::{Acquired, Answer, Patience, Reaping, Returned};
use super::{random, task};
use crate::deadline::after;
use crate::{AcquireError, Backend, CloseReason, Inspection};

/// What who wants a connection gets.
pub(super) enum Acquiring<B: Backend> {
    Ready(PooledConnection<B>),
    Wait(Waiting<B>),
}

/// A place in the queue; dropping it leaves the queue.
pub(super) struct Waiting<B: Backend> {
    shared: Arc<Shared<B>>,
    ticket: u64,
    pub(super) receiver: Receiver<B>,
}

impl<B: Backend> Shared<B> {
    /// An idle connection, or a place in the queue; `first` is for who had a connection already.
    pub(super) fn acquire(
        self: &Arc<Self>,
        first: bool,
        patience: Patience,
    ) -> Result<Acquiring<B>, AcquireError> {
        let now = Instant::now();
        let Acquired { outlived, answer } = {
            let mut guarded = self.lock();
            if !guarded.state.is_closed() {
                let slots = guarded.state.slots();
                if let Some(home) = Home::here(guarded.home.as_ref(), slots)? {
                    guarded.home = Some(home);
                    // Nobody knows whether the last one's reaper still runs.
                    guarded.state.reaper_gone();
                }
            }
            guarded.state.acquire(first, patience, now, oneshot::channel)
        };
        self.retire_all(outlived);
        match answer {
            Answer::Ready(live) => Ok(Acquiring::Ready(PooledConnection::new(self.occupied(live)))),
            Answer::Wait(ticket, receiver) => {
                self.start_connects();
                Ok(Acquiring::Wait(Waiting { shared: Arc::clone(self), ticket, receiver }))
            }
            Answer::Refused(error) => {
                if matches!(error, AcquireError::QueueFull) {
                    self.counters.rejected.add();
                }
                Err(error)
            }
        }
    }

    /// Starts as many connects as there are requests for, slots, and room in `max_connecting`.
    pub(super) fn start_connects(self: &Arc<Self>) {
        let (runtime, attempts) = {
            let mut guarded = self.lock();
            let Some(runtime) = guarded.home.as_ref().map(|home| home.runtime.clone()) else {
                return;
            };
            (runtime, guarded.state.connects())
        };
        // Counted once: on a runtime that ends, each is dropped as it is spawned, and wanted again.
        for attempt in attempts {
            let slot = Slot::new(Arc::clone(self));
            runtime.spawn(task::connect(task::Connecting::new(slot, attempt)));
        }
    }

    /// A connection comes back from its user.
    pub(super) fn give_back(self: &Arc<Self>, mut occupied: Occupied<B>) {
        match self.backend.inspect(&mut occupied.live.connection) {
            Inspection::Clean => self.park(occupied),
            Inspection::InTransaction | Inspection::Unknown => {
                let outlived = self.lock().state.outlived(&occupied.live, Instant::now());
                // Closing it cleans it as well.
                match outlived {
                    Some(reason) => self.retire(occupied, reason),
                    None => self.spawn(task::clean(occupied, self.maintain())),
                }
            }
            Inspection::Poisoned => self.retire(occupied, CloseReason::Poisoned),
            Inspection::Dead => {
                self.disconnected(occupied.live.checked);
                self.retire(occupied, CloseReason::Dead);
            }
            Inspection::FailedOver => {
                self.distrust(occupied.live.generation);
                self.retire(occupied, CloseReason::Dead);
            }
        }
    }

    /// Hands a clean connection to the first that waits, or keeps it idle.
    pub(super) fn park(self: &Arc<Self>, occupied: Occupied<B>) {
        let now = Instant::now();
        let Occupied { mut live, mut slot } = occupied;
        loop {
            let returned = self.lock().state.returned(live, now);
            match returned {
                Returned::Close(live, reason) => {
                    return self.retire(Occupied { live, slot }, reason);
                }
                Returned::Idle(reaping) => {
                    slot.park();
                    return self.set_reaper(reaping);
                }
                Returned::Hand(next, sender) => {
                    let pooled = PooledConnection::new(Occupied { live: next, slot });
                    // Who gave up in the meantime answers with it, and the next one gets it.
                    match sender.send(Ok(pooled)) {
                        Ok(()) => return,
                        Err(Ok(pooled)) => Occupied { live, slot } = pooled.into_occupied(),
                        Err(Err(_)) => unreachable!("what comes back is what was sent"),
                    }
                }
            }
        }
    }

    fn set_reaper(self: &Arc<Self>, reaping: Reaping) {
        match reaping {
            Reaping::AsBefore => {}
            Reaping::Sooner => self.reaper.notify_one(),
            Reaping::Start(at) => self.spawn(task::reap(task::Reaper::new(self), at)),
        }
    }

    /// Closes the idle connections whose time is over; says when the next one's is.
    pub(super) fn reap(self: &Arc<Self>) -> Option<Instant> {
        let (outlived, next) = self.lock().state.reap(Instant::now());
        self.retire_all(outlived);
        next
    }

    /// A check would not tell of the connections that are as old as one of `generation`, or not soon:
    /// they are not given out any more.
    pub(super) fn distrust(self: &Arc<Self>, generation: u64) {
        let distrusted = {
            let mut guarded = self.lock();
            let Some(distrusted) = guarded.state.distrust(generation) else { return };
            self.raise_generation(generation + 1);
            distrusted
        };
        for live in distrusted {
            self.retire(self.occupied(live), CloseReason::Generation);
        }
    }

    /// A connection that was idle, with the slot that it has.
    fn occupied(self: &Arc<Self>, live: Live<B::Connection>) -> Occupied<B> {
        Occupied { live, slot: Slot::of_idle(Arc::clone(self)) }
    }

    fn retire_all(self: &Arc<Self>, outlived: Vec<(Live<B::Connection>, CloseReason)>) {
        for (live, reason) in outlived {
            self.retire(self.occupied(live), reason);
        }
    }

    /// Closes a connection in the background; the slot stays taken until it is closed.
    pub(super) fn retire(self: &Arc<Self>, occupied: Occupied<B>, reason: CloseReason) {
        self.spawn(task::close(occupied, reason, self.maintain()));
    }

    /// How long a new connection may lie unused: a tenth less than the server lets it, at most.
    pub(super) fn idle_timeout(&self, connection: &B::Connection) -> Option<Duration> {
        let server = self.backend.idle_limit(connection).map(|limit| limit.mul_f64(0.9));
        [self.policy.idle_timeout, server].into_iter().flatten().min()
    }

    /// When the age of a connection opened at `now` is over.
    pub(super) fn roll_expiry(&self, now: Instant) -> Option<Instant> {
        let age = self.policy.max_age?;
        let off = age.as_secs_f64() * self.policy.max_age_jitter * random::unit();
        let sooner = Duration::try_from_secs_f64(off).unwrap_or_default();
        Some(after(now, age.saturating_sub(sooner)))
    }

    /// Those for whom waiting is of no use get the error; how many failures to log now.
    pub(super) fn connect_failed(&self, attempt: Attempt, error: &AcquireError) -> Option<u64> {
        self.counters.connect_failures.add();
        let (now, off) = (Instant::now(), random::unit());
        let impatient = self.lock().state.connect_failed(attempt, error, now, off);
        fail(impatient, error);
        self.to_log(Failure::Connect)
    }

    /// Refuses whoever comes and closes what is idle.
    pub(super) fn shut(self: &Arc<Self>) {
        let (idle, waiters, home) = {
            let mut guarded = self.lock();
            let (idle, waiters) = guarded.state.shut();
            (idle, waiters, guarded.leave_home())
        };
        drop(home);
        fail(waiters, &AcquireError::Closed);
        for live in idle {
            self.retire(self.occupied(live), CloseReason::Shutdown);
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let runtime = self.lock().home.as_ref().map(|home| home.runtime.clone());
        match runtime {
            Some(runtime) => drop(runtime.spawn(task)),
            // No connection without a home; were there one, it is abandoned here.
            None => drop(task),
        }
    }
}

fn fail<B: Backend>(waiters: Vec<Sender<B>>, error: &AcquireError) {
    for waiter in waiters {
        let _ = waiter.send(Err(error.clone()));
    }
}

impl<B: Backend> Drop for Waiting<B> {
    fn drop(&mut self) {
        let waiter = self.shared.lock().state.leave(self.ticket);
        drop(waiter);
    }
}

#[cfg(test)]
mod tests {
    use std::process;

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::Policy;
    use crate::fake::Fake;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    fn opened_by(pid: u32, runtime: &Runtime, slots: usize) -> Arc<Shared<Fake>> {
        let shared = Arc::new(Shared::new(Fake::new(), Policy::default()));
        let mut guarded = shared.lock();
        guarded.home = Some(Home { pid, runtime: runtime.handle().clone() });
        guarded.state.open_for_a_test(slots);
        drop(guarded);
        shared
    }

    /// Its descriptors would be there at a fork.
    #[test]
    fn a_closed_pool_keeps_no_runtime() {
        let shared = Arc::new(Shared::new(Fake::new(), Policy::default()));
        runtime().block_on(async {
            let acquired = shared.acquire(false, Patience::UntilDeadline);
            let Ok(Acquiring::Wait(mut waiting)) = acquired else { panic!("nothing was open") };
            drop((&mut waiting.receiver).await.expect("a turn").expect("a connection"));
            shared.shut();
            while !shared.is_drained() {
                tokio::task::yield_now().await;
            }
        });
        assert!(shared.lock().home.is_none());
        runtime().block_on(async {
            let acquired = shared.acquire(false, Patience::UntilDeadline);
            assert!(matches!(acquired, Err(AcquireError::Closed)));
        });
        assert!(shared.lock().home.is_none());
    }

    /// Behaviour C58.
    #[test]
    fn connections_from_before_a_fork_are_refused_in_the_child() {
        let (parent, child) = (runtime(), runtime());
        let shared = opened_by(process::id() + 1, &parent, 1);
        let acquired = child.block_on(async { shared.acquire(false, Patience::UntilDeadline) });
        assert!(matches!(acquired, Err(AcquireError::Forked)));
    }

    /// Behaviour C58: as after migrations that closed what they opened.
    #[test]
    fn a_pool_with_none_open_works_on_after_a_fork() {
        let (parent, child) = (runtime(), runtime());
        let shared = opened_by(process::id() + 1, &parent, 0);
        child.block_on(async {
            let acquired = shared.acquire(false, Patience::UntilDeadline);
            let Ok(Acquiring::Wait(mut waiting)) = acquired else { panic!("nothing was open") };
            assert!(matches!((&mut waiting.receiver).await, Ok(Ok(_))));
        });
    }
}
