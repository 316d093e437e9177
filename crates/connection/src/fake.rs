//! A database that exists only in memory, for tests of code that uses farrier's connections.
//!
//! [`Fake`] is the server and the [`Backend`] in one: a test tells it how to behave, and reads what
//! was done to it. Its time is tokio's, so under `#[tokio::test(start_paused = true)]` hours pass
//! in no time.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use farrier_connection::fake::{Event, Fake};
//! use farrier_connection::{Policy, Pool};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fake = Fake::new();
//! let pool = Pool::new(fake.clone(), Policy::default().health_checks(true));
//! drop(pool.acquire().await?);
//! tokio::time::sleep(Duration::from_secs(1)).await;
//! drop(pool.acquire().await?); // it lay idle for a second, so it is checked
//! assert_eq!(fake.events(), [Event::Connect(1), Event::Check(1)]);
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{Backend, ErrorClass, Inspection, Interruption, StatementTimedOut};

/// A server in memory and the backend that connects to it; clones are the same server.
#[derive(Clone, Debug, Default)]
pub struct Fake(Arc<Mutex<Server>>);

/// A connection to a [`Fake`].
#[derive(Debug)]
pub struct FakeConnection {
    session: u64,
    server: Fake,
    state: State,
    limit: Option<Duration>,
}

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
struct Server {
    sessions: BTreeMap<u64, Session>,
    attempts: u64,
    opened: u64,
    connect: Behaviour,
    statement: Behaviour,
    check: Behaviour,
    reset: Behaviour,
    kill: Behaviour,
    max_sessions: Option<usize>,
    idle_limit: Option<Duration>,
    events: Vec<Event>,
}

#[derive(Debug, Default)]
struct Session {
    /// When the statement that it works on is done.
    busy_until: Option<Instant>,
    /// The client has left; the session ends with its statement.
    deserted: bool,
}

/// The client's view of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Exits: to any other.
    Clean,
    /// Exits: to `Clean` by commit or rollback; to `Busy`, `Dead`.
    InTransaction,
    /// Something was set in the session. Exits: to `Clean` by reset; to `Busy`, `Dead`.
    Altered,
    /// An operation runs. Exits: to what was before when it completes; to `Dead`. Dropped midway,
    /// it stays.
    Busy,
    /// No exit.
    Dead,
}

// === impl Fake ===

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

    async fn answer(&self, behaviour: impl Fn(&Server) -> Behaviour) -> Result<(), FakeError> {
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

    fn server(&self) -> MutexGuard<'_, Server> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Fake {
    type Connection = FakeConnection;
    type Error = FakeError;
    type SessionId = u64;

    async fn connect(&self) -> Result<FakeConnection, FakeError> {
        self.server().attempts += 1;
        self.answer(|server| server.connect).await?;
        let mut server = self.server();
        server.room()?;
        server.opened += 1;
        let session = server.opened;
        server.sessions.insert(session, Session::default());
        server.events.push(Event::Connect(session));
        Ok(FakeConnection { session, server: self.clone(), state: State::Clean, limit: None })
    }

    async fn close(&self, connection: FakeConnection) {
        let mut server = self.server();
        server.events.push(Event::Close(connection.session));
        if let Some(session) = server.sessions.get_mut(&connection.session) {
            session.deserted = true;
        }
    }

    fn limit_statements(&self, connection: &mut FakeConnection, limit: Duration) {
        connection.limit = Some(limit);
    }

    fn inspect(&self, connection: &mut FakeConnection) -> Inspection {
        match connection.state {
            State::Clean => Inspection::Clean,
            State::InTransaction => Inspection::InTransaction,
            State::Altered => Inspection::Unknown,
            State::Busy => Inspection::Poisoned,
            State::Dead => Inspection::Dead,
        }
    }

    async fn check(&self, connection: &mut FakeConnection) -> Result<(), FakeError> {
        let operation = connection.start(Event::Check)?;
        operation.connection.server.answer(|server| server.check).await?;
        operation.finish()
    }

    async fn rollback(&self, connection: &mut FakeConnection) -> Result<(), FakeError> {
        let mut operation = connection.start(Event::Rollback)?;
        operation.connection.server.answer(|server| server.reset).await?;
        if operation.before == State::InTransaction {
            operation.before = State::Clean;
        }
        operation.finish()
    }

    async fn reset(&self, connection: &mut FakeConnection) -> Result<(), FakeError> {
        let mut operation = connection.start(Event::Reset)?;
        operation.connection.server.answer(|server| server.reset).await?;
        operation.before = State::Clean;
        operation.finish()
    }

    fn classify(&self, error: &FakeError) -> ErrorClass {
        match error {
            FakeError::Disconnected | FakeError::Poisoned => ErrorClass::Fatal,
            FakeError::TimedOut(_) => ErrorClass::Suspect,
            FakeError::Wanted(class) => *class,
        }
    }

    fn session_id(&self, connection: &FakeConnection) -> Option<u64> {
        Some(connection.session)
    }

    fn idle_limit(&self, _: &FakeConnection) -> Option<Duration> {
        self.server().idle_limit
    }

    async fn interrupt(&self, session: &u64) -> Result<Interruption, FakeError> {
        self.answer(|server| server.kill).await?;
        let mut server = self.server();
        server.room()?;
        server.events.push(Event::Kill(*session));
        server.sessions.remove(session);
        Ok(Interruption::Gone)
    }
}

