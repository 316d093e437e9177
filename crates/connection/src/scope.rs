//! A request's one connection: taken at first use, shared within the request, given back at its end.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{self, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::pool::{Patience, PooledConnection};
use crate::{AcquireError, Backend, Inspection, Pool};

/// Why a [`Borrowed`] has its turn.
const TURN: &str = "who waits has no borrow yet, and only drop ends it";

/// Why it has a connection.
const TAKEN: &str = "`get` takes one, and only the end of the borrow gives it back";

/// The request's connection, borrowed; other parts of the request wait until it is dropped.
pub struct Borrowed<'a, B: Backend> {
    scope: &'a Scope<B>,
    /// `None` while it waits for its turn, and while `drop` runs.
    connection: Option<MutexGuard<'a, Option<PooledConnection<B>>>>,
}

/// One request's use of one pool.
pub(crate) struct Scope<B: Backend> {
    pool: Pool<B>,
    /// Empty until the first use, and again after the end.
    connection: Mutex<Option<PooledConnection<B>>>,
    /// Where it was last borrowed.
    borrowed_at: sync::Mutex<Place>,
    ended: AtomicBool,
}

type Place = &'static Location<'static>;

/// A wait for another part of the same request is worth a word in the log after this.
const NOTICE: Duration = Duration::from_millis(100);

impl<'a, B: Backend> Borrowed<'a, B> {
    fn pooled(&mut self) -> &mut Option<PooledConnection<B>> {
        self.connection.as_mut().expect(TURN)
    }
}

impl<B: Backend> Deref for Borrowed<'_, B> {
    type Target = B::Connection;

    fn deref(&self) -> &B::Connection {
        let connection = self.connection.as_ref().expect(TURN);
        connection.as_ref().expect(TAKEN)
    }
}

impl<B: Backend> DerefMut for Borrowed<'_, B> {
    fn deref_mut(&mut self) -> &mut B::Connection {
        self.pooled().as_mut().expect(TAKEN)
    }
}

impl<B: Backend> Drop for Borrowed<'_, B> {
    fn drop(&mut self) {
        self.connection = None;
        // After the turn is over: an end that came during the borrow found it taken and left it to
        // us.
        if self.scope.ended.load(Ordering::SeqCst) {
            self.scope.give_back();
        }
    }
}

impl<B: Backend> fmt::Debug for Borrowed<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrowed").finish_non_exhaustive()
    }
}

impl<B: Backend> Scope<B> {
    pub(crate) fn new(pool: Pool<B>) -> Self {
        let borrowed_at = sync::Mutex::new(Location::caller());
        Self { pool, connection: Mutex::new(None), borrowed_at, ended: AtomicBool::new(false) }
    }

    pub(crate) fn pool(&self) -> &Pool<B> {
        &self.pool
    }

    /// The connection, taken from the pool if there is none; waits for other borrowers until the deadline.
    pub(crate) async fn get(&self, caller: Place) -> Result<Borrowed<'_, B>, AcquireError> {
        let deadline = self.pool.deadline();
        let mut borrowed = self.borrow(deadline, caller).await?;
        if self.ended.load(Ordering::SeqCst) {
            return Err(AcquireError::Ended);
        }
        match borrowed.pooled() {
            Some(pooled) => match self.pool.backend().inspect(pooled) {
                Inspection::Poisoned | Inspection::Dead | Inspection::FailedOver => {
                    return Err(AcquireError::Lost);
                }
                Inspection::Clean | Inspection::InTransaction | Inspection::Unknown => {}
            },
            none @ None => {
                *none = Some(self.pool.acquire_until(deadline, Patience::UntilDeadline).await?);
                // The request may have ended during the wait.
                if self.ended.load(Ordering::SeqCst) {
                    return Err(AcquireError::Ended);
                }
            }
        }
        Ok(borrowed)
    }

    /// Gives the connection back when nobody borrows it.
    pub(crate) async fn release(&self, caller: Place) -> Result<(), AcquireError> {
        let pooled = self.borrow(self.pool.deadline(), caller).await?.pooled().take();
        drop(pooled);
        Ok(())
    }

    /// Waits for its turn until the deadline.
    async fn borrow(
        &self,
        deadline: Instant,
        caller: Place,
    ) -> Result<Borrowed<'_, B>, AcquireError> {
        // Made before the wait: a request that ended meanwhile leaves the connection to who has or
        // gets the turn, so also one that gives up in its turn gives it back.
        let mut borrowed = Borrowed { scope: self, connection: None };
        borrowed.connection = Some(match self.connection.try_lock() {
            Ok(connection) => connection,
            Err(_) => self.wait_for_connection(deadline, caller).await?,
        });
        *self.borrowed_at() = caller;
        Ok(borrowed)
    }

    async fn wait_for_connection(
        &self,
        deadline: Instant,
        caller: Place,
    ) -> Result<MutexGuard<'_, Option<PooledConnection<B>>>, AcquireError> {
        let turn = self.connection.lock();
        tokio::pin!(turn);
        let notice = deadline.min(Instant::now() + NOTICE);
        if let Ok(connection) = timeout_at(notice, &mut turn).await {
            return Ok(connection);
        }
        let borrowed = *self.borrowed_at();
        let text = "a part of a request waits for the database connection that another part of \
            the same request has borrowed";
        tracing::warn!(%borrowed, waits = %caller, "{text}");
        timeout_at(deadline, turn).await.map_err(|_| AcquireError::Borrowed(*self.borrowed_at()))
    }

    fn borrowed_at(&self) -> sync::MutexGuard<'_, Place> {
        self.borrowed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request is over: no further use; the connection goes back now, or when its borrower lets
    /// go.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.give_back();
    }

    fn give_back(&self) {
        if let Ok(mut connection) = self.connection.try_lock() {
            let pooled = connection.take();
            drop(connection);
            drop(pooled);
        }
    }
}
