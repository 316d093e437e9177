//! The behaviours of the MySQL backend, against a private MariaDB server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farrier_connection::{AcquireError, Backend, CloseReason, Interruption, Policy, Pool};
use farrier_mysql::mysql_async::prelude::*;
use farrier_mysql::mysql_async::{Conn, Error, FromRowError, Opts, OptsBuilder, Row};
use farrier_mysql::{MySql, MySqlConnection, Poisoned};
use farrier_test_servers::{MariaDb, eventually};
use futures_util::future::join_all;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

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
    let mut loan = pool.acquire().await.expect("a connection");
    let session = loan.query_first("SELECT CONNECTION_ID()").await.expect("a query");
    session.expect("a row")
}

/// Waits until nothing is cleaned or closed any more.
async fn quiet(pool: &Pool<MySql>) {
    eventually("the pool is quiet", async || pool.status().maintaining == 0).await;
}

fn is_poisoned<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.expect_err("poisoned");
    assert!(matches!(&error, Error::Other(inner) if inner.is::<Poisoned>()), "{error:?}");
}

/// connections.md 5, behaviours 2 and 40; 3.1: a connect is one session.
#[tokio::test]
async fn plain_requests_share_one_session_and_are_not_reset() {
    let pool = pool("plain", policy()).await;
    let first = session(&pool).await;
    for number in 0..20_u32 {
        let mut loan = pool.acquire().await.unwrap();
        let sum: Option<u32> = loan.exec_first("SELECT ? + 1", (number,)).await.unwrap();
        assert_eq!(sum, Some(number + 1));
        loan.query_drop("BEGIN").await.unwrap();
        loan.query_drop("COMMIT").await.unwrap();
        assert_eq!(u64::from(loan.id()), first);
    }
    let status = pool.status();
    assert_eq!((status.opened, status.resets, status.rollbacks, status.checks), (1, 0, 0, 20));
    assert_eq!(MariaDb::shared().sessions("plain").await, [first]);
    pool.close().await;
    eventually("closed", async || MariaDb::shared().sessions("plain").await.is_empty()).await;
}

/// connections.md 5, behaviour 28 (3.2): in every style, and also once the server is done with it.
#[tokio::test]
async fn after_a_cancelled_query_every_style_is_refused() {
    async fn all_refuse(connection: &mut MySqlConnection) {
        is_poisoned(connection.query_first::<u32, _>("SELECT 7").await);
        is_poisoned(connection.exec_first::<u32, _, _>("SELECT ?", (7,)).await);
        is_poisoned(connection.query_drop("ROLLBACK").await);
        is_poisoned(connection.prep("SELECT 7").await);
        is_poisoned(Queryable::ping(connection).await);
        is_poisoned(Queryable::query_first::<u32, _>(connection, "SELECT 7").await);
        is_poisoned(Queryable::exec_first::<u32, _, _>(connection, "SELECT ?", (7,)).await);
        is_poisoned("SELECT 7".first::<u32, _>(&mut *connection).await);
        is_poisoned("SELECT ?".with((7,)).first::<u32, _>(&mut *connection).await);
        is_poisoned("DO ?".with([(1,), (2,)]).batch(&mut *connection).await);
    }
    let pool = pool("poison", policy()).await;
    for cancelled in ["SELECT SLEEP(0.3)", "SELECT 1 UNION SELECT SLEEP(0.3)"] {
        let mut loan = pool.acquire().await.unwrap();
        let id = loan.id();
        assert!(timeout(MOMENT, loan.query_drop(cancelled)).await.is_err());
        all_refuse(&mut loan).await;
        sleep(Duration::from_millis(400)).await;
        all_refuse(&mut loan).await;
        drop(loan);
        assert_ne!(session(&pool).await, u64::from(id));
    }
    quiet(&pool).await;
    assert_eq!(pool.status().closed_for(CloseReason::Poisoned), 2);
}

