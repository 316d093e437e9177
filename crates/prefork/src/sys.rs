//! The launcher's unsafe code, all of it: fork, the exit that runs nothing, and the calls that have no complete
//! safe interface.
#![expect(unsafe_code, reason = "fork and its like have no safe interface")]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{self, ForkResult, Pid};

use crate::audit::SingleThreaded;

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
