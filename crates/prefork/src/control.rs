//! The control socket: one JSON object per line, for the user who runs the server and nobody else.
//!
//! It lives in the master's own poll. Nothing here ever waits for a client: what cannot be read or
//! written now is left for the next turn, and a client that says nothing is dropped in the end.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::sockets::{BindError, SocketFile, bind_unix};

const MODE: u32 = 0o600;
const BACKLOG: u32 = 128;
const MOST_CLIENTS: usize = 64;
/// Accepted in one turn: who comes has some turns to ask before others can push it out.
const MOST_NEW: usize = 16;
/// After an accept that failed, for want of descriptors: what waits in the queue would be reported again
/// at once.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_LINE: usize = 4096;
const IDLE: Duration = Duration::from_secs(30);

/// The control socket of a running master.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    file: SocketFile,
    clients: Vec<Client>,
    /// Nobody is accepted before this moment.
    paused: Option<Instant>,
    /// The last turn, if a client has asked more than it was answered: the next one is due.
    unfinished: Option<Instant>,
}

/// What a client can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    Status,
    Stop {
        #[serde(default)]
        quick: bool,
    },
    Reload,
}

/// What it gets.
pub(crate) enum Reply {
    /// An answer, after which it may ask again.
    Line(Vec<u8>),
    /// An answer, after which it waits for the end of the connection, which is the end of the master.
    LastLine(Vec<u8>),
    /// Nothing yet: it waits for the end of the next reload, [`Control::reload_ends`].
    AfterReload,
}

/// Which reload a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    /// One that nothing was done for yet. Exits: `Tried` (its settings are read), answered (the server stops).
    Next,
    /// The one whose settings are read, and whose preload is tried. Exits: `This` (it begins), answered (it cannot
    /// begin, or the server stops).
    Tried,
    /// The one that is going on. Exit: answered (it is over).
    This,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    incoming: Vec<u8>,
    /// An answer; while the client has not taken it, it is asked nothing.
    outgoing: Vec<u8>,
    /// While it waits for a reload it is asked nothing either.
    awaits: Option<Awaits>,
    /// The client has closed its side.
    ended: bool,
    /// When it is dropped unless it asks something; `None` for never.
    deadline: Option<Instant>,
}

#[derive(Serialize)]
struct Envelope<T> {
    ok: bool,
    #[serde(flatten)]
    content: T,
}

#[derive(Serialize)]
struct Refusal {
    error: String,
}

impl Control {
    /// # Errors
    ///
    /// The place is taken, by a file or by another master, or cannot be written.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        let (listener, file) = bind_unix(path, BACKLOG, Some(MODE))
            .map_err(|error| BindError::control(path, error))?;
        Ok(Self { listener, file, clients: Vec::new(), paused: None, unfinished: None })
    }

    /// What to poll for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let accepts = self.paused.is_none() && self.has_room();
        let listener = accepts.then(|| (self.listener.as_fd(), PollFlags::POLLIN));
        listener.into_iter().chain(self.clients.iter().map(Client::interest))
    }

    /// When a silent client is due to be dropped, or clients are accepted again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let silent = self.clients.iter().filter_map(|client| client.deadline);
        silent.chain(self.paused).chain(self.unfinished).min()
    }

    /// Does whatever can be done without waiting; `answer` decides on each command.
    pub(crate) fn turn(&mut self, now: Instant, mut answer: impl FnMut(Command) -> Reply) {
        self.accept(now);
        self.clients.retain_mut(|client| {
            client.turn(now, &mut answer).is_ok() && client.deadline.is_none_or(|at| now < at)
        });
        self.unfinished = self.clients.iter().any(Client::can_be_answered).then_some(now);
    }

    /// A reload is tried: it is the one that those wait for who have asked until now.
    pub(crate) fn reload_is_tried(&mut self) {
        self.move_on(Awaits::Next, Awaits::Tried);
    }

    /// The reload that was tried begins.
    pub(crate) fn reload_begins(&mut self) {
        self.move_on(Awaits::Tried, Awaits::This);
    }

    fn move_on(&mut self, from: Awaits, to: Awaits) {
        let waiting = self.clients.iter_mut().filter_map(|client| client.awaits.as_mut());
        waiting.filter(|awaits| **awaits == from).for_each(|awaits| *awaits = to);
    }

    /// A reload is over: who waits for it gets the reply.
    pub(crate) fn reload_ends(&mut self, reply: &[u8], now: Instant) {
        self.answer_waiting(reply, now, |awaits| awaits == Awaits::This);
    }

    /// A reload cannot begin: who has asked for it gets the reply.
    pub(crate) fn reload_is_refused(&mut self, reply: &[u8], now: Instant) {
        self.answer_waiting(reply, now, |awaits| awaits == Awaits::Tried);
    }

    /// There will be no reload any more: everybody who waits for one gets the reply.
    pub(crate) fn no_reload(&mut self, reply: &[u8], now: Instant) {
        self.answer_waiting(reply, now, |_| true);
    }

    /// What cannot be written at once is left for the next turn.
    fn answer_waiting(&mut self, reply: &[u8], now: Instant, which: impl Fn(Awaits) -> bool) {
        self.clients.retain_mut(|client| {
            if !client.awaits.is_some_and(&which) {
                return true;
            }
            client.awaits = None;
            client.outgoing = reply.to_owned();
            client.deadline = Some(now + IDLE);
            client.write().is_ok()
        });
        self.unfinished = self.clients.iter().any(Client::can_be_answered).then_some(now);
    }

    fn accept(&mut self, now: Instant) {
        self.paused = self.paused.filter(|until| now < *until);
        for _ in 0..MOST_NEW {
            if self.paused.is_some() || !self.has_room() {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => match stream.set_nonblocking(true) {
                    Ok(()) => self.admit(Client::new(stream, now)),
                    Err(error) => tracing::warn!(%error, "a control connection was dropped"),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "a control connection could not be accepted");
                    self.paused = Some(now + ACCEPT_PAUSE);
                }
            }
        }
    }

    /// Whether there is a place, or one that a client has who asks nothing.
    fn has_room(&self) -> bool {
        self.clients.len() < MOST_CLIENTS
            || self.clients.iter().any(|client| client.deadline.is_some())
    }

    /// Takes a client in, for the one that has been silent for longest if there is no other place.
    fn admit(&mut self, client: Client) {
        if self.clients.len() >= MOST_CLIENTS {
            let clients = self.clients.iter().enumerate();
            let silent =
                clients.filter_map(|(index, client)| Some((client.deadline?, index))).min();
            if let Some((_, index)) = silent {
                self.clients.remove(index);
            }
        }
        self.clients.push(client);
    }

    /// Removes the socket's file; connections stay until the master ends.
    pub(crate) fn remove_file(&self) {
        self.file.remove();
    }
}

