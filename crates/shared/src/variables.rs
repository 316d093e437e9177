//! The variables that all processes have together, and the memory that they are in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::{fmt, io};

use nix::libc::off_t;

use crate::bytes::Bytes;
use crate::memory::{MemoryError, SharedMemory, shared_struct};

/// How many variables a program may have.
pub(crate) const MOST: usize = 1024;

/// Words of eight bytes that a name has.
const NAME_WORDS: usize = 8;

/// Words of eight bytes that a variable has for itself.
pub(crate) const WORDS: usize = 48;

/// How many bounds a histogram may have: its words, but for the sum and for the bucket of what is larger.
pub(crate) const MOST_BOUNDS: usize = WORDS - 2;

/// The byte that is locked while a variable is made, behind those of the variables.
const MAKING: off_t = 2 * MOST as off_t;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 8 * NAME_WORDS;

shared_struct! {
    /// A variable. It has cache lines of its own, so that two that are counted at once do not slow each other down.
    #[repr(C, align(128))]
    pub(crate) struct Slot {
        pub(crate) words: [AtomicU64; WORDS],
        /// What it is; 0 for nothing, and is written last.
        kind: AtomicU32,
        /// Bytes.
        name_length: AtomicU32,
        /// What tells apart those of one kind: the type of a value, the bounds of a histogram.
        shape: AtomicU64,
        name: [AtomicU64; NAME_WORDS],
    }
}

/// What the words of a variable mean: where that changes, the number does, so that an image of the program that means
/// something else by them finds another kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Counter = 1,
    Gauge = 2,
    Histogram = 3,
    Value = 4,
    Mutex = 5,
    Once = 6,
}

/// Those of this process and of all that it has forked.
static VARIABLES: OnceLock<SharedMemory<Slot>> = OnceLock::new();

/// Why there is no such variable.
#[derive(Debug)]
#[non_exhaustive]
pub enum VariableError {
    /// What has this name is another kind of variable, a value of another type, or a histogram with other bounds.
    Differs(String),
    /// A name has 1 to 64 bytes.
    NoName(String),
    /// A program may have 1,024 of them; they are there until the last process ends.
    TooMany(String),
    /// The bounds of a histogram are 1 to 46 numbers, each larger than the one before.
    Bounds(String),
    /// The memory that was to be adopted holds something else, or is another version's.
    Unknown,
    /// There are variables in other memory already.
    Shared,
    /// The kernel's: no memory, no descriptor, no `/proc`.
    Io(io::Error),
}

/// Makes the memory that the variables of this process and of all that it forks from now on are in, unless it is there.
///
/// For launchers: what forks by itself calls this first. Else the first variable makes it, and processes that were forked
/// before that have each their own.
///
/// The descriptor is for another image of the program, which [`adopt`]s it.
///
/// # Errors
///
/// The kernel's: no memory, no descriptor.
pub fn share() -> Result<BorrowedFd<'static>, VariableError> {
    all().map(SharedMemory::as_fd)
}

/// Has its variables in the memory that another image of the program has made by [`share`].
///
/// # Errors
///
/// There are variables already, or the memory is none of this version's; or the kernel's.
pub fn adopt(memory: OwnedFd) -> Result<(), VariableError> {
    let again = SharedMemory::again(memory)?;
    VARIABLES.set(again).map_err(|_| VariableError::Shared)
}

/// Those that are made.
pub(crate) fn made() -> impl Iterator<Item = &'static Slot> {
    let slots: &[Slot] = VARIABLES.get().map_or(&[], |all| all);
    slots.iter().take_while(|slot| slot.kind.load(Ordering::Acquire) != 0)
}

fn all() -> Result<&'static SharedMemory<Slot>, VariableError> {
    if let Some(all) = VARIABLES.get() {
        return Ok(all);
    }
    let made = SharedMemory::new("farrier-variables", MOST)?;
    // If another thread was faster, this one's is dropped.
    Ok(VARIABLES.get_or_init(|| made))
}

/// The locks of all variables, for a holder of its own. Byte n is that of variable n, byte [`MOST`] + n that of the turn to wait
/// for it.
///
/// # Errors
///
/// The kernel's: no memory, no descriptor.
pub(crate) fn bytes() -> io::Result<Bytes> {
    Bytes::of(all().map_err(io::Error::other)?.as_fd())
}

