//! Locks between processes, which die with who holds them.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_WRLCK, SEEK_SET, flock};

use crate::variables::{Kind, Slot, VariableError};

/// A lock that one task of one process has at a time.
///
/// It is made before the fork, as a [`Counter`](crate::Counter), and protects whatever the processes agree on: a file, a
/// directory, an account of another service. Whoever holds it and is killed, or crashes, holds it no more: the next one gets it,
/// and is told, since what it protects may be half done. A clone is the same lock.
///
/// ```
/// use farrier_shared::Mutex;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mutex = Mutex::new("report")?;
/// // In any process:
/// let guard = mutex.lock().await?;
/// if guard.holder_died() {
///     println!("what the last one has begun is begun anew");
/// }
/// assert!(mutex.try_lock()?.is_none(), "somebody has it");
/// drop(guard);
/// assert!(mutex.try_lock()?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Mutex(&'static Slot);

/// The lock, for as long as this lives.
#[must_use = "the lock is given back when this is dropped"]
pub struct MutexGuard {
    is_held: &'static AtomicU64,
    holder_died: bool,
    /// Its own open file, to which the kernel has tied the lock.
    _file: File,
}

impl Mutex {
    /// Makes a lock.
    ///
    /// # Errors
    ///
    /// The name is taken or none; it is made too late; or the kernel's.
    pub fn new(name: &str) -> Result<Self, VariableError> {
        Slot::new(name, Kind::Mutex, |_| ()).map(Self)
    }

    /// Waits for the lock, in a thread of the runtime's for blocking work. Who waits for longest is not first.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped gives the lock back as soon as it gets it.
    pub async fn lock(&self) -> io::Result<MutexGuard> {
        let file = Slot::open()?;
        if self.try_to_lock(&file)? {
            return Ok(self.guard(file));
        }
        let mutex = *self;
        let waiting = tokio::task::spawn_blocking(move || {
            loop {
                match fcntl(&file, FcntlArg::F_OFD_SETLKW(&mutex.whole())) {
                    Ok(_) => return Ok(mutex.guard(file)),
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        });
        // It is not aborted, and does not panic.
        waiting.await.map_err(io::Error::other)?
    }

    /// The lock, if nobody has it.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor.
    pub fn try_lock(&self) -> io::Result<Option<MutexGuard>> {
        let file = Slot::open()?;
        Ok(self.try_to_lock(&file)?.then(|| self.guard(file)))
    }

    fn try_to_lock(&self, file: &File) -> io::Result<bool> {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&self.whole())) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// For who builds on it; zero at first.
    pub(crate) fn spare_word(&self) -> &'static AtomicU64 {
        &self.0.words[1]
    }

    fn guard(&self, file: File) -> MutexGuard {
        let is_held = &self.0.words[0];
        let holder_died = is_held.swap(1, Ordering::AcqRel) == 1;
        MutexGuard { is_held, holder_died, _file: file }
    }

    /// What is locked: one byte, which stands for this slot.
    fn whole(&self) -> flock {
        flock {
            l_type: F_WRLCK as _,
            l_whence: SEEK_SET as _,
            l_start: self.0.number() as _,
            l_len: 1,
            l_pid: 0,
        }
    }
}

impl MutexGuard {
    /// Whether who had it last was killed, or crashed, while it did.
    #[must_use]
    pub fn holder_died(&self) -> bool {
        self.holder_died
    }
}

impl Drop for MutexGuard {
    fn drop(&mut self) {
        // Before the file is closed, and with it the lock given back.
        self.is_held.store(0, Ordering::Release);
    }
}

impl fmt::Debug for Mutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("name", &self.0.name()).finish_non_exhaustive()
    }
}

impl fmt::Debug for MutexGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard").field("holder_died", &self.holder_died).finish_non_exhaustive()
    }
}
