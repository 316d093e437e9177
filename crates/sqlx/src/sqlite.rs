//! The SQLite backend: a file shared by many connections, or a database in one connection's memory.

use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use farrier_connection::{
    Alteration, Backend, ErrorClass, Inspection, Interruption, PlainStatements, Policy, Syntax,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Error};
use sqlx_core::transaction::TransactionManager;

use crate::engine::Engine;
use crate::session::Session;
use crate::watch::{Left, contains_ignoring_case};

mod interrupt;
mod settings;

pub use interrupt::SqliteSessionId;
use settings::Settings;

/// How long a statement waits for another connection's lock: less than a request waits for a
/// connection, as a wait cannot be interrupted.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// A SQLite database.
///
/// A file is created if it is missing, kept in WAL mode so that readers and the writer do not block
/// each other, and a statement waits up to 3 s for a lock.
///
/// What a request leaves in its session, such as a pragma, an attached file or a temporary table, goes
/// with it: the connection is closed. Only SQLite knows which row was inserted last
/// (`last_insert_rowid()`) and how many rows changed (`changes()`); that stays.
///
/// A database in memory lives in one connection: the pool has one and never closes it. It is rolled
/// back, its pragmas are set back to what they were after the connect, temporary objects are dropped
/// and files detached. Functions, collations and hooks that were registered on sqlx's own connection
/// stay.
///
/// A statement that was dropped midway is interrupted when the connection goes back. A wait for a lock
/// cannot be, nor can a single long step, such as a function of the application's: if that takes
/// longer than the policy's `reset_timeout` the connection is closed, and its slot is free when SQLite
/// is done (unless the policy's `kill_cancelled` is off). A progress handler of the application's own, set
/// on sqlx's connection, takes the place of the one that interrupts.
#[derive(Clone, Debug)]
pub struct Sqlite {
    options: SqliteConnectOptions,
    /// Those of a database in memory, once it is made.
    settings: OnceLock<Settings>,
    in_memory: bool,
}

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
            Self { options, settings: OnceLock::new(), in_memory: true }
        } else if has("mode=ro") || has("immutable=") {
            Self {
                options: options.busy_timeout(BUSY_TIMEOUT),
                settings: OnceLock::new(),
                in_memory: false,
            }
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
        let options = SqliteConnectOptions::new().in_memory(true);
        Self { options, settings: OnceLock::new(), in_memory: true }
    }

    fn in_file(options: SqliteConnectOptions) -> Self {
        let options = options
            .create_if_missing(true)
            .busy_timeout(BUSY_TIMEOUT)
            .journal_mode(SqliteJournalMode::Wal);
        Self { options, settings: OnceLock::new(), in_memory: false }
    }

    /// Whether a missing file is created. On by default.
    #[must_use]
    pub fn create_if_missing(mut self, create: bool) -> Self {
        self.options = self.options.create_if_missing(create);
        self
    }

    /// Changes sqlx's options, such as further pragmas. Not where the database is: one in memory is
    /// [`memory`](Self::memory).
    #[must_use]
    pub fn with_options(
        mut self,
        change: impl FnOnce(SqliteConnectOptions) -> SqliteConnectOptions,
    ) -> Self {
        self.options = change(self.options);
        self.settings = OnceLock::new();
        self
    }
}

impl Backend for Sqlite {
    type Connection = Session<sqlx::Sqlite>;
    type Error = Error;
    type SessionId = SqliteSessionId;

    async fn connect(&self) -> Result<Self::Connection, Error> {
        let mut connection = self.options.connect().await?;
        let id = SqliteSessionId::of(&mut connection).await?;
        if self.in_memory && self.settings.get().is_none() {
            let settings = Settings::of(&mut connection).await?;
            let _ = self.settings.set(settings);
        }
        let mut session = Session::new(connection);
        session.id = Some(id);
        Ok(session)
    }

    async fn close(&self, session: Self::Connection) {
        if let Some(id) = &session.id {
            id.stop(true);
        }
        if session.stuck {
            // Its thread ends with what it does.
            return;
        }
        if let Err(error) = session.into_inner().close().await {
            tracing::debug!(%error, "closing a connection failed");
        }
    }

    fn limit_statements(&self, session: &mut Self::Connection, limit: Duration) {
        session.watch.limit = Some(limit);
    }

