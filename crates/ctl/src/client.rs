//! The conversation with the master.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

pub(crate) const STATUS: &str = r#"{"command":"status"}"#;
pub(crate) const STOP: &str = r#"{"command":"stop"}"#;
pub(crate) const STOP_QUICK: &str = r#"{"command":"stop","quick":true}"#;
const RELOAD: &str = r#"{"command":"reload"}"#;

/// A master that does not answer for so long does not answer at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a master.
#[derive(Debug)]
pub(crate) struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

/// A master's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// As it came, with the line's end.
    pub(crate) line: String,
    pub(crate) status: Status,
}

/// The server.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) state: String,
    pub(crate) uptime: f64,
    pub(crate) generation: u64,
    pub(crate) target: usize,
    pub(crate) listeners: Vec<String>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) workers: Vec<Worker>,
    #[serde(default)]
    pub(crate) companions: Vec<Companion>,
}

/// A worker's place.
#[derive(Debug, Deserialize)]
pub(crate) struct Slot {
    pub(crate) slot: usize,
    pub(crate) failures: u64,
    pub(crate) retry_in: Option<f64>,
    pub(crate) last_exit: Option<Exit>,
}

/// The last end of a worker that nobody has ordered.
#[derive(Debug, Deserialize)]
pub(crate) struct Exit {
    pub(crate) how: String,
    pub(crate) age: f64,
}

/// One worker process.
#[derive(Debug, Deserialize)]
pub(crate) struct Worker {
    pub(crate) slot: usize,
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) state: String,
    pub(crate) beat_age: f64,
    pub(crate) connections: u64,
    pub(crate) requests: u64,
    pub(crate) in_flight: u64,
    pub(crate) oldest: Option<Oldest>,
    pub(crate) started: f64,
}

/// A process beside the workers.
#[derive(Debug, Deserialize)]
pub(crate) struct Companion {
    pub(crate) name: String,
    pub(crate) failures: u64,
    pub(crate) retry_in: Option<f64>,
    pub(crate) last_exit: Option<Exit>,
    pub(crate) process: Option<Process>,
}

/// A companion's process.
#[derive(Debug, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    pub(crate) state: String,
    pub(crate) beat_age: f64,
    pub(crate) started: f64,
}

/// The oldest request in flight.
#[derive(Debug, Deserialize)]
pub(crate) struct Oldest {
    pub(crate) request: String,
    pub(crate) age: f64,
}

#[derive(Debug, Deserialize)]
struct Verdict {
    ok: bool,
    error: Option<String>,
}

/// Why it is not done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody listens there, or not for this user.
    Connect { path: PathBuf, error: io::Error },
    /// The settings file does not lead to a socket.
    Config { path: PathBuf, reason: String },
    /// The connection broke off.
    Talk { path: PathBuf, error: io::Error },
    /// The master refused.
    Refused(String),
    /// The answer is none.
    Nonsense { path: PathBuf, error: serde_json::Error },
    /// The master is still there.
    NotGone { pid: u32, after: Duration },
    /// The reload goes on.
    NotReloaded { after: Duration },
    /// Standard output cannot be written.
    Output(io::Error),
}

impl Client {
    /// # Errors
    ///
    /// Nobody listens on this socket, or who does accepts nobody.
    pub(crate) fn connect(path: &Path) -> Result<Self, Failure> {
        let (tell, told) = mpsc::channel();
        let place = path.to_owned();
        // In a thread of its own, for there is no limit to how long a full queue is waited for.
        thread::spawn(move || tell.send(UnixStream::connect(place)));
        let connected = told.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(no_answer()));
        let stream =
            connected.map_err(|error| Failure::Connect { path: path.to_owned(), error })?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// # Errors
    ///
    /// The connection breaks off, or the master refuses.
    pub(crate) fn ask(&mut self, command: &str) -> Result<Answer, Failure> {
        let line = self.exchange(command, PATIENCE);
        self.answer(line.map_err(|error| self.broken(error))?)
    }

    /// Waits until the reload is over, which is when the master answers.
    ///
    /// # Errors
    ///
    /// The reload failed, or is not over after `timeout`.
    pub(crate) fn ask_for_a_reload(&mut self, timeout: Duration) -> Result<Answer, Failure> {
        let line = self.exchange(RELOAD, timeout).map_err(|error| {
            if is_timeout(&error) {
                Failure::NotReloaded { after: timeout }
            } else {
                self.broken(error)
            }
        })?;
        self.answer(line)
    }

    fn answer(&self, line: String) -> Result<Answer, Failure> {
        let nonsense = |error| Failure::Nonsense { path: self.path.clone(), error };
        let verdict: Verdict = serde_json::from_str(&line).map_err(nonsense)?;
        if !verdict.ok {
            return Err(Failure::Refused(verdict.error.unwrap_or_else(|| line.trim().to_owned())));
        }
        let status = serde_json::from_str(&line).map_err(nonsense)?;
        Ok(Answer { line, status })
    }

    /// Waits until the master closes the connection, which it does by ending.
    ///
    /// # Errors
    ///
    /// It is still there after `timeout`.
    pub(crate) fn wait_for_the_end(&mut self, pid: u32, timeout: Duration) -> Result<(), Failure> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::NotGone { pid, after: timeout });
            }
            let read = self
                .stream
                .get_ref()
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut [0; 64]));
            match read {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn exchange(&mut self, command: &str, patience: Duration) -> io::Result<String> {
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(PATIENCE))?;
        // Zero would be no limit at all.
        stream.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    fn broken(&self, error: io::Error) -> Failure {
        let error = if is_timeout(&error) {
            io::Error::new(
                ErrorKind::TimedOut,
                format!("{}; what it was told it may still do", no_answer()),
            )
        } else {
            error
        };
        Failure::Talk { path: self.path.clone(), error }
    }
}

fn no_answer() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("no answer for {} s", PATIENCE.as_secs()))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { path, error } => {
                write!(f, "no server answers at {}: {error}", path.display())
            }
            Self::Config { path, reason } => write!(
                f,
                "{}: {reason}; name the server by --control-socket, --pidfile or --config",
                path.display()
            ),
            Self::Talk { path, error } => {
                write!(f, "the server at {} broke off: {error}", path.display())
            }
            Self::Refused(why) => f.write_str(why),
            Self::Nonsense { path, error } => {
                write!(f, "what answers at {} is no farrier server: {error}", path.display())
            }
            Self::NotGone { pid, after } => write!(
                f,
                "process {pid} is stopping but still there after {} s",
                after.as_secs_f64()
            ),
            Self::NotReloaded { after } => write!(
                f,
                "the reload is ordered but not over after {} s; `status` and the log tell how it goes",
                after.as_secs_f64()
            ),
            Self::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

impl std::error::Error for Failure {}
