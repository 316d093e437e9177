//! A forked process: its first instructions, its exit statuses, and its last instruction.

use std::ffi::CString;
use std::io;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};

use crate::unwind::caught;
use crate::{signals, stdout, sys};

/// The exit statuses of a worker; the master judges by the board and by how a worker was ended, never by
/// these.
pub(crate) mod status {
    /// It left as it was told.
    pub(crate) const LEFT: i32 = 0;
    /// The app could not be started.
    pub(crate) const NOT_STARTED: i32 = 3;
    /// The thread of the runtime panicked.
    pub(crate) const PANICKED: i32 = 70;
}

/// Does all that a forked process does, and ends it: nothing, not even a panic, leads back into the master.
pub(crate) fn end_with(life: impl FnOnce() -> i32) -> ! {
    leave(caught(life).unwrap_or_else(|panic| panicked("the app", &panic)))
}

/// Ends a forked process: what it wrote is flushed, and no exit handler of the master's runs.
pub(super) fn leave(code: i32) -> ! {
    stdout::flush_before_exit();
    sys::exit_now(code)
}

/// Asks for SIGTERM when the master dies, which it may have done in the meantime.
pub(super) fn follow(master: Pid) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    if getppid() == master { Ok(()) } else { Err(nix::errno::Errno::ESRCH) }
}

/// For a process that serves nobody: it ends with the master, or when it is told to.
pub(super) fn obey_the_master_only(master: Pid, own_name: &str) -> io::Result<()> {
    signals::obey_only_stop()?;
    follow(master)?;
    name(own_name);
    Ok(())
}

/// The name that `ps -o comm` and `top` show; the kernel cuts it to 15 bytes.
pub(super) fn name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // A process without a name works as well.
        let _ = prctl::set_name(&name);
    }
}

/// Logs a panic of the program's; the exit status comes back.
pub(super) fn panicked(who: &str, panic: &str) -> i32 {
    tracing::error!(panic, "{who} panicked");
    status::PANICKED
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many errors repeat their source in their own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
