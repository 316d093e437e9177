//! The behaviours of the MySQL backend, against a private MariaDB server.

mod cancellation;
mod outage;

use std::time::Duration;

use farrier_connection::{AcquireError, Backend, CloseReason, Policy, Pool};
use farrier_mysql::mysql_async::prelude::*;
use farrier_mysql::mysql_async::{Error, FromRowError, Opts, OptsBuilder, Row};
use farrier_mysql::{MySql, Poisoned};
use farrier_test_servers::{MariaDb, eventually};
use futures_util::future::join_all;

const SLOW: &str = "SELECT SLEEP(60)";
const MOMENT: Duration = Duration::from_millis(50);

fn policy() -> Policy {
    Policy::default().health_check_bypass(Duration::ZERO)
}

async fn pool(database: &str, policy: Policy) -> Pool<MySql> {
    let url = MariaDb::shared().database(database).await;
    Pool::new(MySql::new(&url).expect("a URL"), policy)
}

async fn session(pool: &Pool<MySql>) -> u64 {
    let mut pooled = pool.acquire().await.expect("a connection");
    let session = pooled.query_first("SELECT CONNECTION_ID()").await.expect("a query");
    session.expect("a row")
}

/// A pool whose sessions, and those beside it, the server lists under a user of their own.
async fn pool_of_user(server: &MariaDb, name: &str, policy: Policy) -> Pool<MySql> {
    server.database(name).await;
    server.run(&format!("CREATE OR REPLACE USER {name}")).await;
    server.run(&format!("GRANT ALL ON {name}.* TO {name}")).await;
    Pool::new(MySql::new(&server.url(name, name)).expect("a URL"), policy)
}

/// Waits until nothing is cleaned or closed any more.
async fn quiet(pool: &Pool<MySql>) {
    eventually("the pool is quiet", async || pool.status().maintaining == 0).await;
}

fn is_poisoned<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("poisoned");
    assert!(matches!(&error, Error::Other(inner) if inner.is::<Poisoned>()), "{error:?}");
}

/// Behaviours C2 and C40: a connect is one session.
#[tokio::test]
async fn plain_requests_share_one_session_and_are_not_reset() {
    let pool = pool("plain", policy()).await;
    let first = session(&pool).await;
    for number in 0..20_u32 {
        let mut pooled = pool.acquire().await.unwrap();
        let sum: Option<u32> = pooled.exec_first("SELECT ? + 1", (number,)).await.unwrap();
        assert_eq!(sum, Some(number + 1));
        pooled.query_drop("BEGIN").await.unwrap();
        pooled.query_drop("COMMIT").await.unwrap();
        assert_eq!(u64::from(pooled.id()), first);
    }
    let status = pool.status();
    assert_eq!((status.opened, status.resets, status.rollbacks, status.checks), (1, 0, 0, 20));
    assert_eq!(MariaDb::shared().sessions("plain").await, [first]);
    pool.close().await;
    eventually("closed", async || MariaDb::shared().sessions("plain").await.is_empty()).await;
}

/// A sign in a literal or a comment is none of the session's.
#[tokio::test]
async fn what_only_looks_dirty_is_not_reset() {
    let pool = pool("looks", policy().max_connections(1)).await;
    for sql in [
        "SELECT 'ann@example.com', ';', 'get_lock', @@version",
        "/* why */ SELECT 1; # @x",
        "(SELECT 1);",
        "SELECT 1 AS attempts -- temporary",
    ] {
        let mut pooled = pool.acquire().await.unwrap();
        pooled.query_drop(sql).await.unwrap();
        pooled.exec_drop(sql, ()).await.unwrap();
        drop(pooled);
        quiet(&pool).await;
        assert_eq!(pool.status().resets, 0, "{sql}");
    }
}

/// The server hangs up after it.
#[tokio::test]
async fn after_a_commit_that_releases_the_session_the_next_request_has_another() {
    let pool = pool("released", policy().max_connections(1).health_checks(false)).await;
    for sql in ["COMMIT RELEASE", "ROLLBACK AND NO CHAIN RELEASE"] {
        let mut pooled = pool.acquire().await.unwrap();
        let before = u64::from(pooled.id());
        pooled.query_drop("BEGIN").await.unwrap();
        pooled.query_drop(sql).await.unwrap();
        drop(pooled);
        assert_ne!(session(&pool).await, before, "{sql}");
    }
}

