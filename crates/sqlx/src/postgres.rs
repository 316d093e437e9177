//! The PostgreSQL backend.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use farrier_connection::{Backend, ErrorClass, Inspection, Interruption};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection, Error};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{sleep, timeout};

use crate::session::{Engine, Left, Session};
use crate::sql::Plain;

/// What `DISCARD ALL` does, except for the prepared statements, which sqlx keeps a list of.
const RESET: &str = "CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ALL; UNLISTEN *; \
     SELECT pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP";

/// How long one attempt to end a session may take, with its connect.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two attempts; doubled up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// A PostgreSQL database.
///
/// A statement dropped before its first row poisons the connection for the pool: its session is
/// ended at the server (PostgreSQL 14 or later) and goes to nobody else. Within the request sqlx
/// waits until the server is done with it. Farrier does not see it inside of a transaction or on
/// sqlx's own connection, nor after the first row: such a session is ended when it cannot be cleaned
/// within the policy's `reset_timeout`.
pub struct Postgres {
    options: PgConnectOptions,
    /// Ends sessions one at a time, so that the server sees at most one session beyond the pool's
    /// bound.
    killing: Arc<Mutex<()>>,
}

/// A session of a PostgreSQL server; as text, its process number.
///
/// The number alone comes again in the life of a server, and is another's at another server behind
/// the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PgSessionId {
    pid: i32,
    /// When it began, in microseconds since 1970.
    start: i64,
    /// When its server was started.
    server_start: i64,
}

// === impl Postgres ===

impl Postgres {
    /// The database at `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with sqlx's parameters.
    ///
    /// # Errors
    ///
    /// When the URL cannot be understood.
    pub fn new(url: &str) -> Result<Self, Error> {
        PgConnectOptions::from_str(url).map(Self::from_options)
    }

    /// The database that `options` lead to.
    #[must_use]
    pub fn from_options(options: PgConnectOptions) -> Self {
        Self { options, killing: Arc::default() }
    }
}

impl Backend for Postgres {
    type Connection = Session<sqlx::Postgres>;
    type Error = Error;
    type SessionId = PgSessionId;

    async fn connect(&self) -> Result<Self::Connection, Error> {
        let mut connection = self.options.connect().await?;
        // sqlx knows the number from the handshake, and tells nobody. The limit is new in 14.
        let about = "SELECT pid, (EXTRACT(EPOCH FROM backend_start) * 1000000)::int8, \
            (EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000)::int8, \
            EXTRACT(EPOCH FROM current_setting('idle_session_timeout', true)::interval)::float8 \
            FROM pg_stat_get_activity(pg_backend_pid())";
        let about = sqlx::query_as::<_, (i32, i64, i64, Option<f64>)>(about).persistent(false);
        let (pid, start, server_start, idle_limit) = about.fetch_one(&mut connection).await?;
        let mut session = Session::new(connection);
        session.id = Some(PgSessionId { pid, start, server_start });
        session.idle_limit = idle_limit
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(session)
    }

    async fn close(&self, session: Self::Connection) {
        let cut_off = session.left == Left::Operation;
        let connection = session.into_inner();
        let closed = if cut_off { connection.close_hard().await } else { connection.close().await };
        if let Err(error) = closed {
            tracing::debug!(%error, "closing a connection failed");
        }
    }

    fn inspect(&self, session: &mut Self::Connection) -> Inspection {
        if session.dead {
            Inspection::Dead
        } else if session.left == Left::Operation {
            Inspection::Poisoned
        } else if session.is_in_transaction() {
            Inspection::InTransaction
        } else if session.altered || session.left == Left::Rows || session.should_flush() {
            // What waits to be flushed is the rollback of a transaction that was dropped.
            Inspection::Unknown
        } else {
            Inspection::Clean
        }
    }

    async fn check(&self, session: &mut Self::Connection) -> Result<(), Error> {
        session.operate(async |connection| connection.ping().await).await
    }

    async fn rollback(&self, session: &mut Self::Connection) -> Result<(), Error> {
        // sqlx has queued the rollback when the transaction was dropped; this sends it.
        session.operate(async |connection| connection.ping().await).await
    }

    async fn reset(&self, session: &mut Self::Connection) -> Result<(), Error> {
        let altered = session.altered;
        let reset = async |connection: &mut PgConnection| {
            // Sends what waits to be sent, and reads rows that nobody read.
            connection.ping().await?;
            if altered {
                // Perhaps there is a transaction begun by a bare `BEGIN`; if not, the server only
                // warns.
                sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
                sqlx::raw_sql(RESET).execute(&mut *connection).await?;
            }
            Ok(())
        };
        session.operate(reset).await?;
        session.restored();
        Ok(())
    }

