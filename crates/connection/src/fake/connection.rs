//! The client's side of a session.

use std::mem;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};

use super::server::{Event, Fake, FakeError};
use crate::StatementTimedOut;

/// A connection to a [`Fake`].
#[derive(Debug)]
pub struct FakeConnection {
    pub(super) session: u64,
    pub(super) server: Fake,
    pub(super) state: State,
    pub(super) limit: Option<Duration>,
}

/// The client's view of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
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

    pub(super) fn start(&mut self, event: fn(u64) -> Event) -> Result<Operation<'_>, FakeError> {
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
pub(super) struct Operation<'a> {
    pub(super) connection: &'a mut FakeConnection,
    pub(super) before: State,
}

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

    pub(super) fn finish(self) -> Result<(), FakeError> {
        self.connection.state = self.before;
        self.connection.alive()
    }
}
