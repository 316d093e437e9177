//! The threads of the own process.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::poll::pause;

/// How often, and after which pause, threads are looked for again: one that was joined is listed for a moment
/// more, and one that has just begun has not yet its own name.
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// The proof that there is one thread; what [`fork`](crate::sys::fork) asks for.
#[derive(Debug)]
pub(crate) struct SingleThreaded(());

impl SingleThreaded {
    /// Looks for other threads; their names if there are some that stay.
    ///
    /// # Errors
    ///
    /// /proc cannot be read.
    pub(super) fn prove() -> io::Result<Result<Self, Vec<String>>> {
        let names = other_threads()?;
        Ok(if names.is_empty() { Ok(Self(())) } else { Err(names) })
    }
}

/// The names of the threads that stay.
fn other_threads() -> io::Result<Vec<String>> {
    let mut names = thread_names()?;
    for _ in 0..LOOKS {
        if names.is_empty() {
            break;
        }
        pause(BETWEEN_LOOKS);
        names = thread_names()?;
    }
    names.sort();
    Ok(names)
}

fn thread_names() -> io::Result<Vec<String>> {
    let own = std::process::id().to_string();
    let mut names = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        if task.file_name().to_str() != Some(own.as_str()) {
            names.extend(thread_name(&task.path()));
        }
    }
    Ok(names)
}

/// `None` if it has ended since.
fn thread_name(task: &Path) -> Option<String> {
    Some(fs::read_to_string(task.join("comm")).ok()?.trim_end().to_owned())
}
