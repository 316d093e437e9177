//! The state of a pool: who may have which connection.
//!
//! Two rules hold whenever the lock is free: nobody waits while a connection is idle, and `slots`
//! counts every server session, those being opened and closed included. Nothing is woken, spawned
//! or dropped under the lock.

use std::collections::VecDeque;
use std::mem;
use std::process;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::outage::{Attempt, Failure, LogLimits, Outage};
use super::slot::{Lease, Live, Occupied, Slot};
use super::{after, random, task};
use crate::status::Counters;
use crate::{AcquireError, Backend, CloseReason, Inspection, Policy, Status};

pub(crate) struct Shared<B: Backend> {
    pub(super) backend: B,
    pub(super) policy: Policy,
    pub(super) counters: Counters,
    state: Mutex<State<B>>,
    maintaining: AtomicUsize,
    /// How many disconnects were detected; connections that were last known to work before the last one
    /// are checked before their next use.
    generation: AtomicU64,
    /// An idle connection expires sooner than the reaper knows, or the pool is gone.
    pub(super) reaper: Arc<Notify>,
    /// The last slot of a closed pool is free.
    pub(super) drained: Notify,
}

struct State<B: Backend> {
    home: Option<Home>,
    slots: usize,
    connecting: usize,
    /// The longest unused first; given out from the end, so that surplus can age out.
    idle: Vec<Live<B::Connection>>,
    waiters: VecDeque<Waiter<B>>,
    next_ticket: u64,
    outage: Outage,
    last_attempt: Attempt,
    log_limits: LogLimits,
    /// Connections of a generation before this one are not given out any more.
    trusted: u64,
    /// When the reaper wakes; `None` while there is none.
    reaping: Option<Instant>,
    closed: bool,
}

/// The process and runtime that the connections belong to.
struct Home {
    pid: u32,
    runtime: Handle,
}

struct Waiter<B: Backend> {
    ticket: u64,
    patience: Patience,
    sender: oneshot::Sender<Result<Lease<B>, AcquireError>>,
}

/// What a failed connect means to who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Another attempt may succeed before the deadline.
    UntilDeadline,
    /// The first failure is the answer.
    OneAttempt,
}

pub(super) enum Claim<B: Backend> {
    Ready(Lease<B>),
    Wait(Waiting<B>),
}

/// A place in the queue; dropping it leaves the queue.
pub(super) struct Waiting<B: Backend> {
    shared: Arc<Shared<B>>,
    ticket: u64,
    pub(super) receiver: oneshot::Receiver<Result<Lease<B>, AcquireError>>,
}

/// Counts one connection in maintenance.
pub(super) struct Maintaining<B: Backend>(Arc<Shared<B>>);

// === impl Shared ===

impl<B: Backend> Shared<B> {
    pub(super) fn new(backend: B, policy: Policy) -> Self {
        let policy = backend.constrain(policy).normalized();
        Self {
            backend,
            policy,
            counters: Counters::default(),
            state: Mutex::new(State {
                home: None,
                slots: 0,
                connecting: 0,
                idle: Vec::new(),
                waiters: VecDeque::new(),
                next_ticket: 0,
                outage: Outage::default(),
                last_attempt: Attempt::default(),
                log_limits: LogLimits::default(),
                trusted: 0,
                reaping: None,
                closed: false,
            }),
            maintaining: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            reaper: Arc::default(),
            drained: Notify::new(),
        }
    }

