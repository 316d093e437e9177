//! Numbers that all processes count together: a counter, which only grows, and a gauge, which goes up and down.

use std::process;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{fmt, io};

use crate::memory::{MemoryError, SharedMemory, shared_struct};
use crate::names::Name;

/// How many variables a program may have.
const MOST: usize = 1024;

/// Words of eight bytes that a name has.
const NAME_WORDS: usize = 8;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 8 * NAME_WORDS;

shared_struct! {
    /// A variable. It has cache lines of its own, so that two that are counted at once do not slow each other down.
    #[repr(C, align(128))]
    struct Slot {
        value: AtomicU64,
        /// What it is; 0 for nothing.
        kind: AtomicU32,
        /// Bytes.
        name_length: AtomicU32,
        name: [AtomicU64; NAME_WORDS],
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter = 1,
    Gauge = 2,
}

/// All variables of this process and of those that it has forked.
struct Variables {
    slots: SharedMemory<Slot>,
    /// The process that makes them.
    maker: u32,
    names: Mutex<Vec<Name>>,
}

/// A number that only grows, which all processes have together: requests, mails, errors.
///
/// It is made before the fork, and survives each of the processes: one that is replaced or killed has counted what it has
/// counted. A clone is the same counter.
///
/// ```
/// use farrier_shared::Counter;
///
/// # fn main() -> Result<(), farrier_shared::VariableError> {
/// let mails = Counter::new("mails")?;
/// // In any process:
/// mails.add(1);
/// assert_eq!(mails.get(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Counter(&'static Slot);

/// A number that goes up and down, which all processes have together: who is logged in, what is in progress.
///
/// It is made before the fork, as a [`Counter`]. What a process adds and does not take away again, because it is killed, stays.
///
/// ```
/// use farrier_shared::Gauge;
///
/// # fn main() -> Result<(), farrier_shared::VariableError> {
/// let seats = Gauge::new("seats")?;
/// // In any process:
/// seats.set(10);
/// assert_eq!(seats.add(-1), 9);
/// assert_eq!(seats.get(), 9);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Gauge(&'static Slot);

/// Why there is no such variable.
#[derive(Debug)]
#[non_exhaustive]
pub enum VariableError {
    /// There is something of this name already.
    NameTaken(String),
    /// A name has 1 to 64 bytes.
    NoName(String),
    /// Variables are made by one process, before it forks others, which could not see each other's.
    AfterFork(String),
    /// A program may have 1,024 of them.
    TooMany(String),
    /// The kernel's: no memory, no descriptor.
    Io(io::Error),
}

impl Counter {
    /// Makes a counter, which is 0.
    ///
    /// # Errors
    ///
    /// The name is taken or none; it is made too late; or the kernel's.
    pub fn new(name: &str) -> Result<Self, VariableError> {
        Variables::make(name, Kind::Counter).map(Self)
    }

    /// Adds to it; returns what it is then. Beyond [`u64::MAX`] it begins anew.
    #[expect(clippy::must_use_candidate, reason = "most only count")]
    pub fn add(&self, more: u64) -> u64 {
        self.0.value.fetch_add(more, Ordering::Relaxed).wrapping_add(more)
    }

    /// What all processes have counted.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.value.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// Makes a gauge, which is 0.
    ///
    /// # Errors
    ///
    /// The name is taken or none; it is made too late; or the kernel's.
    pub fn new(name: &str) -> Result<Self, VariableError> {
        Variables::make(name, Kind::Gauge).map(Self)
    }

    /// Adds to it, or takes away; returns what it is then.
    #[expect(clippy::must_use_candidate, reason = "most only count")]
    pub fn add(&self, more: i64) -> i64 {
        let more = u64::from_ne_bytes(more.to_ne_bytes());
        signed(self.0.value.fetch_add(more, Ordering::Relaxed).wrapping_add(more))
    }

    /// Whatever it was, it is this now.
    pub fn set(&self, value: i64) {
        self.0.value.store(u64::from_ne_bytes(value.to_ne_bytes()), Ordering::Relaxed);
    }

    /// What it is.
    #[must_use]
    pub fn get(&self) -> i64 {
        signed(self.0.value.load(Ordering::Relaxed))
    }
}

fn signed(value: u64) -> i64 {
    i64::from_ne_bytes(value.to_ne_bytes())
}

impl Variables {
    fn make(name: &str, kind: Kind) -> Result<&'static Slot, VariableError> {
        if !(1..=LONGEST_NAME).contains(&name.len()) {
            return Err(VariableError::NoName(name.to_owned()));
        }
        let all = Self::all()?;
        if all.maker != process::id() {
            return Err(VariableError::AfterFork(name.to_owned()));
        }
        let mut names = all.names.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = all.slots.get(names.len()) else {
            return Err(VariableError::TooMany(name.to_owned()));
        };
        let taken = Name::take(name).ok_or_else(|| VariableError::NameTaken(name.to_owned()))?;
        slot.write(name, kind);
        names.push(taken);
        Ok(slot)
    }

    fn all() -> Result<&'static Self, VariableError> {
        static ALL: OnceLock<Variables> = OnceLock::new();
        if let Some(all) = ALL.get() {
            return Ok(all);
        }
        let slots = SharedMemory::new("farrier-variables", MOST)?;
        let all = Self { slots, maker: process::id(), names: Mutex::default() };
        // If another thread was faster, this one's is dropped.
        Ok(ALL.get_or_init(|| all))
    }
}

impl Slot {
    /// So that another image of the program finds it.
    fn write(&self, name: &str, kind: Kind) {
        for (word, bytes) in self.name.iter().zip(name.as_bytes().chunks(8)) {
            let mut packed = [0; 8];
            packed[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(packed), Ordering::Relaxed);
        }
        let length = u32::try_from(name.len()).unwrap_or(0);
        self.name_length.store(length, Ordering::Relaxed);
        self.kind.store(kind as u32, Ordering::Release);
    }

    fn name(&self) -> String {
        let words = self.name.iter();
        let bytes: Vec<u8> =
            words.flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let length = self.name_length.load(Ordering::Relaxed) as usize;
        String::from_utf8_lossy(&bytes[..length.min(LONGEST_NAME)]).into_owned()
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("name", &self.0.name()).field("value", &self.get()).finish()
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauge").field("name", &self.0.name()).field("value", &self.get()).finish()
    }
}

impl From<MemoryError> for VariableError {
    fn from(error: MemoryError) -> Self {
        Self::Io(match error {
            MemoryError::Io(error) => error,
            error @ MemoryError::Unknown => io::Error::other(error),
        })
    }
}

impl fmt::Display for VariableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTaken(name) => write!(f, "there is a {name:?} already"),
            Self::NoName(name) => {
                write!(f, "{name:?} is no name: allowed are 1 to {LONGEST_NAME} bytes")
            }
            Self::AfterFork(name) => write!(
                f,
                "{name:?} is made after the fork, where no other process can see it: make it in `main`"
            ),
            Self::TooMany(name) => {
                write!(f, "{name:?} is one too many: allowed are {MOST} variables")
            }
            Self::Io(error) => write!(f, "a variable cannot be made: {error}"),
        }
    }
}

impl std::error::Error for VariableError {}
