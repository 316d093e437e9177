//! Servers that refuse, are full, are away, or have become another: what requests see of it.

use std::time::{Duration, Instant};

use farrier_connection::{AcquireError, CloseReason, Policy, Pool};
use farrier_mysql::MySql;
use farrier_mysql::mysql_async::prelude::*;
use farrier_mysql::mysql_async::{Error, Opts, OptsBuilder};
use farrier_test_servers::{MariaDb, eventually};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::{MOMENT, is_poisoned, policy, pool, pool_of_user, quiet, session};

/// Five clients that ask again and again.
async fn ask_for_two_seconds(pool: &Pool<MySql>) {
    let until = Instant::now() + Duration::from_secs(2);
    join_all((0..5).map(|_| async {
        while Instant::now() < until {
            match pool.acquire().await {
                // Not a `SLEEP`: the kill of another test's holds up all of the server's.
                Ok(mut pooled) => {
                    pooled.query_drop("SELECT 1").await.expect("a query");
                    sleep(Duration::from_millis(2)).await;
                }
                Err(AcquireError::Denied(_) | AcquireError::Unavailable(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
            sleep(Duration::from_millis(1)).await;
        }
    }))
    .await;
}

/// Few connects failed, and a new one succeeds soon.
async fn assert_no_storm_and_well_again(pool: &Pool<MySql>, opened: u64) {
    let failures = pool.status().connect_failures;
    assert!((4..=20).contains(&failures), "{failures}");
    let again = Instant::now();
    // One may be a session from before.
    let two = async || (pool.acquire().await.ok(), pool.acquire().await.ok());
    eventually("it is well again", async || matches!(two().await, (Some(_), Some(_)))).await;
    assert!(again.elapsed() < Duration::from_secs(1), "{:?}", again.elapsed());
    assert!(pool.status().opened > opened, "{:?}", pool.status());
}

/// A password that is changed for a while: few connects, and well again soon after. Also while
/// sessions from before answer each health check.
#[tokio::test]
async fn a_changed_password_makes_no_storm_of_connects() {
    let server = MariaDb::shared();
    for max_age in [Some(Duration::ZERO), None] {
        let pool = pool_of_user(server, "changing", policy().max_age(max_age)).await;
        drop(pool.acquire().await.unwrap());
        quiet(&pool).await;
        server.run("ALTER USER changing IDENTIFIED BY 'another'").await;
        ask_for_two_seconds(&pool).await;
        assert_eq!(pool.status().checks > 100, max_age.is_none(), "{:?}", pool.status());
        let session = pool.acquire().await.ok();
        assert_eq!(session.is_some(), max_age.is_none());
        assert!(matches!(pool.acquire().await, Err(AcquireError::Denied(_))));
        drop(session);
        server.run("ALTER USER changing IDENTIFIED BY ''").await;
        assert_no_storm_and_well_again(&pool, 1).await;
    }
}

/// A setup that fails for a while: few connects, and well again soon after.
#[tokio::test]
async fn a_setup_that_fails_makes_no_storm_of_connects() {
    let server = MariaDb::shared();
    let url = server.database("badsetup").await;
    let opts = OptsBuilder::from_opts(Opts::from_url(&url).unwrap());
    let opts = opts.setup(vec!["SET @n = (SELECT MAX(n) FROM badsetup.t)"]);
    let policy = policy().acquire_timeout(Duration::from_millis(500));
    let pool = Pool::new(MySql::from_opts(opts), policy);
    ask_for_two_seconds(&pool).await;
    assert!(matches!(pool.acquire().await, Err(AcquireError::Unavailable(_))));
    server.run("CREATE TABLE badsetup.t (n INT)").await;
    assert_no_storm_and_well_again(&pool, 0).await;
}

/// Behaviour C19, found by a statement: nobody else meets a dead connection.
#[tokio::test]
async fn a_disconnect_that_a_statement_meets_makes_the_older_connections_suspect() {
    for style in 0..4 {
        let name = format!("met{style}");
        let pool = pool(&name, policy().health_checks(false)).await;
        drop(join_all((0..4).map(|_| pool.acquire())).await);
        MariaDb::shared().kill_sessions(&name).await;
        let mut pooled = pool.acquire().await.unwrap();
        let met = match style {
            0 => pooled.query_drop("SELECT 1").await,
            1 => pooled.exec_drop("SELECT ?", (1,)).await,
            2 => pooled.query_iter("SELECT 1").await.map(drop),
            _ => Queryable::query_drop(&mut *pooled, "SELECT 1").await,
        };
        met.unwrap_err();
        drop(pooled);
        for _ in 0..4 {
            session(&pool).await;
        }
        quiet(&pool).await;
        let status = pool.status();
        assert_eq!(status.closed_for(CloseReason::Dead), 1, "{style}: {status:?}");
        assert_eq!(status.closed_for(CloseReason::Unusable), 3, "{style}: {status:?}");
        assert_eq!(status.kills + status.kill_failures, 0, "{style}: {status:?}");
    }
}

/// Behaviours C13 and C19.
#[tokio::test]
async fn killed_idle_sessions_cost_nothing_with_checks_and_one_failure_without() {
    let pool = pool("killed", policy().max_connections(5)).await;
    let taken = join_all((0..5).map(|_| pool.acquire())).await;
    drop(taken);
    assert_eq!(pool.status().idle, 5);
    MariaDb::shared().kill_sessions("killed").await;
    session(&pool).await;
    quiet(&pool).await;
    let status = pool.status();
    assert_eq!((status.check_failures, status.closed_for(CloseReason::Unusable)), (5, 5));

    let url = MariaDb::shared().database("unchecked").await;
    let pool = Pool::new(MySql::new(&url).unwrap(), policy().health_checks(false));
    let first = session(&pool).await;
    MariaDb::shared().kill_sessions("unchecked").await;
    let mut pooled = pool.acquire().await.unwrap();
    pooled.query_drop("SELECT 1").await.unwrap_err();
    is_poisoned(pooled.query_drop("SELECT 1").await);
    drop(pooled);
    assert_ne!(session(&pool).await, first);
}

/// Its statements run on meanwhile, and nobody may end them: their slots stay taken.
#[tokio::test]
async fn an_account_that_is_locked_for_a_while_does_not_double_its_sessions() {
    let server = MariaDb::start(&[]);
    let pool = pool_of_user(&server, "locked", policy().max_connections(4)).await;
    let taken = join_all((0..4).map(|_| pool.acquire())).await;
    server.run("ALTER USER locked ACCOUNT LOCK").await;
    join_all(taken.into_iter().map(|pooled| async {
        let mut pooled = pooled.unwrap();
        timeout(MOMENT, pooled.query_drop("SELECT SLEEP(8)")).await.unwrap_err();
    }))
    .await;
    eventually("kills are refused", async || pool.status().kill_failures > 0).await;
    server.run("ALTER USER locked ACCOUNT UNLOCK").await;
    let again = Instant::now();
    let taken = join_all((0..4).map(|_| pool.acquire())).await;
    assert!(taken.iter().all(Result::is_ok), "{taken:?}");
    assert!(again.elapsed() < Duration::from_secs(3), "{:?}", again.elapsed());
    let sessions = server.sessions_of("locked").await;
    assert!(sessions.len() <= 5, "{sessions:?}");
}

/// A pool that may have all the sessions of its user, and uses each once.
#[tokio::test]
async fn at_the_users_limit_closing_waits_for_nobody() {
    let server = MariaDb::shared();
    let policy = Policy::django().max_connections(4).acquire_timeout(Duration::from_secs(60));
    let pool = pool_of_user(server, "limited", policy).await;
    server.run("ALTER USER limited WITH MAX_USER_CONNECTIONS 4").await;
    let begun = Instant::now();
    join_all((0..8).map(|_| async {
        for _ in 0..40 {
            session(&pool).await;
        }
    }))
    .await;
    // It was 20 in a second.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}: {:?}", begun.elapsed(), pool.status());
}

/// There is nobody who could answer a good-bye.
#[tokio::test]
async fn a_pool_closes_in_the_time_for_one_connection_while_its_server_stands_still() {
    let server = MariaDb::start(&[]);
    let pool =
        pool_of_user(&server, "paused", policy().close_timeout(Duration::from_secs(2))).await;
    drop(join_all((0..4).map(|_| pool.acquire())).await);
    quiet(&pool).await;
    server.pause().await;
    let begun = Instant::now();
    pool.close().await;
    server.resume();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// What a server refuses to one request says nothing about the others' connections.
#[tokio::test]
async fn a_request_that_the_server_hangs_up_on_costs_nobody_else_a_connection() {
    // With another limit than the driver's own default.
    let server = MariaDb::start(&["--max-allowed-packet=4M"]);
    let url = server.database("upload").await;
    server.run("CREATE TABLE upload.t (data LONGBLOB)").await;
    let of_server = MySql::new(&url).unwrap();
    // An option that promises more than the server takes: it is the server that hangs up.
    let more = OptsBuilder::from_opts(Opts::from_url(&url).unwrap());
    let more = MySql::from_opts(more.max_allowed_packet(Some(64 << 20)));
    for database in [of_server, more] {
        let pool = Pool::new(database, policy().health_checks(false));
        for round in 0..3 {
            drop(join_all((0..4).map(|_| pool.acquire())).await);
            quiet(&pool).await;
            let closed = pool.status().closed;
            let mut pooled = pool.acquire().await.unwrap();
            let big = vec![b'x'; 5 << 20];
            pooled.exec_drop("INSERT INTO t VALUES (?)", (big,)).await.unwrap_err();
            drop(pooled);
            let mut pooled = pool.acquire().await.unwrap();
            let outfile = "SELECT 1 INTO OUTFILE '/nowhere/file'";
            pooled.query_drop(outfile).await.unwrap_err();
            pooled.query_drop("SELECT 1").await.unwrap();
            drop(pooled);
            for _ in 0..4 {
                session(&pool).await;
            }
            quiet(&pool).await;
            let status = pool.status();
            assert!(status.closed <= closed + 1, "{round}: {status:?}");
        }
    }
}

/// The driver's own limit is 16 MiB where it is not told otherwise.
#[tokio::test]
async fn a_row_is_as_large_as_the_server_allows() {
    let server = MariaDb::start(&["--max-allowed-packet=64M"]);
    let pool = Pool::new(MySql::new(&server.database("large").await).unwrap(), policy());
    for _ in 0..2 {
        let mut first = pool.acquire().await.unwrap();
        let row: Option<Vec<u8>> = first.query_first("SELECT REPEAT('x', 40000000)").await.unwrap();
        assert_eq!(row.map(|row| row.len()), Some(40_000_000));
        // Another connect, which knows the limit.
        let mut second = pool.acquire().await.unwrap();
        let data = vec![b'x'; 20 << 20];
        let length: Option<usize> = second.exec_first("SELECT LENGTH(?)", (data,)).await.unwrap();
        assert_eq!(length, Some(20 << 20));
    }
    assert_eq!(pool.status().closed, 0);
}

/// Behaviour C24: a ping would find nothing wrong with it.
#[tokio::test]
async fn a_server_that_became_read_only_is_connected_to_anew() {
    let server = MariaDb::start(&[]);
    server.database("failover").await;
    server.run("CREATE TABLE failover.t (id INT)").await;
    // Root may write all the same.
    server.run("CREATE USER writer").await;
    server.run("GRANT ALL ON failover.* TO writer").await;
    let url = server.url("writer", "failover");
    let pool = Pool::new(MySql::new(&url).unwrap(), policy());
    server.run("SET GLOBAL read_only = ON").await;
    for (style, closed) in (0..4).zip(1..) {
        let first = session(&pool).await;
        let mut pooled = pool.acquire().await.unwrap();
        let error = match style {
            0 => pooled.exec_drop("INSERT INTO t VALUES (?)", (1,)).await,
            1 => pooled.exec_iter("INSERT INTO t VALUES (?)", (1,)).await.map(drop),
            2 => pooled.query_iter("INSERT INTO t VALUES (1)").await.map(drop),
            _ => Queryable::query_drop(&mut *pooled, "INSERT INTO t VALUES (1)").await,
        };
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::Server(error) if error.code == 1290), "{error:?}");
        drop(pooled);
        assert_ne!(session(&pool).await, first, "style {style}");
        quiet(&pool).await;
        assert_eq!(pool.status().closed_for(CloseReason::Dead), closed);
    }
}

/// What a start meets.
#[tokio::test]
async fn a_server_that_refuses_is_told_apart_from_one_that_is_not_there() {
    let server = MariaDb::shared();
    let url = server.url("nobody", "test");
    let error = Pool::new(MySql::new(&url).unwrap(), policy()).acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::Denied(_)), "{error:?}");
    let url = server.url("root", "no_such_database");
    let error = Pool::new(MySql::new(&url).unwrap(), policy()).acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::Denied(_)), "{error:?}");
    let error = Pool::new(MySql::new("mysql://root@127.0.0.1:1/test").unwrap(), policy())
        .acquire_once()
        .await
        .unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable(_)), "{error:?}");
}

