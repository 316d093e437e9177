//! Queries with sqlx's own functions and macros over farrier's connections.

use farrier_connection::{AcquireError, Pool};
use farrier_sqlx::Sqlite;
use sqlx::{Error, Row};

/// Counts the rows of table `t`.
///
/// # Errors
///
/// The pool's or the database's.
pub async fn count(pool: &Pool<Sqlite>) -> Result<Result<i64, Error>, AcquireError> {
    let mut connection = pool.acquire().await?;
    let row = sqlx::query("SELECT COUNT(*) FROM t").fetch_one(&mut *connection).await;
    Ok(row.and_then(|row| row.try_get(0)))
}
