//! The behaviours of the SQLite backend, on files of its own and in memory.
#![cfg(feature = "sqlite")]

use std::time::{Duration, Instant};

use farrier_connection::{AcquireError, CloseReason, Policy, Pool, StatementTimedOut};
use farrier_sqlx::sqlx::sqlite::SqliteRow;
use farrier_sqlx::sqlx::{self, AssertSqlSafe, Executor, Row};
use farrier_sqlx::{Session, Sqlite};
use farrier_test_servers::eventually;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use tempfile::TempDir;
use tokio::time::timeout;

/// Counts for seconds.
const SLOW: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000) \
    SELECT COUNT(*) FROM n";

/// Never ends.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
    SELECT COUNT(*) FROM n";

const COUNT_100_000: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
    WHERE i < 100000) SELECT COUNT(*) FROM n";

const MOMENT: Duration = Duration::from_millis(50);

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
    let mut pooled = database.pool.acquire().await.expect("a connection");
    sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)")
        .execute(&mut *pooled)
        .await
        .expect("a table");
    drop(pooled);
    database
}

/// Counts the rows on a connection of the pool.
async fn rows(pool: &Pool<Sqlite>) -> i64 {
    let mut pooled = pool.acquire().await.expect("a connection");
    sqlx::query_scalar("SELECT COUNT(*) FROM t").fetch_one(&mut *pooled).await.expect("a count")
}

async fn insert(session: &mut Session<sqlx::Sqlite>, id: i64) -> sqlx::Result<()> {
    sqlx::query("INSERT INTO t VALUES (?)").bind(id).execute(session).await.map(drop)
}

#[tokio::test]
async fn a_missing_file_is_made_and_kept_in_wal_mode() {
    let database = with_table(Policy::default()).await;
    let mut pooled = database.pool.acquire().await.unwrap();
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *pooled).await.unwrap();
    assert_eq!(mode, "wal");
}

/// A word in a literal, a name or a comment is none of the session's.
#[tokio::test]
async fn what_only_looks_dirty_keeps_its_connection() {
    let database = database(Policy::default());
    for _ in 0..20 {
        let mut pooled = database.pool.acquire().await.unwrap();
        let sql = "/* why */ SELECT 1 AS attempts, 'template', ';', 'temp' AS temperature; -- temp";
        sqlx::query(sql).execute(&mut *pooled).await.unwrap();
    }
    let status = database.pool.status();
    assert_eq!((status.opened, status.resets), (1, 0), "{status:?}");
}

/// Behaviours C2 and C40, in each way that sqlx runs statements.
#[tokio::test]
async fn plain_requests_share_a_connection_that_is_not_reset() {
    let database = with_table(Policy::default()).await;
    for id in 0..10 {
        let mut pooled = database.pool.acquire().await.unwrap();
        insert(&mut pooled, id).await.unwrap();
        let ids: Vec<(i64,)> =
            sqlx::query_as("SELECT id FROM t").fetch_all(&mut *pooled).await.unwrap();
        assert_eq!(ids.len() as i64, id + 1);
        let one = pooled.fetch_optional("SELECT 1").await.unwrap();
        assert_eq!(one.map(|row: SqliteRow| row.get::<i64, _>(0)), Some(1));
        let statement = pooled.prepare(sqlx::SqlSafeStr::into_sql_str("SELECT ?")).await.unwrap();
        let seven: (i64,) =
            sqlx::Statement::query_as(&statement).bind(7).fetch_one(&mut *pooled).await.unwrap();
        assert_eq!(seven, (7,));
        let mut stream = sqlx::query("SELECT id FROM t").fetch(&mut *pooled);
        while stream.try_next().await.unwrap().is_some() {}
    }
    let status = database.pool.status();
    assert_eq!((status.opened, status.resets, status.rollbacks), (1, 0, 0));
}

/// A transaction that is committed is nothing to clean up.
#[tokio::test]
async fn a_committed_transaction_leaves_a_clean_connection() {
    let database = with_table(Policy::default()).await;
    let mut pooled = database.pool.acquire().await.unwrap();
    let mut transaction = pooled.begin().await.unwrap();
    sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = pooled.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("INSERT INTO t VALUES (2)").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    drop(pooled);
    assert_eq!(rows(&database.pool).await, 2);
    assert_eq!((database.pool.status().resets, database.pool.status().rollbacks), (0, 0));
}