/// The driver's mistakes with a healthy session say nothing about the others.
#[tokio::test]
async fn a_wrong_number_of_parameters_retires_nobody_else() {
    let pool = pool("mistake", policy()).await;
    drop(join_all((0..3).map(|_| pool.acquire())).await);
    let mut pooled = pool.acquire().await.unwrap();
    pooled.exec_drop("SELECT ?", (1, 2)).await.unwrap_err();
    drop(pooled);
    quiet(&pool).await;
    assert_eq!((pool.status().idle, pool.status().closed_for(CloseReason::Poisoned)), (2, 1));
}

/// Nobody meets a session that the server has closed, without any check.
#[tokio::test]
async fn an_idle_session_is_closed_before_the_servers_wait_timeout() {
    let url = MariaDb::shared().database("waits").await;
    let opts = OptsBuilder::from_opts(Opts::from_url(&url).unwrap());
    let database = MySql::from_opts(opts.setup(vec!["SET wait_timeout = 2"]));
    let pool = Pool::new(database, policy().health_checks(false));
    for closed in 1..=2 {
        session(&pool).await;
        eventually("it is closed", async || pool.status().closed == closed).await;
        assert_eq!(pool.status().closed_for(CloseReason::Idle), closed);
    }
}

/// Behaviours C21 and C22.
#[tokio::test]
async fn an_error_in_a_statement_keeps_the_connection_and_what_it_prepared() {
    let pool = pool("errors", policy().max_connections(1)).await;
    let mut pooled = pool.acquire().await.unwrap();
    let id = pooled.id();
    pooled.query_drop("CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
    pooled.exec_drop("INSERT INTO t VALUES (?)", (1,)).await.unwrap();
    let prepared = pooled.prep("INSERT INTO t VALUES (?)").await.unwrap().id();
    pooled.exec_drop("INSERT INTO t VALUES (?)", (1,)).await.unwrap_err();
    drop(pooled);
    let mut pooled = pool.acquire().await.unwrap();
    pooled.query_drop("SELECT nonsense").await.unwrap_err();
    drop(pooled);
    let mut pooled = pool.acquire().await.unwrap();
    assert_eq!(pooled.id(), id);
    assert_eq!(pooled.prep("INSERT INTO t VALUES (?)").await.unwrap().id(), prepared);
    // What no scanner knows may be anything, so this one is reset.
    pooled.query_drop("SELEKT 1").await.unwrap_err();
    drop(pooled);
    assert_eq!(session(&pool).await, u64::from(id));
}

/// Behaviour C25: after a lock wait time-out the transaction is still open.
#[tokio::test]
async fn a_transaction_left_open_is_rolled_back() {
    let pool = pool("stray", policy().max_connections(2)).await;
    let mut pooled = pool.acquire().await.unwrap();
    pooled.query_drop("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await.unwrap();
    pooled.query_drop("INSERT INTO t VALUES (1, 0), (2, 0)").await.unwrap();
    pooled.query_drop("BEGIN").await.unwrap();
    pooled.query_drop("UPDATE t SET n = 1 WHERE id = 1").await.unwrap();
    let mut other = pool.acquire().await.unwrap();
    other.query_drop("SET innodb_lock_wait_timeout = 1").await.unwrap();
    other.query_drop("BEGIN").await.unwrap();
    other.query_drop("UPDATE t SET n = 2 WHERE id = 2").await.unwrap();
    let error = other.query_drop("UPDATE t SET n = 2 WHERE id = 1").await.unwrap_err();
    assert!(matches!(&error, Error::Server(error) if error.code == 1205), "{error:?}");
    drop(other);
    drop(pooled);
    quiet(&pool).await;
    let taken = join_all([pool.acquire(), pool.acquire()]).await;
    for pooled in taken {
        let n: Vec<u32> = pooled.unwrap().query("SELECT n FROM t").await.unwrap();
        assert_eq!(n, [0, 0]);
    }
    assert_eq!(pool.status().opened, 2);
}

/// Behaviour C27: the driver closes the session, and with it the transaction.
#[tokio::test]
async fn a_wrong_number_of_parameters_is_not_a_silent_loss() {
    let pool = pool("params", policy()).await;
    let mut pooled = pool.acquire().await.unwrap();
    pooled.query_drop("CREATE TABLE t (id INT)").await.unwrap();
    pooled.query_drop("BEGIN").await.unwrap();
    pooled.query_drop("INSERT INTO t VALUES (1)").await.unwrap();
    pooled.exec_drop("INSERT INTO t VALUES (?)", (1, 2)).await.unwrap_err();
    is_poisoned(pooled.query_drop("COMMIT").await);
    drop(pooled);
    let mut pooled = pool.acquire().await.unwrap();
    let rows: Vec<u32> = pooled.query("SELECT id FROM t").await.unwrap();
    assert_eq!(rows, [0_u32; 0]);
}

/// Behaviour C38.
#[tokio::test]
async fn a_half_read_result_is_drained_or_its_connection_closed() {
    let pool = pool("halfread", policy().max_connections(1)).await;
    let first = session(&pool).await;
    let mut pooled = pool.acquire().await.unwrap();
    drop(pooled.query_iter("SELECT seq FROM seq_1_to_1000").await.unwrap());
    drop(pooled);
    assert_eq!(session(&pool).await, first);
    assert_eq!(pool.status().resets, 1);

    let url = MariaDb::shared().url("root", "halfread");
    let quick = policy().max_connections(1).reset_timeout(Duration::from_millis(20));
    let pool = Pool::new(MySql::new(&url).unwrap(), quick);
    let first = session(&pool).await;
    let mut pooled = pool.acquire().await.unwrap();
    drop(pooled.query_iter("SELECT REPEAT('x', 10000) FROM seq_1_to_100000").await.unwrap());
    drop(pooled);
    assert_ne!(session(&pool).await, first);
    assert_eq!(pool.status().closed_for(CloseReason::ResetFailed), 1);
}

/// Behaviour C39: whatever a request does to its session, in whatever style.
#[tokio::test]
async fn nothing_of_a_session_is_visible_to_the_next_request() {
    const STATE: &str = "SELECT CONCAT_WS(',', IFNULL(@x, 'none'), @@time_zone, @@tx_isolation, \
        @@sql_mode, @@autocommit, @@in_transaction, DATABASE(), @@character_set_client, \
        @@character_set_connection, @@collation_connection, @@character_set_results, \
        IS_FREE_LOCK('farrier'), IFNULL(CURRENT_ROLE(), 'none'), LAST_INSERT_ID(), \
        IFNULL(LASTVAL(s), 'none'), \
        (SELECT GROUP_CONCAT(lock_mode, lock_type) FROM information_schema.metadata_lock_info \
            WHERE thread_id = CONNECTION_ID()))";
    const OBJECTS: [&str; 3] =
        ["SELECT * FROM left_behind", "EXECUTE left_behind", "HANDLER t READ FIRST"];
    let server = MariaDb::shared();
    server.run("INSTALL SONAME 'metadata_lock_info'").await;
    let pool = pool("hygiene", policy().max_connections(1)).await;
    server.database("hygiene_other").await;
    server.run("CREATE TABLE hygiene.t (id INT AUTO_INCREMENT PRIMARY KEY)").await;
    server.run("CREATE OR REPLACE ROLE hygiene_role").await;
    server.run("CREATE SEQUENCE hygiene.s").await;
    let mut pooled = pool.acquire().await.unwrap();
    let clean: String = pooled.query_first(STATE).await.unwrap().unwrap();
    let mut id = pooled.id();
    drop(pooled);
    for dirty in [
        "SET @x = 'left behind'",
        "SET time_zone = '+05:00'",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET sql_mode = ''",
        "CREATE TEMPORARY TABLE left_behind (id INT)",
        "SELECT GET_LOCK('farrier', 0)",
        "SET autocommit = 0",
        "BEGIN",
        "USE hygiene_other",
        "SET NAMES latin1",
        "DO (SELECT @x := 'left behind')",
        "SET ROLE hygiene_role",
        "/*M!100005 SET ROLE hygiene_role */",
        "SET @@last_insert_id = 7",
        "DO NEXTVAL(s)",
        "PREPARE left_behind FROM 'SELECT 1'",
        "EXECUTE IMMEDIATE 'SET @x = 1'",
        "LOCK TABLES t WRITE",
        "FLUSH TABLES WITH READ LOCK",
        "HANDLER t OPEN",
        "BACKUP STAGE START",
        "BACKUP LOCK t",
        "XA START 'left behind'",
    ] {
        for style in 0..5 {
            let mut pooled = pool.acquire().await.unwrap();
            let done = match style {
                0 => pooled.query_drop(dirty).await,
                1 => Queryable::query_drop(&mut *pooled, dirty).await,
                2 => dirty.ignore(&mut *pooled).await,
                // Not every statement can be prepared, and not every one is allowed in a transaction.
                3 => pooled.exec_drop(dirty, ()).await.or(Ok(())),
                _ => {
                    pooled.query_drop("BEGIN").await.unwrap();
                    let _ = pooled.query_drop(dirty).await;
                    pooled.query_drop("COMMIT").await.or(Ok(()))
                }
            };
            done.expect(dirty);
            drop(pooled);
            let mut pooled = pool.acquire().await.unwrap();
            let state: String = pooled.query_first(STATE).await.unwrap().unwrap();
            assert_eq!(state, clean, "{dirty}, style {style}");
            for object in OBJECTS {
                pooled.query_drop(object).await.expect_err(dirty);
            }
            // The server refuses to reset a distributed transaction.
            let cleaned = if dirty.starts_with("XA") { pooled.id() } else { id };
            assert_eq!(pooled.id(), cleaned, "{dirty}: cleaned, not replaced");
            id = pooled.id();
        }
    }
}

/// A reset gives a session the server's settings of today; what is known of it is of the day of its connect.
#[tokio::test]
async fn a_reset_does_not_shorten_a_sessions_wait_timeout() {
    let server = MariaDb::start(&["--wait-timeout=100"]);
    let url = server.database("wait").await;
    let pool = Pool::new(MySql::new(&url).unwrap(), policy().max_connections(1));
    for _ in 0..3 {
        let mut pooled = pool.acquire().await.unwrap();
        let timeout: Option<u32> = pooled.query_first("SELECT @@wait_timeout").await.unwrap();
        assert_eq!(timeout, Some(100));
        pooled.query_drop("SET @x = 1").await.unwrap();
        server.run("SET GLOBAL wait_timeout = 7").await;
    }
    assert_eq!((pool.status().opened, pool.status().resets), (1, 2));
}

/// A reset keeps the current role; one that was dropped meanwhile costs the connection.
#[tokio::test]
async fn the_role_of_the_login_is_there_again_after_a_reset() {
    let server = MariaDb::shared();
    let pool = pool_of_user(server, "roles", policy().max_connections(1)).await;
    for sql in [
        "CREATE OR REPLACE ROLE `it``s`",
        "CREATE OR REPLACE ROLE other_role",
        "GRANT `it``s` TO roles",
        "GRANT other_role TO roles",
        "SET DEFAULT ROLE `it``s` FOR roles",
    ] {
        server.run(sql).await;
    }
    for dirty in ["SET ROLE NONE", "SET ROLE other_role", "SET @x = 1"] {
        let mut pooled = pool.acquire().await.unwrap();
        pooled.query_drop(dirty).await.unwrap();
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        let role: Option<Option<String>> =
            pooled.query_first("SELECT CURRENT_ROLE()").await.unwrap();
        assert_eq!(role.flatten().as_deref(), Some("it`s"), "{dirty}");
    }
    assert_eq!(pool.status().opened, 1);
    let mut pooled = pool.acquire().await.unwrap();
    server.run("DROP ROLE `it``s`").await;
    pooled.query_drop("SET @x = 1").await.unwrap();
    drop(pooled);
    session(&pool).await;
    assert_eq!(pool.status().opened, 2);
}

/// Behaviour C39: the current database goes with the one that is dropped.
#[tokio::test]
async fn a_database_that_was_dropped_and_made_again_is_the_current_one() {
    let pool = pool("dropped", policy().max_connections(1)).await;
    let mut pooled = pool.acquire().await.unwrap();
    pooled.query_drop("DROP DATABASE dropped").await.unwrap();
    pooled.query_drop("CREATE DATABASE dropped").await.unwrap();
    drop(pooled);
    let mut pooled = pool.acquire().await.unwrap();
    let current: Option<Option<String>> = pooled.query_first("SELECT DATABASE()").await.unwrap();
    assert_eq!(current, Some(Some("dropped".to_owned())));
}

/// A session that starts without autocommit is clean without it.
#[tokio::test]
async fn autocommit_that_is_off_from_the_start_is_not_dirt() {
    let url = MariaDb::shared().database("autocommit").await;
    let opts = OptsBuilder::from_opts(Opts::from_url(&url).unwrap());
    let database = MySql::from_opts(opts.setup(vec!["SET autocommit = 0"]));
    let pool = Pool::new(database, policy().max_connections(1));
    for turn_on in [false, true, false] {
        let mut pooled = pool.acquire().await.unwrap();
        pooled.query_drop("SELECT 1").await.unwrap();
        if turn_on {
            pooled.query_drop("SET autocommit = 1").await.unwrap();
        }
    }
    let mut pooled = pool.acquire().await.unwrap();
    let status = pool.status();
    let on: Option<bool> = pooled.query_first("SELECT @@autocommit").await.unwrap();
    assert_eq!(on, Some(false));
    assert_eq!((status.opened, status.resets), (1, 1), "{status:?}");
}

/// It holds the password, and may be found in a log.
#[tokio::test]
async fn what_debug_shows_is_no_secret() {
    let server = MariaDb::shared();
    server.database("secret").await;
    server.run("CREATE OR REPLACE USER keeper IDENTIFIED BY 'hunter2'").await;
    server.run("GRANT ALL ON secret.* TO keeper").await;
    let pool = Pool::new(MySql::new(&server.url("keeper:hunter2", "secret")).unwrap(), policy());
    let pooled = pool.acquire().await.unwrap();
    let shown = format!("{:?} {:?} {pool:?} {pooled:?}", *pooled, pool.backend());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains(&pooled.id().to_string()), "{shown}");
}

/// Behaviour C39, prepared: a hidden text is taken for a dirty one.
#[tokio::test]
async fn a_prepared_change_of_the_session_is_cleaned_too() {
    let pool = pool("prepared", policy().max_connections(1)).await;
    for style in 0..3 {
        let mut pooled = pool.acquire().await.unwrap();
        match style {
            0 => pooled.exec_drop("SET @x = ?", (7,)).await.unwrap(),
            1 => {
                let statement = pooled.prep("SET @x = ?").await.unwrap();
                pooled.exec_drop(&statement, (7,)).await.unwrap();
            }
            _ => "SET @x = ?".with((7,)).ignore(&mut *pooled).await.unwrap(),
        }
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        let x: Option<Option<u32>> = pooled.query_first("SELECT @x").await.unwrap();
        assert_eq!(x, Some(None), "style {style}");
        drop(pooled);
    }
}

/// Behaviours C41 and C42.
#[tokio::test]
async fn setup_runs_in_its_order_after_connect_and_after_each_reset() {
    let url = MariaDb::shared().database("setup").await;
    let opts = |setup: Vec<&str>| {
        let opts = Opts::from_url(&url).unwrap();
        OptsBuilder::from_opts(opts).setup(setup)
    };
    let setup = vec!["SET @a = 1", "SET @a = @a * 10 + 2", "SET time_zone = '+01:00'"];
    let pool = Pool::new(MySql::from_opts(opts(setup)), policy().max_connections(1));
    for _ in 0..2 {
        let mut pooled = pool.acquire().await.unwrap();
        let state: Option<(u32, String)> =
            pooled.query_first("SELECT @a, @@time_zone").await.unwrap();
        assert_eq!(state, Some((12, "+01:00".to_owned())));
        pooled.query_drop("SET @a = 99").await.unwrap();
    }
    let pool = Pool::new(MySql::from_opts(opts(vec!["nonsense"])), policy());
    let error = pool.acquire_once().await.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable(_)), "{error:?}");
    let known = pool.status().opened;
    assert_eq!(known, 0);
    eventually("not leaked", async || MariaDb::shared().sessions("setup").await.len() <= 1).await;
}

