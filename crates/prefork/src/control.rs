//! The control socket: one JSON object per line, for the user who runs the server and nobody else.
//!
//! It lives in the master's own poll. Nothing here ever waits for a client: what cannot be read or
//! written now is left for the next turn, and a client that says nothing is dropped in the end.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use serde::{Deserialize, Serialize};

use crate::sockets::{BindError, SocketFile, bind_unix};

const MODE: u32 = 0o600;
const BACKLOG: u32 = 16;
const MOST_CLIENTS: usize = 16;
const LONGEST_LINE: usize = 4096;
/// A client that never reads cannot make the master keep more than this for it.
const MOST_UNREAD: usize = 1 << 20;
const IDLE: Duration = Duration::from_secs(30);

/// The control socket of a running master.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    file: SocketFile,
    clients: Vec<Client>,
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
pub(crate) struct Reply {
    line: Vec<u8>,
    until_the_end: bool,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
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

// === impl Control ===

impl Control {
    /// # Errors
    ///
    /// The place is taken, by a file or by another master, or cannot be written.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        let (listener, file) = bind_unix(path, BACKLOG, Some(MODE))
            .map_err(|error| BindError::control(path, error))?;
        Ok(Self { listener, file, clients: Vec::new() })
    }

    /// What to poll for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let full = self.clients.len() >= MOST_CLIENTS;
        let listener = (!full).then(|| (self.listener.as_fd(), PollFlags::POLLIN));
        listener.into_iter().chain(self.clients.iter().map(Client::interest))
    }

    /// When a silent client is due to be dropped.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.clients.iter().filter_map(|client| client.deadline).min()
    }

    /// Does whatever can be done without waiting; `answer` decides on each command.
    pub(crate) fn turn(&mut self, now: Instant, mut answer: impl FnMut(Command) -> Reply) {
        while self.clients.len() < MOST_CLIENTS {
            match self.listener.accept() {
                Ok((stream, _)) => match stream.set_nonblocking(true) {
                    Ok(()) => self.clients.push(Client::new(stream, now)),
                    Err(error) => tracing::warn!(%error, "a control connection was dropped"),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        tracing::warn!(%error, "a control connection could not be accepted");
                    }
                    break;
                }
            }
        }
        self.clients.retain_mut(|client| {
            client.turn(now, &mut answer).is_ok() && client.deadline.is_none_or(|at| now < at)
        });
    }

    /// Removes the socket's file; connections stay until the master ends.
    pub(crate) fn remove_file(&self) {
        self.file.remove();
    }
}

// === impl Client ===

impl Client {
    fn new(stream: UnixStream, now: Instant) -> Self {
        Self { stream, incoming: Vec::new(), outgoing: Vec::new(), deadline: Some(now + IDLE) }
    }

    fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = if self.outgoing.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLIN | PollFlags::POLLOUT
        };
        (self.stream.as_fd(), flags)
    }

    /// An error is the end of the connection.
    fn turn(&mut self, now: Instant, answer: &mut impl FnMut(Command) -> Reply) -> io::Result<()> {
        let ended = self.read()?;
        while let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.incoming.drain(..=end).collect();
            let reply = match serde_json::from_slice(&line) {
                Ok(command) => answer(command),
                Err(error) => Reply::refused(&format!(
                    "{error}; allowed is one JSON object per line: {{\"command\":\"status\"}}, \
                     {{\"command\":\"reload\"}}, {{\"command\":\"stop\",\"quick\":false}}"
                )),
            };
            self.outgoing.extend_from_slice(&reply.line);
            self.deadline = (!reply.until_the_end).then(|| now + IDLE);
        }
        if self.incoming.len() > LONGEST_LINE || self.outgoing.len() > MOST_UNREAD {
            return Err(ErrorKind::InvalidData.into());
        }
        self.write()?;
        // Who has nothing more to ask got its answers, as far as it was ready to take them.
        if ended { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
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

// === impl Reply ===

impl Reply {
    pub(crate) fn ok(content: impl Serialize) -> Self {
        Self::of(&Envelope { ok: true, content })
    }

    pub(crate) fn refused(why: &str) -> Self {
        Self::of(&Envelope { ok: false, content: Refusal { error: why.to_owned() } })
    }

    /// The client waits for the end of the connection, which is the end of the master.
    pub(crate) fn until_the_end(mut self) -> Self {
        self.until_the_end = true;
        self
    }

    fn of(envelope: &impl Serialize) -> Self {
        // Plain structs of numbers and text always serialize.
        let mut line = serde_json::to_vec(envelope).unwrap_or_default();
        line.push(b'\n');
        Self { line, until_the_end: false }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    struct Fixture {
        _folder: tempfile::TempDir,
        control: Control,
        client: BufReader<UnixStream>,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let control = Control::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Fixture { _folder: folder, control, client: BufReader::new(client) }
    }

    fn echo(command: Command) -> Reply {
        #[derive(Serialize)]
        struct Echo {
            asked: String,
        }
        Reply::ok(Echo { asked: format!("{command:?}") })
    }

    impl Fixture {
        fn ask(&mut self, line: &str) -> String {
            self.client.get_mut().write_all(line.as_bytes()).unwrap();
            self.control.turn(Instant::now(), echo);
            let mut reply = String::new();
            self.client.read_line(&mut reply).unwrap();
            reply
        }
    }

    #[test]
    fn commands_are_understood() {
        let mut it = fixture();
        assert_eq!(it.ask("{\"command\":\"status\"}\n"), "{\"ok\":true,\"asked\":\"Status\"}\n");
        let quick = it.ask("{\"command\":\"stop\",\"quick\":true}\n");
        assert!(quick.contains("Stop { quick: true }"), "{quick}");
        let slow = it.ask("{\"command\":\"stop\"}\n");
        assert!(slow.contains("Stop { quick: false }"), "{slow}");
    }

    #[test]
    fn nonsense_is_refused_and_the_connection_lives() {
        let mut it = fixture();
        for nonsense in ["\n", "{}\n", "{\"command\":\"dance\"}\n", "\u{1F984}\n"] {
            let reply = it.ask(nonsense);
            assert!(reply.starts_with("{\"ok\":false") && reply.contains("status"), "{reply}");
        }
        assert!(it.ask("{\"command\":\"status\"}\n").contains("true"));
    }

    #[test]
    fn a_command_may_come_in_pieces() {
        let mut it = fixture();
        it.client.get_mut().write_all(b"{\"command\":").unwrap();
        it.control.turn(Instant::now(), echo);
        assert!(it.ask("\"reload\"}\n").contains("Reload"));
    }

    #[test]
    fn who_closes_its_side_is_answered_all_the_same() {
        let mut it = fixture();
        it.client.get_mut().write_all(b"{\"command\":\"status\"}\n").unwrap();
        it.client.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        it.control.turn(Instant::now(), echo);
        let mut reply = String::new();
        it.client.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "{\"ok\":true,\"asked\":\"Status\"}\n");
    }

    #[test]
    fn an_endless_line_ends_the_connection() {
        let mut it = fixture();
        it.client.get_mut().write_all(&[b'x'; 2 * LONGEST_LINE]).unwrap();
        it.control.turn(Instant::now(), echo);
        it.control.turn(Instant::now(), echo);
        assert_eq!(it.control.clients.len(), 0);
    }

    #[test]
    fn silent_clients_are_dropped_and_do_not_block() {
        let mut it = fixture();
        let now = Instant::now();
        it.control.turn(now, echo);
        assert_eq!(it.control.clients.len(), 1);
        assert_eq!(it.control.deadline(), Some(now + IDLE));
        it.control.turn(now + IDLE, echo);
        assert_eq!(it.control.clients.len(), 0);
    }

    /// Who comes is served, however many sit there and say nothing.
    #[test]
    fn silent_clients_do_not_keep_others_out() {
        let mut it = fixture();
        let path = it._folder.path().join("control");
        let silent: Vec<_> = (0..500)
            .map(|_| {
                let silent = UnixStream::connect(&path).unwrap();
                it.control.turn(Instant::now(), echo);
                silent
            })
            .collect();
        it.client = BufReader::new(UnixStream::connect(&path).unwrap());
        it.client.get_ref().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(it.ask("{\"command\":\"status\"}\n").contains("true"));
        assert!(it.control.clients.len() <= MOST_CLIENTS);
        drop(silent);
    }

    #[test]
    fn a_client_that_does_not_read_does_not_block() {
        let mut it = fixture();
        let now = Instant::now();
        for _ in 0..10_000 {
            let _ = it.client.get_mut().write_all(b"{\"command\":\"status\"}\n");
            it.control.turn(now, echo);
        }
        let kept: usize = it.control.clients.iter().map(|client| client.outgoing.len()).sum();
        assert!(kept <= MOST_UNREAD + LONGEST_LINE * 16, "{kept}");
    }
}