/// Behaviours C25 and C39: sqlx's transactions and bare ones.
#[tokio::test]
async fn a_transaction_left_open_is_rolled_back() {
    let database = with_table(Policy::default().max_connections(1)).await;
    for bare in [false, true] {
        let mut pooled = database.pool.acquire().await.unwrap();
        if bare {
            sqlx::query("BEGIN").execute(&mut *pooled).await.unwrap();
            insert(&mut pooled, 1).await.unwrap();
        } else {
            let mut transaction = pooled.begin().await.unwrap();
            sqlx::query("INSERT INTO t VALUES (1)").execute(&mut *transaction).await.unwrap();
            drop(transaction);
        }
        drop(pooled);
        assert_eq!(rows(&database.pool).await, 0, "bare: {bare}");
    }
}

/// What a session may be left in.
const DIRTY: [&str; 22] = [
    "PRAGMA foreign_keys = OFF",
    "PRAGMA query_only = ON",
    "PRAGMA case_sensitive_like = ON",
    "PRAGMA recursive_triggers = ON",
    "PRAGMA reverse_unordered_selects = ON",
    "PRAGMA ignore_check_constraints = ON",
    "PRAGMA defer_foreign_keys = ON",
    "PRAGMA legacy_alter_table = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA synchronous = OFF",
    "PRAGMA cache_size = 7",
    "PRAGMA busy_timeout = 7",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA secure_delete = ON",
    "PRAGMA max_page_count = 77",
    "EXPLAIN PRAGMA query_only = ON",
    "CREATE TEMP TABLE left_behind (id INTEGER)",
    "CREATE TABLE 'temp'.\"left \"\"behind\" (id INTEGER)",
    "CREATE TEMP VIEW left_behind AS SELECT 1",
    "CREATE TEMP TRIGGER left_behind AFTER INSERT ON t BEGIN SELECT 1; END",
    "ATTACH ':memory:' AS \"left \"\"behind\"",
];

/// Everything of it that can be read.
async fn state(session: &mut Session<sqlx::Sqlite>) -> Vec<String> {
    let pragmas = DIRTY.iter().filter_map(|dirty| {
        let name = dirty.strip_prefix("PRAGMA ")?.split(' ').next()?;
        (name != "case_sensitive_like").then_some(name)
    });
    let mut state = Vec::new();
    for pragma in pragmas {
        let sql = AssertSqlSafe(format!("PRAGMA {pragma}"));
        let row = sqlx::query(sql).fetch_one(&mut *session).await.expect("a pragma");
        state.push(row.get_unchecked(0));
    }
    for sql in [
        "SELECT 'a' LIKE 'A'",
        "SELECT COUNT(*) FROM temp.sqlite_schema WHERE name LIKE '%behind%'",
        "SELECT group_concat(name) FROM pragma_database_list WHERE name <> 'temp'",
    ] {
        let row = sqlx::query(sql).fetch_one(&mut *session).await.expect("an answer");
        state.push(row.get_unchecked(0));
    }
    state
}

