//! The transaction that handlers use: sqlx's, over a connection that watches its session.

use std::fmt;
use std::ops::{Deref, DerefMut};

use farrier_connection::Alteration;
use sqlx::{Error, SqlSafeStr, SqlStr};
use sqlx_core::transaction::TransactionManager;

use crate::engine::Engine;
use crate::session::Session;
use crate::watch::Left;

/// A transaction, or a savepoint within one; dropped without [`commit`](Self::commit) it is rolled back.
///
/// Made by [`Session::begin`]. `&mut` of what it dereferences to is an sqlx executor, as with sqlx's own:
/// `sqlx::query("..").execute(&mut *transaction)`. What outlives the transaction in the session is seen
/// there as well, such as a `SET` or a temporary table; what ends with it costs nothing, such as a
/// `SET LOCAL`.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use farrier_connection::{Policy, Pool};
/// use farrier_sqlx::Sqlite;
///
/// let pool = Pool::new(Sqlite::memory(), Policy::default());
/// let mut connection = pool.acquire().await?;
/// let mut transaction = connection.begin().await?;
/// sqlx::query("CREATE TABLE horses (name TEXT)").execute(&mut *transaction).await?;
/// sqlx::query("INSERT INTO horses VALUES (?)").bind("Bess").execute(&mut *transaction).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction<'c, DB: Engine> {
    session: &'c mut Session<DB>,
    /// 1, and one more for each savepoint.
    depth: usize,
    /// Whether it is to be rolled back when it is dropped.
    open: bool,
}

/// An earlier error has aborted the transaction, so that it could not be committed.
///
/// It comes as the source of [`sqlx::Error::AnyDriverError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionAborted;

impl<DB: Engine> Session<DB> {
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
    /// The database's or sqlx's; [`Error::InvalidSavePointStatement`] within a transaction.
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
}

impl<'c, DB: Engine> Transaction<'c, DB> {
    pub(crate) async fn begin(
        session: &'c mut Session<DB>,
        statement: Option<SqlStr>,
    ) -> Result<Self, Error> {
        // Not sqlx's count: for SQLite that runs behind the rollbacks that wait to be sent.
        let depth = session.watch.depth;
        if let Some(statement) = &statement {
            if depth > 0 {
                return Err(Error::InvalidSavePointStatement);
            }
            let statement = statement.as_str();
            if !DB::begins_transaction(statement) {
                session.alter(DB::alteration(statement).max(DB::UNSEEN));
            }
        }
        let Session { connection, watch, .. } = &mut *session;
        let unread = watch.left == Left::Rows;
        let begun =
            watch.limited::<DB, _>(DB::TransactionManager::begin(connection, statement)).await;
        if begun.is_err() && (depth > 0 || unread) {
            // With a savepoint sqlx rolls back what is around it and counts down; the error of rows that
            // nobody read it takes for the beginning's own, which was sent all the same.
            watch.lost = true;
            session.alter(DB::UNSEEN);
        }
        begun?;
        if depth == 0 {
            session.watch.failed = false;
        }
        session.watch.depth += 1;
        Ok(Self { session, depth: depth + 1, open: true })
    }

    /// Commits; a savepoint becomes part of the transaction that it is in.
    ///
    /// # Errors
    ///
    /// The database's or sqlx's; [`TransactionAborted`] where an earlier error has aborted the
    /// transaction, which PostgreSQL's own `COMMIT` does not say: it is rolled back then.
    ///
    /// # Cancel safety
    ///
    /// Whether it is committed is not known then.
    pub async fn commit(mut self) -> Result<(), Error> {
        let Session { connection, watch, altered, .. } = &mut *self.session;
        // What ran on sqlx's own connection was not seen.
        let doubtful = watch.failed || *altered != Alteration::Nothing;
        if self.depth == 1 && doubtful {
            let aborted = watch.limited::<DB, _>(DB::is_aborted(connection)).await?;
            if aborted {
                watch.limited::<DB, _>(DB::TransactionManager::rollback(connection)).await?;
                self.open = false;
                return Err(Error::AnyDriverError(Box::new(TransactionAborted)));
            }
        }
        watch.limited::<DB, _>(DB::TransactionManager::commit(connection)).await?;
        self.open = false;
        Ok(())
    }

    /// Rolls back, and waits until that is done.
    ///
    /// # Errors
    ///
    /// The database's or sqlx's.
    ///
    /// # Cancel safety
    ///
    /// It is rolled back all the same.
    pub async fn rollback(mut self) -> Result<(), Error> {
        let Session { connection, watch, .. } = &mut *self.session;
        watch.limited::<DB, _>(DB::TransactionManager::rollback(connection)).await?;
        watch.failed = false;
        self.open = false;
        Ok(())
    }
}

impl<DB: Engine> Deref for Transaction<'_, DB> {
    type Target = Session<DB>;

    fn deref(&self) -> &Session<DB> {
        self.session
    }
}

impl<DB: Engine> DerefMut for Transaction<'_, DB> {
    fn deref_mut(&mut self) -> &mut Session<DB> {
        self.session
    }
}

impl<DB: Engine> fmt::Debug for Transaction<'_, DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("session", &self.session).finish_non_exhaustive()
    }
}

impl<DB: Engine> Drop for Transaction<'_, DB> {
    fn drop(&mut self) {
        self.session.watch.depth -= 1;
        if self.open {
            self.session.watch.failed = false;
            // Sent with the next operation. Always, as sqlx itself does: it knows what is over by now.
            DB::TransactionManager::start_rollback(&mut self.session.connection);
        }
    }
}

impl fmt::Display for TransactionAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an earlier error has aborted the transaction: it is rolled back")
    }
}

impl std::error::Error for TransactionAborted {}
