//! Who holds a server session: the slot, the connection in it, and the loan to a user.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::shared::Shared;
use crate::{Backend, CloseReason};

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

/// An open connection and what the pool knows of it.
#[derive(Debug)]
pub(super) struct Live<C> {
    pub(super) connection: C,
    /// When its age is over; rolled once.
    pub(super) expires: Option<Instant>,
    /// How long it may lie unused.
    pub(super) idle_timeout: Option<Duration>,
    /// The count of detected disconnects when its connect began.
    pub(super) generation: u64,
    /// That count when it was last known to work.
    pub(super) checked: u64,
    /// When it last came back.
    pub(super) last_used: Instant,
    /// How often it was given out.
    pub(super) uses: u64,
}

/// A connection outside the idle list. Dropped as it is, it is abandoned.
pub(super) struct Occupied<B: Backend> {
    // Before `slot`: the socket is closed before the slot is free.
    pub(super) live: Live<B::Connection>,
    pub(super) slot: Slot<B>,
}

/// A connection on loan; dropping it gives it back.
pub(crate) struct Lease<B: Backend>(Option<Occupied<B>>);

// === impl Slot ===

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

// === impl Lease ===

impl<B: Backend> Lease<B> {
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

impl<B: Backend> Deref for Lease<B> {
    type Target = B::Connection;

    fn deref(&self) -> &B::Connection {
        &self.live().connection
    }
}

impl<B: Backend> DerefMut for Lease<B> {
    fn deref_mut(&mut self) -> &mut B::Connection {
        &mut self.live_mut().connection
    }
}

impl<B: Backend> Drop for Lease<B> {
    fn drop(&mut self) {
        if let Some(occupied) = self.0.take() {
            let shared = occupied.slot.shared();
            shared.give_back(occupied);
        }
    }
}
