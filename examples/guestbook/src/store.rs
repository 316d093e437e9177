//! Where the entries are kept: the same three statements on each database.

use farrier::connection::Backend;
use farrier::mysql::MySql;
use farrier::sqlite::Sqlite;
use farrier::sqlx;

use crate::entry::{Created, Entry, NewEntry};

/// How many entries a page shows.
const PAGE: u32 = 100;

/// A database that can keep a guestbook.
pub(crate) trait Store: Backend {
    /// How many connections of each worker's pool.
    const CONNECTIONS: usize;

    /// How many requests of a worker write at once: fewer than there are connections, so that readers find one while
    /// every writer waits for a lock.
    const WRITERS: usize;

    /// Creates the table if it is missing.
    fn create_schema(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// The newest entries, newest first.
    fn newest(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<Entry>, Self::Error>> + Send;

    /// Stores an entry.
    fn add(
        connection: &mut Self::Connection,
        entry: &NewEntry,
    ) -> impl Future<Output = Result<Entry, Self::Error>> + Send;
}

/// A row as both drivers read it: id, author, message, created.
type Row = (u64, String, String, u64);

impl Store for MySql {
    const CONNECTIONS: usize = 10;
    const WRITERS: usize = 5;

    async fn create_schema(connection: &mut Self::Connection) -> Result<(), Self::Error> {
        let entries = "CREATE TABLE IF NOT EXISTS entries (
            id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
            author VARCHAR(80) NOT NULL,
            message TEXT NOT NULL,
            created BIGINT UNSIGNED NOT NULL
        ) DEFAULT CHARACTER SET utf8mb4";
        connection.query_drop(entries).await
    }

    async fn newest(connection: &mut Self::Connection) -> Result<Vec<Entry>, Self::Error> {
        let sql = "SELECT id, author, message, created FROM entries ORDER BY id DESC LIMIT ?";
        let rows: Vec<Row> = connection.exec(sql, (PAGE,)).await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    async fn add(
        connection: &mut Self::Connection,
        entry: &NewEntry,
    ) -> Result<Entry, Self::Error> {
        let created = Created::now();
        let sql = "INSERT INTO entries (author, message, created) VALUES (?, ?, ?)";
        connection.exec_drop(sql, (&entry.author, &entry.message, created.0)).await?;
        let id = connection.last_insert_id().unwrap_or_default();
        Ok(entry.stored(id, created))
    }
}

impl Store for Sqlite {
    const CONNECTIONS: usize = 4;
    // A file has one writer; a second one would only wait for the first.
    const WRITERS: usize = 1;

    async fn create_schema(connection: &mut Self::Connection) -> Result<(), Self::Error> {
        sqlx::query(
            "CREATE TABLE IF NOT EXISTS entries (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                author TEXT NOT NULL,
                message TEXT NOT NULL,
                created INTEGER NOT NULL
            )",
        )
        .execute(&mut *connection)
        .await?;
        Ok(())
    }

    async fn newest(connection: &mut Self::Connection) -> Result<Vec<Entry>, Self::Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, author, message, created FROM entries ORDER BY id DESC LIMIT ?",
        )
        .bind(PAGE)
        .fetch_all(&mut *connection)
        .await?;
        Ok(rows.into_iter().map(Entry::from).collect())
    }

    async fn add(
        connection: &mut Self::Connection,
        entry: &NewEntry,
    ) -> Result<Entry, Self::Error> {
        let created = Created::now();
        let id: u64 = sqlx::query_scalar(
            "INSERT INTO entries (author, message, created) VALUES (?, ?, ?) RETURNING id",
        )
        .bind(&entry.author)
        .bind(&entry.message)
        .bind(i64::try_from(created.0).unwrap_or(i64::MAX))
        .fetch_one(&mut *connection)
        .await?;
        Ok(entry.stored(id, created))
    }
}

impl From<Row> for Entry {
    fn from((id, author, message, created): Row) -> Self {
        Self { id, author, message, created: Created(created) }
    }
}