/// Behaviours C54 and C55: who meets a full server waits for it.
#[tokio::test]
async fn a_full_server_is_waited_for() {
    let server = MariaDb::shared();
    server.database("full").await;
    server.run("CREATE OR REPLACE USER crowded WITH MAX_USER_CONNECTIONS 2").await;
    server.run("GRANT ALL ON full.* TO crowded").await;
    let pool = Pool::new(MySql::new(&server.url("crowded", "full")).unwrap(), policy());
    let requests = join_all((0..6).map(|_| async {
        let mut pooled = pool.acquire().await?;
        pooled.query_drop("SELECT SLEEP(0.1)").await.expect("a query");
        Ok::<_, AcquireError>(())
    }));
    for result in requests.await {
        result.unwrap();
    }
    assert_eq!(pool.status().opened, 2);
    assert!(pool.status().connect_failures > 0);
}

/// Behaviour C56.
#[tokio::test]
async fn a_stopped_server_costs_no_more_than_the_deadline() {
    let server = MariaDb::start(&[]);
    let url = server.database("stopped").await;
    let pool = Pool::new(MySql::new(&url).unwrap(), policy().max_connections(3));
    drop(join_all((0..3).map(|_| pool.acquire())).await);
    server.pause().await;
    let start = Instant::now();
    for result in join_all((0..10).map(|_| pool.acquire())).await {
        assert_eq!(result.unwrap_err().status(), 504);
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    server.resume();
    eventually("it serves again", async || pool.acquire().await.is_ok()).await;
    eventually("nothing is left", async || {
        let status = pool.status();
        status.connecting + status.maintaining + status.waiting + status.in_use == 0
    })
    .await;
}