/// A value that does not fit is a panic in the driver, and no leak here.
#[tokio::test]
async fn a_panic_in_a_conversion_leaves_a_usable_pool() {
    let pool = pool("panics", policy().max_connections(1)).await;
    let task = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut pooled = pool.acquire().await.unwrap();
            pooled.query_first::<u32, _>("SELECT 'text' UNION SELECT 'more'").await
        }
    });
    assert!(task.await.unwrap_err().is_panic());
    let mut pooled = pool.acquire().await.unwrap();
    let seven: Option<u32> = pooled.query_first("SELECT 7").await.unwrap();
    assert_eq!(seven, Some(7));
}

/// Both crates' types in one handler, as a user writes it.
#[tokio::test]
async fn rows_convert_as_with_the_driver_itself() {
    #[derive(Debug, PartialEq)]
    struct Point {
        x: i32,
        y: i32,
    }
    impl FromRow for Point {
        fn from_row_opt(row: Row) -> Result<Self, FromRowError> {
            let (x, y) = FromRow::from_row_opt(row)?;
            Ok(Self { x, y })
        }
    }
    let pool = pool("conversions", policy()).await;
    let mut pooled = pool.acquire().await.unwrap();
    let points: Vec<Point> = pooled.exec("SELECT ?, 2", (1,)).await.unwrap();
    assert_eq!(points, [Point { x: 1, y: 2 }]);
    let points: Vec<Point> = "SELECT 1, 2".fetch(&mut *pooled).await.unwrap();
    assert_eq!(points, [Point { x: 1, y: 2 }]);
    let session = pool.backend().session_id(&pooled).expect("a session");
    assert_eq!(session.to_string(), pooled.id().to_string());
}
