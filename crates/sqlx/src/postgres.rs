//! The PostgreSQL backend.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use farrier_connection::{
    Alteration, Backend, ErrorClass, Inspection, Interruption, PlainStatements, SideChannel, Syntax,
};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Error};

use crate::engine::Engine;
use crate::session::Session;
use crate::watch::{Left, Watch, contains_ignoring_case};

mod session_id;
mod side;

pub use session_id::PgSessionId;
use side::PgSide;

/// What `DISCARD ALL` does, except for the prepared statements.
const RESET: &str = "CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ALL; UNLISTEN *; \
     SELECT pg_advisory_unlock_all(); DISCARD SEQUENCES; DISCARD TEMP";
/// How many statements sqlx has prepared, by the protocol; and what removes those of a `PREPARE`.
const PREPARED: &str = "SELECT COUNT(*) FILTER (WHERE NOT from_sql), \
     string_agg('DEALLOCATE ' || pg_catalog.quote_ident(name), ';') FILTER (WHERE from_sql) \
     FROM pg_catalog.pg_prepared_statements";

/// A PostgreSQL database.
///
/// A statement dropped before its first row poisons the connection: its session is ended at the server,
/// by `pg_terminate_backend` of a side connection named `farrier`, and goes to nobody else. Farrier does
/// not see it on sqlx's own connection, nor after the first row: such a session is ended when it cannot
/// be cleaned within the policy's `reset_timeout`.
///
/// What a statement's text says is cleaned before the next request: settings, roles, temporary tables,
/// advisory locks, cursors, what was prepared, `LISTEN`; and a session is closed after what cannot be
/// undone, such as `LOAD` or `setseed`. Only the server knows what a *function* or a trigger sets in the
/// session, and which sequence a column's default has drawn from (`lastval()`). Where that matters, end
/// the session with each request: `Policy::max_age(Duration::ZERO)`.
pub struct Postgres {
    options: PgConnectOptions,
    side: SideChannel<PgSide>,
}

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
        let side = SideChannel::new(options.clone().application_name("farrier"));
        Self { options, side }
    }
}

impl Backend for Postgres {
    type Connection = Session<sqlx::Postgres>;
    type Error = Error;
    type SessionId = PgSessionId;

    async fn connect(&self) -> Result<Self::Connection, Error> {
        let mut connection = match self.options.connect().await {
            Err(error) if self.classify(&error) == ErrorClass::Busy => {
                self.side.make_room();
                return Err(error);
            }
            connection => connection?,
        };
        let (id, idle_limit) = PgSessionId::ask(&mut connection).await?;
        let mut session = Session::new(connection);
        session.id = id;
        session.idle_limit = idle_limit;
        Ok(session)
    }

    async fn close(&self, session: Self::Connection) {
        let cut_off = session.watch.left == Left::Operation;
        let id = session.id;
        let connection = session.into_inner();
        let closed = async {
            if cut_off {
                return connection.close_hard().await;
            }
            let closed = connection.close().await;
            // The server ends the session a moment later, and tells nobody.
            if let Some(id) = id {
                self.side.see_off(&id).await?;
            }
            closed
        };
        if let Err(error) = closed.await {
            tracing::debug!(%error, "closing a connection failed");
        }
    }

    fn limit_statements(&self, session: &mut Self::Connection, limit: Duration) {
        session.watch.limit = Some(limit);
    }

