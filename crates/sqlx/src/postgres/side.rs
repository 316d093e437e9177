//! The side connection: how sessions of PostgreSQL are ended and looked for.

use farrier_connection::{ErrorClass, SideConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Error};

use super::session_id::{PgSessionId, ServerStart, micros};
use crate::session::Engine;

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
            "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity($1) WHERE ",
            micros!("backend_start"),
            " = $2",
        );
        let end = sqlx::query_scalar::<_, bool>(END).bind(session.pid).bind(session.start);
        Ok(end.fetch_optional(&mut self.connection).await?.is_some())
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
        let is_there =
            |session: &&PgSessionId| present.contains(&(session.pid, Some(session.start)));
        Ok(sessions.iter().filter(is_there).copied().collect())
    }

    fn is_lost(error: &Error) -> bool {
        sqlx::Postgres::classify(error) == ErrorClass::Fatal
    }

    async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "closing the side connection failed");
        }
    }
}
