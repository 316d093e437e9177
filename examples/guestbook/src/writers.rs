//! Those who write, one after the other, so that those who read never wait for them.

use std::sync::Arc;
use std::time::Duration;

use farrier::connection::{AcquireError, Db, ErrorClass};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::entry::{Entry, NewEntry};
use crate::store::Store;

/// How long a writer waits for its turn and then for the database.
const LIMIT: Duration = Duration::from_secs(5);

/// The pause before another try, when somebody else writes.
const PAUSE: Duration = Duration::from_millis(20);

/// How many of a worker's requests may write at once.
#[derive(Clone, Debug)]
pub(crate) struct Writers(Arc<Semaphore>);

/// Why an entry was not stored.
pub(crate) enum NotStored<E> {
    Acquire(AcquireError),
    Failed(E),
    /// Others wrote for all of the time.
    TooLate,
}

impl Writers {
    /// As many as the database allows.
    pub(crate) fn new<S: Store>() -> Self {
        Self(Arc::new(Semaphore::new(S::WRITERS)))
    }

    /// Stores an entry in its turn, and tries again while somebody else has the database's lock.
    pub(crate) async fn add<S: Store>(
        &self,
        db: &Db<S>,
        entry: &NewEntry,
    ) -> Result<Entry, NotStored<S::Error>> {
        let added = async {
            // Who waits here has no connection that a reader could use. It is never closed.
            let _turn = self.0.acquire().await;
            loop {
                let mut connection = db.get().await.map_err(NotStored::Acquire)?;
                match S::add(&mut connection, entry).await {
                    Ok(entry) => return Ok(entry),
                    Err(error) if db.pool().backend().classify(&error) == ErrorClass::Busy => {
                        drop(connection);
                        sleep(PAUSE).await;
                    }
                    Err(error) => return Err(NotStored::Failed(error)),
                }
            }
        };
        timeout(LIMIT, added).await.unwrap_or(Err(NotStored::TooLate))
    }
}
