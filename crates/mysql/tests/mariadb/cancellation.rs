//! Cancelled statements, and what becomes of their sessions at the server: ended, counted, nobody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farrier_connection::{Backend, CloseReason, Interruption, Policy, Pool, StatementTimedOut};
use farrier_mysql::mysql_async::prelude::*;
use farrier_mysql::mysql_async::{Conn, Opts, OptsBuilder, Row};
use farrier_mysql::{MySql, MySqlConnection};
use farrier_test_servers::{MariaDb, eventually};
use futures_util::future::join_all;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::{MOMENT, SLOW, is_poisoned, policy, pool, pool_of_user, quiet, session};

/// Behaviour C28: in every style, and also once the server is done with it.
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
    let mut beside = MariaDb::shared().connect().await;
    for cancelled in ["SELECT SLEEP(0.3)", "SELECT 1 UNION SELECT SLEEP(0.3)"] {
        let mut pooled = pool.acquire().await.unwrap();
        let id = pooled.id();
        assert!(timeout(MOMENT, pooled.query_drop(cancelled)).await.is_err());
        all_refuse(&mut pooled).await;
        // Until the server is done with it.
        let sql = "SELECT command = 'Sleep' FROM information_schema.processlist WHERE id = ?";
        while beside.exec_first(sql, (id,)).await.unwrap() != Some(true) {
            sleep(Duration::from_millis(10)).await;
        }
        all_refuse(&mut pooled).await;
        drop(pooled);
        assert_ne!(session(&pool).await, u64::from(id));
    }
    quiet(&pool).await;
    assert_eq!(pool.status().closed_for(CloseReason::Poisoned), 2);
}

