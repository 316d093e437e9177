//! The SQLite backend: a file shared by many connections, or a database in one connection's memory.

use std::convert::Infallible;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use farrier_connection::{
    Alteration, Backend, ErrorClass, Inspection, PlainStatements, Policy, Syntax,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{ConnectOptions, Connection, Error};

use crate::session::{Engine, Left, Session};

/// How long a statement waits for another connection's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A SQLite database.
///
/// A file is created if it is missing, kept in WAL mode so that readers and the writer do not block
/// each other, and a statement waits up to 5 s for a lock.
///
/// A database in memory lives in one connection: the pool has one, never closes it, however long a
/// statement takes, and resets it only by rolling back.
///
/// A statement that was dropped midway is finished by SQLite's own thread all the same; the
/// connection goes to nobody else before that, and is closed if it takes longer than the policy's
/// `reset_timeout`.
#[derive(Clone, Debug)]
pub struct Sqlite {
    options: SqliteConnectOptions,
    in_memory: bool,
}

// === impl Sqlite ===

impl Sqlite {
    /// The database at `sqlite:FILE`, `sqlite://FILE` or `sqlite::memory:`, with sqlx's parameters.
    ///
    /// `?mode=ro` and `?mode=rw` do not create the file.
    ///
    /// # Errors
    ///
    /// When the URL cannot be understood; a file that cannot be opened shows at the first connect.
    pub fn new(url: &str) -> Result<Self, Error> {
        let options = SqliteConnectOptions::from_str(url)?;
        let has = |parameter| url.contains(parameter);
        Ok(if has(":memory:") || has("mode=memory") {
            Self { options, in_memory: true }
        } else if has("mode=ro") || has("immutable=") {
            Self { options: options.busy_timeout(BUSY_TIMEOUT), in_memory: false }
        } else if has("mode=rw") && !has("mode=rwc") {
            Self::in_file(options).create_if_missing(false)
        } else {
            Self::in_file(options)
        })
    }

    /// The database in the file at `path`; `:memory:` is [`memory`](Self::memory).
    #[must_use]
    pub fn file(path: impl AsRef<Path>) -> Self {
        if path.as_ref() == Path::new(":memory:") {
            return Self::memory();
        }
        Self::in_file(SqliteConnectOptions::new().filename(path))
    }

    /// A new, empty database in memory.
    #[must_use]
    pub fn memory() -> Self {
        Self { options: SqliteConnectOptions::new().in_memory(true), in_memory: true }
    }

    fn in_file(options: SqliteConnectOptions) -> Self {
        let options = options
            .create_if_missing(true)
            .busy_timeout(BUSY_TIMEOUT)
            .journal_mode(SqliteJournalMode::Wal);
        Self { options, in_memory: false }
    }

    /// Whether a missing file is created. On by default.
    #[must_use]
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.options = self.options.create_if_missing(create);
        self
    }

    /// Changes sqlx's options, such as further pragmas.
    #[must_use]
    pub fn with_options(
        mut self,
        change: impl FnOnce(SqliteConnectOptions) -> SqliteConnectOptions,
    ) -> Self {
        self.options = change(self.options);
        self
    }
}

impl Backend for Sqlite {
    type Connection = Session<sqlx::Sqlite>;
    type Error = Error;
    type SessionId = Infallible;

    async fn connect(&self) -> Result<Self::Connection, Error> {
        self.options.connect().await.map(Session::new)
    }

    async fn close(&self, connection: Self::Connection) {
        if let Err(error) = connection.into_inner().close().await {
            tracing::debug!(%error, "closing a connection failed");
        }
    }

    fn inspect(&self, session: &mut Self::Connection) -> Inspection {
        if session.watch.dead {
            Inspection::Dead
        } else if session.is_in_transaction() {
            Inspection::InTransaction
        } else if session.altered != Alteration::Nothing || session.watch.left != Left::Nothing {
            Inspection::Unknown
        } else {
            Inspection::Clean
        }
    }

    /// The connection's thread answers; there is no server to ask.
    async fn check(&self, session: &mut Self::Connection) -> Result<(), Error> {
        session.operate(async |connection| connection.ping().await).await
    }

    async fn rollback(&self, session: &mut Self::Connection) -> Result<(), Error> {
        // sqlx has queued the rollback when the transaction was dropped; this waits until it is
        // done.
        session.operate(async |connection| connection.ping().await).await
    }

    /// A pragma or an attached file cannot be undone: such a connection stays unclean, and is
    /// closed.
    async fn reset(&self, session: &mut Self::Connection) -> Result<(), Error> {
        let rollback = async |connection: &mut SqliteConnection| {
            sqlx::raw_sql("ROLLBACK").execute(connection).await
        };
        match session.operate(rollback).await {
            // "No transaction is active" has no code of its own; it comes with SQLite's general
            // one.
            Err(Error::Database(error)) if error.code().as_deref() == Some("1") => {}
            result => {
                result?;
            }
        }
        if self.in_memory || session.altered < Alteration::Lasting {
            session.restored();
        }
        Ok(())
    }

    fn classify(&self, error: &Error) -> ErrorClass {
        sqlx::Sqlite::classify(error)
    }

    fn constrain(&self, policy: Policy) -> Policy {
        if self.in_memory {
            // Nor may a check or a reset close it that waits behind a slow statement.
            let policy = policy.max_connections(1).max_age(None).idle_timeout(None);
            policy.health_checks(false).reset_timeout(Duration::MAX)
        } else {
            policy
        }
    }
}

/// Statements that read, write or make tables; not temporary ones.
const PLAIN: PlainStatements = PlainStatements::new(
    Syntax::Sqlite,
    &[
        "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH", "VALUES", "EXPLAIN", "CREATE",
        "DROP", "ALTER", "ANALYZE", "REINDEX", "VACUUM",
    ],
    // An `EXPLAIN PRAGMA` may do it, too.
    &["TEMP", "TEMPORARY", "LOAD_EXTENSION", "PRAGMA"],
);
const TRANSACTION: PlainStatements = PlainStatements::new(
    Syntax::Sqlite,
    &["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"],
    &[],
);
const BEGIN: PlainStatements = PlainStatements::new(Syntax::Sqlite, &["BEGIN"], &[]);

impl Engine for sqlx::Sqlite {
    type SessionId = Infallible;

    const UNSEEN: Alteration = Alteration::Lasting;

    fn alteration(sql: &str) -> Alteration {
        if PLAIN.contains(sql.as_bytes()) {
            Alteration::Nothing
        } else if TRANSACTION.contains(sql.as_bytes()) {
            Alteration::Resettable
        } else {
            Alteration::Lasting
        }
    }

    fn begins_transaction(sql: &str) -> bool {
        BEGIN.contains(sql.as_bytes())
    }

    fn classify(error: &Error) -> ErrorClass {
        match error {
            Error::Database(error) => {
                let code = error.code().and_then(|code| code.parse::<u32>().ok());
                // The lowest byte is SQLite's primary code; the others say more precisely why.
                match code.map(|code| code & 0xff) {
                    // Constraint, type mismatch.
                    Some(19 | 20) => ErrorClass::Harmless,
                    // Busy, locked.
                    Some(5 | 6) => ErrorClass::Busy,
                    // No permission, cannot open, authorisation, not a database.
                    Some(3 | 14 | 23 | 26) => ErrorClass::Denied,
                    _ => ErrorClass::Suspect,
                }
            }
            Error::Configuration(_) => ErrorClass::Denied,
            Error::Io(_) | Error::Protocol(_) | Error::WorkerCrashed => ErrorClass::Fatal,
            _ => ErrorClass::Harmless,
        }
    }
}
