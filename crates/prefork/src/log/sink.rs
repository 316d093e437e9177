//! Where lines go without ever holding up the process that writes them.
//!
//! Whoever reads the log (a terminal, a supervisor, a shipper) may stop reading, and then a write blocks:
//! a master that waits there obeys nobody. So nothing here waits for longer than [`PATIENCE`]; what cannot
//! be written by then is lost, and the log says how much when it is read again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

/// How long a line waits for a slow reader, in milliseconds; the next ones do not wait until it reads again.
const PATIENCE: u8 = 20;

/// What a pipe that polls as writable takes at least (PIPE_BUF).
const PIECE: usize = 4096;

/// Lines that this process could not write since it last could.
static LOST: AtomicU64 = AtomicU64::new(0);

/// An open log.
#[derive(Debug)]
pub(crate) struct Sink {
    file: File,
    manner: Manner,
    /// Lines that could not be written since one last could: the process's count, but in a test.
    lost: &'static AtomicU64,
    /// The reader does not read: no line waits for it.
    stalled: AtomicBool,
}

/// How a write is kept from waiting. O_NONBLOCK would not do on the descriptor as it was inherited: the
/// flag belongs to the open file, which other programs share.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// A file on a disk: it does not wait for anybody.
    Plain,
    /// A pipe or a terminal, opened for this server alone, with O_NONBLOCK.
    Reopened,
    /// The same where it cannot be opened again: asked first whether it takes something.
    Asked,
    /// A socket (the journal's): the flag goes with each message.
    Socket,
}

impl Sink {
    /// What is at `path`, a new file if there is nothing. What it is decides, not how it is called:
    /// `/dev/stdout` may be a pipe.
    ///
    /// # Errors
    ///
    /// It cannot be opened; a pipe that nobody reads, for one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let kind = file.metadata()?.file_type();
        let waits = kind.is_fifo() || kind.is_char_device();
        Ok(Self::new(file, if waits { Manner::Reopened } else { Manner::Plain }))
    }

    /// Standard error, whatever is behind it.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub(crate) fn stderr() -> io::Result<Self> {
        let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        if kind.is_socket() {
            return Ok(Self::new(file, Manner::Socket));
        }
        if !kind.is_fifo() && !kind.is_char_device() {
            return Ok(Self::new(file, Manner::Plain));
        }
        let own = OpenOptions::new()
            .append(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(match own {
            Ok(own) => Self::new(own, Manner::Reopened),
            // Another user's, say.
            Err(_) => Self::new(file, Manner::Asked),
        })
    }

    fn new(file: File, manner: Manner) -> Self {
        Self { file, manner, lost: &LOST, stalled: AtomicBool::new(false) }
    }

    fn line(&self, line: &[u8]) {
        if self.lost.load(Ordering::Relaxed) > 0 {
            // Taken: no other thread tells the same ones.
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 && !self.offer(format!("{lost} lines of the log were lost\n").as_bytes()) {
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                return;
            }
        }
        if self.offer(line) {
            self.stalled.store(false, Ordering::Relaxed);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether all of it was written. A pipe takes up to [`PIECE`] bytes as a whole or not at all.
    fn offer(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.write_some(bytes) {
                Ok(0) => return false,
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.wait() => {}
                // The reader is gone for good, or the disk is full: nobody is left to be told.
                Err(_) => return false,
            }
        }
        true
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        match self.manner {
            Manner::Plain | Manner::Reopened => (&self.file).write(bytes),
            Manner::Asked if self.takes(0) => (&self.file).write(&bytes[..bytes.len().min(PIECE)]),
            Manner::Asked => Err(ErrorKind::WouldBlock.into()),
            Manner::Socket => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                socket2::SockRef::from(&self.file).send_with_flags(bytes, flags)
            }
        }
    }

    /// Waits once for a slow reader, and not again before it has read.
    fn wait(&self) -> bool {
        !self.stalled.load(Ordering::Relaxed) && {
            let takes = self.takes(PATIENCE);
            self.stalled.store(!takes, Ordering::Relaxed);
            takes
        }
    }

    fn takes(&self, patience: u8) -> bool {
        let mut watched = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        poll(&mut watched, PollTimeout::from(patience)).is_ok_and(|ready| ready > 0)
    }
}