impl Client {
    fn new(stream: UnixStream, now: Instant) -> Self {
        let deadline = Some(now + IDLE);
        Self {
            stream,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            awaits: None,
            ended: false,
            deadline,
        }
    }

    fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = if !self.outgoing.is_empty() {
            PollFlags::POLLOUT
        } else if self.awaits.is_some() || self.waits_for_the_end() {
            // That it is gone altogether is told without being asked for.
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        };
        (self.stream.as_fd(), flags)
    }

    /// One answer at most, so that nobody who asks a lot keeps the master from its work; an error is the end
    /// of the connection.
    fn turn(&mut self, now: Instant, answer: &mut impl FnMut(Command) -> Reply) -> io::Result<()> {
        self.write()?;
        if !self.outgoing.is_empty() {
            return Ok(());
        }
        if self.awaits.is_some() || self.waits_for_the_end() {
            return if self.is_gone() { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) };
        }
        self.ended = self.ended || self.read()?;
        if let Some(end) = self.line_end() {
            let line: Vec<u8> = self.incoming.drain(..=end).collect();
            let reply = match serde_json::from_slice(&line) {
                Ok(command) => answer(command),
                Err(error) => Reply::refused(&format!(
                    "{error}; allowed is one JSON object per line: {{\"command\":\"status\"}}, \
                     {{\"command\":\"reload\"}}, {{\"command\":\"stop\",\"quick\":false}}"
                )),
            };
            self.deadline = matches!(reply, Reply::Line(_)).then(|| now + IDLE);
            match reply {
                Reply::Line(line) | Reply::LastLine(line) => self.outgoing = line,
                Reply::AfterReload => {
                    self.awaits = Some(Awaits::Next);
                    return Ok(());
                }
            }
            self.write()?;
        } else if self.incoming.len() > LONGEST_LINE {
            return Err(ErrorKind::InvalidData.into());
        }
        // Who has nothing more to ask, and got its answers.
        let is_answered = self.outgoing.is_empty() && self.line_end().is_none();
        if self.ended && is_answered && !self.waits_for_the_end() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn line_end(&self) -> Option<usize> {
        self.incoming.iter().position(|byte| *byte == b'\n')
    }

    /// Whether it waits for nothing but the master.
    fn can_be_answered(&self) -> bool {
        self.outgoing.is_empty() && self.awaits.is_none() && self.line_end().is_some()
    }

    /// Whether it has asked for the stop, and closed its side since.
    fn waits_for_the_end(&self) -> bool {
        self.ended && self.deadline.is_none()
    }

    /// Whether nobody is left to be answered; who has closed its own side only still reads.
    fn is_gone(&self) -> bool {
        let mut watched = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut watched, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Whether the client has closed its side.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 1024];
        while self.incoming.len() <= LONGEST_LINE {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(true),
                Ok(length) => self.incoming.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => drop(self.outgoing.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Reply {
    pub(crate) fn ok(content: impl Serialize) -> Self {
        Self::Line(line(true, content))
    }

    pub(crate) fn refused(why: &str) -> Self {
        Self::Line(refusal(why))
    }

    /// The last answer: the client waits for the end of the master.
    pub(crate) fn until_the_end(content: impl Serialize) -> Self {
        Self::LastLine(line(true, content))
    }
}

/// An answer as it goes over the wire.
pub(crate) fn line(ok: bool, content: impl Serialize) -> Vec<u8> {
    // Plain structs of numbers and text always serialize.
    let mut line = serde_json::to_vec(&Envelope { ok, content }).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A negative answer, and why.
pub(crate) fn refusal(why: &str) -> Vec<u8> {
    line(false, Refusal { error: why.to_owned() })
}

#[cfg(test)]
mod tests;
