//! The server as the backend that connects to it.

use std::time::Duration;

use super::connection::{FakeConnection, State};
use super::server::{Event, Fake, FakeError, Session};
use crate::{Backend, ErrorClass, Inspection, Interruption};

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
