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
/// directory, an account of another service. Whoever holds it and is killed, crashes or panics, holds it no more: the next one
/// gets it, and is told, since what it protects may be half done. Of a future that is dropped while it holds the lock, as that of
/// a handler whose client has left, nobody is told. A clone is the same lock.
///
/// Who waits gets it in turn: tasks of one process in their order, and processes each in a while, however busy the others are.
/// A process must not fork while it holds one, or waits for one; the launcher refuses to.
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
    // Dropped in this order, so that this process's next task finds the lock free.
    bytes: Bytes,
    _task: SemaphorePermit<'static>,
}

impl Mutex {
    /// The lock of this name.
    ///
    /// # Errors
    ///
    /// The name is another variable's, or none; there are too many; or the kernel's.
    pub fn named(name: &str) -> Result<Self, VariableError> {
        Self::of_kind(name, Kind::Mutex, 0)
    }

    pub(crate) fn of_kind(name: &str, kind: Kind, shape: u64) -> Result<Self, VariableError> {
        let (number, slot) = Slot::named(name, kind, shape, |_| ())?;
        Ok(Self { number, slot })
    }

    /// Waits for the lock; while another process has it, in a thread of its own, one for each lock.
    ///
    /// A task that has it already waits for itself, for ever.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor, no thread.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has not had the lock. Its thread waits on, and gives the lock back as soon as it gets it.
    pub async fn lock(&self) -> io::Result<MutexGuard> {
        let task = self.task().acquire().await.map_err(io::Error::other)?;
        let bytes = variables::bytes()?;
        if self.try_bytes(&bytes)? {
            return Ok(self.guard(bytes, task));
        }
        let mutex = *self;
        let (locked, is_locked) = oneshot::channel();
        thread::Builder::new().name("farrier-lock".to_owned()).spawn(move || {
            // Who has given up waiting is not there to get them, so they are given back at once.
            drop(locked.send(mutex.wait(&bytes).map(|()| (bytes, task))));
        })?;
        let (bytes, task) = is_locked.await.map_err(io::Error::other)??;
        // Only now: who has given up waiting must not take the news that the holder died.
        Ok(self.guard(bytes, task))
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
        Ok(self.try_bytes(&bytes)?.then(|| self.guard(bytes, task)))
    }

    /// Whether they were free; if not, the turn may be this one's.
    fn try_bytes(&self, bytes: &Bytes) -> io::Result<bool> {
        if !bytes.try_lock(self.turn())? || !bytes.try_lock(self.byte())? {
            return Ok(false);
        }
        bytes.unlock(self.turn())?;
        Ok(true)
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
        MutexGuard { is_held, holder_died, bytes, _task: task }
    }
}

/// The names of the locks that this process holds or waits for, which it must not do when it forks. For launchers.
#[must_use]
pub fn held_locks() -> Vec<String> {
    let is_busy = |(number, _): &(usize, _)| TASKS[*number].available_permits() == 0;
    variables::made().enumerate().filter(is_busy).map(|(_, slot)| slot.name()).collect()
}

impl MutexGuard {
    /// Whether who had it last was killed, crashed or panicked while it did.
    #[must_use]
    pub fn holder_died(&self) -> bool {
        self.holder_died
    }
}

impl Drop for MutexGuard {
    fn drop(&mut self) {
        // Before the lock is given back. A panic leaves things half done as a crash does; a child has not had it.
        if !thread::panicking() && self.bytes.is_owned() {
            self.is_held.store(0, Ordering::Release);
        }
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
