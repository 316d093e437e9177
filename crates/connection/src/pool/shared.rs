//! What the clones of a pool, its tasks and its users share, and who of them holds which server session.
//!
//! Nothing is woken, spawned or dropped under the lock.

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::home::Home;
use super::live::Live;
use super::outage::{Failure, LogLimits};
use super::state::State;
use crate::status::Counters;
use crate::{AcquireError, Backend, CloseReason, Policy, Status};

pub(crate) struct Shared<B: Backend> {
    pub(super) backend: B,
    pub(super) policy: Policy,
    pub(super) counters: Counters,
    guarded: Mutex<Guarded<B>>,
    maintaining: AtomicUsize,
    /// How many disconnects were detected; connections that were last known to work before the last one
    /// are checked before their next use.
    generation: AtomicU64,
    /// An idle connection expires sooner than the reaper knows, or the pool is gone.
    pub(super) reaper: Arc<Notify>,
    /// The last slot of a closed pool is free.
    pub(super) drained: Notify,
}

/// What is behind the lock.
pub(super) struct Guarded<B: Backend> {
    pub(super) state: State<B::Connection, Sender<B>>,
    pub(super) home: Option<Home>,
    log_limits: LogLimits,
}

/// Where who waits gets an answer.
pub(super) type Sender<B> = oneshot::Sender<Result<PooledConnection<B>, AcquireError>>;
pub(super) type Receiver<B> = oneshot::Receiver<Result<PooledConnection<B>, AcquireError>>;

/// Counts one connection in maintenance.
pub(super) struct Maintaining<B: Backend>(Arc<Shared<B>>);

/// The right to one server session, taken from `max_connections` and given back on drop.
///
/// It follows the *session*: whoever opens, uses, cleans or closes a connection holds it until the
/// session is over, so that the bound is true at the server.
pub(super) struct Slot<B: Backend> {
    /// `None` once it was parked with an idle connection.
    shared: Option<Arc<Shared<B>>>,
    /// Whether a connection was opened in it that is not counted as closed.
    open: bool,
    /// Whether its end may start a connect for those who wait.
    ///
    /// False until a spawned connect first runs: on a runtime that is gone each spawn drops its
    /// future at once, and each drop would spawn again.
    restarts: bool,
}

/// A connection outside the idle list. Dropped as it is, it is abandoned.
pub(super) struct Occupied<B: Backend> {
    // Before `slot`: the socket is closed before the slot is free.
    pub(super) live: Live<B::Connection>,
    pub(super) slot: Slot<B>,
}

/// A connection of a pool in the hands of a user; dropping it gives it back.
///
/// From [`Pool::acquire`](crate::Pool::acquire), for jobs, command-line tools, and sockets after an upgrade. In a
/// request, take [`Db`](crate::Db).
pub struct PooledConnection<B: Backend>(Option<Occupied<B>>);

