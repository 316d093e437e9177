//! Locks between processes, which die with who holds them.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::libc::off_t;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::bytes::Bytes;
use crate::variables::{self, Kind, MOST, Slot, VariableError};

/// Who has or waits for a lock in this process, by its number. One task of a process at a time goes for it, so that however
/// many wait, one thread does.
static TASKS: [Semaphore; MOST] = [const { Semaphore::const_new(1) }; MOST];

/// A lock that one task of one process has at a time.
///
/// It is known by its name, as a [`Counter`](crate::Counter) is, and protects whatever the processes agree on: a file, a
/// directory, an account of another service. Whoever holds it and is killed, or crashes, holds it no more: the next one gets it,
/// and is told, since what it protects may be half done. A clone is the same lock.
///
/// Who waits gets it in turn: tasks of one process in their order, and processes each in a while, however busy the others are.
/// A process must not fork while it holds one: the child would hold it as well.
///
/// ```
/// use farrier_shared::Mutex;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mutex = Mutex::named("report")?;
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
pub struct Mutex {
    number: usize,
    slot: &'static Slot,
}

/// The lock, for as long as this lives.
#[must_use = "the lock is given back when this is dropped"]
pub struct MutexGuard {
    is_held: &'static AtomicU64,
    holder_died: bool,
    // Dropped in this order, so that the process's next task finds the lock free.
    _bytes: Bytes,
    _task: SemaphorePermit<'static>,
}

impl Mutex {
    /// The lock of this name.
    ///
    /// # Errors
    ///
    /// The name is another variable's, or none; there are too many; or the kernel's.
    pub fn named(name: &str) -> Result<Self, VariableError> {
        Self::of_kind(Kind::Mutex, name, 0)
    }

    pub(crate) fn of_kind(kind: Kind, name: &str, shape: u64) -> Result<Self, VariableError> {
        let (number, slot) = Slot::named(name, kind, shape, |_| ())?;
        Ok(Self { number, slot })
    }

    /// Waits for the lock; while another process has it, in a thread of its own.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor, no thread.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped gives the lock back as soon as it gets it.
    pub async fn lock(&self) -> io::Result<MutexGuard> {
        let task = self.task().acquire().await.map_err(io::Error::other)?;
        let bytes = variables::bytes()?;
        if bytes.try_lock(self.turn())? && bytes.try_lock(self.byte())? {
            bytes.unlock(self.turn())?;
            return Ok(self.guard(bytes, task));
        }
        let mutex = *self;
        let (locked, is_locked) = oneshot::channel();
        thread::Builder::new().name("farrier-lock".to_owned()).spawn(move || {
            // Who has given up waiting drops the guard at once.
            drop(locked.send(mutex.wait(&bytes).map(|()| mutex.guard(bytes, task))));
        })?;
        is_locked.await.map_err(io::Error::other)?
    }

    /// The lock, if nobody has it or waits for it.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor.
    pub fn try_lock(&self) -> io::Result<Option<MutexGuard>> {
        let Ok(task) = self.task().try_acquire() else {
            return Ok(None);
        };
        let bytes = variables::bytes()?;
        if bytes.try_lock(self.turn())? && bytes.try_lock(self.byte())? {
            bytes.unlock(self.turn())?;
            return Ok(Some(self.guard(bytes, task)));
        }
        Ok(None)
    }

    /// The process whose turn is next waits for the lock itself, all others for the turn: so who gives the lock back and wants
    /// it again at once comes after those.
    fn wait(&self, bytes: &Bytes) -> io::Result<()> {
        bytes.lock(self.turn())?;
        bytes.lock(self.byte())?;
        bytes.unlock(self.turn())
    }

    fn byte(&self) -> off_t {
        self.number as off_t
    }

    fn turn(&self) -> off_t {
        (MOST + self.number) as off_t
    }

    fn task(&self) -> &'static Semaphore {
        &TASKS[self.number]
    }

    /// For who builds on it; zero at first.
    pub(crate) fn spare_word(&self) -> &'static AtomicU64 {
        &self.slot.words[1]
    }

    fn guard(&self, bytes: Bytes, task: SemaphorePermit<'static>) -> MutexGuard {
        let is_held = &self.slot.words[0];
        let holder_died = is_held.swap(1, Ordering::AcqRel) == 1;
        MutexGuard { is_held, holder_died, _bytes: bytes, _task: task }
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
        // Before the lock is given back.
        self.is_held.store(0, Ordering::Release);
    }
}

impl fmt::Debug for Mutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("name", &self.slot.name()).finish_non_exhaustive()
    }
}

impl fmt::Debug for MutexGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard").field("holder_died", &self.holder_died).finish_non_exhaustive()
    }
}
