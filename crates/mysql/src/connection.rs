//! The connection that handlers use: mysql_async's, refusing when poisoned and watching its
//! session.

use std::ops::Deref;
use std::pin::Pin;

use farrier_connection::{ErrorClass, Inspection};
use mysql_async::consts::StatusFlags;
use mysql_async::prelude::{AsQuery, FromRow, Queryable, StatementLike, ToConnection};
use mysql_async::{
    BinaryProtocol, Conn, Error, Params, QueryResult, Result, TextProtocol, ToConnectionResult,
};

use crate::{Poisoned, Statement, error, statement};

/// What the driver's traits return; its own name for it is private.
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A connection to MySQL or MariaDB, as a handler borrows it.
///
/// Use it like mysql_async's `Conn`, in three ways:
///
/// - its own methods, such as [`exec_first`](Self::exec_first). They see the statement, so a
///   connection on which only plain statements ran goes to the next request as it is, without a
///   round trip; and they see the error, so a connection to a server that has become read-only is
///   closed;
/// - mysql_async's `Queryable`: the same for the `query` family, while the `exec` family hides its
///   text;
/// - mysql_async's `"SELECT 1".first(&mut *connection)`, which hides it too.
///
/// After a hidden statement the session is reset, in the background, before the next request has
/// it.
///
/// # Cancel safety
///
/// An operation dropped midway poisons the connection: every further one fails with [`Poisoned`],
/// and the session is ended at the server when the connection goes back.
#[derive(Debug)]
pub struct MySqlConnection {
    conn: Conn,
    /// Something ran that may have left state in the session.
    altered: bool,
    /// A write was refused because the server is read-only now.
    failed_over: bool,
}

// === impl MySqlConnection ===

impl MySqlConnection {
    pub(crate) fn new(conn: Conn) -> Self {
        Self { conn, altered: false, failed_over: false }
    }

    pub(crate) fn into_inner(self) -> Conn {
        self.conn
    }

    /// The driver's connection, for the backend's own operations.
    pub(crate) fn driver(&mut self) -> &mut Conn {
        &mut self.conn
    }

    pub(crate) fn is_altered(&self) -> bool {
        self.altered
    }

    pub(crate) fn restored(&mut self) {
        self.altered = false;
    }

    pub(crate) fn inspect(&mut self) -> Inspection {
        // The driver sets this mark before each command and clears it after.
        if self.conn.is_disconnected() {
            return Inspection::Poisoned;
        }
        // It answers every ping, and is of no use to the next write.
        if self.failed_over {
            return Inspection::Dead;
        }
        // Rows that nobody read.
        if !QueryResult::<TextProtocol>::new(&mut self.conn).is_empty() {
            return Inspection::Unknown;
        }
        // After an error there is no such packet, and no knowing.
        let Some(flags) = self.conn.last_ok_packet().map(|ok| ok.status_flags()) else {
            return Inspection::Unknown;
        };
        if flags.contains(StatusFlags::SERVER_STATUS_IN_TRANS) {
            Inspection::InTransaction
        } else if self.altered || !flags.contains(StatusFlags::SERVER_STATUS_AUTOCOMMIT) {
            Inspection::Unknown
        } else {
            Inspection::Clean
        }
    }

    /// Runs a text query and collects the rows of its first result set.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn query<T, Q>(&mut self, query: Q) -> Result<Vec<T>>
    where
        T: FromRow + Send + 'static,
        Q: AsQuery,
    {
        let result = self.sees_query(&query)?.query(query).await;
        self.judge(result)
    }

    /// Runs a text query and returns its first row.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn query_first<T, Q>(&mut self, query: Q) -> Result<Option<T>>
    where
        T: FromRow + Send + 'static,
        Q: AsQuery,
    {
        let result = self.sees_query(&query)?.query_first(query).await;
        self.judge(result)
    }

