//! Locks of the kernel's on single bytes of a file: they die with the process that holds them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, c_int, flock, off_t};

/// The bytes of a file, any of which may be locked; all are given back when this is dropped.
///
/// The locks belong to this open file (`F_OFD_SETLK`) and not to the process, so that two tasks of one process exclude each
/// other as two processes do.
///
/// A program that is started meanwhile has a copy of the open file until its exec, and a process that is forked has one for
/// good, so the locks are given back by an order, and not by the close alone.
pub(crate) struct Bytes {
    file: File,
    /// The process that has them: a child that was forked meanwhile must not give them back.
    owner: u32,
}

impl Bytes {
    /// Those of this file, opened for this holder alone.
    ///
    /// # Errors
    ///
    /// The kernel's: no descriptor.
    pub(crate) fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = File::options().read(true).write(true).open(path)?;
        Ok(Self { file, owner: process::id() })
    }

    /// Whether this process is the one that has them, and not a child of it.
    pub(crate) fn is_owned(&self) -> bool {
        self.owner == process::id()
    }

    /// Whether nobody else had it.
    pub(crate) fn try_lock(&self, byte: off_t) -> io::Result<bool> {
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range(byte, 1, F_WRLCK))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Blocks this thread until nobody else has it.
    pub(crate) fn lock(&self, byte: off_t) -> io::Result<()> {
        loop {
            match fcntl(&self.file, FcntlArg::F_OFD_SETLKW(&range(byte, 1, F_WRLCK))) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) fn unlock(&self, byte: off_t) -> io::Result<()> {
        fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range(byte, 1, F_UNLCK)))?;
        Ok(())
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if self.is_owned() {
            // From the first to the last. It cannot fail, and the close follows.
            let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&range(0, 0, F_UNLCK)));
        }
    }
}

fn range(byte: off_t, length: off_t, kind: c_int) -> flock {
    flock { l_type: kind as _, l_whence: SEEK_SET as _, l_start: byte, l_len: length, l_pid: 0 }
}