    /// An idle connection, or a place in the queue; `first` is for who had a connection already.
    pub(super) fn claim(
        self: &Arc<Self>,
        first: bool,
        patience: Patience,
    ) -> Result<Claim<B>, AcquireError> {
        let now = Instant::now();
        let mut stale = Vec::new();
        let claimed = {
            let mut state = self.lock();
            if state.closed {
                return Err(AcquireError::Closed);
            }
            state.come_home()?;
            let fit = loop {
                match state.idle.pop() {
                    None => break None,
                    Some(live) => match Self::outlived(&live, now, state.trusted) {
                        Some(reason) => stale.push((live, reason)),
                        None => break Some(live),
                    },
                }
            };
            match fit {
                Some(live) => Ok(live),
                None => {
                    state.outage.asked(now);
                    Err(match state.outage.refusal(now) {
                        Some(refusal) => Err(refusal),
                        None => self.enqueue(&mut state, first, patience),
                    })
                }
            }
        };
        for (live, reason) in stale {
            self.retire(self.occupied(live), reason);
        }
        match claimed {
            Ok(live) => Ok(Claim::Ready(Lease::new(self.occupied(live)))),
            Err(queued) => {
                let (ticket, receiver) = queued?;
                self.start_connects();
                Ok(Claim::Wait(Waiting { shared: Arc::clone(self), ticket, receiver }))
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "a ticket and where its answer arrives")]
    fn enqueue(
        &self,
        state: &mut State<B>,
        first: bool,
        patience: Patience,
    ) -> Result<(u64, oneshot::Receiver<Result<Lease<B>, AcquireError>>), AcquireError> {
        // A request whose connection is in the making, or may be made at once, does not wait for a
        // slot.
        let coming = state.connecting + self.policy.max_connections.saturating_sub(state.slots);
        if !first && state.waiters.len() >= self.policy.max_waiting.saturating_add(coming) {
            self.counters.rejected.add();
            return Err(AcquireError::QueueFull);
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let (sender, receiver) = oneshot::channel();
        let waiter = Waiter { ticket, patience, sender };
        if first {
            state.waiters.push_front(waiter);
        } else {
            state.waiters.push_back(waiter);
        }
        Ok((ticket, receiver))
    }

    /// Starts as many connects as there are requests for, slots, and room in `max_connecting`.
    pub(super) fn start_connects(self: &Arc<Self>) {
        let (runtime, attempts) = {
            let mut state = self.lock();
            let (waiting, most) = (state.waiters.len(), self.policy.max_connecting);
            let wanted = state.outage.wanted(waiting, state.connecting, most);
            let slots = self.policy.max_connections.saturating_sub(state.slots);
            let count = wanted.min(slots);
            if state.closed || count == 0 {
                return;
            }
            let Some(runtime) = state.home.as_ref().map(|home| home.runtime.clone()) else {
                return;
            };
            state.slots += count;
            state.connecting += count;
            let begin = |_| {
                let attempt = state.last_attempt.next();
                state.outage.begun(attempt);
                attempt
            };
            (runtime, (0..count).map(begin).collect::<Vec<_>>())
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
                let now = Instant::now();
                let trusted = self.lock().trusted;
                // Closing it cleans it as well.
                match Self::outlived(&occupied.live, now, trusted) {
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
    pub(super) fn park(self: &Arc<Self>, mut occupied: Occupied<B>) {
        let now = Instant::now();
        occupied.live.last_used = now;
        loop {
            let waiter = {
                let mut state = self.lock();
                let reason = if state.closed {
                    Some(CloseReason::Shutdown)
                } else if occupied.live.uses == 0 && !state.waiters.is_empty() {
                    // Made for this waiter: it has its one use even with a `max_age` of zero.
                    None
                } else {
                    Self::outlived(&occupied.live, now, state.trusted)
                };
                if let Some(reason) = reason {
                    drop(state);
                    return self.retire(occupied, reason);
                }
                match state.waiters.pop_front() {
                    Some(waiter) => waiter,
                    None => return self.keep_idle(state, occupied),
                }
            };
            // Who gave up in the meantime answers with the lease, and the next one gets it.
            match waiter.sender.send(Ok(Lease::new(occupied))) {
                Ok(()) => return,
                Err(Ok(lease)) => occupied = lease.into_occupied(),
                Err(Err(_)) => unreachable!("what comes back is what was sent"),
            }
        }
    }

    fn keep_idle(self: &Arc<Self>, mut state: MutexGuard<'_, State<B>>, occupied: Occupied<B>) {
        let Occupied { live, slot } = occupied;
        let expires = Self::idle_until(&live);
        state.idle.push(live);
        let mut reaper = None;
        match (expires, state.reaping) {
            (Some(expires), None) => {
                state.reaping = Some(expires);
                reaper = state.home.as_ref().map(|home| (home.runtime.clone(), expires));
            }
            (Some(expires), Some(at)) if expires < at => {
                state.reaping = Some(expires);
                self.reaper.notify_one();
            }
            _ => {}
        }
        drop(state);
        slot.park();
        if let Some((runtime, at)) = reaper {
            runtime.spawn(task::reap(task::Reaper::new(self), at));
        }
    }

    /// Takes the idle connections whose time is over; says when the next one's is.
    pub(super) fn reap(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let mut stale = Vec::new();
        let next = {
            let mut state = self.lock();
            let trusted = state.trusted;
            for live in mem::take(&mut state.idle) {
                match Self::outlived(&live, now, trusted) {
                    Some(reason) => stale.push((live, reason)),
                    None => state.idle.push(live),
                }
            }
            state.reaping = state.idle.iter().filter_map(|live| Self::idle_until(live)).min();
            state.reaping
        };
        for (live, reason) in stale {
            self.retire(self.occupied(live), reason);
        }
        next
    }

    pub(super) fn reaper_gone(&self) {
        self.lock().reaping = None;
    }

    /// A connection that was last known to work in generation `checked` is broken. That says little about
    /// the others: those that were not known to work since are checked before their next use.
    pub(super) fn disconnected(&self, checked: u64) {
        // Of several that broke at once, one tells.
        let (order, next) = (Ordering::Relaxed, checked + 1);
        let _ = self.generation.compare_exchange(checked, next, order, order);
    }

    /// A check would not tell of the connections that are as old as one of `generation`, or not soon:
    /// they are not given out any more.
    pub(super) fn distrust(self: &Arc<Self>, generation: u64) {
        let distrusted = {
            let mut state = self.lock();
            if generation < state.trusted {
                return;
            }
            state.trusted = generation + 1;
            self.generation.fetch_max(state.trusted, Ordering::Relaxed);
            let idle = mem::take(&mut state.idle);
            let (old, new): (Vec<_>, _) =
                idle.into_iter().partition(|live| live.generation <= generation);
            state.idle = new;
            old
        };
        for live in distrusted {
            self.retire(self.occupied(live), CloseReason::Generation);
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// A connection that was idle, with the slot that it has.
    fn occupied(self: &Arc<Self>, live: Live<B::Connection>) -> Occupied<B> {
        Occupied { live, slot: Slot::of_idle(Arc::clone(self)) }
    }

    /// Closes a connection in the background; the slot stays taken until it is closed.
    pub(super) fn retire(self: &Arc<Self>, occupied: Occupied<B>, reason: CloseReason) {
        self.spawn(task::close(occupied, reason, self.maintain()));
    }

    /// Why a connection must not be given out any more.
    fn outlived(live: &Live<B::Connection>, now: Instant, trusted: u64) -> Option<CloseReason> {
        if live.expires.is_some_and(|expires| now >= expires) {
            Some(CloseReason::Age)
        } else if live.generation < trusted {
            Some(CloseReason::Generation)
        } else if live.idle_timeout.is_some_and(|idle| now >= after(live.last_used, idle)) {
            Some(CloseReason::Idle)
        } else {
            None
        }
    }

    fn idle_until(live: &Live<B::Connection>) -> Option<Instant> {
        let idle = live.idle_timeout.map(|idle| after(live.last_used, idle));
        [live.expires, idle].into_iter().flatten().min()
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

    /// What to wait for before the next connect, and the generation it will have; `None` when
    /// nobody wants one any more, or another attempt is enough to see whether the server is back.
    pub(super) fn connect_wanted(&self, attempt: Attempt) -> Option<(Option<Instant>, u64)> {
        let state = self.lock();
        let wanted = !state.closed && !state.waiters.is_empty() && state.outage.goes_on(attempt);
        wanted.then(|| (state.outage.retry_at(), self.generation()))
    }

    /// The server took a new session.
    pub(super) fn connected(&self) {
        self.lock().outage.over();
    }

    /// The server answered a health check.
    pub(super) fn answered(&self) {
        self.lock().outage.unsuspected();
    }

    /// The server did not answer a health check: those who wait longer than they can, wait for it.
    pub(super) fn unanswered(&self) {
        self.lock().outage.suspected(Instant::now());
    }

    /// Counts a failure; how many of its kind to log now.
    pub(super) fn to_log(&self, failure: Failure) -> Option<u64> {
        self.lock().log_limits.count(failure, Instant::now())
    }

    /// Those for whom waiting is of no use get the error; how many failures to log now.
    pub(super) fn connect_failed(&self, attempt: Attempt, error: &AcquireError) -> Option<u64> {
        self.counters.connect_failures.add();
        let now = Instant::now();
        let mut state = self.lock();
        state.outage.failed(attempt, error.clone(), now, random::unit());
        let to_log = state.log_limits.count(Failure::Connect, now);
        let is_denied = matches!(error, AcquireError::Denied(_));
        let (impatient, patient) = mem::take(&mut state.waiters)
            .into_iter()
            .partition(|waiter| is_denied || waiter.patience == Patience::OneAttempt);
        state.waiters = patient;
        drop(state);
        fail(impatient, error);
        to_log
    }

    /// Why the deadline of a waiting request has passed.
    pub(super) fn why_late(&self) -> AcquireError {
        let state = self.lock();
        match state.outage.error() {
            Some(error) => error.clone(),
            None if state.connecting > 0 => AcquireError::TimedOut,
            None => AcquireError::Exhausted,
        }
    }

    pub(super) fn slot_free(&self) {
        let (drained, home) = {
            let mut state = self.lock();
            state.slots -= 1;
            (state.slots == 0, state.leave_home())
        };
        // Perhaps the runtime's last handle: not under the lock.
        drop(home);
        if drained {
            self.drained.notify_waiters();
        }
    }

    pub(super) fn connecting_over(&self, attempt: Attempt) {
        let mut state = self.lock();
        state.connecting -= 1;
        state.outage.ended(attempt);
    }

    /// Refuses new checkouts and closes what is idle.
    pub(super) fn shut(self: &Arc<Self>) {
        let (idle, waiters, home) = {
            let mut state = self.lock();
            state.closed = true;
            (mem::take(&mut state.idle), mem::take(&mut state.waiters), state.leave_home())
        };
        drop(home);
        fail(waiters, &AcquireError::Closed);
        for live in idle {
            self.retire(self.occupied(live), CloseReason::Shutdown);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn is_drained(&self) -> bool {
        self.lock().slots == 0
    }

    fn maintain(self: &Arc<Self>) -> Maintaining<B> {
        self.maintaining.fetch_add(1, Ordering::Relaxed);
        Maintaining(Arc::clone(self))
    }

    pub(super) fn status(&self) -> Status {
        let mut status = self.counters.snapshot();
        let state = self.lock();
        status.max_connections = self.policy.max_connections;
        status.idle = state.idle.len();
        status.connecting = state.connecting;
        status.maintaining = self.maintaining.load(Ordering::Relaxed);
        status.waiting = state.waiters.len();
        status.in_use =
            state.slots.saturating_sub(status.idle + status.connecting + status.maintaining);
        status
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let runtime = self.lock().home.as_ref().map(|home| home.runtime.clone());
        match runtime {
            Some(runtime) => drop(runtime.spawn(task)),
            // No connection without a home; were there one, it is abandoned here.
            None => drop(task),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        // Nothing in here panics between two writes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fail<B: Backend>(waiters: VecDeque<Waiter<B>>, error: &AcquireError) {
    for waiter in waiters {
        let _ = waiter.sender.send(Err(error.clone()));
    }
}

impl<B: Backend> Drop for Shared<B> {
    fn drop(&mut self) {
        self.reaper.notify_one();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.home.as_ref().is_some_and(|home| home.pid != process::id()) {
            // The parent still uses these sockets; a driver's drop might say good-bye on them.
            #[expect(clippy::mem_forget, reason = "dropping would end the parent's sessions")]
            mem::forget(mem::take(&mut state.idle));
        }
    }
}

// === impl State ===

impl<B: Backend> State<B> {
    /// Refuses a process or runtime that the open connections do not belong to.
    fn come_home(&mut self) -> Result<(), AcquireError> {
        let here = Handle::try_current().map_err(|_| AcquireError::NoRuntime)?;
        // No two runtimes of a process, nor of one forked from it, have the same id, and none is of
        // use on both sides of a fork. So the pid, which is a system call, need not be asked for.
        if self.home.as_ref().is_some_and(|home| home.runtime.id() == here.id()) {
            return Ok(());
        }
        let pid = process::id();
        match &self.home {
            Some(home) if self.slots > 0 => {
                return Err(if home.pid == pid {
                    AcquireError::ForeignRuntime
                } else {
                    AcquireError::Forked
                });
            }
            _ => {}
        }
        self.home = Some(Home { pid, runtime: here });
        // Nobody knows whether the last one's reaper still runs.
        self.reaping = None;
        Ok(())
    }

    /// A closed pool without connections keeps nothing of its runtime.
    fn leave_home(&mut self) -> Option<Home> {
        if self.closed && self.slots == 0 { self.home.take() } else { None }
    }
}

// === impl Waiting ===

impl<B: Backend> Drop for Waiting<B> {
    fn drop(&mut self) {
        let waiter = {
            let mut state = self.shared.lock();
            let place = state.waiters.iter().position(|waiter| waiter.ticket == self.ticket);
            place.and_then(|place| state.waiters.remove(place))
        };
        drop(waiter);
    }
}

// === impl Maintaining ===

impl<B: Backend> Drop for Maintaining<B> {
    fn drop(&mut self) {
        self.0.maintaining.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::fake::Fake;

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    fn opened_by(pid: u32, runtime: &Runtime, slots: usize) -> Arc<Shared<Fake>> {
        let shared = Arc::new(Shared::new(Fake::new(), Policy::default()));
        let mut state = shared.lock();
        state.home = Some(Home { pid, runtime: runtime.handle().clone() });
        state.slots = slots;
        drop(state);
        shared
    }

    /// Its descriptors would be there at a fork.
    #[test]
    fn a_closed_pool_keeps_no_runtime() {
        let shared = Arc::new(Shared::new(Fake::new(), Policy::default()));
        runtime().block_on(async {
            let claimed = shared.claim(false, Patience::UntilDeadline);
            let Ok(Claim::Wait(mut waiting)) = claimed else { panic!("nothing was open") };
            drop((&mut waiting.receiver).await.expect("a turn").expect("a connection"));
            shared.shut();
            while !shared.is_drained() {
                tokio::task::yield_now().await;
            }
        });
        assert!(shared.lock().home.is_none());
        runtime().block_on(async {
            let claimed = shared.claim(false, Patience::UntilDeadline);
            assert!(matches!(claimed, Err(AcquireError::Closed)));
        });
        assert!(shared.lock().home.is_none());
    }

    /// connections.md 5, behaviour 58.
    #[test]
    fn connections_from_before_a_fork_are_refused_in_the_child() {
        let (parent, child) = (runtime(), runtime());
        let shared = opened_by(process::id() + 1, &parent, 1);
        let claimed = child.block_on(async { shared.claim(false, Patience::UntilDeadline) });
        assert!(matches!(claimed, Err(AcquireError::Forked)));
    }

    /// connections.md 5, behaviour 58: as after migrations that closed what they opened.
    #[test]
    fn a_pool_with_none_open_works_on_after_a_fork() {
        let (parent, child) = (runtime(), runtime());
        let shared = opened_by(process::id() + 1, &parent, 0);
        child.block_on(async {
            let claimed = shared.claim(false, Patience::UntilDeadline);
            let Ok(Claim::Wait(mut waiting)) = claimed else { panic!("nothing was open") };
            assert!(matches!((&mut waiting.receiver).await, Ok(Ok(_))));
        });
    }
}
