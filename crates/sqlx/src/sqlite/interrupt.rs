//! How a running statement is stopped: SQLite asks, while it works.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sqlx::Error;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::watch;

/// How many of its instructions SQLite runs until it asks again: some 10 microseconds.
const INSTRUCTIONS: i32 = 1_000;

/// A connection to SQLite; as text, a number that is no other's in this process.
#[derive(Clone, Debug)]
pub struct SqliteSessionId {
    number: u64,
    stop: Arc<AtomicBool>,
    /// Its other end is gone with the connection's handle.
    ended: watch::Receiver<()>,
}

impl SqliteSessionId {
    /// From now on the statements of `connection` can be stopped.
    pub(super) async fn of(connection: &mut SqliteConnection) -> Result<Self, Error> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let (alive, ended) = watch::channel(());
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS, move || {
            let _with_the_handle = &alive;
            !asked.load(Ordering::Relaxed)
        });
        Ok(Self { number: LAST.fetch_add(1, Ordering::Relaxed) + 1, stop, ended })
    }

    /// Whether statements are to end at once, with an error.
    pub(super) fn stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Relaxed);
    }

    /// Waits until the connection is closed, and no statement runs any more.
    pub(super) async fn ended(&self) {
        // Nothing is ever sent.
        let _ = self.ended.clone().changed().await;
    }
}

impl PartialEq for SqliteSessionId {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for SqliteSessionId {}

impl Hash for SqliteSessionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

impl fmt::Display for SqliteSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}
