//! The look at the own process before every fork.
//!
//! A child has only the thread that forked: a runtime or any other thread of the parent would be missing
//! in it, with whatever locks it held. tokio supports a child only of a parent that never used it. And every
//! child has the same open files as its parent: of two that read from one connection, each gets some of the
//! other's answers.
//!
//! The rule for descriptors: files, folders, devices, pipes, listening and datagram sockets are shared, for
//! processes share those without harm. Whatever else this program has opened is refused. What it was given
//! by its parent, which has no close-on-exec, is no fault of its own: it is closed in the children.

mod descriptors;
mod threads;

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{OwnedFd, RawFd};

pub(crate) use self::descriptors::Descriptor;
use self::descriptors::{Kind, not_shareable};
pub(crate) use self::threads::SingleThreaded;
use crate::sys;

/// Where it belongs instead.
pub(crate) const ELSEWHERE: &str = "Open it in the function that `run` is given, which each worker calls for \
     itself, or, for work that is done once, in `prepare` or a companion";

const NO_RUNTIME: &str = "Use a plain `fn main`, not #[tokio::main], and close what a runtime from before `run` \
     has opened, such as a database pool: each worker has a runtime of its own";

/// An audit that was passed.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) single_threaded: SingleThreaded,
    /// What came from the parent and no child may keep.
    pub(crate) inherited: Vec<Descriptor>,
}

/// Why this process must not fork.
#[derive(Debug)]
pub(crate) enum Offence {
    /// What no child can have: threads besides the main one, by name, what they or this one have opened, and locks of
    /// farrier-shared that this process holds.
    Found { threads: Vec<String>, descriptors: Vec<Descriptor>, locks: Vec<String> },
    /// /proc cannot be read, so nothing is known.
    Unreadable(io::Error),
}

/// Looks for what must not be there when a process forks; `known` are the launcher's own descriptors, which
/// its children close by themselves. What farrier-shared has opened is there to be shared.
///
/// # Errors
///
/// What was found, by name.
pub(crate) fn audit(known: &[RawFd]) -> Result<Audit, Offence> {
    let threads = SingleThreaded::prove().map_err(Offence::Unreadable)?;
    let shared = farrier_shared::descriptors();
    let known: Vec<RawFd> = shared.into_values().flatten().chain(known.iter().copied()).collect();
    let (descriptors, inherited): (Vec<_>, Vec<_>) = not_shareable(&known)
        .map_err(Offence::Unreadable)?
        .into_iter()
        .partition(|descriptor| descriptor.is_own);
    let locks = farrier_shared::held_locks();
    match threads {
        Ok(single_threaded) if descriptors.is_empty() && locks.is_empty() => {
            Ok(Audit { single_threaded, inherited })
        }
        threads => {
            let threads = threads.err().unwrap_or_default();
            Err(Offence::Found { threads, descriptors, locks })
        }
    }
}

/// The same after `before`: what is new, this program has opened, with close-on-exec or without.
///
/// # Errors
///
/// What was found, by name.
pub(crate) fn audit_since(before: &Audit, known: &[RawFd]) -> Result<(), Offence> {
    let is_new = |found: &Descriptor| before.inherited.iter().all(|had| had.number != found.number);
    let descriptors: Vec<_> = audit(known)?.inherited.into_iter().filter(is_new).collect();
    if descriptors.is_empty() {
        return Ok(());
    }
    Err(Offence::Found { threads: Vec::new(), descriptors, locks: Vec::new() })
}

/// In a child: what the parent of the whole program has left open here is open no more. The numbers stay
/// taken, since whoever uses one of them must not get what is opened next.
///
/// # Errors
///
/// The kernel's: no descriptor is left.
pub(crate) fn close_inherited(inherited: &[Descriptor]) -> io::Result<()> {
    if inherited.is_empty() {
        return Ok(());
    }
    let nothing = OwnedFd::from(File::open("/dev/null")?);
    for descriptor in inherited {
        sys::replace_descriptor(descriptor.number, &nothing)?;
    }
    Ok(())
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Unreadable(error) = self {
            return write!(f, "the audit before a fork cannot read /proc: {error}");
        }
        let found = self.found();
        write!(
            f,
            "the launcher forks, and a worker can neither have nor share what there is already: {found}. {}",
            if self.is_runtime() { NO_RUNTIME } else { ELSEWHERE }
        )
    }
}

impl Offence {
    /// What there is, by name.
    pub(crate) fn found(&self) -> String {
        match self {
            Self::Found { threads, descriptors, locks } => {
                let threads = threads.iter().map(|thread| format!("the thread {thread}"));
                let locks = locks.iter().map(|lock| format!("the lock {lock:?}, which is held"));
                let all = threads.chain(descriptors.iter().map(Descriptor::to_string)).chain(locks);
                all.collect::<Vec<_>>().join("; ")
            }
            Self::Unreadable(error) => format!("/proc cannot be read: {error}"),
        }
    }

    fn is_runtime(&self) -> bool {
        match self {
            Self::Found { threads, descriptors, .. } => {
                threads.iter().any(|thread| thread.starts_with("tokio-"))
                    || descriptors.iter().any(|descriptor| descriptor.kind == Kind::Epoll)
            }
            Self::Unreadable(_) => false,
        }
    }
}

impl std::error::Error for Offence {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_threads_are_named() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("pool-7".to_owned());
        // Ends with the sender. Nobody waits until it has begun, and has its name.
        let thread = thread.spawn(move || released.recv()).unwrap();
        let offence = audit(&[]).unwrap_err();
        assert!(offence.to_string().contains("the thread pool-7"), "{offence}");
        drop(release);
        thread.join().unwrap().unwrap_err();
    }
}
