//! The connection that handlers use: an sqlx executor that watches its session.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use farrier_connection::{Alteration, ErrorClass, Poisoned, StatementTimedOut};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use sqlx::error::BoxDynError;
use sqlx::{Database, Describe, Either, Error, Execute, Executor, SqlSafeStr, SqlStr};
use tokio::time::{Sleep, sleep, timeout};

use crate::transaction::Transaction;

/// What farrier must know of one of sqlx's databases.
///
/// It is there for sqlx's `Sqlite` and `Postgres`, as far as their features are on.
pub trait Engine: Database {
    /// What names a session at the server.
    type SessionId: fmt::Display + fmt::Debug + Send + Sync + 'static;

    /// What a use that is not seen may leave behind in the session.
    const UNSEEN: Alteration;

    /// What a statement may leave behind in the session, such as a setting or a transaction.
    fn alteration(sql: &str) -> Alteration;

    /// Whether a statement begins a transaction and does nothing else.
    fn begins_transaction(sql: &str) -> bool;

    /// Whether an earlier error has aborted the open transaction, without ending it.
    #[doc(hidden)]
    fn is_aborted(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<bool, Error>> + Send {
        let _ = connection;
        async { Ok(false) }
    }

    /// Whether an error of this statement may be one with which the database ends the transaction.
    #[doc(hidden)]
    #[must_use]
    fn may_roll_back(sql: &str) -> bool {
        let _ = sql;
        false
    }

    /// Whether the database ends the transaction in which this error comes.
    #[doc(hidden)]
    #[must_use]
    fn rolls_back(error: &Error) -> bool {
        let _ = error;
        false
    }

    /// What an error says about the connection.
    fn classify(error: &Error) -> ErrorClass;

    /// Whether an error says that statements which were prepared before must be prepared anew.
    #[must_use]
    fn outdates_statements(error: &Error) -> bool {
        let _ = error;
        false
    }
}

/// An sqlx connection, as a handler borrows it.
///
/// `&mut` of it is an sqlx executor: `sqlx::query("..").execute(&mut *connection)`. It sees each
/// statement, so a connection on which only plain statements ran goes to the next request as it is;
/// after others, such as `SET`, `PRAGMA` or a bare `BEGIN`, the session is reset or closed first.
/// The same holds after a use of the sqlx connection itself, which it dereferences to.
/// [`begin`](Self::begin) needs no such detour: the [`Transaction`] sees its statements, too.
///
/// # Cancel safety
///
/// An operation that is dropped before it gave anything poisons the connection: every further one fails
/// with [`Poisoned`](farrier_connection::Poisoned), as it would have to wait for the first and be told
/// that one's error. Rows that are dropped unread are read and discarded by the next operation, whose
/// error a late one of theirs then is. See each backend for what becomes of such a connection when it
/// goes back.
pub struct Session<DB: Engine> {
    pub(crate) connection: DB::Connection,
    /// Which session it is, where there is a server.
    pub(crate) id: Option<DB::SessionId>,
    /// How long the server lets it lie unused.
    #[cfg(feature = "postgres")]
    pub(crate) idle_limit: Option<Duration>,
    /// Its server is not the one to write to.
    #[cfg(feature = "postgres")]
    pub(crate) failed_over: bool,
    /// What was dropped midway does not end.
    #[cfg(feature = "sqlite")]
    pub(crate) stuck: bool,
    /// What ran may have left this in the session.
    pub(crate) altered: Alteration,
    pub(crate) watch: Watch,
}

/// What the operations told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    pub(crate) left: Left,
    /// One failed because the link is broken.
    pub(crate) dead: bool,
    /// One failed as it does on a server that is not the one to write to, or in a transaction that was
    /// begun like that.
    pub(crate) read_only: bool,
    /// One failed because of what was prepared before a table was altered.
    pub(crate) outdated: bool,
    /// The last one took longer than the limit.
    pub(crate) timed_out: bool,
    /// What sqlx counts as a transaction is not what the database does.
    pub(crate) lost: bool,
    /// The server failed one, which may abort the transaction.
    pub(crate) failed: bool,
    /// How many transactions and savepoints are open.
    pub(crate) depth: usize,
    /// The statement's text says that an error may end the transaction.
    pub(crate) may_roll_back: bool,
    /// How long a handler's may take.
    pub(crate) limit: Option<Duration>,
}

/// What the last operation left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Left {
    /// It completed. Exit: to `Operation` when one starts.
    #[default]
    Nothing,
    /// It runs, or was dropped before it gave anything. Exits: to `Rows` and `Nothing`.
    Operation,
    /// Its rows are being read, or were dropped before their end. Exit: to `Nothing`.
    Rows,
}

