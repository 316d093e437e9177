//! The transaction that handlers use: sqlx's, over a connection that watches its session.

use std::fmt;
use std::ops::{Deref, DerefMut};

use sqlx::{Error, SqlStr};
use sqlx_core::transaction::TransactionManager;

use crate::session::{Engine, Session};

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
    /// Whether it is to be rolled back when it is dropped.
    open: bool,
}

// === impl Transaction ===

impl<'c, DB: Engine> Transaction<'c, DB> {
    pub(crate) async fn begin(
        session: &'c mut Session<DB>,
        statement: Option<SqlStr>,
    ) -> Result<Self, Error> {
        if statement.as_ref().is_some_and(|statement| !DB::begins_transaction(statement.as_str())) {
            session.alter(DB::UNSEEN);
        }
        // Cut off or failed, it may have begun all the same.
        let transaction = Self { session, open: true };
        let Session { connection, watch, .. } = &mut *transaction.session;
        watch.limited::<DB, _>(DB::TransactionManager::begin(connection, statement)).await?;
        Ok(transaction)
    }

    /// Commits; a savepoint becomes part of the transaction that it is in.
    ///
    /// # Errors
    ///
    /// The database's or sqlx's.
    ///
    /// # Cancel safety
    ///
    /// Whether it is committed is not known then.
    pub async fn commit(mut self) -> Result<(), Error> {
        let Session { connection, watch, .. } = &mut *self.session;
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
        if self.open {
            // Sent with the next operation.
            DB::TransactionManager::start_rollback(&mut self.session.connection);
        }
    }
}
