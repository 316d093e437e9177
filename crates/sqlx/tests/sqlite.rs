//! The behaviours of the SQLite backend, on files of its own and in memory.
#![cfg(feature = "sqlite")]

use std::time::{Duration, Instant};

use farrier_connection::{AcquireError, CloseReason, Policy, Pool};
use farrier_sqlx::sqlx::sqlite::SqliteRow;
use farrier_sqlx::sqlx::{self, AssertSqlSafe, Executor, Row};
use farrier_sqlx::{Session, Sqlite};
use futures_util::{StreamExt, TryStreamExt};
use tempfile::TempDir;
use tokio::time::timeout;

/// Counts for seconds.
const SLOW: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000) \
    SELECT COUNT(*) FROM n";

struct Database {
    pool: Pool<Sqlite>,
    /// Removed on drop.
    _dir: TempDir,
}

fn database(policy: Policy) -> Database {
    let dir = TempDir::new().expect("a temporary folder");
    let pool = Pool::new(Sqlite::file(dir.path().join("test.db")), policy);
    Database { pool, _dir: dir }
}

async fn with_table(policy: Policy) -> Database {
    let database = database(policy);
    let mut loan = database.pool.acquire().await.expect("a connection");
    sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        .execute(&mut *loan)
        .await
        .expect("a table");
    drop(loan);
    database
}

/// Counts the rows on a connection of the pool.
async fn rows(pool: &Pool<Sqlite>) -> i64 {
    let mut loan = pool.acquire().await.expect("a connection");
    sqlx::query_scalar("SELECT COUNT(*) FROM t").fetch_one(&mut *loan).await.expect("a count")
}

async fn insert(session: &mut Session<sqlx::Sqlite>, id: i64) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO t VALUES (?)").bind(id).execute(session).await.map(drop)
}

#[tokio::test]
async fn a_missing_file_is_made_and_kept_in_wal_mode() {
    let database = with_table(Policy::default()).await;
    let mut loan = database.pool.acquire().await.unwrap();
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *loan).await.unwrap();
    assert_eq!(mode, "wal");
}

/// A word in a literal, a name or a comment is none of the session's.
#[tokio::test]
async fn what_only_looks_dirty_keeps_its_connection() {
    let database = database(Policy::default());
    for _ in 0..20 {
        let mut loan = database.pool.acquire().await.unwrap();
        let sql = "/* why */ SELECT 1 AS attempts, 'template', ';', 'temp' AS temperature; -- temp";
        sqlx::query(sql).execute(&mut *loan).await.unwrap();
    }
    let status = database.pool.status();
    assert_eq!((status.opened, status.resets), (1, 0), "{status:?}");
}

/// connections.md 5, behaviours 2 and 40, in each way that sqlx runs statements.
#[tokio::test]
async fn plain_requests_share_a_connection_that_is_not_reset() {
    let database = with_table(Policy::default()).await;
    for id in 0..10 {
        let mut loan = database.pool.acquire().await.unwrap();
        insert(&mut loan, id).await.unwrap();
        let ids: Vec<(i64,)> =
            sqlx::query_as("SELECT id FROM t").fetch_all(&mut *loan).await.unwrap();
        assert_eq!(ids.len() as i64, id + 1);
        let one = loan.fetch_optional("SELECT 1").await.unwrap();
        assert_eq!(one.map(|row: SqliteRow| row.get::<i64, _>(0)), Some(1));
        let statement = loan.prepare(sqlx::SqlSafeStr::into_sql_str("SELECT ?")).await.unwrap();
        let seven: (i64,) =
            sqlx::Statement::query_as(&statement).bind(7).fetch_one(&mut *loan).await.unwrap();
        assert_eq!(seven, (7,));
        let mut stream = sqlx::query("SELECT id FROM t").fetch(&mut *loan);
        while stream.try_next().await.unwrap().is_some() {}
    }
    let status = database.pool.status();
    assert_eq!((status.opened, status.resets, status.rollbacks), (1, 0, 0));
}

