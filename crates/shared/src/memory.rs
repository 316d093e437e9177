//! Memory that a process shares with those that it forks: this crate's unsafe code, all of it.
//!
//! A mapping of a memfd, whose head says what is in it, so that another image of the program can map it again, or see
//! that it must not.
#![expect(
    unsafe_code,
    reason = "mmap has no safe interface, and what other processes write is theirs"
)]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc::off_t;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// The head has a page of its own, so that the values behind it may be aligned as they like.
const HEAD: usize = 4096;

/// "farrier" and the version of the head.
const MAGIC: u64 = u64::from_be_bytes(*b"farrier\x01");

/// Its size stays what it is: who makes a file shorter that is mapped ends all that look at it.
const SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// Values that stay sound when other processes write them and when they begin as zeroes.
///
/// # Safety
///
/// The type consists of atomics only (and padding), and all zeroes are a valid value of it. Two types with the same
/// [`LAYOUT`](Self::LAYOUT) mean the same bytes.
pub unsafe trait SharedValue: Sync {
    /// What stands for the names, types and order of the fields.
    const LAYOUT: u64;
}

macro_rules! atomic {
    ($($type:ty),+) => { $(
        // SAFETY: an atomic integer, which may be zero.
        unsafe impl SharedValue for $type {
            const LAYOUT: u64 = layout(LAYOUT_OF_NOTHING, stringify!($type));
        }
    )+ };
}

atomic!(AtomicU8, AtomicI32, AtomicU32, AtomicU64);

// SAFETY: nothing but such values.
unsafe impl<T: SharedValue, const N: usize> SharedValue for [T; N] {
    const LAYOUT: u64 = with_number(T::LAYOUT, N as u64);
}

/// Where a layout begins.
pub const LAYOUT_OF_NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

/// A layout with one name more (FNV-1a).
#[must_use]
pub const fn layout(before: u64, name: &str) -> u64 {
    let (name, mut hash, mut at) = (name.as_bytes(), before, 0);
    while at < name.len() {
        hash = (hash ^ name[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    with_number(hash, name.len() as u64)
}

/// A layout with the layout of one field more, or a number.
#[must_use]
pub const fn with_number(before: u64, number: u64) -> u64 {
    let (number, mut hash, mut at) = (number.to_be_bytes(), before, 0);
    while at < number.len() {
        hash = (hash ^ number[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Defines a struct that is [`SharedValue`], as each of its fields is; a field that is not does not compile.
#[doc(hidden)]
#[macro_export]
macro_rules! shared_struct {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)*
        }

        #[expect(unsafe_code, reason = "farrier-shared's memory.rs has the argument")]
        // SAFETY: each field is `SharedValue`, which the bounds demand, and the layout has all their names and layouts.
        unsafe impl $crate::memory::SharedValue for $name
        where
            $($type: $crate::memory::SharedValue,)*
        {
            const LAYOUT: u64 = {
                let layout = $crate::memory::LAYOUT_OF_NOTHING;
                $(
                    let layout = $crate::memory::layout(layout, stringify!($field));
                    let layout = $crate::memory::with_number(
                        layout,
                        <$type as $crate::memory::SharedValue>::LAYOUT,
                    );
                )*
                layout
            };
        }
    };
}

pub use shared_struct;

/// Memory that this process shares with the children that it forks.
pub struct SharedMemory<T> {
    start: NonNull<Head>,
    length: usize,
    memory: OwnedFd,
    _values: PhantomData<T>,
}

/// What says of a mapping what is in it. Written once, before anybody else has it.
#[repr(C)]
struct Head {
    magic: AtomicU64,
    layout: AtomicU64,
    /// Bytes of one value.
    size: AtomicU64,
    /// How many there are.
    length: AtomicU64,
}

/// Why a mapping is not what it should be.
#[derive(Debug)]
#[non_exhaustive]
pub enum MemoryError {
    /// It holds something else, or is from another version of the program.
    Unknown,
    /// The kernel's: no memory, no descriptor.
    Io(io::Error),
}

impl<T: SharedValue> SharedMemory<T> {
    /// Maps `length` values, all zeroes; pages that nobody touches cost nothing. `name` is what `/proc` shows.
    ///
    /// # Errors
    ///
    /// The kernel's: no memory, no descriptor; EINVAL for a name with a NUL or for no bytes.
    pub fn new(name: &str, length: usize) -> Result<Self, MemoryError> {
        let bytes = Self::bytes(length).ok_or(Errno::EINVAL)?;
        let size = off_t::try_from(bytes.get()).map_err(|_| Errno::EINVAL)?;
        let memory = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        ftruncate(&memory, size)?;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS))?;
        let shared = Self::map(memory, bytes, length)?;
        let head = shared.head();
        head.layout.store(T::LAYOUT, Ordering::Relaxed);
        head.size.store(size_of::<T>() as u64, Ordering::Relaxed);
        head.length.store(length as u64, Ordering::Relaxed);
        head.magic.store(MAGIC, Ordering::Release);
        Ok(shared)
    }

    /// Maps what another image of the program has made, as long as it is the same.
    ///
    /// # Errors
    ///
    /// It is not, or the kernel's.
    pub fn again(memory: OwnedFd) -> Result<Self, MemoryError> {
        let seals = fcntl(&memory, FcntlArg::F_GET_SEALS).map_err(|_| MemoryError::Unknown)?;
        if !SealFlag::from_bits_retain(seals).contains(SEALS) {
            return Err(MemoryError::Unknown);
        }
        let size = usize::try_from(fstat(&memory)?.st_size).map_err(|_| MemoryError::Unknown)?;
        let values = size.checked_sub(HEAD).ok_or(MemoryError::Unknown)?;
        let length = values.checked_div(size_of::<T>()).ok_or(MemoryError::Unknown)?;
        let bytes = Self::bytes(length).filter(|bytes| bytes.get() == size);
        let shared = Self::map(memory, bytes.ok_or(MemoryError::Unknown)?, length)?;
        let head = shared.head();
        let said = [&head.magic, &head.layout, &head.size, &head.length];
        let said = said.map(|field| field.load(Ordering::Acquire));
        if said != [MAGIC, T::LAYOUT, size_of::<T>() as u64, length as u64] {
            return Err(MemoryError::Unknown);
        }
        Ok(shared)
    }

    fn bytes(length: usize) -> Option<NonZeroUsize> {
        let values = length.checked_mul(size_of::<T>()).filter(|bytes| *bytes > 0)?;
        NonZeroUsize::new(values.checked_add(HEAD)?)
    }

    fn map(memory: OwnedFd, bytes: NonZeroUsize, length: usize) -> Result<Self, MemoryError> {
        const { assert!(align_of::<T>() <= HEAD) };
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, &memory, 0) }?;
        Ok(Self { start: start.cast(), length, memory, _values: PhantomData })
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping begins with a page for it, lives as long as `self`, and consists of atomics.
        unsafe { self.start.as_ref() }
    }
}

