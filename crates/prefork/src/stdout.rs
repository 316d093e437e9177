//! Standard output, which is the program's own, around a fork: what is still in its buffer is written once, and
//! nobody waits for who does not read it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::dup2_stdout;

/// How long an ending worker waits for who reads.
const PATIENCE: Duration = Duration::from_millis(100);

/// Empties the buffer: into standard output if that takes it now, else into nothing. For a process with one
/// thread: a child that is forked then has nothing to write again.
pub(crate) fn settle() {
    let mut stdout = io::stdout();
    let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    // A pipe that takes anything takes a page, which is more than the buffer holds.
    let takes = poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
    if !takes || stdout.flush().is_err() {
        // Without descriptors the buffer stays, and may be written twice.
        let _ = discard();
    }
}

fn discard() -> io::Result<()> {
    let mut stdout = io::stdout();
    let real = stdout.as_fd().try_clone_to_owned()?;
    dup2_stdout(OwnedFd::from(File::options().write(true).open("/dev/null")?))?;
    let flushed = stdout.flush();
    dup2_stdout(real)?;
    flushed
}

/// Writes what is in the buffer, for as long as a process that ends may wait. Another thread may hold the
/// lock of standard output, because it waits for the same reader.
pub(crate) fn flush_before_exit() {
    let (done, is_done) = mpsc::sync_channel::<()>(1);
    let flusher = thread::Builder::new().name("flush".into()).spawn(move || {
        // Nobody is left to be told that standard output is closed.
        let _ = io::stdout().flush();
        drop(done);
    });
    if flusher.is_ok() {
        // Its end is the sender's.
        let _ = is_done.recv_timeout(PATIENCE);
    }
}