/// Behaviours C29 and C31.
#[tokio::test]
async fn a_cancelled_transaction_lets_go_of_its_locks() {
    let pool = pool("locks", policy()).await;
    let mut pooled = pool.acquire().await.unwrap();
    pooled.query_drop("CREATE TABLE t (id INT PRIMARY KEY, n INT)").await.unwrap();
    pooled.query_drop("INSERT INTO t VALUES (1, 0)").await.unwrap();
    pooled.query_drop("BEGIN").await.unwrap();
    pooled.query_drop("UPDATE t SET n = 1").await.unwrap();
    assert!(timeout(MOMENT, pooled.query_drop(SLOW)).await.is_err());
    drop(pooled);
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

/// A statement that a kill ends at once.
const LONG: &str = "SELECT COUNT(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b";

/// The most sessions that `user` ever had at once, as one connection beside the pool sees it each
/// millisecond.
async fn most_sessions(server: &MariaDb, user: &str, mut is_over: impl FnMut() -> bool) -> usize {
    let mut beside = server.connect().await;
    let mut most = 0;
    while !is_over() {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = ?";
        let now: Option<usize> = beside.exec_first(sql, (user,)).await.expect("a count");
        most = most.max(now.unwrap_or(0));
        sleep(Duration::from_millis(1)).await;
    }
    beside.disconnect().await.expect("an open connection");
    most
}

/// Behaviour C30: one beside the bound, and another one while a kill is slow, as that
/// of a `SLEEP` may be.
#[tokio::test]
async fn hang_ups_never_exceed_the_bound_at_the_server() {
    // A server of its own: kills of many `SLEEP`s hold up all that others run there.
    let server = MariaDb::start(&[]);
    for (name, statement, bound) in [
        ("bound_select", LONG, 4 + 1),
        ("bound_lock", "UPDATE t SET n = n + 1", 4 + 1),
        ("bound_sleep", SLOW, 4 + 2),
    ] {
        let policy = policy().max_connections(4).max_waiting(1_000);
        let pool =
            pool_of_user(&server, name, policy.acquire_timeout(Duration::from_secs(60))).await;
        let mut holder = server.connect().await;
        holder.query_drop(format!("CREATE TABLE {name}.t (n INT)")).await.unwrap();
        holder.query_drop(format!("INSERT INTO {name}.t VALUES (0)")).await.unwrap();
        holder.query_drop("BEGIN").await.unwrap();
        holder.query_drop(format!("UPDATE {name}.t SET n = 1")).await.unwrap();
        let clients = join_all((0..24).map(|_| async {
            for _ in 0..10 {
                let mut pooled = pool.acquire().await.unwrap();
                timeout(Duration::from_millis(30), pooled.query_drop(statement)).await.unwrap_err();
            }
        }));
        let watch = most_sessions(&server, name, || pool.status().closed >= 240);
        let both = async { tokio::join!(clients, watch) };
        let (_, most) = timeout(Duration::from_secs(60), both).await.unwrap();
        assert!((1..=bound).contains(&most), "{name}: {most}: {:?}", pool.status());
        assert_eq!(pool.status().kills, 240, "{name}: {:?}", pool.status());
        pool.close().await;
        eventually("none is left", async || server.sessions(name).await.is_empty()).await;
    }
}

/// Others are served meanwhile.
#[tokio::test]
async fn hang_ups_hold_up_nobody_else() {
    let pool = pool_of_user(MariaDb::shared(), "others", policy().max_connections(8)).await;
    let hang_ups = join_all((0..4).map(|_| async {
        for _ in 0..50 {
            let mut pooled = pool.acquire().await.unwrap();
            timeout(Duration::from_millis(10), pooled.query_drop(LONG)).await.unwrap_err();
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
        let taken = [pool.acquire().await.unwrap(), pool.acquire().await.unwrap()];
        // The side connection leads elsewhere in the first round, and stays where it is in the next.
        turn.store(round + 1, Ordering::Relaxed);
        for mut pooled in taken {
            let slow = pooled.query_drop("SELECT SLEEP(2)");
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
        let taken = join_all((0..4).map(|_| pool.acquire())).await;
        join_all(taken.into_iter().map(|pooled| async {
            let mut pooled = pooled.unwrap();
            timeout(MOMENT, pooled.query_drop("SELECT SLEEP(0.3)")).await.unwrap_err();
        }))
        .await;
        let hung_up = Instant::now();
        join_all((0..4).map(|_| session(&pool))).await;
        assert!(hung_up.elapsed() < Duration::from_millis(1_250), "{:?}", hung_up.elapsed());
    }
    // The last ones may still be on their way out, which keeps nobody waiting.
    quiet(&pool).await;
    let status = pool.status();
    assert_eq!(status.closed_for(CloseReason::Poisoned), 12, "{status:?}");
}

/// Behaviour C30: where each attempt to kill has too little time, and most fail.
#[tokio::test]
async fn the_bound_holds_when_kills_fail() {
    let server = MariaDb::start(&[]);
    let policy = policy().max_connections(2).max_waiting(1_000);
    let policy = policy.close_timeout(Duration::from_micros(1_500));
    let pool =
        pool_of_user(&server, "killfail", policy.acquire_timeout(Duration::from_secs(60))).await;
    let requests = join_all((0..40).map(|_| async {
        let mut pooled = pool.acquire().await.unwrap();
        let _ = timeout(Duration::from_millis(5), pooled.query_drop(SLOW)).await;
    }));
    let watch = most_sessions(&server, "killfail", || pool.status().closed >= 40);
    let (_, most) =
        timeout(Duration::from_secs(60), async { tokio::join!(requests, watch) }).await.unwrap();
    assert!(pool.status().kill_failures > 0, "{:?}", pool.status());
    // A `SLEEP`'s kill may be slow.
    assert!((1..=2 + 2).contains(&most), "{most}: {:?}", pool.status());
}

/// Behaviours C1 and C30: a session that was said good-bye to is there until it is
/// gone.
#[tokio::test]
async fn the_bound_holds_while_connections_come_and_go() {
    let server = MariaDb::shared();
    let policy = Policy::django().max_connections(2).acquire_timeout(Duration::from_secs(60));
    let pool = pool_of_user(server, "comeandgo", policy).await;
    let requests = join_all((0..4).map(|_| async {
        for _ in 0..300 {
            pool.acquire().await.unwrap().query_drop("SELECT 1").await.unwrap();
        }
    }));
    let watch = most_sessions(server, "comeandgo", || pool.status().acquired >= 1_200);
    let (_, most) =
        timeout(Duration::from_secs(60), async { tokio::join!(requests, watch) }).await.unwrap();
    assert!((1..=3).contains(&most), "{most}: {:?}", pool.status());
    assert_eq!(pool.status().opened, 1_200);
}

/// The client hears of it before the session is gone.
#[tokio::test]
async fn the_bound_holds_while_somebody_else_kills() {
    let server = MariaDb::start(&[]);
    // Kills of `SLEEP`s hold up one another, for longer than closing waits by default.
    let minute = Duration::from_secs(60);
    let policy = policy().max_connections(4).acquire_timeout(minute).close_timeout(minute);
    let pool = pool_of_user(&server, "killed", policy).await;
    let until = Instant::now() + Duration::from_secs(3);
    let clients = join_all((0..12).map(|_| async {
        while Instant::now() < until {
            let _ = pool.acquire().await.unwrap().query_drop("SELECT SLEEP(0.05)").await;
        }
    }));
    let killer = async {
        let mut killed = 0;
        while Instant::now() < until {
            // Not the side connection, which uses no database.
            let sessions = server.sessions("killed").await;
            let kills = sessions.into_iter().map(|session| server.kill_session(session));
            killed += join_all(kills).await.into_iter().filter(|killed| *killed).count();
            sleep(Duration::from_millis(20)).await;
        }
        killed
    };
    let watch = most_sessions(&server, "killed", || Instant::now() >= until);
    let all = async { tokio::join!(clients, killer, watch) };
    let (_, killed, most) = timeout(Duration::from_secs(60), all).await.unwrap();
    assert!(killed > 4, "{killed}");
    assert!((1..=4 + 1).contains(&most), "{most}: {:?}", pool.status());
}

/// Behaviours C28 and C29: cut off among the rows, not before them.
#[tokio::test]
async fn a_query_cancelled_while_its_rows_come_is_poisoned_too() {
    const ROWS: &str = "SELECT REPEAT('x', 40000) FROM seq_1_to_20 UNION ALL SELECT SLEEP(60)";
    let pool = pool("cutrows", policy().max_connections(1)).await;
    for style in 0..3 {
        let mut pooled = pool.acquire().await.unwrap();
        let rows: Result<_, _> = match style {
            0 => timeout(MOMENT, pooled.query_drop(ROWS)).await.map(drop),
            1 => timeout(MOMENT, pooled.exec_drop(ROWS, ())).await.map(drop),
            _ => timeout(MOMENT, pooled.query::<Row, _>(ROWS)).await.map(drop),
        };
        assert!(rows.is_err());
        is_poisoned(pooled.query_drop("SELECT 7").await);
        let start = Instant::now();
        drop(pooled);
        session(&pool).await;
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    }
    quiet(&pool).await;
    assert_eq!((pool.status().kills, pool.status().closed_for(CloseReason::Poisoned)), (3, 3));
}

/// The policy's `statement_timeout`, also at a server that does nothing any more.
#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up_and_its_session_ended() {
    let server = MariaDb::shared();
    let limited = policy().statement_timeout(MOMENT).max_connections(1);
    let pool = pool_of_user(server, "late", limited).await;
    let mut pooled = pool.acquire().await.unwrap();
    pooled.query_drop("CREATE TABLE t (id INT PRIMARY KEY)").await.unwrap();
    drop(pooled);
    let before = session(&pool).await;
    for style in 0..3 {
        let mut pooled = pool.acquire().await.unwrap();
        pooled.query_drop("BEGIN").await.unwrap();
        pooled.query_drop("INSERT INTO t VALUES (1)").await.unwrap();
        let late = match style {
            0 => pooled.query_drop(SLOW).await,
            1 => pooled.exec_drop(SLOW, ()).await,
            _ => Queryable::query_drop(&mut *pooled, SLOW).await,
        };
        let error = late.unwrap_err();
        assert_eq!(StatementTimedOut::find(&error).unwrap().limit, MOMENT, "{error:?}");
        is_poisoned(pooled.query_drop("COMMIT").await);
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        let rows: Option<u32> = pooled.query_first("SELECT COUNT(*) FROM t").await.unwrap();
        assert_eq!(rows, Some(0));
    }
    assert_ne!(session(&pool).await, before);
    quiet(&pool).await;
    let status = pool.status();
    assert_eq!((status.closed_for(CloseReason::Poisoned), status.kills), (3, 3));
}