    fn classify(&self, error: &Error) -> ErrorClass {
        sqlx::Postgres::classify(error)
    }

    fn session_id(&self, session: &Self::Connection) -> Option<PgSessionId> {
        session.id
    }

    fn idle_limit(&self, session: &Self::Connection) -> Option<Duration> {
        session.idle_limit
    }

    /// `pg_terminate_backend` by a side connection of the same role, named `farrier`; over when the
    /// session is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the waiting; what was sent goes on.
    async fn interrupt(&self, session: &PgSessionId) -> Result<Interruption, Error> {
        let mut pause = PAUSE.0;
        loop {
            let turn = Arc::clone(&self.killing).lock_owned().await;
            // A task of its own: dropped midway, the side session would outlive this one's turn.
            let terminated = terminate(self.options.clone(), turn, *session);
            match tokio::spawn(terminated).await {
                Ok(Ok(Some(interruption))) => return Ok(interruption),
                // It takes its time, which is not in the way of the others here.
                Ok(Ok(None)) => sleep(pause).await,
                Ok(Err(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error).into()),
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

/// Tells the server to end a session; `None` if that is not over a moment later.
async fn terminate(
    options: PgConnectOptions,
    _turn: OwnedMutexGuard<()>,
    session: PgSessionId,
) -> Result<Option<Interruption>, Error> {
    const PATIENCE_MS: i64 = 100;
    let terminated = async {
        let mut connection = options.application_name("farrier").connect().await?;
        let start = "SELECT (EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000)::int8";
        let start: i64 = sqlx::query_scalar(start).fetch_one(&mut connection).await?;
        let interruption = if start == session.server_start {
            let end = "SELECT pg_terminate_backend(pid, $3) FROM pg_stat_get_activity($1) \
                WHERE (EXTRACT(EPOCH FROM backend_start) * 1000000)::int8 = $2";
            let end = sqlx::query_scalar(end).bind(session.pid).bind(session.start);
            let ended: Option<bool> = end.bind(PATIENCE_MS).fetch_optional(&mut connection).await?;
            // No such session, or one that is gone now.
            ended.unwrap_or(true).then_some(Interruption::Gone)
        } else {
            Some(Interruption::OtherServer)
        };
        connection.close().await?;
        Ok(interruption)
    };
    timeout(LIMIT, terminated).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer").into())
    })
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the whole options: they hold the password.
        f.debug_struct("Postgres")
            .field("host", &self.options.get_host())
            .field("port", &self.options.get_port())
            .field("database", &self.options.get_database())
            .finish_non_exhaustive()
    }
}

// === impl PgSessionId ===

impl fmt::Display for PgSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

const PLAIN: Plain = Plain {
    first_words: &[
        "SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE", "EXPLAIN",
        "SHOW", "CREATE", "DROP", "ALTER", "TRUNCATE", "ANALYZE", "VACUUM",
    ],
    unless: &["TEMP", "SET_CONFIG", "PG_ADVISORY", "PG_TRY_ADVISORY"],
};

impl Engine for sqlx::Postgres {
    type SessionId = PgSessionId;

    fn alters_session(sql: &str) -> bool {
        PLAIN.alters_session(sql)
    }

    fn classify(error: &Error) -> ErrorClass {
        match error {
            Error::Database(error) => {
                let code = error.code().unwrap_or_default();
                match (code.get(..2).unwrap_or_default(), &*code) {
                    // Too many connections; starting up or recovering.
                    (_, "53300" | "57P03") => ErrorClass::Busy,
                    // Read-only transaction: a server that became a replica.
                    (_, "25006") => ErrorClass::Failover,
                    // Invalid authorisation, no such database.
                    ("28" | "3D", _) => ErrorClass::Denied,
                    // Connection exceptions; shutdown and crash of the server, database dropped,
                    // idle.
                    ("08", _) | (_, "57P01" | "57P02" | "57P04" | "57P05") => ErrorClass::Fatal,
                    // Data exceptions, integrity constraints.
                    ("22" | "23", _) => ErrorClass::Harmless,
                    _ => ErrorClass::Suspect,
                }
            }
            Error::Configuration(_) => ErrorClass::Denied,
            Error::Io(_) | Error::Tls(_) | Error::Protocol(_) => ErrorClass::Fatal,
            _ => ErrorClass::Harmless,
        }
    }
}
