//! The pool: a bounded set of connections, each aged, checked and cleaned.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::deadline::after;
use crate::{AcquireError, Backend, CloseReason, Policy, Status};

mod actions;
mod home;
mod live;
mod outage;
mod random;
mod shared;
mod state;
mod task;

use actions::{Acquiring, Waiting};
use outage::Failure;
pub use shared::PooledConnection;
pub(crate) use shared::Shared;
pub(crate) use state::Patience;

/// How long what the backend keeps open may take to close.
const FINISH_TIMEOUT: Duration = Duration::from_millis(250);

/// A bounded set of connections to one database; clones share it.
///
/// Nothing is opened before the first use. A pool lives in one process and on one runtime:
/// those of its first use, as long as it has connections.
///
/// # Example
///
/// ```
/// use farrier_connection::fake::Fake;
/// use farrier_connection::{Policy, Pool};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new(Fake::new(), Policy::default().max_connections(4));
/// let mut connection = pool.acquire().await?;
/// connection.query().await?;
/// drop(connection);
/// assert_eq!(pool.status().idle, 1);
/// pool.close().await;
/// # Ok(())
/// # }
/// ```
pub struct Pool<B: Backend>(Arc<Shared<B>>);

impl<B: Backend> Pool<B> {
    /// A pool of connections to `backend`; opens none.
    #[must_use]
    pub fn new(backend: B, policy: Policy) -> Self {
        Self(Arc::new(Shared::new(backend, policy)))
    }

    /// Takes a connection: an idle one, or a new one, or the next that comes back.
    ///
    /// # Errors
    ///
    /// After `acquire_timeout` at the latest; see [`AcquireError`] for each.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the queue, and gives back a connection that was under way.
    pub async fn acquire(&self) -> Result<PooledConnection<B>, AcquireError> {
        self.acquire_until(self.deadline(), Patience::UntilDeadline).await
    }

    /// Like [`acquire`](Self::acquire), but the first connect that fails is the answer.
    ///
    /// For the start of a program, which should rather end than wait for its database.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); the driver's own words are in the error's source.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_once(&self) -> Result<PooledConnection<B>, AcquireError> {
        self.acquire_until(self.deadline(), Patience::OneAttempt).await
    }

    /// The rules that the pool keeps: those it was given, as far as the backend can keep them.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// The database that the connections go to.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.0.backend
    }

    /// What the pool is doing and has done.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// Refuses whoever comes, closes what is idle, and waits until the last connection is
    /// closed.
    ///
    /// Connections in use are closed when they come back; there is no limit to that, put a timeout
    /// around it. They are closed on the runtime of the pool: on another one this waits until that one
    /// is driven.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future only ends the waiting; the pool stays closed.
    pub async fn close(&self) {
        self.0.shut();
        loop {
            let drained = self.0.drained.notified();
            tokio::pin!(drained);
            // Registered before the look, or the last slot may become free in between.
            drained.as_mut().enable();
            if self.0.is_drained() {
                break;
            }
            drained.await;
        }
        // Nothing is under way any more, so it takes long only where the server does not answer.
        let limit = self.0.policy.close_timeout.min(FINISH_TIMEOUT);
        let finished = timeout(limit, self.0.backend.finish());
        if finished.await.is_err() {
            tracing::debug!("what the backend kept open was not closed in time");
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared<B>> {
        &self.0
    }

    pub(crate) fn from_shared(shared: Arc<Shared<B>>) -> Self {
        Self(shared)
    }

    /// The end of a wait that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        after(Instant::now(), self.0.policy.acquire_timeout)
    }

    pub(crate) async fn acquire_until(
        &self,
        deadline: Instant,
        patience: Patience,
    ) -> Result<PooledConnection<B>, AcquireError> {
        let shared = &self.0;
        let mut replacing = false;
        loop {
            let mut pooled = match shared.acquire(replacing, patience)? {
                Acquiring::Ready(pooled) => pooled,
                Acquiring::Wait(waiting) => self.wait(waiting, deadline).await?,
            };
            let now = Instant::now();
            let generation = shared.generation();
            if !self.check_due(&pooled, generation, now) {
                return Ok(self.count(pooled));
            }
            shared.counters.checks.add();
            let limit = after(now, shared.policy.check_timeout);
            match timeout_at(limit.min(deadline), shared.backend.check(&mut pooled)).await {
                Ok(Ok(())) => {
                    pooled.live_mut().checked = generation;
                    shared.lock().state.answered();
                    return Ok(self.count(pooled));
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a health check failed");
                    shared.disconnected(pooled.live().checked);
                }
                Err(_) if deadline < limit => {
                    // Too little time was left: no proof against the server, nor against older
                    // connections.
                    self.log_late_check();
                    shared.counters.timeouts.add();
                    return Err(AcquireError::TimedOut);
                }
                Err(_) => {
                    self.log_late_check();
                    shared.lock().state.unanswered(Instant::now());
                    // Nobody waits as long for each of the others.
                    shared.distrust(pooled.live().generation);
                }
            }
            shared.counters.check_failures.add();
            shared.retire(pooled.into_occupied(), CloseReason::Unusable);
            if Instant::now() >= deadline {
                shared.counters.timeouts.add();
                return Err(AcquireError::TimedOut);
            }
            replacing = true;
        }
    }

    fn log_late_check(&self) {
        if let Some(failures) = self.0.to_log(Failure::Check) {
            tracing::warn!(failures, "the database server did not answer a health check in time");
        }
    }

    async fn wait(
        &self,
        mut waiting: Waiting<B>,
        deadline: Instant,
    ) -> Result<PooledConnection<B>, AcquireError> {
        self.0.counters.waited.add();
        match timeout_at(deadline, &mut waiting.receiver).await {
            Ok(Ok(granted)) => granted,
            Ok(Err(_)) => Err(AcquireError::Closed),
            Err(_) => {
                self.0.counters.timeouts.add();
                Err(self.0.lock().state.why_late())
            }
        }
    }

    /// Only a connection that survived from earlier is checked, and not if that was a moment ago; and
    /// each that was not known to work since another one broke.
    fn check_due(&self, pooled: &PooledConnection<B>, generation: u64, now: Instant) -> bool {
        let policy = &self.0.policy;
        let live = pooled.live();
        let lay_idle = now.saturating_duration_since(live.last_used) >= policy.health_check_bypass;
        live.checked < generation || policy.health_checks && live.uses > 0 && lay_idle
    }

    fn count(&self, mut pooled: PooledConnection<B>) -> PooledConnection<B> {
        pooled.live_mut().uses += 1;
        self.0.counters.acquired.add();
        pooled
    }
}

impl<B: Backend> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("policy", self.policy()).finish_non_exhaustive()
    }
}
