//! The connection that handlers use: mysql_async's, refusing when poisoned and watching its
//! session.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;

use farrier_connection::{Alteration, ErrorClass, Inspection, StatementTimedOut};
use mysql_async::consts::StatusFlags;
use mysql_async::prelude::{AsQuery, FromRow, Queryable, StatementLike, ToConnection};
use mysql_async::{
    BinaryProtocol, Conn, Error, Params, QueryResult, Result, TextProtocol, ToConnectionResult,
};

use tokio::time::timeout;

use crate::session_id::{About, MySqlSessionId};
use crate::{Statement, error, statement};

/// What the driver's traits return; its own name for it is private.
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A connection to MySQL or MariaDB, as a handler borrows it.
///
/// Use it like mysql_async's `Conn`, in three ways:
///
/// - its own methods, such as [`exec_first`](Self::exec_first). They see the statement, so a
///   connection on which only plain statements ran goes to the next request as it is, without a
///   round trip. And they see the error: a connection to a server that has become read-only is
///   closed, and one that the server has ended retires those that are as old;
/// - mysql_async's `Queryable`: the same for the `query` family, while the `exec` family hides its
///   text;
/// - mysql_async's `"SELECT 1".first(&mut *connection)`, which hides both, and is not limited by the
///   policy's `statement_timeout`.
///
/// After a hidden statement the session is reset, in the background, before the next request has
/// it. What no style sees is what a stored procedure's, function's or trigger's own statements do,
/// apart from a `CALL`, which counts as altering; what an `INSERT` leaves for `LAST_INSERT_ID()`, and any
/// statement for `FOUND_ROWS()` and the like, is not cleared. Where that matters, end the session with
/// each request: `Policy::max_age(Duration::ZERO)`.
///
/// # Cancel safety
///
/// An operation dropped midway poisons the connection: every further one fails with [`Poisoned`](crate::Poisoned),
/// and the session is ended at the server when the connection goes back. Only rows are different
/// that were asked for by `query_iter`, `exec_iter` or a style of mysql_async's: those dropped unread
/// are read and discarded by the next operation, or, for as long as the policy's `reset_timeout`,
/// when the connection goes back.
pub struct MySqlConnection {
    conn: Conn,
    about: About,
    session: Session,
}

/// What was seen of the session.
#[derive(Debug)]
struct Session {
    /// Autocommit, as it is after the connect.
    autocommit: bool,
    /// What ran may have left this behind.
    altered: Alteration,
    /// An operation runs, or was dropped midway.
    midway: bool,
    /// How long a statement may take.
    limit: Option<Duration>,
    link: Link,
}

/// What the errors told about the link to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Exits: to both others, by an error.
    Sound,
    /// The server or the network has ended it. No exit.
    Lost,
    /// The server refused a write because it is read-only now. Exit: to `Lost`.
    FailedOver,
}

impl MySqlConnection {
    pub(crate) fn new(conn: Conn, about: About) -> Self {
        let autocommit =
            flags(&conn).is_none_or(|flags| flags.contains(StatusFlags::SERVER_STATUS_AUTOCOMMIT));
        let session = Session {
            autocommit,
            altered: Alteration::Nothing,
            midway: false,
            limit: None,
            link: Link::Sound,
        };
        Self { conn, about, session }
    }

    pub(crate) fn session_id(&self) -> Option<MySqlSessionId> {
        let server = self.about.server.clone()?;
        Some(MySqlSessionId { number: self.conn.id(), server })
    }

    pub(crate) fn wait_timeout(&self) -> Option<Duration> {
        self.about.wait_timeout
    }

    /// Statements to run after a reset.
    pub(crate) fn restore(&self) -> Option<&str> {
        self.about.restore.as_deref()
    }

    pub(crate) fn into_inner(self) -> Conn {
        self.conn
    }