    fn inspect(&self, session: &mut Self::Connection) -> Inspection {
        let Watch { left, dead, read_only, outdated, lost, .. } = session.watch;
        if dead {
            Inspection::Dead
        } else if session.failed_over {
            Inspection::FailedOver
        } else if left == Left::Operation {
            Inspection::Poisoned
        } else if session.is_in_transaction() {
            Inspection::InTransaction
        } else if session.altered != Alteration::Nothing
            || read_only
            || outdated
            || lost
            || left == Left::Rows
            || session.should_flush()
        {
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
        if altered == Alteration::Lasting {
            return Ok(());
        }
        let Watch { read_only, mut outdated, .. } = session.watch;
        let reset = async |connection: &mut PgConnection| {
            // Sends what waits to be sent, and reads rows that nobody read.
            connection.ping().await?;
            if altered != Alteration::Nothing {
                // Perhaps there is a transaction begun by a bare `BEGIN`; if not, the server only
                // warns.
                sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
                sqlx::raw_sql(RESET).execute(&mut *connection).await?;
                let prepared = sqlx::query_as(PREPARED).persistent(false);
                let (cached, deallocate): (i64, Option<String>) =
                    prepared.fetch_one(&mut *connection).await?;
                if let Some(deallocate) = deallocate {
                    sqlx::raw_sql(AssertSqlSafe(deallocate)).execute(&mut *connection).await?;
                }
                // A `DEALLOCATE ALL` has taken sqlx's, too.
                outdated |= usize::try_from(cached) != Ok(connection.cached_statements_size());
            }
            if outdated {
                connection.clear_cached_statements().await?;
            }
            // A transaction may have been begun as read-only, on a server that is to be written to.
            let is_standby = "SELECT pg_is_in_recovery()";
            Ok(read_only && sqlx::query_scalar(is_standby).fetch_one(&mut *connection).await?)
        };
        session.failed_over = session.operate(reset).await?;
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

    async fn interrupt(&self, session: &PgSessionId) -> Result<Interruption, Error> {
        self.side.kill(session).await
    }

    async fn finish(&self) {
        self.side.close().await;
    }
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

/// Statements that read, write or make tables, and those whose effect ends with the transaction; not
/// temporary tables, settings, and what else belongs to the session.
const PLAIN: PlainStatements = PlainStatements::new(
    Syntax::Postgres,
    &[
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "WITH",
        "VALUES",
        "TABLE",
        "EXPLAIN",
        "SHOW",
        "CREATE",
        "DROP",
        "ALTER",
        "TRUNCATE",
        "ANALYZE",
        "VACUUM",
        "REFRESH",
        "NOTIFY",
        "LOCK",
        "SET TRANSACTION",
        "SET CONSTRAINTS",
        "COMMENT",
        "GRANT",
        "REVOKE",
        "REINDEX",
    ],
    &[
        "PG_TEMP*",
        "SET_CONFIG",
        "SET_LIMIT",
        "PG_ADVISORY_LOCK*",
        "PG_TRY_ADVISORY_LOCK*",
        // What `currval` and `lastval` tell.
        "NEXTVAL",
        "SETVAL",
    ],
)
.if_made(&["TEMP", "TEMPORARY"])
.transaction_local(&["SET_CONFIG"])
.lasting(&[
    "SETSEED",
    "DBLINK_CONNECT*",
    "PG_CREATE_PHYSICAL_REPLICATION_SLOT",
    "PG_CREATE_LOGICAL_REPLICATION_SLOT",
    "PG_COPY_PHYSICAL_REPLICATION_SLOT",
    "PG_COPY_LOGICAL_REPLICATION_SLOT",
    "PG_REPLICATION_ORIGIN_*",
    "PG_BACKUP_START",
    "PG_START_BACKUP",
])
.lasting_unless_plain(&["LOAD", "SEED"]);

/// Settings that end with the transaction. Not what `random()` gives.
const LOCAL: PlainStatements = PlainStatements::new(Syntax::Postgres, &["SET LOCAL"], &["SEED"]);

const BEGIN: PlainStatements = PlainStatements::new(Syntax::Postgres, &["BEGIN", "START"], &[]);

impl Engine for sqlx::Postgres {
    type SessionId = PgSessionId;

    const UNSEEN: Alteration = Alteration::Resettable;

    fn alteration(sql: &str) -> Alteration {
        let is_local = LOCAL.contains(sql.as_bytes());
        // Then a table may be made as a temporary one without a word.
        let is_temporary = || contains_ignoring_case(sql, "pg_temp");
        if is_local && !is_temporary() {
            Alteration::Nothing
        } else {
            PLAIN.alteration(sql.as_bytes())
        }
    }

    fn begins_transaction(sql: &str) -> bool {
        BEGIN.contains(sql.as_bytes())
    }

    async fn is_aborted(connection: &mut PgConnection) -> Result<bool, Error> {
        match sqlx::raw_sql("SELECT 1").execute(connection).await {
            // In a failed transaction.
            Err(Error::Database(error)) if error.code().as_deref() == Some("25P02") => Ok(true),
            result => result.map(|_| false),
        }
    }

    fn outdates_statements(error: &Error) -> bool {
        error.as_database_error().is_some_and(|error| match error.code().as_deref() {
            // Not supported: so the server says that a prepared statement would give other columns.
            Some("0A000") => error.message().contains("cached plan"),
            // There is no such prepared statement.
            Some("26000") => true,
            _ => false,
        })
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