    fn inspect(&self, session: &mut Self::Connection) -> Inspection {
        if session.watch.dead {
            Inspection::Dead
        } else if session.stuck {
            Inspection::Poisoned
        } else if session.is_in_transaction() {
            Inspection::InTransaction
        } else if session.altered != Alteration::Nothing
            || session.watch.left != Left::Nothing
            || session.watch.lost
        {
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
        settle(session).await?;
        session.operate(roll_back).await?;
        session.watch.depth = 0;
        Ok(())
    }

    /// A pragma or an attached file cannot be undone: such a connection stays unclean, and is
    /// closed. One in memory is restored as far as that can be done.
    async fn reset(&self, session: &mut Self::Connection) -> Result<(), Error> {
        settle(session).await?;
        if !self.in_memory && session.altered == Alteration::Lasting {
            return Ok(());
        }
        let settings = self.settings.get().filter(|_| session.altered == Alteration::Lasting);
        let restored = session
            .operate(async |connection| {
                execute_unless_refused(connection, "ROLLBACK").await?;
                match settings {
                    Some(settings) => settings.restore(connection).await,
                    None => Ok(()),
                }
            })
            .await;
        match restored {
            Err(error) if self.in_memory && !session.watch.dead => {
                tracing::warn!(%error, "a database in memory could not be restored entirely");
            }
            restored => restored?,
        }
        session.restored();
        Ok(())
    }

    fn session_id(&self, session: &Self::Connection) -> Option<SqliteSessionId> {
        session.id.clone()
    }

    async fn interrupt(&self, session: &SqliteSessionId) -> Result<Interruption, Error> {
        session.stop(true);
        session.ended().await;
        Ok(Interruption::Gone)
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

/// Ends what was dropped midway, and waits until that is done.
async fn settle(session: &mut Session<sqlx::Sqlite>) -> Result<(), Error> {
    // What ran on sqlx's own connection was not seen.
    if session.watch.left == Left::Nothing && session.altered != Alteration::Lasting {
        return Ok(());
    }
    session.stuck = true;
    if let Some(id) = &session.id {
        id.stop(true);
    }
    let settled = session.operate(async |connection| connection.ping().await).await;
    if let Some(id) = &session.id {
        id.stop(false);
    }
    session.stuck = false;
    session.watch.timed_out = false;
    settled
}

/// Rolls back what sqlx counts as a transaction.
///
/// After some errors SQLite has done so by itself, for which sqlx does not look.
async fn roll_back(connection: &mut SqliteConnection) -> Result<(), Error> {
    type Transactions = <sqlx::Sqlite as sqlx::Database>::TransactionManager;
    // Is over when those are that sqlx has queued.
    connection.ping().await?;
    while connection.is_in_transaction() {
        if Transactions::rollback(connection).await.is_ok() {
            continue;
        }
        // One such as sqlx expects, to be rolled back.
        execute_unless_refused(connection, "ROLLBACK").await?;
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        for depth in 1..Transactions::get_transaction_depth(connection) {
            let savepoint = AssertSqlSafe(format!("SAVEPOINT _sqlx_savepoint_{depth}"));
            sqlx::raw_sql(savepoint).execute(&mut *connection).await?;
        }
        Transactions::rollback(connection).await?;
    }
    Ok(())
}

/// Runs a statement that SQLite refuses where there is nothing to do.
async fn execute_unless_refused(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<(), Error> {
    match sqlx::raw_sql(sql).execute(connection).await {
        // "No transaction is active" has no code of its own; it comes with SQLite's general one.
        Err(Error::Database(error)) if error.code().as_deref() == Some("1") => Ok(()),
        result => result.map(drop),
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
    &["LOAD_EXTENSION", "PRAGMA"],
)
.if_made(&["TEMP", "TEMPORARY"]);
const TRANSACTION: PlainStatements = PlainStatements::new(
    Syntax::Sqlite,
    &["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE"],
    &[],
);
const BEGIN: PlainStatements = PlainStatements::new(Syntax::Sqlite, &["BEGIN"], &[]);

impl Engine for sqlx::Sqlite {
    type SessionId = SqliteSessionId;

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

    /// `INSERT OR ROLLBACK` and its like.
    fn may_roll_back(sql: &str) -> bool {
        contains_ignoring_case(sql, "rollback")
    }

    fn rolls_back(error: &Error) -> bool {
        let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
        // A trigger's own words; no memory, interrupted, input or output, full.
        code.is_some_and(|code| code == 1811 || matches!(code & 0xff, 7 | 9 | 10 | 13))
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
            // Not `Protocol`, which tells of statements and parameters that do not fit.
            Error::WorkerCrashed => ErrorClass::Fatal,
            _ => ErrorClass::Harmless,
        }
    }
}