    /// The driver's connection, for the backend's own operations.
    pub(crate) fn driver(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Notes what an error of the backend's own operations says.
    pub(crate) fn note<T>(&mut self, result: Result<T>) -> Result<T> {
        self.session.note(&result);
        result
    }

    pub(crate) fn altered(&self) -> Alteration {
        self.session.altered
    }

    pub(crate) fn limit_statements(&mut self, limit: Duration) {
        self.session.limit = Some(limit);
    }

    pub(crate) fn restored(&mut self) {
        self.session.altered = Alteration::Nothing;
    }

    pub(crate) fn inspect(&mut self) -> Inspection {
        match self.session.link {
            Link::Sound => {}
            Link::Lost => return Inspection::Dead,
            // It answers every ping, and is of no use to the next write.
            Link::FailedOver => return Inspection::FailedOver,
        }
        if self.session.check(&self.conn).is_err() {
            return Inspection::Poisoned;
        }
        // Rows that nobody read.
        if !QueryResult::<TextProtocol>::new(&mut self.conn).is_empty() {
            return Inspection::Unknown;
        }
        // After an error there are none, and no knowing.
        let Some(flags) = flags(&self.conn) else {
            return Inspection::Unknown;
        };
        let autocommit = flags.contains(StatusFlags::SERVER_STATUS_AUTOCOMMIT);
        if flags.contains(StatusFlags::SERVER_STATUS_IN_TRANS) {
            Inspection::InTransaction
        } else if self.session.altered != Alteration::Nothing
            || autocommit != self.session.autocommit
        {
            Inspection::Unknown
        } else {
            Inspection::Clean
        }
    }

    /// Runs a text query and collects the rows of its first result set.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn query<T, Q>(&mut self, query: Q) -> Result<Vec<T>>
    where
        T: FromRow + Send + 'static,
        Q: AsQuery,
    {
        self.session.begin_query(&self.conn, &query)?;
        self.session.run(self.conn.query(query)).await
    }

    /// Runs a text query and returns its first row.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn query_first<T, Q>(&mut self, query: Q) -> Result<Option<T>>
    where
        T: FromRow + Send + 'static,
        Q: AsQuery,
    {
        self.session.begin_query(&self.conn, &query)?;
        self.session.run(self.conn.query_first(query)).await
    }

    /// Runs a text query and drops its result.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn query_drop<Q: AsQuery>(&mut self, query: Q) -> Result<()> {
        self.session.begin_query(&self.conn, &query)?;
        self.session.run(self.conn.query_drop(query)).await
    }

    /// Runs a text query; its result is read by the caller, a row at a time.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn query_iter<'a, Q: AsQuery + 'a>(
        &'a mut self,
        query: Q,
    ) -> Result<QueryResult<'a, 'static, TextProtocol>> {
        self.session.begin_query(&self.conn, &query)?;
        self.session.run(self.conn.query_iter(query)).await
    }

    /// Prepares a statement, or finds it among those that the connection has prepared.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn prep<Q: AsQuery>(&mut self, query: Q) -> Result<mysql_async::Statement> {
        self.session.begin_query(&self.conn, &query)?;
        self.session.run(self.conn.prep(query)).await
    }

    /// Executes a prepared statement and collects the rows of its first result set.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn exec<T, S, P>(&mut self, statement: S, params: P) -> Result<Vec<T>>
    where
        T: FromRow + Send + 'static,
        S: Statement,
        P: Into<Params> + Send,
    {
        self.session.begin(&self.conn, || statement.alteration())?;
        self.session.run(self.conn.exec(statement, params)).await
    }

    /// Executes a prepared statement and returns its first row.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn exec_first<T, S, P>(&mut self, statement: S, params: P) -> Result<Option<T>>
    where
        T: FromRow + Send + 'static,
        S: Statement,
        P: Into<Params> + Send,
    {
        self.session.begin(&self.conn, || statement.alteration())?;
        self.session.run(self.conn.exec_first(statement, params)).await
    }

    /// Executes a prepared statement and drops its result.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn exec_drop<S, P>(&mut self, statement: S, params: P) -> Result<()>
    where
        S: Statement,
        P: Into<Params> + Send,
    {
        self.session.begin(&self.conn, || statement.alteration())?;
        self.session.run(self.conn.exec_drop(statement, params)).await
    }

    /// Executes a prepared statement once for each item of `params`.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn exec_batch<S, P, I>(&mut self, statement: S, params: I) -> Result<()>
    where
        S: Statement,
        P: Into<Params> + Send,
        I: IntoIterator<Item = P> + Send,
        I::IntoIter: Send,
    {
        self.session.begin(&self.conn, || statement.alteration())?;
        self.session.run(self.conn.exec_batch(statement, params)).await
    }

    /// Executes a prepared statement; its result is read by the caller, a row at a time.
    ///
    /// # Errors
    ///
    /// The server's, the driver's, or [`Poisoned`](crate::Poisoned).
    pub async fn exec_iter<S, P>(
        &mut self,
        statement: S,
        params: P,
    ) -> Result<QueryResult<'_, 'static, BinaryProtocol>>
    where
        S: Statement,
        P: Into<Params> + Send,
    {
        self.session.begin(&self.conn, || statement.alteration())?;
        self.session.run(self.conn.exec_iter(statement, params)).await
    }
}