impl Slot {
    /// The variable of this name, which is made if there is none: `fill` writes the words that do not begin as zeroes.
    ///
    /// # Errors
    ///
    /// It is no name, or something else's; there is no room; or the kernel's.
    pub(crate) fn named(
        name: &str,
        kind: Kind,
        shape: u64,
        fill: impl FnOnce(&[AtomicU64; WORDS]),
    ) -> Result<(usize, &'static Self), VariableError> {
        if !(1..=LONGEST_NAME).contains(&name.len()) {
            return Err(VariableError::NoName(name.to_owned()));
        }
        let slots = all()?;
        let (number, slot) = match Self::find(slots, name, 0) {
            Ok(found) => found,
            Err(free) => {
                Self::find_or_make(slots, name, free, |slot| slot.make(name, kind, shape, fill))?
            }
        };
        let is_same = slot.kind.load(Ordering::Acquire) == kind as u32
            && slot.shape.load(Ordering::Relaxed) == shape;
        if is_same { Ok((number, slot)) } else { Err(VariableError::Differs(name.to_owned())) }
    }

    /// That of this name; `make` makes it in the first that is free. One process at a time, which waits for nothing: one that is
    /// stopped in here holds up all that name something new.
    fn find_or_make<'a>(
        slots: &'a [Self],
        name: &str,
        from: usize,
        make: impl FnOnce(&Self),
    ) -> Result<(usize, &'a Self), VariableError> {
        let bytes = bytes().map_err(VariableError::Io)?;
        bytes.lock(MAKING).map_err(VariableError::Io)?;
        // Another process may have been faster.
        Self::find(slots, name, from).or_else(|free| {
            let slot = slots.get(free).ok_or_else(|| VariableError::TooMany(name.to_owned()))?;
            make(slot);
            Ok((free, slot))
        })
    }

    /// That of this name, or the number of the first that is free; those before `from` are others.
    fn find<'a>(slots: &'a [Self], name: &str, from: usize) -> Result<(usize, &'a Self), usize> {
        for (number, slot) in slots.iter().enumerate().skip(from) {
            if slot.kind.load(Ordering::Acquire) == 0 {
                return Err(number);
            }
            if slot.is_named(name) {
                return Ok((number, slot));
            }
        }
        Err(slots.len())
    }

    /// A process that is killed in here has made nothing: the next one begins anew, with what that one has left.
    fn make(&self, name: &str, kind: Kind, shape: u64, fill: impl FnOnce(&[AtomicU64; WORDS])) {
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
        fill(&self.words);
        self.shape.store(shape, Ordering::Relaxed);
        for (word, bytes) in self.name.iter().zip(packed(name)) {
            word.store(bytes, Ordering::Relaxed);
        }
        let length = u32::try_from(name.len()).unwrap_or(0);
        self.name_length.store(length, Ordering::Relaxed);
        self.kind.store(kind as u32, Ordering::Release);
    }

    fn is_named(&self, name: &str) -> bool {
        self.name_length.load(Ordering::Relaxed) as usize == name.len()
            && self
                .name
                .iter()
                .zip(packed(name))
                .all(|(word, bytes)| word.load(Ordering::Relaxed) == bytes)
    }

    pub(crate) fn name(&self) -> String {
        let words = self.name.iter();
        let bytes: Vec<u8> =
            words.flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let length = self.name_length.load(Ordering::Relaxed) as usize;
        String::from_utf8_lossy(&bytes[..length.min(LONGEST_NAME)]).into_owned()
    }
}

/// A name as words, without zeroes behind it.
fn packed(name: &str) -> impl Iterator<Item = u64> + '_ {
    name.as_bytes().chunks(8).map(|bytes| {
        let mut packed = [0; 8];
        packed[..bytes.len()].copy_from_slice(bytes);
        u64::from_ne_bytes(packed)
    })
}

impl From<MemoryError> for VariableError {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::Io(error) => Self::Io(error),
            MemoryError::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for VariableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differs(name) => write!(
                f,
                "{name:?} is there already, and is another kind of variable, or has another type or other bounds"
            ),
            Self::NoName(name) => {
                write!(f, "{name:?} is no name: allowed are 1 to {LONGEST_NAME} bytes")
            }
            Self::TooMany(name) => {
                write!(f, "{name:?} is one too many: allowed are {MOST} variables")
            }
            Self::Bounds(name) => write!(
                f,
                "the bounds of {name:?}: allowed are 1 to {MOST_BOUNDS} numbers, each larger than the one before"
            ),
            Self::Unknown => MemoryError::Unknown.fmt(f),
            Self::Shared => f.write_str("there are variables in other memory already"),
            Self::Io(error) => write!(f, "a variable cannot be made: {error}"),
        }
    }
}

impl std::error::Error for VariableError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_killed_while_it_made_a_variable_has_left_nothing() {
        let slots = all().unwrap();
        let free = Slot::find(slots, "made anew", 0).err().expect("there is none");
        let free = &slots[free];
        for word in &free.words {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        free.name_length.store(9, Ordering::Relaxed);
        let (_, made) = Slot::named("made anew", Kind::Counter, 0, |_| ()).unwrap();
        assert!(std::ptr::eq(made, free));
        assert!(made.words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        assert_eq!(made.name(), "made anew");
    }
}
