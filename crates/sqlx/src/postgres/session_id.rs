//! Which session it is, at which server.

use std::fmt;
use std::time::Duration;

use sqlx::Error;
use sqlx::postgres::PgConnection;

/// A session of a PostgreSQL server; as text, its process number.
///
/// The number alone comes again in the life of a server, and is another's at another server behind
/// the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PgSessionId {
    pub(super) pid: i32,
    /// When it began, in microseconds since 1970.
    pub(super) start: i64,
    pub(super) server: ServerStart,
}

/// When a server was started, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerStart(i64);

/// A point in time as SQL for the number of microseconds since 1970.
macro_rules! micros {
    ($time:literal) => {
        concat!("(EXTRACT(EPOCH FROM ", $time, ") * 1000000)::int8")
    };
}
pub(super) use micros;

impl PgSessionId {
    /// Asks the server at the other end, in one round trip; also how long it lets the session lie
    /// unused.
    ///
    /// Neither is known of what only speaks the protocol.
    pub(super) async fn ask(
        connection: &mut PgConnection,
    ) -> Result<(Option<Self>, Option<Duration>), Error> {
        // sqlx knows the number from the handshake, and tells nobody. The limit is new in 14.
        const ABOUT: &str = concat!(
            "SELECT pid, ",
            micros!("backend_start"),
            ", ",
            micros!("pg_postmaster_start_time()"),
            ", EXTRACT(EPOCH FROM current_setting('idle_session_timeout', true)::interval)::float8",
            " FROM pg_stat_get_activity(pg_backend_pid())",
        );
        let about = sqlx::query_as::<_, (i32, Option<i64>, i64, Option<f64>)>(ABOUT);
        let about = unless_unknown(about.persistent(false).fetch_one(connection).await)?;
        let Some((pid, start, server, idle_limit)) = about else {
            return Ok((None, None));
        };
        // A role that the session has changed to may not see it.
        let id = start.map(|start| Self { pid, start, server: ServerStart(server) });
        let idle_limit = idle_limit
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok((id, idle_limit))
    }
}

impl fmt::Display for PgSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

impl ServerStart {
    pub(super) async fn ask(connection: &mut PgConnection) -> Result<Option<Self>, Error> {
        const START: &str = concat!("SELECT ", micros!("pg_postmaster_start_time()"));
        let start = sqlx::query_scalar(START).persistent(false).fetch_one(connection).await;
        Ok(unless_unknown(start)?.map(Self))
    }
}

/// `None` where the server does not know what it is asked for, or does not tell.
fn unless_unknown<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        // Not supported; no such name, or no right to it.
        Err(Error::Database(error))
            if error
                .code()
                .is_some_and(|code| code.starts_with("0A") || code.starts_with("42")) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
