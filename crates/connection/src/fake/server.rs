//! The server: its sessions, how it behaves, and what was done to it.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{ErrorClass, StatementTimedOut};

/// A server in memory and the backend that connects to it; clones are the same server.
#[derive(Clone, Debug, Default)]
pub struct Fake(Arc<Mutex<Server>>);

/// How a [`Fake`] answers a connect, a statement, a health check, a reset or a kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Behaviour {
    /// At once.
    #[default]
    Answer,
    /// After a time.
    Slow(Duration),
    /// With an error of this class.
    Fail(ErrorClass),
    /// Never.
    Hang,
}

/// Something that was done to a [`Fake`], with the session that it was done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session was opened.
    Connect(u64),
    /// A client closed its end.
    Close(u64),
    /// A health check was asked for.
    Check(u64),
    /// A statement was run.
    Query(u64),
    /// A transaction was begun.
    Begin(u64),
    /// A transaction was committed.
    Commit(u64),
    /// A transaction was rolled back.
    Rollback(u64),
    /// A session was reset.
    Reset(u64),
    /// A session was ended from the side.
    Kill(u64),
}

/// What an operation on a [`Fake`] fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FakeError {
    /// The session is gone.
    Disconnected,
    /// An earlier operation was dropped midway.
    Poisoned,
    /// A statement took longer than the policy's `statement_timeout`.
    TimedOut(StatementTimedOut),
    /// The test wanted an error.
    Wanted(ErrorClass),
}

#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) sessions: BTreeMap<u64, Session>,
    pub(super) attempts: u64,
    pub(super) opened: u64,
    pub(super) connect: Behaviour,
    pub(super) statement: Behaviour,
    pub(super) check: Behaviour,
    pub(super) reset: Behaviour,
    pub(super) kill: Behaviour,
    pub(super) max_sessions: Option<usize>,
    pub(super) idle_limit: Option<Duration>,
    pub(super) events: Vec<Event>,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    /// When the statement that it works on is done.
    pub(super) busy_until: Option<Instant>,
    /// The client has left; the session ends with its statement.
    pub(super) deserted: bool,
}

impl Fake {
    /// A server that answers everything at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How to answer connects from now on.
    pub fn on_connect(&self, behaviour: Behaviour) {
        self.server().connect = behaviour;
    }

    /// How to answer statements from now on.
    pub fn on_statement(&self, behaviour: Behaviour) {
        self.server().statement = behaviour;
    }

    /// How to answer health checks from now on.
    pub fn on_check(&self, behaviour: Behaviour) {
        self.server().check = behaviour;
    }

    /// How to answer resets and rollbacks from now on.
    pub fn on_reset(&self, behaviour: Behaviour) {
        self.server().reset = behaviour;
    }

    /// How to answer kills from now on.
    pub fn on_kill(&self, behaviour: Behaviour) {
        self.server().kill = behaviour;
    }

    /// How many sessions the server takes; at the limit it is busy, for connects and for kills, which
    /// need a session of their own.
    pub fn set_max_sessions(&self, limit: impl Into<Option<usize>>) {
        self.server().max_sessions = limit.into();
    }

    /// How long a session opened from now on may lie unused, as it tells its client; that it ends
    /// them after it is left to [`kill`](Self::kill).
    pub fn set_idle_limit(&self, limit: impl Into<Option<Duration>>) {
        self.server().idle_limit = limit.into();
    }

    /// The server's process list: its sessions, the oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<u64> {
        self.server().living().collect()
    }

    /// How many connects were ever tried, those that failed included.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.server().attempts
    }

    /// How many sessions were ever opened.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.server().opened
    }

    /// What was done, in order.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.server().events.clone()
    }

    /// What was done since the last call, in order.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        mem::take(&mut self.server().events)
    }

    /// Ends a session at the server; its client notices at the next operation.
    pub fn kill(&self, session: u64) {
        self.server().sessions.remove(&session);
    }

    /// Ends all sessions, as a restart of the server does.
    pub fn kill_all(&self) {
        self.server().sessions.clear();
    }

    pub(super) async fn answer(
        &self,
        behaviour: impl Fn(&Server) -> Behaviour,
    ) -> Result<(), FakeError> {
        let behaviour = behaviour(&self.server());
        match behaviour {
            Behaviour::Answer => Ok(()),
            Behaviour::Slow(time) => {
                sleep(time).await;
                Ok(())
            }
            Behaviour::Fail(class) => Err(FakeError::Wanted(class)),
            Behaviour::Hang => future::pending().await,
        }
    }

    pub(super) fn server(&self) -> MutexGuard<'_, Server> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    fn living(&self) -> impl Iterator<Item = u64> {
        let now = Instant::now();
        let living = move |session: &Session| {
            !session.deserted || session.busy_until.is_some_and(|until| until > now)
        };
        self.sessions.iter().filter(move |(_, session)| living(session)).map(|(id, _)| *id)
    }

    pub(super) fn room(&self) -> Result<(), FakeError> {
        match self.max_sessions {
            Some(limit) if self.living().count() >= limit => {
                Err(FakeError::Wanted(ErrorClass::Busy))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for FakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("the session is gone"),
            Self::Poisoned => f.write_str("an earlier operation was dropped midway"),
            Self::TimedOut(_) => f.write_str("a statement took too long"),
            Self::Wanted(class) => write!(f, "an error of class {class:?}"),
        }
    }
}

impl Error for FakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::TimedOut(timed_out) => Some(timed_out),
            Self::Disconnected | Self::Poisoned | Self::Wanted(_) => None,
        }
    }
}
