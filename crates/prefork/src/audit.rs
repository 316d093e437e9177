//! The look at the own process before every fork.
//!
//! A child has only the thread that forked: a runtime or any other thread of the parent would be missing
//! in it, with whatever locks it held. tokio supports a child only of a parent that never used it.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// The proof that the audit passed; what [`fork`](crate::sys::fork) asks for.
#[derive(Debug)]
pub(crate) struct SingleThreaded(());

/// Why this process must not fork.
#[derive(Debug)]
pub(crate) enum Offence {
    /// Threads besides the main one, by name.
    Threads(Vec<String>),
    /// A descriptor that only a runtime has.
    Runtime(String),
    /// /proc cannot be read, so nothing is known.
    Blind(io::Error),
}

/// Looks for what must not be there when a process forks.
///
/// # Errors
///
/// What was found, by name.
pub(crate) fn audit() -> Result<SingleThreaded, Offence> {
    let own = std::process::id().to_string();
    let mut threads = Vec::new();
    for task in fs::read_dir("/proc/self/task").map_err(Offence::Blind)? {
        let task = task.map_err(Offence::Blind)?;
        if task.file_name().to_str() != Some(own.as_str()) {
            threads.push(thread_name(&task.path()));
        }
    }
    if !threads.is_empty() {
        threads.sort();
        return Err(Offence::Threads(threads));
    }
    for entry in fs::read_dir("/proc/self/fd").map_err(Offence::Blind)? {
        let entry = entry.map_err(Offence::Blind)?;
        // A descriptor that is gone again was the listing's own.
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        if target.as_os_str() == "anon_inode:[eventpoll]" {
            let number = entry.file_name();
            return Err(Offence::Runtime(format!("epoll descriptor {}", number.to_string_lossy())));
        }
    }
    Ok(SingleThreaded(()))
}

fn thread_name(task: &Path) -> String {
    match fs::read_to_string(task.join("comm")) {
        Ok(name) => name.trim_end().to_owned(),
        Err(_) => "(already gone)".to_owned(),
    }
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Threads(names) => write!(
                f,
                "the launcher forks and must be the only thread, but there are others: {}",
                names.join(", ")
            ),
            Self::Runtime(what) => write!(
                f,
                "the launcher forks and must come before any runtime, but there is one already ({what}): \
                 use a plain `fn main`, not #[tokio::main], and close what a runtime from before \
                 `run` has opened, such as a database pool"
            ),
            Self::Blind(error) => write!(f, "the audit before a fork cannot read /proc: {error}"),
        }
    }
}

impl std::error::Error for Offence {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_threads_are_named() {
        let (started, wait) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("pool-7".to_owned());
        let thread = thread
            .spawn(move || {
                started.send(()).unwrap();
                // Ends with the sender.
                let _ = released.recv();
            })
            .unwrap();
        wait.recv().unwrap();
        let offence = audit().unwrap_err();
        assert!(offence.to_string().contains("pool-7"), "{offence}");
        drop(release);
        thread.join().unwrap();
    }
}