// === impl Session ===

impl<DB: Engine> Session<DB> {
    pub(crate) fn new(connection: DB::Connection) -> Self {
        Self {
            connection,
            id: None,
            #[cfg(feature = "postgres")]
            idle_limit: None,
            #[cfg(feature = "postgres")]
            failed_over: false,
            #[cfg(feature = "sqlite")]
            stuck: false,
            altered: Alteration::Nothing,
            watch: Watch::default(),
        }
    }

    pub(crate) fn into_inner(self) -> DB::Connection {
        self.connection
    }

    pub(crate) fn restored(&mut self) {
        self.altered = Alteration::Nothing;
        let Watch { dead, limit, .. } = self.watch;
        self.watch = Watch { dead, limit, ..Watch::default() };
    }

    /// Begins a transaction, or a savepoint within one; dropped without a commit it is rolled back.
    ///
    /// # Errors
    ///
    /// The database's or sqlx's.
    ///
    /// # Cancel safety
    ///
    /// One that the database began all the same is rolled back when the connection goes back.
    pub async fn begin(&mut self) -> Result<Transaction<'_, DB>, Error> {
        Transaction::begin(self, None).await
    }

    /// Begins a transaction by a statement of its own, such as `BEGIN IMMEDIATE`.
    ///
    /// # Errors
    ///
    /// The database's or sqlx's, within a transaction for one.
    ///
    /// # Cancel safety
    ///
    /// One that the database began all the same is rolled back when the connection goes back.
    pub async fn begin_with(
        &mut self,
        statement: impl SqlSafeStr,
    ) -> Result<Transaction<'_, DB>, Error> {
        Transaction::begin(self, Some(statement.into_sql_str())).await
    }

    /// One of the backend's own operations: one that is cut off leaves its mark as any other.
    pub(crate) async fn operate<T>(
        &mut self,
        operation: impl AsyncFnOnce(&mut DB::Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Self { connection, watch, .. } = self;
        watch.over::<DB, _>(operation(connection)).await
    }

    /// Notes what a statement may leave behind; one that the drivers would cut short or never end is
    /// refused.
    fn see(&mut self, sql: &str) -> Result<(), Error> {
        if sql.as_bytes().contains(&0) {
            return Err(Error::Protocol("a statement has a NUL in it".to_owned()));
        }
        self.alter(DB::alteration(sql));
        self.watch.may_roll_back = self.watch.depth > 0 && DB::may_roll_back(sql);
        Ok(())
    }

    pub(crate) fn alter(&mut self, alteration: Alteration) {
        self.altered = self.altered.max(alteration);
    }
}

impl<DB: Engine> Deref for Session<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        &self.connection
    }
}

/// What is done there is not seen, so the session counts as altered.
impl<DB: Engine> DerefMut for Session<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.alter(DB::UNSEEN);
        &mut self.connection
    }
}

impl<DB: Engine> fmt::Debug for Session<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("altered", &self.altered)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

