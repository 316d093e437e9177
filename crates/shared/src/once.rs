//! What is done once, however many processes come to it.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lock::Mutex;
use crate::variables::{Kind, VariableError};

/// Why the work is not done.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError {
    /// It failed in this process; who comes next tries again.
    Failed(Box<dyn Error + Send + Sync>),
    /// Its lock cannot be had.
    Lock(VariableError),
}

/// Does work once for as long as the server runs, reloads included: a migration, a cache that is filled. Returns whether it was
/// done here.
///
/// The first that comes to the work of this name does it, and who comes meanwhile waits; when it is done, nobody does it again.
/// If it fails, or its process is killed in the midst of it, the next that comes or waits begins it anew, so it has to bear
/// that. Work of a name that is begun within itself waits for ever.
///
/// ```
/// use farrier_shared::once_per_server;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// // In each worker:
/// let work = async || Ok::<_, std::io::Error>(println!("ALTER TABLE"));
/// assert!(once_per_server("migration", work).await?, "it is done");
/// assert!(!once_per_server("migration", work).await?, "it was done");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The work's; or the name is another variable's, or none; or the kernel's.
///
/// # Cancel safety
///
/// A future that is dropped has not done the work, and leaves it to the next.
pub async fn once_per_server<E>(
    name: &str,
    work: impl AsyncFnOnce() -> Result<(), E>,
) -> Result<bool, OnceError>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    Once::named(name, Per::Server)?.up_to(0, work).await
}

/// Does work once for each generation of workers, so again after a reload. Returns whether it was done here.
///
/// `generation` is the worker's. Work of an older generation than what is done already is not done any more, also when a reload
/// was given up after its first worker had done it: the old workers that go on then have what that one has made. The rest is
/// as with [`once_per_server`].
///
/// # Errors
///
/// The work's; or the name is another variable's, or none; or the kernel's.
///
/// # Cancel safety
///
/// A future that is dropped has not done the work, and leaves it to the next.
pub async fn once_per_reload<E>(
    name: &str,
    generation: u64,
    work: impl AsyncFnOnce() -> Result<(), E>,
) -> Result<bool, OnceError>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    Once::named(name, Per::Reload)?.up_to(generation, work).await
}

/// Work that is done once. Its lock is held while it is done.
struct Once(Mutex);

#[derive(Clone, Copy)]
enum Per {
    Server = 1,
    Reload = 2,
}

impl Once {
    fn named(name: &str, per: Per) -> Result<Self, OnceError> {
        Mutex::of_kind(name, Kind::Once, per as u64).map(Self).map_err(OnceError::Lock)
    }

    async fn up_to<E>(
        &self,
        generation: u64,
        work: impl AsyncFnOnce() -> Result<(), E>,
    ) -> Result<bool, OnceError>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        if self.done().load(Ordering::Acquire) > generation {
            return Ok(false);
        }
        let lock = self.0.lock().await;
        let _guard = lock.map_err(|error| OnceError::Lock(VariableError::Io(error)))?;
        if self.done().load(Ordering::Acquire) > generation {
            return Ok(false);
        }
        work().await.map_err(|error| OnceError::Failed(error.into()))?;
        self.done().store(generation.saturating_add(1), Ordering::Release);
        Ok(true)
    }

    /// One more than the highest generation for which it is done.
    fn done(&self) -> &'static AtomicU64 {
        self.0.spare_word()
    }
}

impl fmt::Display for OnceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Lock(error) => write!(f, "the lock of work that is done once: {error}"),
        }
    }
}

impl Error for OnceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::Lock(error) => Some(error),
        }
    }
}