    /// Runs a text query and drops its result.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn query_drop<Q: AsQuery>(&mut self, query: Q) -> Result<()> {
        let result = self.sees_query(&query)?.query_drop(query).await;
        self.judge(result)
    }

    /// Runs a text query; its result is read by the caller, a row at a time.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn query_iter<'a, Q: AsQuery + 'a>(
        &'a mut self,
        query: Q,
    ) -> Result<QueryResult<'a, 'static, TextProtocol>> {
        self.sees_query(&query)?.query_iter(query).await
    }

    /// Prepares a statement, or finds it among those that the connection has prepared.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn prep<Q: AsQuery>(&mut self, query: Q) -> Result<mysql_async::Statement> {
        let result = self.sees_query(&query)?.prep(query).await;
        self.judge(result)
    }

    /// Executes a prepared statement and collects the rows of its first result set.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn exec<T, S, P>(&mut self, statement: S, params: P) -> Result<Vec<T>>
    where
        T: FromRow + Send + 'static,
        S: Statement,
        P: Into<Params> + Send,
    {
        let result = self.sees(&statement)?.exec(statement, params).await;
        self.judge(result)
    }

    /// Executes a prepared statement and returns its first row.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn exec_first<T, S, P>(&mut self, statement: S, params: P) -> Result<Option<T>>
    where
        T: FromRow + Send + 'static,
        S: Statement,
        P: Into<Params> + Send,
    {
        let result = self.sees(&statement)?.exec_first(statement, params).await;
        self.judge(result)
    }

    /// Executes a prepared statement and drops its result.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn exec_drop<S, P>(&mut self, statement: S, params: P) -> Result<()>
    where
        S: Statement,
        P: Into<Params> + Send,
    {
        let result = self.sees(&statement)?.exec_drop(statement, params).await;
        self.judge(result)
    }

    /// Executes a prepared statement once for each item of `params`.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn exec_batch<S, P, I>(&mut self, statement: S, params: I) -> Result<()>
    where
        S: Statement,
        P: Into<Params> + Send,
        I: IntoIterator<Item = P> + Send,
        I::IntoIter: Send,
    {
        let result = self.sees(&statement)?.exec_batch(statement, params).await;
        self.judge(result)
    }

    /// Executes a prepared statement; its result is read by the caller, a row at a time.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`].
    pub async fn exec_iter<S, P>(
        &mut self,
        statement: S,
        params: P,
    ) -> Result<QueryResult<'_, 'static, BinaryProtocol>>
    where
        S: Statement,
        P: Into<Params> + Send,
    {
        self.sees(&statement)?.exec_iter(statement, params).await
    }

    fn sees_query(&mut self, query: &impl AsQuery) -> std::result::Result<&mut Conn, Poisoned> {
        self.enter(|| statement::alters_session(&query.as_query()))
    }

    fn sees(&mut self, statement: &impl Statement) -> std::result::Result<&mut Conn, Poisoned> {
        self.enter(|| statement.alters_session())
    }

    fn judge<T>(&mut self, result: Result<T>) -> Result<T> {
        let failover = |error: &Error| error::classify(error) == ErrorClass::Failover;
        self.failed_over |= result.as_ref().is_err_and(failover);
        result
    }

    /// The check before every operation: once poisoned, the driver would serve an earlier one's
    /// answer.
    fn enter(&mut self, alters: impl FnOnce() -> bool) -> std::result::Result<&mut Conn, Poisoned> {
        if self.conn.is_disconnected() {
            return Err(Poisoned);
        }
        self.altered = self.altered || alters();
        Ok(&mut self.conn)
    }
}

/// What the connection knows of itself: `id`, `last_insert_id`, `affected_rows` and the like.
impl Deref for MySqlConnection {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl Queryable for MySqlConnection {
    fn ping(&mut self) -> BoxFuture<'_, ()> {
        match self.enter(|| false) {
            Ok(conn) => conn.ping(),
            Err(poisoned) => refuse(poisoned),
        }
    }

    fn query_iter<'a, Q>(
        &'a mut self,
        query: Q,
    ) -> BoxFuture<'a, QueryResult<'a, 'static, TextProtocol>>
    where
        Q: AsQuery + 'a,
    {
        match self.sees_query(&query) {
            Ok(conn) => conn.query_iter(query),
            Err(poisoned) => refuse(poisoned),
        }
    }

    fn prep<'a, Q>(&'a mut self, query: Q) -> BoxFuture<'a, mysql_async::Statement>
    where
        Q: AsQuery + 'a,
    {
        match self.sees_query(&query) {
            Ok(conn) => conn.prep(query),
            Err(poisoned) => refuse(poisoned),
        }
    }

    fn close(&mut self, statement: mysql_async::Statement) -> BoxFuture<'_, ()> {
        match self.enter(|| false) {
            Ok(conn) => conn.close(statement),
            Err(poisoned) => refuse(poisoned),
        }
    }

    fn exec_iter<'a: 's, 's, Q, P>(
        &'a mut self,
        statement: Q,
        params: P,
    ) -> BoxFuture<'s, QueryResult<'a, 'static, BinaryProtocol>>
    where
        Q: StatementLike + 's,
        P: Into<Params>,
    {
        match self.enter(|| true) {
            Ok(conn) => conn.exec_iter(statement, params),
            Err(poisoned) => refuse(poisoned),
        }
    }

    fn exec_batch<'a: 'b, 'b, S, P, I>(&'a mut self, statement: S, params: I) -> BoxFuture<'b, ()>
    where
        S: StatementLike + 'b,
        I: IntoIterator<Item = P> + Send + 'b,
        I::IntoIter: Send,
        P: Into<Params> + Send,
    {
        match self.enter(|| true) {
            Ok(conn) => conn.exec_batch(statement, params),
            Err(poisoned) => refuse(poisoned),
        }
    }
}

impl<'a> ToConnection<'a, 'static> for &'a mut MySqlConnection {
    fn to_connection(self) -> ToConnectionResult<'a, 'static> {
        match self.enter(|| true) {
            Ok(conn) => ToConnectionResult::Immediate(conn.into()),
            Err(poisoned) => ToConnectionResult::Mediate(refuse(poisoned)),
        }
    }
}

fn refuse<'a, T: Send + 'a>(poisoned: Poisoned) -> BoxFuture<'a, T> {
    Box::pin(async move { Err(poisoned.into()) })
}