impl<B: Backend> Shared<B> {
    pub(super) fn new(backend: B, policy: Policy) -> Self {
        let policy = backend.constrain(policy).normalized();
        Self {
            backend,
            counters: Counters::default(),
            guarded: Mutex::new(Guarded {
                state: State::new(&policy),
                home: None,
                log_limits: LogLimits::default(),
            }),
            policy,
            maintaining: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            reaper: Arc::default(),
            drained: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Guarded<B>> {
        // Nothing in here panics between two writes that belong together.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// A connection that was last known to work in generation `checked` is broken. That says little about
    /// the others: those that were not known to work since are checked before their next use.
    pub(super) fn disconnected(&self, checked: u64) {
        // Of several that broke at once, one tells.
        let (order, next) = (Ordering::Relaxed, checked + 1);
        let _ = self.generation.compare_exchange(checked, next, order, order);
    }

    /// Generations up to this one are over.
    pub(super) fn raise_generation(&self, generation: u64) {
        self.generation.fetch_max(generation, Ordering::Relaxed);
    }

    /// Counts a failure; how many of its kind to log now.
    pub(super) fn to_log(&self, failure: Failure) -> Option<u64> {
        self.lock().log_limits.count(failure, Instant::now())
    }

    pub(super) fn maintain(self: &Arc<Self>) -> Maintaining<B> {
        self.maintaining.fetch_add(1, Ordering::Relaxed);
        Maintaining(Arc::clone(self))
    }

    pub(super) fn status(&self) -> Status {
        let mut status = self.counters.snapshot();
        let guarded = self.lock();
        let state = &guarded.state;
        status.max_connections = self.policy.max_connections;
        status.idle = state.idle();
        status.connecting = state.connecting();
        status.maintaining = self.maintaining.load(Ordering::Relaxed);
        status.waiting = state.waiting();
        status.in_use =
            state.slots().saturating_sub(status.idle + status.connecting + status.maintaining);
        status
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().state.is_closed()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.lock().state.slots() == 0
    }

    fn slot_free(&self) {
        let (drained, home) = {
            let mut guarded = self.lock();
            (guarded.state.slot_free(), guarded.leave_home())
        };
        // Perhaps the runtime's last handle: not under the lock.
        drop(home);
        if drained {
            self.drained.notify_waiters();
        }
    }
}

impl<B: Backend> Drop for Shared<B> {
    fn drop(&mut self) {
        self.reaper.notify_one();
        let guarded = self.guarded.get_mut().unwrap_or_else(PoisonError::into_inner);
        if guarded.home.as_ref().is_some_and(Home::is_foreign) {
            // The parent still uses these sockets; a driver's drop might say good-bye on them.
            #[expect(clippy::mem_forget, reason = "dropping would end the parent's sessions")]
            mem::forget(guarded.state.take_idle());
        }
    }
}

impl<B: Backend> Guarded<B> {
    /// A closed pool without connections keeps nothing of its runtime.
    pub(super) fn leave_home(&mut self) -> Option<Home> {
        if self.state.is_closed() && self.state.slots() == 0 { self.home.take() } else { None }
    }
}

impl<B: Backend> Drop for Maintaining<B> {
    fn drop(&mut self) {
        self.0.maintaining.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Backend> Slot<B> {
    /// For a slot that the caller has counted in the pool's state.
    pub(super) fn new(shared: Arc<Shared<B>>) -> Self {
        Self { shared: Some(shared), open: false, restarts: false }
    }

    /// For the slot of a connection that was idle.
    pub(super) fn of_idle(shared: Arc<Shared<B>>) -> Self {
        Self { shared: Some(shared), open: true, restarts: true }
    }

    pub(super) fn shared(&self) -> Arc<Shared<B>> {
        Arc::clone(self.shared.as_ref().expect("only `park` takes it, with the slot"))
    }

    pub(super) fn running(&mut self) {
        self.restarts = true;
    }

    pub(super) fn opened(&mut self) {
        self.open = true;
    }

    pub(super) fn closed(&mut self, reason: CloseReason) {
        if let Some(shared) = &self.shared {
            shared.counters.closed(reason);
            self.open = false;
        }
    }

    /// Leaves the slot with a connection that becomes idle.
    pub(super) fn park(mut self) {
        self.shared = None;
    }
}

impl<B: Backend> Drop for Slot<B> {
    fn drop(&mut self) {
        if self.open {
            self.closed(CloseReason::Abandoned);
        }
        if let Some(shared) = self.shared.take() {
            shared.slot_free();
            if self.restarts {
                shared.start_connects();
            }
        }
    }
}

impl<B: Backend> PooledConnection<B> {
    pub(super) fn new(occupied: Occupied<B>) -> Self {
        Self(Some(occupied))
    }

    pub(super) fn live(&self) -> &Live<B::Connection> {
        &self.0.as_ref().expect("only drop and `into_occupied` take it").live
    }

    pub(super) fn live_mut(&mut self) -> &mut Live<B::Connection> {
        &mut self.0.as_mut().expect("only drop and `into_occupied` take it").live
    }

    pub(super) fn into_occupied(mut self) -> Occupied<B> {
        self.0.take().expect("only drop and `into_occupied` take it")
    }
}

impl<B: Backend> Deref for PooledConnection<B> {
    type Target = B::Connection;

    fn deref(&self) -> &B::Connection {
        &self.live().connection
    }
}

impl<B: Backend> DerefMut for PooledConnection<B> {
    fn deref_mut(&mut self) -> &mut B::Connection {
        &mut self.live_mut().connection
    }
}

impl<B: Backend> Drop for PooledConnection<B> {
    fn drop(&mut self) {
        if let Some(occupied) = self.0.take() {
            let shared = occupied.slot.shared();
            shared.give_back(occupied);
        }
    }
}

impl<B: Backend> fmt::Debug for PooledConnection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledConnection").finish_non_exhaustive()
    }
}