/// A transaction that is committed is nothing to clean up.
#[tokio::test]
async fn a_committed_transaction_leaves_a_clean_connection() {
    let database = with_table(Policy::default()).await;
    let mut loan = database.pool.acquire().await.unwrap();
    let mut transaction = loan.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = loan.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    drop(loan);
    assert_eq!(rows(&database.pool).await, 2);
    assert_eq!((database.pool.status().resets, database.pool.status().rollbacks), (0, 0));
}

/// connections.md 5, behaviours 25 and 39: sqlx's transactions and bare ones.
#[tokio::test]
async fn a_transaction_left_open_is_rolled_back() {
    let database = with_table(Policy::default().max_connections(1)).await;
    for bare in [false, true] {
        let mut loan = database.pool.acquire().await.unwrap();
        if bare {
            sqlx::query("BEGIN").execute(&mut *loan).await.unwrap();
            insert(&mut loan, 1).await.unwrap();
        } else {
            let mut transaction = loan.begin().await.unwrap();
            sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *transaction).await.unwrap();
            drop(transaction);
        }
        drop(loan);
        assert_eq!(rows(&database.pool).await, 0, "bare: {bare}");
    }
}

/// connections.md 5, behaviour 39: what SQLite cannot undo goes with its connection.
#[tokio::test]
async fn what_a_session_sets_is_gone_with_it() {
    let database = with_table(Policy::default().max_connections(1)).await;
    for dirty in [
        "PRAGMA foreign_keys = OFF",
        "CREATE TEMP TABLE left_behind (id INTEGER)",
        "ATTACH ':memory:' AS other",
    ] {
        let mut loan = database.pool.acquire().await.unwrap();
        sqlx::query(AssertSqlSafe(dirty)).execute(&mut *loan).await.unwrap();
        drop(loan);
        let mut loan = database.pool.acquire().await.unwrap();
        let keys: i64 =
            sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *loan).await.unwrap();
        assert_eq!(keys, 1);
        sqlx::query("SELECT * FROM left_behind").execute(&mut *loan).await.unwrap_err();
        let others: Vec<SqliteRow> =
            sqlx::query("PRAGMA database_list").fetch_all(&mut *loan).await.unwrap();
        assert_eq!(others.len(), 1, "{dirty}");
    }
}

/// What is done on sqlx's own connection is not seen.
#[tokio::test]
async fn a_use_behind_farriers_back_is_not_trusted() {
    let database = with_table(Policy::default().max_connections(1)).await;
    let mut loan = database.pool.acquire().await.unwrap();
    sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut **loan).await.unwrap();
    drop(loan);
    let mut loan = database.pool.acquire().await.unwrap();
    let keys: i64 = sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *loan).await.unwrap();
    assert_eq!(keys, 1);
}

/// connections.md 5, behaviour 28: SQLite's thread finishes it, and no result goes astray.
#[tokio::test]
async fn a_cancelled_statement_is_waited_out_or_its_connection_closed() {
    let database = database(Policy::default().reset_timeout(Duration::from_millis(50)));
    let mut loan = database.pool.acquire().await.unwrap();
    let slow = sqlx::query_scalar::<_, i64>(SLOW).fetch_one(&mut *loan);
    assert!(timeout(Duration::from_millis(20), slow).await.is_err());
    drop(loan);
    let start = Instant::now();
    let mut loan = database.pool.acquire().await.unwrap();
    let seven: i64 = sqlx::query_scalar("SELECT 7").fetch_one(&mut *loan).await.unwrap();
    assert_eq!(seven, 7);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(database.pool.status().opened, 2);
}

#[tokio::test]
async fn a_stream_that_is_dropped_halfway_leaves_a_usable_connection() {
    let database = with_table(Policy::default().max_connections(1)).await;
    let mut loan = database.pool.acquire().await.unwrap();
    for id in 0..1_000 {
        insert(&mut loan, id).await.unwrap();
    }
    let mut stream = sqlx::query_as::<_, (i64,)>("SELECT id FROM t ORDER BY id").fetch(&mut *loan);
    assert_eq!(stream.next().await.unwrap().unwrap(), (0,));
    drop(stream);
    let last: i64 =
        sqlx::query_scalar("SELECT MAX(id) FROM t").fetch_one(&mut *loan).await.unwrap();
    assert_eq!(last, 999);
    drop(loan);
    assert_eq!(rows(&database.pool).await, 1_000);
    assert_eq!(database.pool.status().opened, 1);
}

