//! The connection that handlers use: an sqlx executor that watches its session.

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
#[cfg(feature = "postgres")]
use std::time::Duration;

use farrier_connection::Alteration;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use sqlx::error::BoxDynError;
use sqlx::{Database, Describe, Either, Error, Execute, Executor, SqlStr};

use crate::engine::Engine;
use crate::watch::{Watch, Watched};

/// An sqlx connection, as a handler borrows it.
///
/// `&mut` of it is an sqlx executor: `sqlx::query("..").execute(&mut *connection)`. It sees each
/// statement, so a connection on which only plain statements ran goes to the next request as it is;
/// after others, such as `SET`, `PRAGMA` or a bare `BEGIN`, the session is reset or closed first.
/// The same holds after a use of the sqlx connection itself, which it dereferences to.
/// [`begin`](Self::begin) needs no such detour: the [`Transaction`](crate::Transaction) sees its statements, too.
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
        Box::pin(Watched::<DB, _>::new(rows, refused, watch))
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

/// A query taken apart, to see its text before it runs.
struct Seen<DB: Database> {
    sql: SqlStr,
    arguments: Result<Option<DB::Arguments>, BoxDynError>,
    statement: Option<DB::Statement>,
    persistent: bool,
}

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