/// Behaviour C39: what SQLite cannot undo goes with its connection, and a database
/// in memory is brought back to what it was.
#[tokio::test]
async fn nothing_of_a_session_is_visible_to_the_next_request() {
    let dir = TempDir::new().unwrap();
    let file = Sqlite::file(dir.path().join("test.db"));
    let set = |sqlite: Sqlite| sqlite.with_options(|options| options.pragma("cache_size", "100"));
    for (in_memory, sqlite) in [(false, set(file)), (true, set(Sqlite::memory()))] {
        let pool = Pool::new(sqlite, Policy::default().max_connections(1));
        let mut pooled = pool.acquire().await.unwrap();
        sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *pooled).await.unwrap();
        let clean = state(&mut pooled).await;
        for dirty in DIRTY {
            for style in 0..6 {
                let mut transaction;
                let mut savepoint;
                match style {
                    0 => drop(sqlx::raw_sql(dirty).execute(&mut *pooled).await),
                    1 => drop(sqlx::query(dirty).execute(&mut *pooled).await),
                    2 => drop((&mut *pooled).prepare(sqlx::SqlStr::from_static(dirty)).await),
                    _ => {
                        transaction = pooled.begin().await.unwrap();
                        match style {
                            3 => drop(sqlx::query(dirty).execute(&mut *transaction).await),
                            4 => drop(sqlx::query(dirty).execute(&mut **transaction).await),
                            _ => {
                                savepoint = transaction.begin().await.unwrap();
                                drop(sqlx::query(dirty).execute(&mut *savepoint).await);
                                savepoint.commit().await.unwrap();
                            }
                        }
                        // A pragma may forbid it.
                        let _ = transaction.commit().await;
                    }
                }
                drop(pooled);
                pooled = pool.acquire().await.unwrap();
                assert_eq!(state(&mut pooled).await, clean, "{in_memory}, {style}: {dirty}");
                insert(&mut pooled, 1).await.unwrap();
                sqlx::query("DELETE FROM t").execute(&mut *pooled).await.unwrap();
            }
        }
        assert_eq!(in_memory, pool.status().opened == 1);
    }
}

/// SQLite has rolled back by itself, and sqlx does not know.
#[tokio::test]
async fn a_transaction_that_sqlite_has_rolled_back_is_over() {
    let or_rollback = "INSERT OR ROLLBACK INTO t VALUES (1)";
    for commit in [false, true] {
        for nested in [false, true] {
            let pool = Pool::new(Sqlite::memory(), Policy::default());
            let mut pooled = pool.acquire().await.unwrap();
            sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)")
                .execute(&mut *pooled)
                .await
                .unwrap();
            insert(&mut pooled, 1).await.unwrap();
            let mut transaction = pooled.begin().await.unwrap();
            insert(&mut transaction, 2).await.unwrap();
            if nested {
                let mut savepoint = transaction.begin().await.unwrap();
                sqlx::query(or_rollback).execute(&mut *savepoint).await.unwrap_err();
            } else {
                sqlx::query(or_rollback).execute(&mut *transaction).await.unwrap_err();
            }
            if commit {
                transaction.commit().await.unwrap_err();
            } else {
                drop(transaction);
            }
            drop(pooled);
            assert_eq!(rows(&pool).await, 1, "commit: {commit}, nested: {nested}");
            let mut pooled = pool.acquire().await.unwrap();
            let mut transaction = pooled.begin().await.unwrap();
            insert(&mut transaction, 3).await.unwrap();
            transaction.commit().await.unwrap();
            drop(pooled);
            assert_eq!(rows(&pool).await, 2);
            assert_eq!(pool.status().opened, 1);
        }
    }
}

/// What is done on sqlx's own connection is not seen.
#[tokio::test]
async fn a_use_behind_farriers_back_is_not_trusted() {
    let database = with_table(Policy::default().max_connections(1)).await;
    let mut pooled = database.pool.acquire().await.unwrap();
    sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut **pooled).await.unwrap();
    drop(pooled);
    let mut pooled = database.pool.acquire().await.unwrap();
    let keys: i64 =
        sqlx::query_scalar("PRAGMA foreign_keys").fetch_one(&mut *pooled).await.unwrap();
    assert_eq!(keys, 1);
}

/// Behaviour C28: it is interrupted, and no result goes astray.
#[tokio::test]
async fn a_cancelled_statement_is_interrupted_and_its_connection_kept() {
    for transaction in [false, true] {
        let database = database(Policy::default().max_connections(1));
        let mut pooled = database.pool.acquire().await.unwrap();
        if transaction {
            let mut transaction = pooled.begin().await.unwrap();
            let endless = sqlx::query_scalar::<_, i64>(ENDLESS).fetch_one(&mut *transaction);
            assert!(timeout(Duration::from_millis(20), endless).await.is_err());
        } else {
            let endless = sqlx::query_scalar::<_, i64>(ENDLESS).fetch_one(&mut *pooled);
            assert!(timeout(Duration::from_millis(20), endless).await.is_err());
        }
        drop(pooled);
        let mut pooled = database.pool.acquire().await.unwrap();
        let seven: i64 = sqlx::query_scalar("SELECT 7").fetch_one(&mut *pooled).await.unwrap();
        assert_eq!(seven, 7);
        // Nothing is interrupted that comes later.
        let many: i64 = sqlx::query_scalar(COUNT_100_000).fetch_one(&mut *pooled).await.unwrap();
        assert_eq!(many, 100_000);
        let status = database.pool.status();
        assert_eq!((status.opened, status.kills), (1, 0), "in a transaction: {transaction}");
    }
}

