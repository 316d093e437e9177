//! The variables that all processes have together, and the memory that they are in.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
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

/// Words of eight bytes that a variable has for itself.
pub(crate) const WORDS: usize = 48;

/// How many bounds a histogram may have: there are a bucket more, and the sum.
pub(crate) const MOST_BOUNDS: usize = 22;

const _: () = assert!(2 * MOST_BOUNDS + 2 <= WORDS);

/// The longest name, in bytes.
const LONGEST_NAME: usize = 8 * NAME_WORDS;

shared_struct! {
    /// A variable. It has cache lines of its own, so that two that are counted at once do not slow each other down.
    #[repr(C, align(128))]
    pub(crate) struct Slot {
        pub(crate) words: [AtomicU64; WORDS],
        /// What it is; 0 for nothing.
        kind: AtomicU32,
        /// Bytes.
        name_length: AtomicU32,
        number: AtomicU32,
        name: [AtomicU64; NAME_WORDS],
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Counter = 1,
    Gauge = 2,
    Histogram = 3,
    Value = 4,
    Mutex = 5,
}

/// All variables of this process and of those that it has forked.
struct Variables {
    slots: SharedMemory<Slot>,
    /// The process that makes them.
    maker: u32,
    names: Mutex<Vec<Name>>,
}

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
    /// The bounds of a histogram are 1 to 22 numbers, each larger than the one before.
    Bounds(String),
    /// The kernel's: no memory, no descriptor.
    Io(io::Error),
}

impl Slot {
    /// A new one for a variable; `fill` writes its first words.
    ///
    /// # Errors
    ///
    /// The name is taken or none; it is made too late; or the kernel's.
    pub(crate) fn new(
        name: &str,
        kind: Kind,
        fill: impl FnOnce(&[AtomicU64; WORDS]),
    ) -> Result<&'static Self, VariableError> {
        if !(1..=LONGEST_NAME).contains(&name.len()) {
            return Err(VariableError::NoName(name.to_owned()));
        }
        let all = Variables::all()?;
        if all.maker != process::id() {
            return Err(VariableError::AfterFork(name.to_owned()));
        }
        let mut names = all.names.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = all.slots.get(names.len()) else {
            return Err(VariableError::TooMany(name.to_owned()));
        };
        let taken = Name::take(name).ok_or_else(|| VariableError::NameTaken(name.to_owned()))?;
        fill(&slot.words);
        slot.number.store(u32::try_from(names.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        slot.write(name, kind);
        names.push(taken);
        Ok(slot)
    }

    /// Its place among all.
    pub(crate) fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    /// The memory that all slots are in, as a file of this caller's own.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor.
    pub(crate) fn open() -> io::Result<File> {
        let all = Variables::all().map_err(io::Error::other)?;
        let number = all.slots.as_fd().as_raw_fd();
        File::options().read(true).write(true).open(format!("/proc/self/fd/{number}"))
    }

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

    pub(crate) fn name(&self) -> String {
        let words = self.name.iter();
        let bytes: Vec<u8> =
            words.flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let length = self.name_length.load(Ordering::Relaxed) as usize;
        String::from_utf8_lossy(&bytes[..length.min(LONGEST_NAME)]).into_owned()
    }
}

impl Variables {
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
            Self::Bounds(name) => write!(
                f,
                "the bounds of {name:?}: allowed are 1 to {MOST_BOUNDS} numbers, each larger than the one before"
            ),
            Self::Io(error) => write!(f, "a variable cannot be made: {error}"),
        }
    }
}

impl std::error::Error for VariableError {}