impl<'c, DB: Engine> Executor<'c> for &'c mut Session<DB>
where
    for<'a> &'a mut DB::Connection: Executor<'a, Database = DB>,
{
    type Database = DB;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<DB::QueryResult, DB::Row>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let query = Seen::of(query);
        let refused = self.see(query.sql.as_str()).err();
        let Session { connection, watch, .. } = self;
        let rows = connection.fetch_many(query);
        Box::pin(Watched::<DB, _> {
            rows: Some(rows),
            refused,
            begun: false,
            watch,
            wait: None,
            engine: PhantomData,
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<DB::Row>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, DB>,
    {
        let query = Seen::of(query);
        let seen = self.see(query.sql.as_str());
        let Session { connection, watch, .. } = self;
        Box::pin(async move {
            seen?;
            watch.limited::<DB, _>(connection.fetch_optional(query)).await
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [DB::TypeInfo],
    ) -> BoxFuture<'e, Result<DB::Statement, Error>>
    where
        'c: 'e,
    {
        // Preparing is running it for some of SQLite's pragmas.
        let seen = self.see(sql.as_str());
        let Session { connection, watch, .. } = self;
        Box::pin(async move {
            seen?;
            watch.limited::<DB, _>(connection.prepare_with(sql, parameters)).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<DB>, Error>>
    where
        'c: 'e,
    {
        let seen = self.see(sql.as_str());
        let Session { connection, watch, .. } = self;
        Box::pin(async move {
            seen?;
            watch.limited::<DB, _>(connection.describe(sql)).await
        })
    }
}

// === impl Watch ===

impl Watch {
    /// Runs an operation of a handler's, for no longer than the limit.
    pub(crate) async fn limited<DB: Engine, T>(
        &mut self,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.refuse()?;
        let Some(limit) = self.limit else { return self.over::<DB, T>(operation).await };
        match timeout(limit, self.over::<DB, T>(operation)).await {
            Ok(result) => result,
            Err(_) => Err(self.time_out(limit)),
        }
    }

    /// Runs an operation, noting how far it came.
    pub(crate) async fn over<DB: Engine, T>(
        &mut self,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.left = Left::Operation;
        let result = operation.await;
        self.left = Left::Nothing;
        if let Err(error) = &result {
            self.note::<DB>(error);
        }
        result
    }

    /// The check before every operation of a handler's: after one that was cut off the next would wait for
    /// it, and take its error for an own one.
    fn refuse(&self) -> Result<(), Error> {
        match self.limit {
            Some(limit) if self.timed_out => Err(timed_out(limit)),
            _ if self.lost || self.left == Left::Operation => Err(poisoned()),
            _ => Ok(()),
        }
    }

    fn time_out(&mut self, limit: Duration) -> Error {
        self.timed_out = true;
        timed_out(limit)
    }

    fn note<DB: Engine>(&mut self, error: &Error) {
        let failed = error.as_database_error().is_some();
        self.failed |= failed;
        self.lost |= self.depth > 0 && failed && (self.may_roll_back || DB::rolls_back(error));
        match DB::classify(error) {
            ErrorClass::Fatal => self.dead = true,
            ErrorClass::Failover => self.read_only = true,
            _ => self.outdated |= DB::outdates_statements(error),
        }
    }
}

/// Whether `word`, which is in lower case, stands somewhere in `sql`.
pub(crate) fn contains_ignoring_case(sql: &str, word: &str) -> bool {
    let words = sql.as_bytes().windows(word.len());
    words.into_iter().any(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

fn poisoned() -> Error {
    Error::AnyDriverError(Box::new(Poisoned::new()))
}

fn timed_out(limit: Duration) -> Error {
    Error::AnyDriverError(Box::new(StatementTimedOut::new(limit)))
}

/// A query taken apart, to see its text before it runs.
struct Seen<DB: Database> {
    sql: SqlStr,
    arguments: Result<Option<DB::Arguments>, BoxDynError>,
    statement: Option<DB::Statement>,
    persistent: bool,
}

// === impl Seen ===

impl<DB: Database> Seen<DB> {
    fn of<'q>(mut query: impl Execute<'q, DB>) -> Self {
        Self {
            arguments: query.take_arguments(),
            statement: query.statement().cloned(),
            persistent: query.persistent(),
            sql: query.sql(),
        }
    }
}

impl<DB: Database> Execute<'_, DB> for Seen<DB> {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&DB::Statement> {
        self.statement.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, BoxDynError> {
        mem::replace(&mut self.arguments, Ok(None))
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// The rows of an operation, noting how far it came.
struct Watched<'e, DB, S> {
    /// `None` when it is over before its end.
    rows: Option<S>,
    /// Why it is not run at all.
    refused: Option<Error>,
    /// Whether it was asked for rows.
    begun: bool,
    watch: &'e mut Watch,
    /// For the next row, where there is a limit.
    wait: Option<Pin<Box<Sleep>>>,
    engine: PhantomData<fn() -> DB>,
}

// === impl Watched ===

impl<DB, S, T> Stream for Watched<'_, DB, S>
where
    DB: Engine,
    S: Stream<Item = Result<T, Error>> + Unpin,
{
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { rows, refused, begun, watch, wait, .. } = &mut *self;
        let Some(stream) = rows else { return Poll::Ready(None) };
        if !mem::replace(begun, true) {
            if let Some(error) = refused.take().or_else(|| watch.refuse().err()) {
                *rows = None;
                return Poll::Ready(Some(Err(error)));
            }
            watch.left = Left::Operation;
        }
        let item = match (Pin::new(stream).poll_next(cx), watch.limit) {
            (Poll::Pending, Some(limit)) => {
                ready!(wait.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
                // Not rows that were dropped: one that runs.
                watch.left = Left::Operation;
                *rows = None;
                return Poll::Ready(Some(Err(watch.time_out(limit))));
            }
            (item, _) => ready!(item),
        };
        *wait = None;
        watch.left = match &item {
            Some(Ok(_)) => Left::Rows,
            Some(Err(_)) | None => Left::Nothing,
        };
        if let Some(Err(error)) = &item {
            watch.note::<DB>(error);
        }
        Poll::Ready(item)
    }
}