/// The threads of this process whose names begin like that.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the process's threads");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.starts_with(name)).count()
}

/// Six clients that leave during an endless statement cost neither a thread nor a slot.
#[tokio::test]
async fn hang_ups_leave_no_thread_at_work() {
    for (name, in_memory) in [("endless-file", false), ("endless-mem", true)] {
        let dir = TempDir::new().unwrap();
        let sqlite =
            if in_memory { Sqlite::memory() } else { Sqlite::file(dir.path().join("test.db")) };
        let sqlite = sqlite.with_options(|options| options.thread_name(move |_| name.to_owned()));
        let pool = Pool::new(sqlite, Policy::default().max_connections(2));
        let mut pooled = pool.acquire().await.unwrap();
        sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *pooled).await.unwrap();
        drop(pooled);
        for _ in 0..6 {
            let mut pooled = pool.acquire().await.unwrap();
            let endless = sqlx::query_scalar::<_, i64>(ENDLESS).fetch_one(&mut *pooled);
            assert!(timeout(Duration::from_millis(20), endless).await.is_err());
        }
        assert_eq!(rows(&pool).await, 0);
        assert!(threads(name) <= 2);
        pool.close().await;
        eventually("no thread is left", async || threads(name) == 0).await;
    }
}

/// A wait for a lock cannot be interrupted: the slot is taken until it is over.
#[tokio::test]
async fn a_slot_is_free_when_its_thread_is() {
    let policy = Policy::default().reset_timeout(Duration::from_millis(50));
    let database = with_table(policy.max_connections(2).close_timeout(MOMENT)).await;
    let mut holder = database.pool.acquire().await.unwrap();
    let mut held = holder.begin_with("BEGIN IMMEDIATE").await.unwrap();
    insert(&mut held, 1).await.unwrap();
    let mut pooled = database.pool.acquire().await.unwrap();
    assert!(timeout(MOMENT, insert(&mut pooled, 2)).await.is_err());
    drop(pooled);
    let next = database.pool.acquire();
    assert!(timeout(Duration::from_millis(500), next).await.is_err(), "it still waits");
    held.commit().await.unwrap();
    database.pool.acquire().await.unwrap();
    let status = database.pool.status();
    assert_eq!(status.closed_for(CloseReason::ResetFailed), 1);
}

#[tokio::test]
async fn a_stream_that_is_dropped_halfway_leaves_a_usable_connection() {
    let database = with_table(Policy::default().max_connections(1)).await;
    let mut pooled = database.pool.acquire().await.unwrap();
    for id in 0..1_000 {
        insert(&mut pooled, id).await.unwrap();
    }
    let mut stream =
        sqlx::query_as::<_, (i64,)>("SELECT id FROM t ORDER BY id").fetch(&mut *pooled);
    assert_eq!(stream.next().await.unwrap().unwrap(), (0,));
    drop(stream);
    let last: i64 =
        sqlx::query_scalar("SELECT MAX(id) FROM t").fetch_one(&mut *pooled).await.unwrap();
    assert_eq!(last, 999);
    drop(pooled);
    assert_eq!(rows(&database.pool).await, 1_000);
    assert_eq!(database.pool.status().opened, 1);
}

/// Each connection would be a database of its own, and closing it the end of the
/// data.
#[tokio::test]
async fn a_database_in_memory_is_one_connection_that_stays() {
    let asked = Policy::default().max_connections(8).max_age(Duration::ZERO);
    for sqlite in [Sqlite::memory(), Sqlite::new("sqlite::memory:").unwrap()] {
        let pool = Pool::new(sqlite, asked.clone());
        let mut pooled = pool.acquire().await.unwrap();
        sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *pooled).await.unwrap();
        insert(&mut pooled, 1).await.unwrap();
        sqlx::query("PRAGMA foreign_keys = OFF").execute(&mut *pooled).await.unwrap();
        drop(pooled);
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
        let mut pooled = pool.acquire().await.unwrap();
        sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *pooled).await.unwrap();
        insert(&mut pooled, 1).await.unwrap();
        let slow =
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(slowly.as_str())).fetch_one(&mut *pooled);
        assert!(timeout(Duration::from_millis(20), slow).await.is_err());
        drop(pooled);
        assert_eq!(rows(&pool).await, 1);
        assert_eq!((pool.policy().max_connections, pool.status().opened), (1, 1));
    }
}