impl<T: SharedValue> Deref for SharedMemory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the values begin one page behind the start of the mapping, and are within it.
        let values = unsafe { self.start.cast::<u8>().add(HEAD) }.cast::<T>();
        // SAFETY: the mapping holds `length` values for as long as `self` lives, is page-aligned, and began
        // as zeroes, which are valid; `SharedValue` values change only through atomics, in every process.
        unsafe { slice::from_raw_parts(values.as_ptr(), self.length) }
    }
}

/// The memfd, which another image can map [`again`](SharedMemory::again).
impl<T> AsFd for SharedMemory<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl<T> Drop for SharedMemory<T> {
    fn drop(&mut self) {
        let bytes = HEAD + self.length * size_of::<T>();
        // SAFETY: the mapping was made in `map` with this length, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.start.cast(), bytes) };
        debug_assert!(unmapped.is_ok(), "the mapping was made by mmap");
    }
}

// SAFETY: it owns its mapping, and the values are usable from any thread (`SharedValue: Sync`).
unsafe impl<T: SharedValue> Send for SharedMemory<T> {}

// SAFETY: only shared references to `Sync` values are handed out.
unsafe impl<T: SharedValue> Sync for SharedMemory<T> {}

impl<T> fmt::Debug for SharedMemory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory").field("length", &self.length).finish_non_exhaustive()
    }
}

impl From<Errno> for MemoryError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => {
                f.write_str("the shared memory holds something else, or is another version's")
            }
            Self::Io(error) => write!(f, "memory cannot be shared: {error}"),
        }
    }
}

impl std::error::Error for MemoryError {}

#[cfg(test)]
mod tests {
    use super::*;

    shared_struct! {
        struct Pair {
            one: AtomicU64,
            two: [AtomicU8; 3],
        }
    }

    shared_struct! {
        #[expect(dead_code, reason = "it is never made")]
        struct Renamed {
            uno: AtomicU64,
            two: [AtomicU8; 3],
        }
    }

    #[test]
    fn what_is_mapped_again_is_the_same_memory() {
        let first = SharedMemory::<Pair>::new("test", 4).unwrap();
        first[3].one.store(7, Ordering::Relaxed);
        let memory = first.as_fd().try_clone_to_owned().unwrap();
        let second = SharedMemory::<Pair>::again(memory).unwrap();
        assert_eq!((second.len(), second[3].one.load(Ordering::Relaxed)), (4, 7));
        second[0].two[2].store(9, Ordering::Relaxed);
        assert_eq!(first[0].two[2].load(Ordering::Relaxed), 9);
        drop(first);
        assert_eq!(second[3].one.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn what_is_something_else_is_refused() {
        let memory = SharedMemory::<Pair>::new("test", 4).unwrap();
        let copy = || memory.as_fd().try_clone_to_owned().unwrap();
        let refused = |error| matches!(error, Some(MemoryError::Unknown));
        assert!(refused(SharedMemory::<Renamed>::again(copy()).err()));
        assert!(refused(SharedMemory::<AtomicU64>::again(copy()).err()));
        let head = memory.head();
        head.magic.store(MAGIC + 1, Ordering::Relaxed);
        assert!(refused(SharedMemory::<Pair>::again(copy()).err()));
        head.magic.store(MAGIC, Ordering::Relaxed);
        SharedMemory::<Pair>::again(copy()).unwrap();
        // Shorter or longer it cannot become; one that could, or is of another size, is not its.
        assert_eq!(ftruncate(memory.as_fd(), 0), Err(Errno::EPERM));
        let sizes = [0, 100, HEAD as off_t, HEAD as off_t + 17];
        for (size, seals) in sizes
            .map(|size| (size, SEALS))
            .into_iter()
            .chain([((HEAD + 4 * size_of::<Pair>()) as off_t, SealFlag::F_SEAL_SHRINK)])
        {
            let other = memfd_create("other", MFdFlags::MFD_ALLOW_SEALING).unwrap();
            ftruncate(&other, size).unwrap();
            fcntl(&other, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            assert!(refused(SharedMemory::<Pair>::again(other).err()), "{size}");
        }
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(refused(SharedMemory::<Pair>::again(file.into()).err()));
    }

    #[test]
    fn nothing_is_no_mapping() {
        assert!(SharedMemory::<Pair>::new("test", 0).is_err());
        assert!(SharedMemory::<Pair>::new("test", usize::MAX).is_err());
        assert!(SharedMemory::<Pair>::new("te\0st", 1).is_err());
    }
}
