//! One end of a pair of Unix sockets that keeps the boundaries of messages.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::sync::Mutex;
use tokio::{runtime, time};

use crate::names::Name;

/// What the kernel keeps of a buffer for itself when it judges the size of a message.
const RESERVED: usize = 32;

/// More the kernel does not take at once, whatever the buffer.
const LONGEST_MESSAGE: usize = 4 << 20;

/// How often a task that waits for room looks: the kernel says that there is some only when three quarters are free.
const LOOKS_FOR_ROOM: Duration = Duration::from_millis(10);

/// One end, which is listed under a name while it is open.
#[derive(Debug)]
pub(crate) struct End {
    socket: OwnedFd,
    name: Arc<Name>,
    /// Who sends next, of the tasks of this process; and how it has waited before.
    turn: Mutex<Option<(runtime::Id, Waiting)>>,
}

/// An end as one runtime waits on it: a descriptor of its own, since an epoll knows each only once. It is never read or
/// written as the stream that it seems to be.
#[derive(Debug)]
pub(crate) struct Waiting(tokio::net::UnixStream);

/// Both ends, and the bytes of the buffer between them; `buffer` is asked of the kernel, or what it gives by itself.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn pair(name: &Arc<Name>, buffer: Option<usize>) -> io::Result<(End, End, usize)> {
    let kind = Type::SEQPACKET.cloexec().nonblocking();
    let (sending, receiving) = Socket::pair(Domain::UNIX, kind, None)?;
    if let Some(buffer) = buffer {
        // The kernel doubles what it is asked for, against what it needs for itself.
        sending.set_send_buffer_size(buffer.div_ceil(2))?;
    }
    let buffer = sending.send_buffer_size()?;
    Ok((End::new(sending, name), End::new(receiving, name), buffer))
}

/// Bytes that a message may have in a buffer of so many.
pub(crate) fn longest_message(buffer: usize) -> usize {
    buffer.saturating_sub(RESERVED).min(LONGEST_MESSAGE)
}

impl End {
    fn new(socket: Socket, name: &Arc<Name>) -> Self {
        name.opened(socket.as_raw_fd());
        Self { socket: socket.into(), name: Arc::clone(name), turn: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// All of `message`, or nothing, unless others wait for room.
    ///
    /// # Errors
    ///
    /// The kernel's; EAGAIN if there is no room, or others wait for it.
    pub(crate) fn send_in_turn(&self, message: &[u8]) -> Result<(), Errno> {
        let _turn = self.turn.try_lock().map_err(|_| Errno::EAGAIN)?;
        self.send(message)
    }

    /// The same when it is this task's turn and there is room.
    ///
    /// # Errors
    ///
    /// The kernel's but EAGAIN.
    ///
    /// # Cancel safety
    ///
    /// If it is dropped nothing was sent.
    pub(crate) async fn send_when_there_is_room(&self, message: &[u8]) -> Result<(), Errno> {
        let mut turn = self.turn.lock().await;
        let runtime = runtime::Handle::current().id();
        let known = turn.take().filter(|(known, _)| *known == runtime);
        let waiting = match known {
            Some((_, waiting)) => waiting,
            None => self.waiting()?,
        };
        let (_, waiting) = turn.insert((runtime, waiting));
        loop {
            let room = waiting.until_done(Interest::WRITABLE, || self.send(message));
            if let Ok(done) = time::timeout(LOOKS_FOR_ROOM, room).await {
                return done;
            }
            match self.send(message) {
                Err(Errno::EAGAIN) => {}
                done => return done,
            }
        }
    }

    fn send(&self, message: &[u8]) -> Result<(), Errno> {
        loop {
            // A library may have undone what Rust does about SIGPIPE.
            match send(self.socket.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// One message, of as many bytes as are returned; 0 if there will be none.
    ///
    /// # Errors
    ///
    /// The kernel's; EAGAIN if there is none now.
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                done => return done,
            }
        }
    }

    /// # Errors
    ///
    /// The kernel's: no descriptor.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime that does I/O.
    pub(crate) fn waiting(&self) -> Result<Waiting, Errno> {
        let socket = self.socket.try_clone().map(UnixStream::from);
        let waiting = socket.and_then(tokio::net::UnixStream::from_std);
        waiting.map(Waiting).map_err(|error| errno(&error))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.name.closes(self.socket.as_raw_fd());
    }
}

impl Waiting {
    /// Waits until `attempt` finds that it need not wait.
    ///
    /// # Errors
    ///
    /// Those of `attempt` but EAGAIN.
    ///
    /// # Cancel safety
    ///
    /// Whatever `attempt` has done was returned.
    pub(crate) async fn until_done<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let done = self.0.async_io(interest, || attempt().map_err(io::Error::from));
        done.await.map_err(|error| errno(&error))
    }
}

/// tokio has errors without a number when its runtime ends.
fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::ECANCELED, Errno::from_raw)
}