impl fmt::Debug for MySqlConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the driver's connection: it shows the password.
        f.debug_struct("MySqlConnection")
            .field("id", &self.conn.id())
            .field("session", &self.session)
            .finish_non_exhaustive()
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
        Box::pin(async {
            self.session.begin(&self.conn, || Alteration::Nothing)?;
            self.session.run(self.conn.ping()).await
        })
    }

    fn query_iter<'a, Q>(
        &'a mut self,
        query: Q,
    ) -> BoxFuture<'a, QueryResult<'a, 'static, TextProtocol>>
    where
        Q: AsQuery + 'a,
    {
        Box::pin(self.query_iter(query))
    }

    fn prep<'a, Q>(&'a mut self, query: Q) -> BoxFuture<'a, mysql_async::Statement>
    where
        Q: AsQuery + 'a,
    {
        Box::pin(self.prep(query))
    }

    fn close(&mut self, statement: mysql_async::Statement) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.session.begin(&self.conn, || Alteration::Nothing)?;
            self.session.run(self.conn.close(statement)).await
        })
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
        let params = params.into();
        Box::pin(async {
            self.session.begin(&self.conn, || Alteration::Resettable)?;
            self.session.run(self.conn.exec_iter(statement, params)).await
        })
    }

    fn exec_batch<'a: 'b, 'b, S, P, I>(&'a mut self, statement: S, params: I) -> BoxFuture<'b, ()>
    where
        S: StatementLike + 'b,
        I: IntoIterator<Item = P> + Send + 'b,
        I::IntoIter: Send,
        P: Into<Params> + Send,
    {
        Box::pin(async {
            self.session.begin(&self.conn, || Alteration::Resettable)?;
            self.session.run(self.conn.exec_batch(statement, params)).await
        })
    }
}

impl<'a> ToConnection<'a, 'static> for &'a mut MySqlConnection {
    fn to_connection(self) -> ToConnectionResult<'a, 'static> {
        match self.session.check(&self.conn) {
            Ok(()) => {
                self.session.alter(Alteration::Resettable);
                ToConnectionResult::Immediate((&mut self.conn).into())
            }
            Err(poisoned) => ToConnectionResult::Mediate(Box::pin(async move { Err(poisoned) })),
        }
    }
}

impl Session {
    /// The check before every operation: once poisoned, the driver would serve an earlier one's
    /// answer.
    fn check(&self, conn: &Conn) -> Result<()> {
        // The driver marks itself before each command and clears the mark after it, but not while
        // rows are read.
        if self.midway || conn.is_disconnected() { Err(error::poisoned()) } else { Ok(()) }
    }

    fn alter(&mut self, alteration: Alteration) {
        self.altered = self.altered.max(alteration);
    }

    fn begin(&mut self, conn: &Conn, alteration: impl FnOnce() -> Alteration) -> Result<()> {
        self.check(conn)?;
        self.alter(alteration());
        self.midway = true;
        Ok(())
    }

    fn begin_query(&mut self, conn: &Conn, query: &impl AsQuery) -> Result<()> {
        self.begin(conn, || statement::alteration(&query.as_query()))
    }

    /// Runs what was begun. Cut off, it stays midway.
    async fn run<T>(&mut self, operation: impl Future<Output = Result<T>>) -> Result<T> {
        let result = match self.limit {
            None => operation.await,
            Some(limit) => match timeout(limit, operation).await {
                Ok(result) => result,
                Err(_) => return Err(Error::Other(Box::new(StatementTimedOut::new(limit)))),
            },
        };
        self.midway = false;
        self.note(&result);
        result
    }

    fn note<T>(&mut self, result: &Result<T>) {
        let Err(error) = result else { return };
        if error::is_disconnect(error) {
            self.link = Link::Lost;
        } else if error::classify(error) == ErrorClass::Failover && self.link == Link::Sound {
            self.link = Link::FailedOver;
        }
    }
}

fn flags(conn: &Conn) -> Option<StatusFlags> {
    conn.last_ok_packet().map(|ok| ok.status_flags())
}