/// An error is not a cancellation: nothing is left to be waited for or cleaned.
#[tokio::test]
async fn a_begin_that_fails_leaves_the_connection_as_it_was() {
    let database = with_table(Policy::default().max_connections(1)).await;
    let mut pooled = database.pool.acquire().await.unwrap();
    pooled.begin_with("BEGIN NONSENSE").await.unwrap_err();
    drop(pooled);
    assert_eq!(rows(&database.pool).await, 0);
    assert_eq!((database.pool.status().opened, database.pool.status().resets), (1, 0));
}

#[tokio::test]
async fn many_writers_wait_for_each_other() {
    let database = with_table(Policy::default().max_connections(8).max_waiting(200)).await;
    let writers = (0..200).map(|id| {
        let pool = database.pool.clone();
        tokio::spawn(async move {
            let mut pooled = pool.acquire().await.expect("a connection");
            insert(&mut pooled, id).await.expect("an insert");
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

/// The policy's `statement_timeout`: it is interrupted, and a database in memory stays.
#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let pool = Pool::new(Sqlite::memory(), Policy::default().statement_timeout(MOMENT));
    let mut pooled = pool.acquire().await.unwrap();
    sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *pooled).await.unwrap();
    for _ in 0..2 {
        let mut transaction = pooled.begin().await.unwrap();
        insert(&mut transaction, 1).await.unwrap();
        let late = sqlx::query(ENDLESS).execute(&mut *transaction).await.unwrap_err();
        assert_eq!(StatementTimedOut::find(&late).unwrap().limit, MOMENT);
        let late = transaction.commit().await.unwrap_err();
        assert!(StatementTimedOut::find(&late).is_some());
        drop(pooled);
        assert_eq!(rows(&pool).await, 0);
        pooled = pool.acquire().await.unwrap();
    }
    assert_eq!(pool.status().opened, 1);
}

/// A mistake in a statement is no reason to lose a database in memory.
#[tokio::test]
async fn a_database_in_memory_outlives_mistakes() {
    let pool = Pool::new(Sqlite::memory(), Policy::default());
    let mut pooled = pool.acquire().await.unwrap();
    sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *pooled).await.unwrap();
    insert(&mut pooled, 1).await.unwrap();
    drop(pooled);
    for mistake in ["SELECT :name", "SELECT $name", "SELECT 1 \0", "NONSENSE", "SELECT ?, ?"] {
        let mut pooled = pool.acquire().await.unwrap();
        let failed = sqlx::query(mistake).bind(1).fetch_one(&mut *pooled);
        let _ = timeout(Duration::from_secs(1), failed).await.expect("an end");
        let _ = pooled.begin_with(mistake).await;
        let mut transaction = pooled.begin().await.unwrap();
        let _ = transaction.begin_with("BEGIN IMMEDIATE").await;
        let _ = transaction.begin_with("BEGIN IMMEDIATE").now_or_never();
        let _ = transaction.begin().now_or_never();
        drop(transaction);
        drop(pooled);
        assert_eq!(rows(&pool).await, 1, "{mistake}");
    }
    assert_eq!(pool.status().opened, 1);
}

/// Cancelled on sqlx's own connection, which farrier does not see.
#[tokio::test]
async fn what_runs_beneath_is_interrupted_too() {
    for in_memory in [false, true] {
        let dir = TempDir::new().unwrap();
        let file = Sqlite::file(dir.path().join("test.db"));
        let sqlite = if in_memory { Sqlite::memory() } else { file };
        let pool = Pool::new(sqlite, Policy::default().max_connections(1));
        for _ in 0..3 {
            let mut pooled = pool.acquire().await.unwrap();
            let endless = sqlx::query(ENDLESS).execute(&mut **pooled);
            assert!(timeout(MOMENT, endless).await.is_err());
        }
        pool.acquire().await.unwrap();
        assert_eq!(pool.status().kills, 0);
    }
}

/// As many rollbacks wait to be sent as there were transactions and savepoints, in their order.
#[tokio::test]
async fn dropped_transactions_take_nothing_with_them_that_comes_later() {
    for in_memory in [false, true] {
        for case in 0..4 {
            let dir = TempDir::new().unwrap();
            let file = Sqlite::file(dir.path().join("test.db"));
            let sqlite = if in_memory { Sqlite::memory() } else { file };
            let pool = Pool::new(sqlite, Policy::default().max_connections(1));
            let mut pooled = pool.acquire().await.unwrap();
            sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)")
                .execute(&mut *pooled)
                .await
                .unwrap();
            let mut transaction = pooled.begin().await.unwrap();
            insert(&mut transaction, 1).await.unwrap();
            match case {
                0 => {
                    let savepoint = transaction.begin().await.unwrap();
                    drop(savepoint);
                    drop(transaction);
                }
                1 => {
                    drop(transaction);
                    drop(pooled.begin().await.unwrap());
                }
                2 => {
                    drop(transaction);
                    let begun = pooled.begin_with("BEGIN IMMEDIATE").await.unwrap();
                    begun.rollback().await.unwrap();
                }
                // Done by then, and not yet known to be.
                _ => drop(transaction.rollback().now_or_never()),
            }
            if case < 3 {
                insert(&mut pooled, 2).await.unwrap();
                let mut transaction = pooled.begin().await.unwrap();
                insert(&mut transaction, 3).await.unwrap();
                transaction.commit().await.unwrap();
                drop(pooled);
                assert_eq!(rows(&pool).await, 2, "{in_memory}, case {case}");
            } else {
                drop(pooled);
                for id in 4..6 {
                    let mut pooled = pool.acquire().await.unwrap();
                    drop(pooled.begin().await.unwrap());
                    insert(&mut pooled, id).await.unwrap();
                }
                assert_eq!(rows(&pool).await, 2, "{in_memory}, case {case}");
            }
        }
    }
}

/// Nothing is written outside of a transaction that SQLite has ended.
#[tokio::test]
async fn a_transaction_that_sqlite_has_ended_refuses() {
    let database = with_table(Policy::default().max_connections(1)).await;
    let mut pooled = database.pool.acquire().await.unwrap();
    insert(&mut pooled, 1).await.unwrap();
    let mut transaction = pooled.begin().await.unwrap();
    let or_rollback = "INSERT OR ROLLBACK INTO t VALUES (1)";
    sqlx::query(or_rollback).execute(&mut *transaction).await.unwrap_err();
    insert(&mut transaction, 2).await.unwrap_err();
    transaction.commit().await.unwrap_err();
    drop(pooled);
    assert_eq!(rows(&database.pool).await, 1);
    // Other errors end nothing.
    let mut pooled = database.pool.acquire().await.unwrap();
    let mut transaction = pooled.begin().await.unwrap();
    insert(&mut transaction, 1).await.unwrap_err();
    insert(&mut transaction, 3).await.unwrap();
    transaction.commit().await.unwrap();
    drop(pooled);
    assert_eq!(rows(&database.pool).await, 2);
}

/// Forgotten, a transaction is rolled back with the connection, and the next one is a first one.
#[tokio::test]
#[expect(clippy::mem_forget, reason = "what is forgotten is what this is about")]
async fn a_forgotten_transaction_is_not_counted_for_ever() {
    let pool = Pool::new(Sqlite::memory(), Policy::default());
    let mut pooled = pool.acquire().await.unwrap();
    sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY)").execute(&mut *pooled).await.unwrap();
    let mut transaction = pooled.begin().await.unwrap();
    insert(&mut transaction, 1).await.unwrap();
    std::mem::forget(transaction);
    drop(pooled);
    assert_eq!(rows(&pool).await, 0);
    let mut pooled = pool.acquire().await.unwrap();
    pooled.begin_with("BEGIN IMMEDIATE").await.unwrap().commit().await.unwrap();
    assert_eq!(pool.status().opened, 1);
}