/// connections.md 4: each connection would be a database of its own, and closing it the end of the
/// data.
#[tokio::test]
async fn a_database_in_memory_is_one_connection_that_stays() {
    let asked = Policy::default().max_connections(8).max_age(Duration::ZERO);
    for sqlite in [Sqlite::memory(), Sqlite::new("sqlite::memory:").unwrap()] {
        let pool = Pool::new(sqlite, asked.clone());
        let mut loan = pool.acquire().await.unwrap();
        sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *loan).await.unwrap();
        insert(&mut loan, 1).await.unwrap();
        sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut *loan).await.unwrap();
        drop(loan);
        assert_eq!(rows(&pool).await, 1);
        assert_eq!((pool.policy().max_connections, pool.status().opened), (1, 1));
    }
}

/// What would close any other connection must not lose the data.
#[tokio::test]
async fn a_database_in_memory_outlives_a_slow_statement_that_was_cancelled() {
    let impatient = Policy::default()
        .reset_timeout(Duration::from_millis(20))
        .check_timeout(Duration::from_millis(20))
        .health_check_bypass(Duration::ZERO)
        .acquire_timeout(Duration::from_secs(60));
    let slowly = SLOW.replace("30000000", "2000000");
    for sqlite in [Sqlite::memory(), Sqlite::file(":memory:")] {
        let pool = Pool::new(sqlite, impatient.clone());
        let mut loan = pool.acquire().await.unwrap();
        sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *loan).await.unwrap();
        insert(&mut loan, 1).await.unwrap();
        let slow =
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(slowly.as_str())).fetch_one(&mut *loan);
        assert!(timeout(Duration::from_millis(20), slow).await.is_err());
        drop(loan);
        assert_eq!(rows(&pool).await, 1);
        assert_eq!((pool.policy().max_connections, pool.status().opened), (1, 1));
    }
}

/// An error is not a cancellation: nothing is left to be waited for or cleaned.
#[tokio::test]
async fn a_begin_that_fails_leaves_the_connection_as_it_was() {
    let database = with_table(Policy::default().max_connections(1)).await;
    let mut loan = database.pool.acquire().await.unwrap();
    loan.begin_with("BEGIN NONSENSE").await.unwrap_err();
    drop(loan);
    assert_eq!(rows(&database.pool).await, 0);
    assert_eq!((database.pool.status().opened, database.pool.status().resets), (1, 0));
}

#[tokio::test]
async fn many_writers_wait_for_each_other() {
    let database = with_table(Policy::default().max_connections(8).max_waiting(200)).await;
    let writers = (0..200).map(|id| {
        let pool = database.pool.clone();
        tokio::spawn(async move {
            let mut loan = pool.acquire().await.expect("a connection");
            insert(&mut loan, id).await.expect("an insert");
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(rows(&database.pool).await, 200);
    assert!(database.pool.status().opened <= 8);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_refused_at_once() {
    let dir = TempDir::new().unwrap();
    let pool = Pool::new(Sqlite::file(dir.path().join("no/such/folder.db")), Policy::default());
    let start = Instant::now();
    let error = pool.acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::Denied(_)), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(1));
    let url = format!("sqlite:{}?mode=rw", dir.path().join("missing.db").display());
    let error =
        Pool::new(Sqlite::new(&url).unwrap(), Policy::default()).acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::Denied(_)), "{error:?}");
    assert!(Sqlite::new("sqlite:x?mode=nonsense").is_err());
}

#[tokio::test]
async fn closing_a_pool_closes_its_files() {
    let database = with_table(Policy::default()).await;
    database.pool.close().await;
    let status = database.pool.status();
    assert_eq!((status.opened, status.closed_for(CloseReason::Shutdown)), (1, 1));
}