// === impl FakeConnection ===

impl FakeConnection {
    /// The server's number of this session.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Runs a statement that takes no time; gives the session's number.
    ///
    /// # Errors
    ///
    /// When the session is gone or an earlier operation was dropped midway.
    pub async fn query(&mut self) -> Result<u64, FakeError> {
        self.query_for(Duration::ZERO).await
    }

    /// Runs a statement that takes `time` at the server; gives the session's number.
    ///
    /// # Errors
    ///
    /// When the session is gone or an earlier operation was dropped midway, or when it takes longer
    /// than the policy's `statement_timeout`.
    ///
    /// # Cancel safety
    ///
    /// None: dropped midway, the connection is poisoned, and the server works on.
    pub async fn query_for(&mut self, time: Duration) -> Result<u64, FakeError> {
        let Some(limit) = self.limit else { return self.run_for(time).await };
        let late = |_| FakeError::TimedOut(StatementTimedOut::new(limit));
        timeout(limit, self.run_for(time)).await.map_err(late)?
    }

    async fn run_for(&mut self, time: Duration) -> Result<u64, FakeError> {
        let session = self.session;
        let operation = self.start(Event::Query)?;
        if !time.is_zero() {
            let done = Instant::now() + time;
            if let Some(session) = operation.connection.server.server().sessions.get_mut(&session) {
                session.busy_until = Some(done);
            }
            sleep_until(done).await;
        }
        let operation = operation.answered().await?;
        operation.finish()?;
        Ok(session)
    }

    /// Opens a transaction.
    ///
    /// # Errors
    ///
    /// When the session is gone or an earlier operation was dropped midway.
    pub async fn begin(&mut self) -> Result<(), FakeError> {
        let mut operation = self.start(Event::Begin)?;
        operation = operation.answered().await?;
        operation.before = State::InTransaction;
        operation.finish()
    }

    /// Commits the open transaction.
    ///
    /// # Errors
    ///
    /// When the session is gone or an earlier operation was dropped midway.
    pub async fn commit(&mut self) -> Result<(), FakeError> {
        let mut operation = self.start(Event::Commit)?;
        operation = operation.answered().await?;
        operation.before = State::Clean;
        operation.finish()
    }

    /// Sets something in the session that only a reset undoes.
    ///
    /// # Errors
    ///
    /// When the session is gone or an earlier operation was dropped midway.
    pub async fn alter(&mut self) -> Result<(), FakeError> {
        let mut operation = self.start(Event::Query)?;
        operation = operation.answered().await?;
        operation.before = State::Altered;
        operation.finish()
    }

    fn start(&mut self, event: fn(u64) -> Event) -> Result<Operation<'_>, FakeError> {
        match self.state {
            State::Busy => return Err(FakeError::Poisoned),
            State::Dead => return Err(FakeError::Disconnected),
            State::Clean | State::InTransaction | State::Altered => {}
        }
        self.server.server().events.push(event(self.session));
        self.alive()?;
        let before = mem::replace(&mut self.state, State::Busy);
        Ok(Operation { connection: self, before })
    }

    fn alive(&mut self) -> Result<(), FakeError> {
        if self.server.server().sessions.contains_key(&self.session) {
            Ok(())
        } else {
            self.state = State::Dead;
            Err(FakeError::Disconnected)
        }
    }
}

/// A running operation; not finished, it leaves the connection busy for ever.
struct Operation<'a> {
    connection: &'a mut FakeConnection,
    before: State,
}

// === impl Operation ===

impl Operation<'_> {
    async fn answered(self) -> Result<Self, FakeError> {
        match self.connection.server.answer(|server| server.statement).await {
            Ok(()) => Ok(self),
            Err(error) => {
                self.finish()?;
                Err(error)
            }
        }
    }

    fn finish(self) -> Result<(), FakeError> {
        self.connection.state = self.before;
        self.connection.alive()
    }
}

// === impl Server ===

impl Server {
    fn living(&self) -> impl Iterator<Item = u64> {
        let now = Instant::now();
        let living = move |session: &Session| {
            !session.deserted || session.busy_until.is_some_and(|until| until > now)
        };
        self.sessions.iter().filter(move |(_, session)| living(session)).map(|(id, _)| *id)
    }

    fn room(&self) -> Result<(), FakeError> {
        match self.max_sessions {
            Some(limit) if self.living().count() >= limit => {
                Err(FakeError::Wanted(ErrorClass::Busy))
            }
            _ => Ok(()),
        }
    }
}

// === impl FakeError ===

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
