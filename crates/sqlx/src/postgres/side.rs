//! The side connection: how sessions of PostgreSQL are ended and looked for.

use farrier_connection::{ErrorClass, SideConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Error};

use super::session_id::{PgSessionId, ServerStart, micros};
use crate::engine::Engine;

/// A connection to the server, and which start of it that is.
pub(super) struct PgSide {
    connection: PgConnection,
    server: Option<ServerStart>,
}

impl SideConnection for PgSide {
    type Options = PgConnectOptions;
    type SessionId = PgSessionId;
    type ServerId = ServerStart;
    type Error = Error;

    async fn open(options: &PgConnectOptions) -> Result<Self, Error> {
        let mut connection = options.connect().await?;
        let server = ServerStart::ask(&mut connection).await?;
        Ok(Self { connection, server })
    }

    fn server(&self) -> Option<&ServerStart> {
        self.server.as_ref()
    }

    fn server_of(session: &PgSessionId) -> &ServerStart {
        &session.server
    }

    /// `pg_terminate_backend`, which a role may do to its own sessions.
    async fn kill(&mut self, session: &PgSessionId) -> Result<bool, Error> {
        const END: &str = concat!(
            "SELECT start, CASE WHEN start = $2 THEN pg_terminate_backend(pid) END FROM (SELECT pid, ",
            micros!("backend_start"),
            " AS start FROM pg_stat_get_activity($1)) AS session",
        );
        let end = sqlx::query_as::<_, (Option<i64>, Option<bool>)>(END);
        let end = end.bind(session.pid).bind(session.start);
        match end.fetch_optional(&mut self.connection).await? {
            Some((None, _)) => Err(Error::Configuration("the role may not see the session".into())),
            // The number may be another session's by now.
            Some((Some(_), told)) => Ok(told.is_some()),
            None => Ok(false),
        }
    }

    async fn present(&mut self, sessions: &[PgSessionId]) -> Result<Vec<PgSessionId>, Error> {
        const PRESENT: &str = concat!(
            "SELECT pid, ",
            micros!("backend_start"),
            " FROM pg_stat_get_activity(NULL) WHERE pid = ANY($1)",
        );
        let pids: Vec<_> = sessions.iter().map(|session| session.pid).collect();
        let present = sqlx::query_as::<_, (i32, Option<i64>)>(PRESENT).bind(pids);
        let present = present.fetch_all(&mut self.connection).await?;
        // Not to be seen by this role, it may be any.
        let is_there = |session: &&PgSessionId| {
            let is_it = |start: Option<i64>| start.is_none_or(|start| start == session.start);
            present.iter().any(|(pid, start)| *pid == session.pid && is_it(*start))
        };
        Ok(sessions.iter().filter(is_there).copied().collect())
    }

    fn is_lost(error: &Error) -> bool {
        sqlx::Postgres::classify(error) == ErrorClass::Fatal
    }

    async fn close(self) -> Result<(), Error> {
        self.connection.close().await
    }
}