/// A write is a line; it never fails: the subscriber would print the error to standard error, and panic when
/// that is what fails.
impl Write for &Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// In a child: what was lost is the master's to tell.
pub(crate) fn forget_losses() {
    LOST.store(0, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

    /// A sink with a count of its own.
    fn sink(file: File, manner: Manner) -> Sink {
        Sink { lost: Box::leak(Box::default()), ..Sink::new(file, manner) }
    }

    /// Each way of not waiting, on a pipe or a socket that is full, and then read again.
    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up() {
        for manner in [Manner::Asked, Manner::Reopened, Manner::Socket] {
            let (mut reader, file) = if matches!(manner, Manner::Socket) {
                let (reader, writer) = UnixStream::pair().unwrap();
                (
                    File::from(std::os::fd::OwnedFd::from(reader)),
                    std::os::fd::OwnedFd::from(writer).into(),
                )
            } else {
                let (reader, writer) = nix::unistd::pipe().unwrap();
                let mut file = File::from(writer);
                if matches!(manner, Manner::Reopened) {
                    file = OpenOptions::new()
                        .append(true)
                        .custom_flags(libc::O_NONBLOCK)
                        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
                        .unwrap();
                }
                (File::from(reader), file)
            };
            let sink = sink(file, manner);
            let began = Instant::now();
            let line = [[b'x'; 199].as_slice(), b"\n"].concat();
            for _ in 0..10_000 {
                (&sink).write_all(&line).unwrap();
            }
            let lost = sink.lost;
            assert!(lost.load(Ordering::Relaxed) > 0, "{manner:?}");
            assert!(began.elapsed() < Duration::from_secs(30), "{manner:?}");

            let mut read = vec![0; 1 << 20];
            assert!(reader.read(&mut read).unwrap() > 0);
            (&sink).write_all(b"the last line\n").unwrap();
            drop(sink);
            let mut text = Vec::new();
            reader.read_to_end(&mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            let mut last = text.lines().rev();
            assert_eq!(last.next(), Some("the last line"), "{manner:?}");
            assert!(last.next().unwrap().ends_with("lines of the log were lost"), "{manner:?}");
            assert_eq!(lost.load(Ordering::Relaxed), 0);
        }
    }

    /// Threads that log while the reader is slow: each line is read or counted as lost, once.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a slow reader is what this is about")]
    fn each_line_is_read_or_counted_as_lost() {
        const THREADS: usize = 16;
        const LINES: usize = 2_000;
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let sink = sink(writer.into(), Manner::Asked);
        let lost_now = sink.lost;
        let slow = std::thread::spawn(move || {
            let (mut reader, mut text, mut piece) = (File::from(reader), Vec::new(), [0; 10_000]);
            while let Ok(read @ 1..) = reader.read(&mut piece) {
                text.extend(&piece[..read]);
                std::thread::sleep(2 * Duration::from_millis(PATIENCE.into()));
            }
            String::from_utf8(text).unwrap()
        });
        let line = [[b'x'; 199].as_slice(), b"\n"].concat();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..LINES {
                        sink.line(&line);
                        std::thread::sleep(Duration::from_micros(100));
                    }
                });
            }
        });
        drop(sink);
        let text = slow.join().unwrap();
        let (written, lost): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with('x'));
        let lost =
            lost.iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap());
        let untold = usize::try_from(lost_now.swap(0, Ordering::Relaxed)).unwrap();
        let lost: Vec<usize> = lost.collect();
        assert!(!lost.is_empty(), "the reader was not slow");
        assert_eq!(written.len() + lost.iter().sum::<usize>() + untold, THREADS * LINES);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        let mut sink = &sink(writer.into(), Manner::Plain);
        sink.write_all(b"to nobody\n").unwrap();
    }
}
