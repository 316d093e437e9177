//! What is done once, however many processes come to it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lock::Mutex;
use crate::variables::VariableError;

/// Work that one process does and the others wait for: a migration, a cache that is filled.
///
/// It is made before the fork, as a [`Counter`](crate::Counter). The first that comes does the work, and who comes meanwhile
/// waits; when it is done, nobody does it again. If it fails, or its process is killed in the midst of it, the next that comes
/// or waits begins it anew, so it has to bear that. A clone is the same work.
///
/// ```
/// use farrier_shared::Once;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let migrated = Once::new("migrated")?;
/// // In each worker:
/// let did_it = migrated.per_server(async || Ok::<_, std::io::Error>(println!("ALTER TABLE"))).await?;
/// assert!(did_it);
/// assert!(!migrated.per_server(async || Ok::<_, std::io::Error>(unreachable!())).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Once(Mutex);

/// Why the work is not done.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError<E> {
    /// It failed in this process; who comes next tries again.
    Failed(E),
    /// The kernel's: no descriptor.
    Io(io::Error),
}

impl Once {
    /// Names work that is not done yet.
    ///
    /// # Errors
    ///
    /// The name is taken or none; it is made too late; or the kernel's.
    pub fn new(name: &str) -> Result<Self, VariableError> {
        Mutex::new(name).map(Self)
    }

    /// Does the work unless it is done, or waits for who does; returns whether it was done here. Once for as long as the
    /// server runs, reloads included.
    ///
    /// # Errors
    ///
    /// The work's, or the kernel's.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not done the work, and leaves it to the next.
    pub async fn per_server<E>(
        &self,
        work: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<bool, OnceError<E>> {
        self.up_to(1, work).await
    }

    /// The same once for each generation of workers, so again after a reload. Work of an older generation than what is done
    /// already is not done any more. Not together with [`per_server`](Self::per_server) for the same work.
    ///
    /// # Errors
    ///
    /// The work's, or the kernel's.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not done the work, and leaves it to the next.
    pub async fn per_reload<E>(
        &self,
        generation: u64,
        work: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<bool, OnceError<E>> {
        self.up_to(generation, work).await
    }

    async fn up_to<E>(
        &self,
        generation: u64,
        work: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<bool, OnceError<E>> {
        if self.done().load(Ordering::Acquire) >= generation {
            return Ok(false);
        }
        let _guard = self.0.lock().await.map_err(OnceError::Io)?;
        if self.done().load(Ordering::Acquire) >= generation {
            return Ok(false);
        }
        work().await.map_err(OnceError::Failed)?;
        self.done().store(generation, Ordering::Release);
        Ok(true)
    }

    /// The highest generation for which it is done.
    fn done(&self) -> &'static AtomicU64 {
        self.0.spare_word()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.done().load(Ordering::Relaxed);
        f.debug_struct("Once").field("lock", &self.0).field("done", &done).finish()
    }
}

impl<E: fmt::Display> fmt::Display for OnceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Io(error) => write!(f, "the lock of work that is done once: {error}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for OnceError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::Io(error) => Some(error),
        }
    }
}