/// connections.md 5, behaviours 29 and 31.
#[tokio::test]
async fn a_cancelled_transaction_lets_go_of_its_locks() {
    let pool = pool("locks", policy()).await;
    let mut loan = pool.acquire().await.unwrap();
    loan.query_drop("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await.unwrap();
    loan.query_drop("INSERT INTO t VALUES (1, 0)").await.unwrap();
    loan.query_drop("BEGIN").await.unwrap();
    loan.query_drop("UPDATE t SET n = 1").await.unwrap();
    assert!(timeout(MOMENT, loan.query_drop(SLOW)).await.is_err());
    drop(loan);
    let start = Instant::now();
    let mut next = pool.acquire().await.unwrap();
    next.query_drop("UPDATE t SET n = n + 10").await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let n: Option<u32> = next.query_first("SELECT n FROM t").await.unwrap();
    assert_eq!(n, Some(10));
    drop(next);
    quiet(&pool).await;
    assert_eq!((pool.status().kills, pool.status().kill_failures), (1, 0));
    eventually("one session", async || MariaDb::shared().sessions("locks").await.len() == 1).await;
}

/// A pool whose sessions, and those beside it, the server lists under a user of their own.
async fn pool_of_user(name: &str, policy: Policy) -> Pool<MySql> {
    let server = MariaDb::shared();
    server.database(name).await;
    server.run(&format!("CREATE OR REPLACE USER {name}")).await;
    server.run(&format!("GRANT ALL ON {name}.* TO {name}")).await;
    Pool::new(MySql::new(&server.url(name, name)).expect("a URL"), policy)
}

/// The most sessions that `user` ever had at once, as one connection beside the pool sees it each
/// millisecond.
async fn most_sessions(user: &str, mut is_over: impl FnMut() -> bool) -> usize {
    let url = MariaDb::shared().url("root", "information_schema");
    let opts = OptsBuilder::from_opts(Opts::from_url(&url).expect("a URL")).prefer_socket(false);
    let mut beside = Conn::new(opts).await.expect("a connection");
    let mut most = 0;
    while !is_over() {
        let sql = "SELECT COUNT(*) FROM processlist WHERE user = ?";
        let now: Option<usize> = beside.exec_first(sql, (user,)).await.expect("a count");
        most = most.max(now.unwrap_or(0));
        sleep(Duration::from_millis(1)).await;
    }
    beside.disconnect().await.expect("an open connection");
    most
}

/// connections.md 5, behaviour 30: one beside the bound, and another one while a kill is slow, as that
/// of a `SLEEP` may be.
#[tokio::test]
async fn hang_ups_never_exceed_the_bound_at_the_server() {
    const LONG: &str = "SELECT COUNT(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b";
    for (name, statement, bound) in [
        ("bound_select", LONG, 4 + 1),
        ("bound_lock", "UPDATE t SET n = n + 1", 4 + 1),
        ("bound_sleep", SLOW, 4 + 2),
    ] {
        let policy = policy().max_connections(4).max_waiting(1_000);
        let pool = pool_of_user(name, policy.acquire_timeout(Duration::from_secs(60))).await;
        let mut holder = MariaDb::shared().connect().await;
        holder.query_drop(format!("CREATE TABLE {name}.t (n INT)")).await.unwrap();
        holder.query_drop(format!("INSERT INTO {name}.t VALUES (0)")).await.unwrap();
        holder.query_drop("BEGIN").await.unwrap();
        holder.query_drop(format!("UPDATE {name}.t SET n = 1")).await.unwrap();
        let clients = join_all((0..24).map(async |_| {
            for _ in 0..10 {
                let mut loan = pool.acquire().await.unwrap();
                timeout(Duration::from_millis(30), loan.query_drop(statement)).await.unwrap_err();
            }
        }));
        let watch = most_sessions(name, || pool.status().closed >= 240);
        let both = async { tokio::join!(clients, watch) };
        let (_, most) = timeout(Duration::from_secs(60), both).await.unwrap();
        assert!((1..=bound).contains(&most), "{name}: {most}: {:?}", pool.status());
        assert_eq!(pool.status().kills, 240, "{name}: {:?}", pool.status());
        pool.close().await;
        eventually("none is left", async || MariaDb::shared().sessions(name).await.is_empty())
            .await;
    }
}

/// Others are served meanwhile.
#[tokio::test]
async fn hang_ups_hold_up_nobody_else() {
    const LONG: &str = "SELECT COUNT(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b";
    let pool = pool_of_user("others", policy().max_connections(8)).await;
    let hang_ups = join_all((0..4).map(async |_| {
        for _ in 0..50 {
            let mut loan = pool.acquire().await.unwrap();
            timeout(Duration::from_millis(10), loan.query_drop(LONG)).await.unwrap_err();
        }
    }));
    let mut slowest = Duration::ZERO;
    let probes = async {
        while pool.status().closed < 200 {
            let asked = Instant::now();
            session(&pool).await;
            slowest = slowest.max(asked.elapsed());
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), async { tokio::join!(hang_ups, probes) }).await.unwrap();
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

/// Two servers behind one address, in turn: their sessions have the same numbers.
#[tokio::test]
async fn a_kill_never_hits_a_session_of_another_server() {
    let servers = [MariaDb::start(&[]), MariaDb::start(&[])];
    let mut innocent = Vec::new();
    for server in &servers {
        server.database("twin").await;
        let url = server.url("root", "twin");
        // As many as to make the numbers overlap, whatever was connected before.
        for _ in 0..40 {
            let opts = OptsBuilder::from_opts(Opts::from_url(&url).unwrap()).prefer_socket(false);
            innocent.push(Conn::new(opts).await.unwrap());
        }
    }
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("mysql://root@{}/twin", front.local_addr().unwrap());
    let behind = servers.each_ref().map(MariaDb::address);
    let turn = Arc::new(AtomicUsize::new(0));
    let whose = Arc::clone(&turn);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = front.accept().await.unwrap();
            let behind = behind[whose.load(Ordering::Relaxed) % 2];
            let mut server = TcpStream::connect(behind).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let pool = Pool::new(MySql::new(&url).unwrap(), policy().max_connections(2));
    for round in 0..6 {
        let loans = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
        // The side connection leads elsewhere in the first round, and stays where it is in the next.
        turn.store(round + 1, Ordering::Relaxed);
        for mut loan in loans {
            let slow = loan.query_drop("SELECT SLEEP(2)");
            timeout(MOMENT, slow).await.unwrap_err();
        }
        quiet(&pool).await;
    }
    let status = pool.status();
    assert_eq!((status.kills, status.kills_at_other_server), (6, 6), "{status:?}");
    for conn in &mut innocent {
        conn.ping().await.expect("nobody killed it");
    }
}

/// After a restart the numbers begin anew.
#[tokio::test]
async fn a_session_of_before_a_restart_is_nobody_elses_afterwards() {
    let mut server = MariaDb::start(&[]);
    let url = server.database("anew").await;
    let pool = Pool::new(MySql::new(&url).unwrap(), policy());
    let before = pool.backend().session_id(&*pool.acquire().await.unwrap()).unwrap();
    assert_eq!(pool.backend().interrupt(&before).await.unwrap(), Interruption::Gone);
    server.stop();
    server.restart();
    assert_eq!(pool.backend().interrupt(&before).await.unwrap(), Interruption::OtherServer);
}

/// As the twin in farrier-connection's tests: the pool may have all the sessions that its user may.
#[tokio::test]
async fn hang_ups_at_a_full_server_cost_no_slot() {
    let server = MariaDb::shared();
    server.database("full").await;
    server.run("CREATE OR REPLACE USER full WITH MAX_USER_CONNECTIONS 4").await;
    server.run("GRANT ALL ON full.* TO full").await;
    let pool =
        Pool::new(MySql::new(&server.url("full", "full")).unwrap(), policy().max_connections(4));
    for _ in 0..3 {
        let loans = join_all((0..4).map(|_| pool.acquire())).await;
        join_all(loans.into_iter().map(async |loan| {
            let mut loan = loan.unwrap();
            timeout(MOMENT, loan.query_drop("SELECT SLEEP(0.3)")).await.unwrap_err();
        }))
        .await;
        let hung_up = Instant::now();
        join_all((0..4).map(|_| session(&pool))).await;
        assert!(hung_up.elapsed() < Duration::from_millis(1_250), "{:?}", hung_up.elapsed());
    }
    assert_eq!(pool.status().closed_for(CloseReason::Poisoned), 12);
}

/// Five clients that ask again and again.
async fn ask_for_two_seconds(pool: &Pool<MySql>) {
    let until = Instant::now() + Duration::from_secs(2);
    join_all((0..5).map(|_| async {
        while Instant::now() < until {
            match pool.acquire().await {
                Ok(mut loan) => loan.query_drop("SELECT SLEEP(0.002)").await.expect("a query"),
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
        let pool = pool_of_user("changing", policy().max_age(max_age)).await;
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

/// connections.md 5, behaviour 30: where each attempt to kill has too little time, and most fail.
#[tokio::test]
async fn the_bound_holds_when_kills_fail() {
    let policy = policy().max_connections(2).max_waiting(1_000);
    let policy = policy.close_timeout(Duration::from_micros(1_500));
    let pool = pool_of_user("killfail", policy.acquire_timeout(Duration::from_secs(60))).await;
    let requests = join_all((0..40).map(|_| async {
        let mut loan = pool.acquire().await.unwrap();
        let _ = timeout(Duration::from_millis(5), loan.query_drop(SLOW)).await;
    }));
    let watch = most_sessions("killfail", || pool.status().closed >= 40);
    let (_, most) =
        timeout(Duration::from_secs(60), async { tokio::join!(requests, watch) }).await.unwrap();
    assert!(pool.status().kill_failures > 0, "{:?}", pool.status());
    assert!((1..=3).contains(&most), "{most}: {:?}", pool.status());
}

/// connections.md 5, behaviours 1 and 30: a session that was said good-bye to is there until it is
/// gone.
#[tokio::test]
async fn the_bound_holds_while_connections_come_and_go() {
    let policy = Policy::django().max_connections(2).acquire_timeout(Duration::from_secs(60));
    let pool = pool_of_user("comeandgo", policy).await;
    let requests = join_all((0..4).map(|_| async {
        for _ in 0..300 {
            pool.acquire().await.unwrap().query_drop("SELECT 1").await.unwrap();
        }
    }));
    let watch = most_sessions("comeandgo", || pool.status().acquired >= 1_200);
    let (_, most) =
        timeout(Duration::from_secs(60), async { tokio::join!(requests, watch) }).await.unwrap();
    assert!((1..=3).contains(&most), "{most}: {:?}", pool.status());
    assert_eq!(pool.status().opened, 1_200);
}

/// connections.md 5, behaviours 28 and 29: cut off among the rows, not before them.
#[tokio::test]
async fn a_query_cancelled_while_its_rows_come_is_poisoned_too() {
    const ROWS: &str = "SELECT REPEAT('x', 40000) FROM seq_1_to_20 UNION ALL SELECT SLEEP(60)";
    let pool = pool("cutrows", policy().max_connections(1)).await;
    for style in 0..3 {
        let mut loan = pool.acquire().await.unwrap();
        let rows: Result<_, _> = match style {
            0 => timeout(MOMENT, loan.query_drop(ROWS)).await.map(drop),
            1 => timeout(MOMENT, loan.exec_drop(ROWS, ())).await.map(drop),
            _ => timeout(MOMENT, loan.query::<Row, _>(ROWS)).await.map(drop),
        };
        assert!(rows.is_err());
        is_poisoned(loan.query_drop("SELECT 7").await);
        let start = Instant::now();
        drop(loan);
        session(&pool).await;
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    }
    quiet(&pool).await;
    assert_eq!((pool.status().kills, pool.status().closed_for(CloseReason::Poisoned)), (3, 3));
}

/// connections.md 5, behaviour 19, found by a statement: nobody else meets a dead connection.
#[tokio::test]
async fn a_disconnect_that_a_statement_meets_retires_the_older_connections() {
    for style in 0..4 {
        let name = format!("met{style}");
        let pool = pool(&name, policy().health_checks(false)).await;
        drop(join_all((0..4).map(|_| pool.acquire())).await);
        MariaDb::shared().kill_sessions(&name).await;
        let mut loan = pool.acquire().await.unwrap();
        let met = match style {
            0 => loan.query_drop("SELECT 1").await,
            1 => loan.exec_drop("SELECT ?", (1,)).await,
            2 => loan.query_iter("SELECT 1").await.map(drop),
            _ => Queryable::query_drop(&mut *loan, "SELECT 1").await,
        };
        met.unwrap_err();
        drop(loan);
        for _ in 0..4 {
            session(&pool).await;
        }
        quiet(&pool).await;
        let status = pool.status();
        assert_eq!(status.closed_for(CloseReason::Dead), 1, "{style}: {status:?}");
        assert_eq!(status.closed_for(CloseReason::Generation), 3, "{style}: {status:?}");
        assert_eq!(status.kills + status.kill_failures, 0, "{style}: {status:?}");
    }
}

/// The driver's mistakes with a healthy session say nothing about the others.
#[tokio::test]
async fn a_wrong_number_of_parameters_retires_nobody_else() {
    let pool = pool("mistake", policy()).await;
    drop(join_all((0..3).map(|_| pool.acquire())).await);
    let mut loan = pool.acquire().await.unwrap();
    loan.exec_drop("SELECT ?", (1, 2)).await.unwrap_err();
    drop(loan);
    quiet(&pool).await;
    assert_eq!((pool.status().idle, pool.status().closed_for(CloseReason::Poisoned)), (2, 1));
}

/// connections.md 3.8: nobody meets a session that the server has closed, without any check.
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

/// connections.md 5, behaviours 13 and 19.
#[tokio::test]
async fn killed_idle_sessions_cost_nothing_with_checks_and_one_failure_without() {
    let pool = pool("killed", policy().max_connections(5)).await;
    let loans = join_all((0..5).map(|_| pool.acquire())).await;
    drop(loans);
    assert_eq!(pool.status().idle, 5);
    MariaDb::shared().kill_sessions("killed").await;
    session(&pool).await;
    quiet(&pool).await;
    let status = pool.status();
    assert_eq!((status.check_failures, status.closed_for(CloseReason::Generation)), (1, 4));

    let url = MariaDb::shared().database("unchecked").await;
    let pool = Pool::new(MySql::new(&url).unwrap(), policy().health_checks(false));
    let first = session(&pool).await;
    MariaDb::shared().kill_sessions("unchecked").await;
    let mut loan = pool.acquire().await.unwrap();
    loan.query_drop("SELECT 1").await.unwrap_err();
    is_poisoned(loan.query_drop("SELECT 1").await);
    drop(loan);
    assert_ne!(session(&pool).await, first);
}

/// connections.md 5, behaviours 21 and 22.
#[tokio::test]
async fn an_error_in_a_statement_keeps_the_connection_and_what_it_prepared() {
    let pool = pool("errors", policy().max_connections(1)).await;
    let mut loan = pool.acquire().await.unwrap();
    let id = loan.id();
    loan.query_drop("CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
    loan.exec_drop("INSERT INTO t VALUES (?)", (1,)).await.unwrap();
    let prepared = loan.prep("INSERT INTO t VALUES (?)").await.unwrap().id();
    loan.exec_drop("INSERT INTO t VALUES (?)", (1,)).await.unwrap_err();
    drop(loan);
    let mut loan = pool.acquire().await.unwrap();
    loan.query_drop("SELECT nonsense").await.unwrap_err();
    drop(loan);
    let mut loan = pool.acquire().await.unwrap();
    assert_eq!(loan.id(), id);
    assert_eq!(loan.prep("INSERT INTO t VALUES (?)").await.unwrap().id(), prepared);
}

/// connections.md 5, behaviour 24: a ping would find nothing wrong with it.
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
        let mut loan = pool.acquire().await.unwrap();
        let error = match style {
            0 => loan.exec_drop("INSERT INTO t VALUES (?)", (1,)).await,
            1 => loan.exec_iter("INSERT INTO t VALUES (?)", (1,)).await.map(drop),
            2 => loan.query_iter("INSERT INTO t VALUES (1)").await.map(drop),
            _ => Queryable::query_drop(&mut *loan, "INSERT INTO t VALUES (1)").await,
        };
        let error = error.unwrap_err();
        assert!(matches!(&error, Error::Server(error) if error.code == 1290), "{error:?}");
        drop(loan);
        assert_ne!(session(&pool).await, first, "style {style}");
        assert_eq!(pool.status().closed_for(CloseReason::Dead), closed);
    }
}

/// connections.md 5, behaviour 25: after a lock wait time-out the transaction is still open.
#[tokio::test]
async fn a_transaction_left_open_is_rolled_back() {
    let pool = pool("stray", policy().max_connections(2)).await;
    let mut loan = pool.acquire().await.unwrap();
    loan.query_drop("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await.unwrap();
    loan.query_drop("INSERT INTO t VALUES (1, 0), (2, 0)").await.unwrap();
    loan.query_drop("BEGIN").await.unwrap();
    loan.query_drop("UPDATE t SET n = 1 WHERE id = 1").await.unwrap();
    let mut other = pool.acquire().await.unwrap();
    other.query_drop("SET innodb_lock_wait_timeout = 1").await.unwrap();
    other.query_drop("BEGIN").await.unwrap();
    other.query_drop("UPDATE t SET n = 2 WHERE id = 2").await.unwrap();
    let error = other.query_drop("UPDATE t SET n = 2 WHERE id = 1").await.unwrap_err();
    assert!(matches!(&error, Error::Server(error) if error.code == 1205), "{error:?}");
    drop(other);
    drop(loan);
    quiet(&pool).await;
    let loans = join_all([pool.acquire(), pool.acquire()]).await;
    for loan in loans {
        let n: Vec<u32> = loan.unwrap().query("SELECT n FROM t").await.unwrap();
        assert_eq!(n, [0, 0]);
    }
    assert_eq!(pool.status().opened, 2);
}

/// connections.md 5, behaviour 27: the driver closes the session, and with it the transaction.
#[tokio::test]
async fn a_wrong_number_of_parameters_is_not_a_silent_loss() {
    let pool = pool("params", policy()).await;
    let mut loan = pool.acquire().await.unwrap();
    loan.query_drop("CREATE TABLE t (id INT)").await.unwrap();
    loan.query_drop("BEGIN").await.unwrap();
    loan.query_drop("INSERT INTO t VALUES (1)").await.unwrap();
    loan.exec_drop("INSERT INTO t VALUES (?)", (1, 2)).await.unwrap_err();
    is_poisoned(loan.query_drop("COMMIT").await);
    drop(loan);
    let mut loan = pool.acquire().await.unwrap();
    let rows: Vec<u32> = loan.query("SELECT id FROM t").await.unwrap();
    assert_eq!(rows, [0_u32; 0]);
}

/// connections.md 5, behaviour 38.
#[tokio::test]
async fn a_half_read_result_is_drained_or_its_connection_closed() {
    let pool = pool("halfread", policy().max_connections(1)).await;
    let first = session(&pool).await;
    let mut loan = pool.acquire().await.unwrap();
    drop(loan.query_iter("SELECT seq FROM seq_1_to_1000").await.unwrap());
    drop(loan);
    assert_eq!(session(&pool).await, first);
    assert_eq!(pool.status().resets, 1);

    let url = MariaDb::shared().url("root", "halfread");
    let quick = policy().max_connections(1).reset_timeout(Duration::from_millis(20));
    let pool = Pool::new(MySql::new(&url).unwrap(), quick);
    let first = session(&pool).await;
    let mut loan = pool.acquire().await.unwrap();
    drop(loan.query_iter("SELECT REPEAT('x', 10000) FROM seq_1_to_100000").await.unwrap());
    drop(loan);
    assert_ne!(session(&pool).await, first);
    assert_eq!(pool.status().closed_for(CloseReason::ResetFailed), 1);
}

/// connections.md 5, behaviour 39: whatever a request does to its session, in whatever style.
#[tokio::test]
async fn nothing_of_a_session_is_visible_to_the_next_request() {
    const STATE: &str = "SELECT CONCAT_WS(',', IFNULL(@x, 'none'), @@time_zone, @@tx_isolation, \
        @@sql_mode, @@autocommit, @@in_transaction, DATABASE(), @@character_set_client, \
        @@character_set_connection, @@collation_connection, @@character_set_results, \
        IS_FREE_LOCK('farrier'))";
    let pool = pool("hygiene", policy().max_connections(1)).await;
    MariaDb::shared().database("hygiene_other").await;
    let mut loan = pool.acquire().await.unwrap();
    let clean: String = loan.query_first(STATE).await.unwrap().unwrap();
    let id = loan.id();
    drop(loan);
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
    ] {
        for style in 0..3 {
            let mut loan = pool.acquire().await.unwrap();
            let done = match style {
                0 => loan.query_drop(dirty).await,
                1 => Queryable::query_drop(&mut *loan, dirty).await,
                _ => dirty.ignore(&mut *loan).await,
            };
            done.expect(dirty);
            drop(loan);
            let mut loan = pool.acquire().await.unwrap();
            let state: String = loan.query_first(STATE).await.unwrap().unwrap();
            assert_eq!(state, clean, "{dirty}");
            loan.query_drop("SELECT * FROM left_behind").await.unwrap_err();
            assert_eq!(loan.id(), id, "{dirty}: cleaned, not replaced");
        }
    }
}

/// connections.md 5, behaviour 39: the current database goes with the one that is dropped.
#[tokio::test]
async fn a_database_that_was_dropped_and_made_again_is_the_current_one() {
    let pool = pool("dropped", policy().max_connections(1)).await;
    let mut loan = pool.acquire().await.unwrap();
    loan.query_drop("DROP DATABASE dropped").await.unwrap();
    loan.query_drop("CREATE DATABASE dropped").await.unwrap();
    drop(loan);
    let mut loan = pool.acquire().await.unwrap();
    let current: Option<Option<String>> = loan.query_first("SELECT DATABASE()").await.unwrap();
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
        let mut loan = pool.acquire().await.unwrap();
        loan.query_drop("SELECT 1").await.unwrap();
        if turn_on {
            loan.query_drop("SET autocommit = 1").await.unwrap();
        }
    }
    let mut loan = pool.acquire().await.unwrap();
    let status = pool.status();
    let on: Option<bool> = loan.query_first("SELECT @@autocommit").await.unwrap();
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
    let loan = pool.acquire().await.unwrap();
    let shown = format!("{:?} {:?} {pool:?} {loan:?}", *loan, pool.backend());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains(&loan.id().to_string()), "{shown}");
}

/// connections.md 5, behaviour 39, prepared: a hidden text is taken for a dirty one.
#[tokio::test]
async fn a_prepared_change_of_the_session_is_cleaned_too() {
    let pool = pool("prepared", policy().max_connections(1)).await;
    for style in 0..3 {
        let mut loan = pool.acquire().await.unwrap();
        match style {
            0 => loan.exec_drop("SET @x = ?", (7,)).await.unwrap(),
            1 => {
                let statement = loan.prep("SET @x = ?").await.unwrap();
                loan.exec_drop(&statement, (7,)).await.unwrap();
            }
            _ => "SET @x = ?".with((7,)).ignore(&mut *loan).await.unwrap(),
        }
        drop(loan);
        let mut loan = pool.acquire().await.unwrap();
        let x: Option<Option<u32>> = loan.query_first("SELECT @x").await.unwrap();
        assert_eq!(x, Some(None), "style {style}");
        drop(loan);
    }
}

/// connections.md 5, behaviours 41 and 42.
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
        let mut loan = pool.acquire().await.unwrap();
        let state: Option<(u32, String)> =
            loan.query_first("SELECT @a, @@time_zone").await.unwrap();
        assert_eq!(state, Some((12, "+01:00".to_owned())));
        loan.query_drop("SET @a = 99").await.unwrap();
    }
    let pool = Pool::new(MySql::from_opts(opts(vec!["nonsense"])), policy());
    let error = pool.acquire_once().await.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable(_)), "{error:?}");
    let known = pool.status().opened;
    assert_eq!(known, 0);
    eventually("not leaked", async || MariaDb::shared().sessions("setup").await.len() <= 1).await;
}

/// connections.md 3.6: what a start meets.
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

/// connections.md 5, behaviours 54 and 55: who meets a full server waits for it.
#[tokio::test]
async fn a_full_server_is_waited_for() {
    let server = MariaDb::shared();
    server.database("full").await;
    server.run("CREATE OR REPLACE USER crowded WITH MAX_USER_CONNECTIONS 2").await;
    server.run("GRANT ALL ON full.* TO crowded").await;
    let pool = Pool::new(MySql::new(&server.url("crowded", "full")).unwrap(), policy());
    let requests = join_all((0..6).map(|_| async {
        let mut loan = pool.acquire().await?;
        loan.query_drop("SELECT SLEEP(0.1)").await.expect("a query");
        Ok::<_, AcquireError>(())
    }));
    for result in requests.await {
        result.unwrap();
    }
    assert_eq!(pool.status().opened, 2);
    assert!(pool.status().connect_failures > 0);
}

/// connections.md 5, behaviour 56.
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

/// connections.md 3.6: a value that does not fit is a panic in the driver, and no leak here.
#[tokio::test]
async fn a_panic_in_a_conversion_leaves_a_usable_pool() {
    let pool = pool("panics", policy().max_connections(1)).await;
    let task = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut loan = pool.acquire().await.unwrap();
            loan.query_first::<u32, _>("SELECT 'text' UNION SELECT 'more'").await
        }
    });
    assert!(task.await.unwrap_err().is_panic());
    let mut loan = pool.acquire().await.unwrap();
    let seven: Option<u32> = loan.query_first("SELECT 7").await.unwrap();
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
    let mut loan = pool.acquire().await.unwrap();
    let points: Vec<Point> = loan.exec("SELECT ?, 2", (1,)).await.unwrap();
    assert_eq!(points, [Point { x: 1, y: 2 }]);
    let points: Vec<Point> = "SELECT 1, 2".fetch(&mut *loan).await.unwrap();
    assert_eq!(points, [Point { x: 1, y: 2 }]);
    let session = pool.backend().session_id(&loan).expect("a session");
    assert_eq!(session.to_string(), loan.id().to_string());
}
