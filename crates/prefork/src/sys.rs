//! The launcher's unsafe code, all of it: fork, the shared mapping, the exit that runs nothing, and the calls
//! that have no complete safe interface.
#![expect(unsafe_code, reason = "fork, mmap and their like have no safe interface")]

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64};

use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{self, ForkResult, Pid};

use crate::audit::SingleThreaded;

/// Values that stay sound when other processes write them and when they begin as zeroes.
///
/// # Safety
///
/// The type consists of atomics only (and padding), and all zeroes are a valid value of it.
pub(crate) unsafe trait SharedValue: Sync {}

// SAFETY: an atomic integer, which may be zero.
unsafe impl SharedValue for AtomicU8 {}
// SAFETY: the same.
unsafe impl SharedValue for AtomicI32 {}
// SAFETY: the same.
unsafe impl SharedValue for AtomicU32 {}
// SAFETY: the same.
unsafe impl SharedValue for AtomicU64 {}
// SAFETY: nothing but such values.
unsafe impl<T: SharedValue, const N: usize> SharedValue for [T; N] {}

/// Defines a struct that is [`SharedValue`], as each of its fields is; a field that is not does not compile.
macro_rules! shared_struct {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($(#[$field_attribute])* $field: $type,)*
        }

        #[expect(unsafe_code, reason = "sys.rs has the argument")]
        // SAFETY: each field is `SharedValue`, which the bounds demand.
        unsafe impl $crate::sys::SharedValue for $name where $($type: $crate::sys::SharedValue,)* {}
    };
}
pub(crate) use shared_struct;

/// Memory that this process shares with the children that it forks.
pub(crate) struct SharedMemory<T> {
    start: NonNull<T>,
    length: usize,
    /// The memory itself; a later image of the program can map it again.
    _memory: OwnedFd,
    _values: PhantomData<T>,
}

/// Which side of a fork this is.
pub(crate) enum Forked {
    Child,
    Parent(Pid),
}

/// Forks.
///
/// # Errors
///
/// The kernel's: no memory, too many processes.
pub(crate) fn fork(_proof: SingleThreaded) -> nix::Result<Forked> {
    // SAFETY: the proof says that this process has one thread, so that no lock is held by a thread that
    // the child would not have; the child may run any code.
    let forked = unsafe { unistd::fork() }?;
    Ok(match forked {
        ForkResult::Child => Forked::Child,
        ForkResult::Parent { child } => Forked::Parent(child),
    })
}

/// Gives a signal its default action.
///
/// # Errors
///
/// None that the kernel documents for a signal that can be caught.
pub(crate) fn default_action(which: Signal) -> nix::Result<()> {
    // SAFETY: the default action is no handler, so none can run where it must not.
    unsafe { signal(which, SigHandler::SigDfl) }.map(drop)
}

/// Lets a signal end this process, with status 0 and nothing else done.
///
/// # Errors
///
/// None that the kernel documents for a signal that can be caught.
pub(crate) fn exit_on(which: Signal) -> nix::Result<()> {
    extern "C" fn exit(_: libc::c_int) {
        exit_now(0);
    }
    // SAFETY: the handler makes one call, which is allowed in handlers.
    unsafe { signal(which, SigHandler::Handler(exit)) }.map(drop)
}

/// Gives memory that was freed back to the kernel, where the C library keeps it: a fork would share it with the child.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Reaps a child that has ended: its pid and its status as `waitpid` tells it; `None` if there is none.
///
/// nix's own reaps a child that a real-time signal ended, and then returns an error without its pid.
///
/// # Errors
///
/// The kernel's: ECHILD without children, EINTR.
pub(crate) fn reap() -> nix::Result<Option<(libc::pid_t, libc::c_int)>> {
    let mut status = 0;
    // SAFETY: the pointer is to a local that lives through the call.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    let pid = nix::errno::Errno::result(pid)?;
    Ok((pid != 0).then_some((pid, status)))
}

/// Looks at a descriptor that is known by its number only; `look` must not close it.
pub(crate) fn with_descriptor<T>(number: RawFd, look: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: the borrow ends with this call; if nothing were open under this number, a call on it would fail
    // with EBADF.
    look(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Puts another open file behind a number that may be somebody else's: the number stays taken, so that
/// nothing new comes under it.
///
/// # Errors
///
/// The kernel's: EBADF.
pub(crate) fn replace_descriptor(number: RawFd, with: &OwnedFd) -> nix::Result<()> {
    // SAFETY: the number stays open, which is what an owner of it relies on.
    let replaced = unsafe { libc::dup3(with.as_raw_fd(), number, libc::O_CLOEXEC) };
    nix::errno::Errno::result(replaced).map(drop)
}

/// Ends the process at once: no exit handler, which a child inherited from its parent, runs.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no precondition and does not return.
    unsafe { libc::_exit(code) }
}

impl<T: SharedValue> SharedMemory<T> {
    /// Maps `length` values, all zeroes; pages that nobody touches cost nothing.
    ///
    /// # Errors
    ///
    /// The kernel's: no memory, no descriptor.
    pub(crate) fn new(length: usize) -> nix::Result<Self> {
        let bytes = length
            .checked_mul(size_of::<T>())
            .and_then(NonZeroUsize::new)
            .ok_or(nix::errno::Errno::EINVAL)?;
        let size = libc::off_t::try_from(bytes.get()).map_err(|_| nix::errno::Errno::EINVAL)?;
        let memory = memfd_create(c"farrier-board", MFdFlags::MFD_CLOEXEC)?;
        unistd::ftruncate(&memory, size)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, &memory, 0) }?;
        Ok(Self { start: start.cast(), length, _memory: memory, _values: PhantomData })
    }
}

impl<T: SharedValue> Deref for SharedMemory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `length` values for as long as `self` lives, is page-aligned, and began
        // as zeroes, which are valid; `SharedValue` values change only through atomics, in every process.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T> Drop for SharedMemory<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this length, and no reference outlives `self`.
        let unmapped = unsafe { munmap(self.start.cast(), self.length * size_of::<T>()) };
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
