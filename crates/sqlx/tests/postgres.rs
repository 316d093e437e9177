//! The behaviours of the PostgreSQL backend, against a private server.
#![cfg(feature = "postgres")]

use std::time::{Duration, Instant};

use farrier_connection::{AcquireError, CloseReason, Poisoned, Policy, Pool, StatementTimedOut};
use farrier_sqlx::sqlx::postgres::PgConnectOptions;
use farrier_sqlx::sqlx::{self, AssertSqlSafe};
use farrier_sqlx::{Postgres, Session, TransactionAborted};
use farrier_test_servers::{Postgres as Server, eventually};
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{sleep, timeout};

fn policy() -> Policy {
    Policy::default().health_check_bypass(Duration::ZERO)
}

fn pool(name: &str, policy: Policy) -> Pool<Postgres> {
    Pool::new(Postgres::new(&Server::shared().url(name)).expect("a URL"), policy)
}

#[track_caller]
fn is_poisoned<T: std::fmt::Debug>(result: sqlx::Result<T>) {
    let error = result.expect_err("poisoned");
    let sqlx::Error::AnyDriverError(inner) = &error else { panic!("{error:?}") };
    assert!(inner.is::<Poisoned>(), "{error:?}");
}

async fn session(pool: &Pool<Postgres>) -> i32 {
    let mut pooled = pool.acquire().await.expect("a connection");
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *pooled).await.expect("a number")
}

/// Runs a statement beside the pool.
async fn run(name: &str, sql: &str) {
    let pool = pool(name, policy());
    let mut pooled = pool.acquire().await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *pooled).await.expect("a statement");
    drop(pooled);
    pool.close().await;
}

/// Behaviours C2 and C40.
#[tokio::test]
async fn plain_requests_share_one_session_and_are_not_reset() {
    let pool = pool("plain", policy());
    let first = session(&pool).await;
    for _ in 0..10 {
        let mut pooled = pool.acquire().await.unwrap();
        let mut transaction = pooled.begin().await.unwrap();
        let sum: i32 =
            sqlx::query_scalar("SELECT $1 + 4").bind(3).fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(sum, 7);
        transaction.commit().await.unwrap();
    }
    assert_eq!(session(&pool).await, first);
    let status = pool.status();
    assert_eq!((status.opened, status.resets, status.rollbacks), (1, 0, 0));
}

/// A word in a literal, a name or a comment is none of the session's.
#[tokio::test]
async fn what_only_looks_dirty_is_not_reset() {
    let pool = pool("looks", policy().max_connections(1));
    let first = session(&pool).await;
    for sql in [
        "SELECT 1 AS attempts, 'template', ';', $$ set_config $$",
        "SELECT pg_advisory_xact_lock(1) -- temp",
        "/* why */ (SELECT 1);",
    ] {
        let mut pooled = pool.acquire().await.unwrap();
        sqlx::query(sql).execute(&mut *pooled).await.unwrap();
        drop(pooled);
        assert_eq!(session(&pool).await, first, "{sql}");
    }
    assert_eq!((pool.status().opened, pool.status().resets), (1, 0));
}

/// A table that is altered outdates what was prepared: one failure for each connection.
#[tokio::test]
async fn an_altered_table_fails_once() {
    let pool = pool("altered", policy().max_connections(1));
    run("altered_setup", "CREATE TABLE altered (id INT)").await;
    let select = async || {
        let mut pooled = pool.acquire().await.unwrap();
        sqlx::query("SELECT * FROM altered").fetch_all(&mut *pooled).await
    };
    let first = session(&pool).await;
    for column in ["a", "b"] {
        select().await.unwrap();
        run("altered_setup", &format!("ALTER TABLE altered ADD COLUMN {column} INT")).await;
        select().await.unwrap_err();
        select().await.unwrap();
    }
    assert_eq!(session(&pool).await, first);
}

/// Behaviour C24: and a transaction that is begun as read-only is no failover.
#[tokio::test]
async fn a_server_that_is_a_standby_now_is_connected_to_anew() {
    let server = Server::standby();
    let pool = Pool::new(Postgres::new(&server.url("standby")).unwrap(), policy());
    let write = async || {
        let mut pooled = pool.acquire().await.unwrap();
        sqlx::query("CREATE TABLE written (id INT)").execute(&mut *pooled).await
    };
    for failures in 1..=3 {
        let standby = session(&pool).await;
        write().await.unwrap_err();
        eventually("it is closed", async || {
            pool.status().closed_for(CloseReason::Dead) == failures
        })
        .await;
        assert_ne!(session(&pool).await, standby);
    }
    let mut pooled = pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_promote()").execute(&mut *pooled).await.unwrap();
    drop(pooled);
    write().await.unwrap();
    let first = session(&pool).await;
    let mut pooled = pool.acquire().await.unwrap();
    sqlx::query("BEGIN READ ONLY").execute(&mut *pooled).await.unwrap();
    sqlx::query("INSERT INTO written VALUES (1)").execute(&mut *pooled).await.unwrap_err();
    drop(pooled);
    // Who comes before may have a new one.
    eventually("it is cleaned", async || pool.status().maintaining == 0).await;
    assert_eq!(session(&pool).await, first);
    assert_eq!(pool.status().closed_for(CloseReason::Dead), 3, "{:?}", pool.status());
}

/// Behaviours C25 and C39.
#[tokio::test]
async fn a_transaction_left_open_is_rolled_back() {
    let pool = pool("stray", policy().max_connections(1));
    run("stray_setup", "CREATE TABLE stray (id INT)").await;
    let first = session(&pool).await;
    for bare in [false, true] {
        let mut pooled = pool.acquire().await.unwrap();
        if bare {
            sqlx::query("BEGIN").execute(&mut *pooled).await.unwrap();
            sqlx::query("INSERT INTO stray VALUES (1)").execute(&mut *pooled).await.unwrap();
        } else {
            let mut transaction = pooled.begin().await.unwrap();
            sqlx::query("INSERT INTO stray VALUES (1)").execute(&mut *transaction).await.unwrap();
            drop(transaction);
        }
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        let rows: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM stray").fetch_one(&mut *pooled).await.unwrap();
        assert_eq!(rows, 0, "bare: {bare}");
    }
    assert_eq!(session(&pool).await, first);
}

/// Everything that the manual lists under `DISCARD`, and who may say what.
const STATE: &str = "SELECT CONCAT_WS(',', current_setting('search_path'), \
    current_setting('TimeZone'), current_setting('statement_timeout'), \
    current_setting('default_transaction_read_only'), \
    current_setting('default_transaction_isolation'), \
    NULLIF(current_setting('app.tenant', true), ''), \
    NULLIF(current_setting('local.tenant', true), ''), current_user, session_user, \
    (SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
    to_regclass('left_behind'), (SELECT COUNT(*) FROM pg_listening_channels()), \
    (SELECT COUNT(*) FROM pg_prepared_statements WHERE from_sql), \
    (SELECT COUNT(*) FROM pg_cursors WHERE is_holdable))";

/// What a reset removes.
const DIRTY: [&str; 25] = [
    "SET search_path = pg_catalog",
    "SET TimeZone = 'Asia/Tokyo'",
    "SET SESSION statement_timeout = '7s'",
    "SET default_transaction_read_only = on",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET ROLE hygiene_role",
    "SET SESSION AUTHORIZATION hygiene_role",
    "SET app.tenant = 'left behind'",
    "SELECT set_config('search_path', 'pg_catalog', false)",
    "SELECT set_config('app.tenant', 'left behind', 1 = 2)",
    "WITH a AS (SELECT set_config('role', 'hygiene_role', false)) SELECT * FROM a",
    "SELECT pg_advisory_lock(7)",
    "SELECT pg_try_advisory_lock_shared(7)",
    "CREATE TEMP TABLE left_behind (id INT)",
    "CREATE TABLE pg_temp.left_behind (id INT)",
    "SELECT 1 AS id INTO TEMPORARY left_behind",
    "CREATE TEMP VIEW left_behind AS SELECT 1",
    "LISTEN left_behind",
    "SET local.tenant = 'left behind'",
    "PREPARE left_behind AS SELECT 1",
    "PREPARE \"left \"\"behind\" (int) AS SELECT $1",
    "DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1",
    "SELECT nextval('left_behind_seq')",
    "SELECT setval('left_behind_seq', 7)",
    "DO $$ BEGIN PERFORM set_config('app.tenant', 'left behind', false); END $$",
];

/// A style to run a statement in.
#[derive(Clone, Copy, Debug)]
enum Style {
    Text,
    Prepared,
    Streamed,
    Transaction,
    PreparedInTransaction,
    Savepoint,
    /// In a transaction, on sqlx's own connection.
    Beneath,
    Bare,
}

const STYLES: [Style; 8] = [
    Style::Text,
    Style::Prepared,
    Style::Streamed,
    Style::Transaction,
    Style::PreparedInTransaction,
    Style::Savepoint,
    Style::Beneath,
    Style::Bare,
];

async fn run_in(
    style: Style,
    session: &mut Session<sqlx::Postgres>,
    sql: &'static str,
) -> sqlx::Result<()> {
    match style {
        Style::Text => sqlx::raw_sql(sql).execute(session).await?,
        Style::Prepared => sqlx::query(sql).execute(session).await?,
        Style::Streamed => {
            let mut rows = sqlx::query(sql).fetch(session);
            while rows.next().await.transpose()?.is_some() {}
            return Ok(());
        }
        Style::Transaction | Style::PreparedInTransaction | Style::Savepoint | Style::Beneath => {
            let mut transaction = session.begin().await?;
            match style {
                Style::Transaction => sqlx::raw_sql(sql).execute(&mut *transaction).await?,
                Style::Savepoint => {
                    let mut savepoint = transaction.begin().await?;
                    let done = sqlx::query(sql).execute(&mut *savepoint).await?;
                    savepoint.commit().await?;
                    done
                }
                Style::Beneath => sqlx::query(sql).execute(&mut **transaction).await?,
                _ => sqlx::query(sql).execute(&mut *transaction).await?,
            };
            return transaction.commit().await;
        }
        Style::Bare => {
            sqlx::raw_sql("BEGIN").execute(&mut *session).await?;
            sqlx::query(sql).execute(&mut *session).await?;
            sqlx::raw_sql("COMMIT").execute(session).await?
        }
    };
    Ok(())
}

/// Behaviour C39; and what sqlx has prepared still works.
#[tokio::test]
async fn nothing_of_a_session_is_visible_to_the_next_request() {
    let pool = pool("hygiene", policy().max_connections(1));
    run("hygiene_setup", "CREATE ROLE hygiene_role; CREATE SEQUENCE left_behind_seq").await;
    let mut pooled = pool.acquire().await.unwrap();
    let clean: String = sqlx::query_scalar(STATE).fetch_one(&mut *pooled).await.unwrap();
    drop(pooled);
    let first = session(&pool).await;
    for dirty in DIRTY {
        for style in STYLES {
            let mut pooled = pool.acquire().await.unwrap();
            let done = run_in(style, &mut pooled, dirty).await;
            // What holds a cursor needs a transaction only where it is not held.
            done.unwrap_or_else(|error| panic!("{style:?}: {dirty}: {error}"));
            drop(pooled);
            let mut pooled = pool.acquire().await.unwrap();
            let state: String = sqlx::query_scalar(STATE).fetch_one(&mut *pooled).await.unwrap();
            assert_eq!(state, clean, "{style:?}: {dirty}");
            let last = sqlx::query("SELECT lastval()").fetch_one(&mut *pooled).await;
            last.expect_err("nothing was drawn");
            drop(pooled);
            assert_eq!(session(&pool).await, first, "{style:?}: {dirty}: cleaned, not replaced");
        }
    }
    for broken in ["BEGIN; SELECT 1 / 0", "BEGIN; SET TimeZone = 'Asia/Tokyo'; COMMIT"] {
        let mut pooled = pool.acquire().await.unwrap();
        let _ = sqlx::raw_sql(broken).execute(&mut *pooled).await;
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        let state: String = sqlx::query_scalar(STATE).fetch_one(&mut *pooled).await.unwrap();
        assert_eq!(state, clean, "{broken}");
    }
}

/// What a reset cannot remove goes with its session.
#[tokio::test]
async fn what_no_reset_removes_closes_the_connection() {
    let pool = pool("lasting", policy().max_connections(1));
    for lasting in ["SELECT setseed(0.5)", "SET seed = 0.5", "LOAD 'auto_explain'"] {
        for style in STYLES {
            if matches!(style, Style::Beneath) {
                // That is not seen.
                continue;
            }
            let before = session(&pool).await;
            let mut pooled = pool.acquire().await.unwrap();
            run_in(style, &mut pooled, lasting).await.unwrap();
            drop(pooled);
            assert_ne!(session(&pool).await, before, "{style:?}: {lasting}");
        }
    }
}

/// What ends with its transaction is not state of the session, and costs no round trip.
#[tokio::test]
async fn what_ends_with_its_transaction_is_not_reset() {
    let pool = pool("local", policy().max_connections(1));
    let mut pooled = pool.acquire().await.unwrap();
    let clean: String = sqlx::query_scalar(STATE).fetch_one(&mut *pooled).await.unwrap();
    drop(pooled);
    for local in [
        "SET LOCAL app.tenant = 'seven'",
        "SET LOCAL ROLE pg_monitor",
        "SELECT set_config('app.tenant', 'seven', true)",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET CONSTRAINTS ALL DEFERRED",
        "SELECT pg_advisory_xact_lock(7)",
        "NOTIFY somebody",
    ] {
        let mut pooled = pool.acquire().await.unwrap();
        for commit in [true, false] {
            let mut transaction = pooled.begin().await.unwrap();
            sqlx::query(local).execute(&mut *transaction).await.unwrap();
            if commit {
                transaction.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
            }
        }
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        let state: String = sqlx::query_scalar(STATE).fetch_one(&mut *pooled).await.unwrap();
        assert_eq!(state, clean, "{local}");
    }
    let status = pool.status();
    assert_eq!((status.opened, status.resets, status.rollbacks), (1, 0, 0));
}

/// A role that `ALTER ROLE .. SET role` makes another one is that one after a reset, too.
#[tokio::test]
async fn a_role_that_is_set_at_login_is_set_after_a_reset() {
    let server = Server::shared();
    run("at_login", "CREATE ROLE at_login LOGIN SUPERUSER; CREATE ROLE its_role SUPERUSER").await;
    run("at_login", "ALTER ROLE at_login SET role = its_role").await;
    let options: PgConnectOptions = server.url("at_login").parse().unwrap();
    let postgres = Postgres::from_options(options.username("at_login"));
    let pool = Pool::new(postgres, policy().max_connections(1));
    for _ in 0..2 {
        let mut pooled = pool.acquire().await.unwrap();
        let role: String =
            sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut *pooled).await.unwrap();
        assert_eq!(role, "its_role");
        sqlx::query("SET TimeZone = 'Asia/Tokyo'").execute(&mut *pooled).await.unwrap();
    }
    assert_eq!(pool.status().opened, 1);
}

/// Behaviours C28 and C29: never a row of the cancelled one, and the connection
/// goes to nobody else.
#[tokio::test]
async fn a_cancelled_statement_is_never_mixed_up_and_its_connection_closed() {
    let pool = pool("cancel", policy());
    let mut pooled = pool.acquire().await.unwrap();
    let slow = sqlx::query_scalar::<_, i32>("SELECT 1 FROM pg_sleep(0.3)").fetch_one(&mut *pooled);
    assert!(timeout(Duration::from_millis(50), slow).await.is_err());
    is_poisoned(sqlx::query("SELECT 7").fetch_one(&mut *pooled).await);
    is_poisoned(sqlx::query("SELECT 7").fetch_optional(&mut *pooled).await);
    is_poisoned(sqlx::raw_sql("ROLLBACK").execute(&mut *pooled).await);
    is_poisoned(pooled.begin().await);
    drop(pooled);
    let start = Instant::now();
    session(&pool).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(pool.status().opened, 2);
    while pool.status().closed_for(CloseReason::Poisoned) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(pool.status().kills, 1);
    let mut pooled = pool.acquire().await.unwrap();
    let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'cancel'";
    let sessions: i64 = sqlx::query_scalar(sql).fetch_one(&mut *pooled).await.unwrap();
    assert_eq!(sessions, 1, "the server has stopped working on it");
}

/// Behaviour C34 (sqlx's issues 4385 and 4393): a cancelled BEGIN or COMMIT at each poll.
#[tokio::test]
async fn a_transaction_statement_cancelled_at_any_poll_leaves_no_transaction() {
    let pool = pool("atpoll", policy().max_connections(1));
    for polls in 0..6 {
        for commit in [false, true] {
            let mut pooled = pool.acquire().await.unwrap();
            if commit {
                let transaction = pooled.begin().await.unwrap();
                poll_times(transaction.commit(), polls).await;
            } else {
                poll_times(async { drop(pooled.begin().await) }, polls).await;
            }
            drop(pooled);
            let mut pooled = pool.acquire().await.unwrap();
            let error = sqlx::raw_sql("SAVEPOINT inside").execute(&mut *pooled).await.unwrap_err();
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            assert_eq!(code.as_deref(), Some("25P01"), "commit: {commit}, {polls} polls");
        }
    }
}

async fn poll_times(future: impl Future, polls: usize) {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if timeout(Duration::ZERO, &mut future).await.is_ok() {
            return;
        }
    }
}

/// Behaviour C38.
#[tokio::test]
async fn a_half_read_result_is_drained_or_its_connection_closed() {
    let pool = pool("halfread", policy().max_connections(1));
    let first = session(&pool).await;
    let mut pooled = pool.acquire().await.unwrap();
    let mut rows =
        sqlx::query_as::<_, (i32,)>("SELECT * FROM generate_series(1, 1000)").fetch(&mut *pooled);
    assert_eq!(rows.next().await.unwrap().unwrap(), (1,));
    drop(rows);
    drop(pooled);
    assert_eq!(session(&pool).await, first);
}

/// Behaviours C29, C31 and C38: also where the cancelled statement is not the last
/// one that farrier saw.
#[tokio::test]
async fn a_session_that_cannot_be_cleaned_in_time_is_ended_at_the_server() {
    let quick = policy().max_connections(1).reset_timeout(Duration::from_millis(50));
    for (style, name) in ["unclean0", "unclean1", "unclean2"].into_iter().enumerate() {
        let pool = pool(name, quick.clone());
        let mut pooled = pool.acquire().await.unwrap();
        match style {
            // Dropped among its rows.
            0 => {
                let slow = "SELECT repeat('x', 1000) FROM generate_series(1, 1000); \
                    SELECT pg_sleep(60)";
                let mut rows = sqlx::raw_sql(slow).fetch(&mut *pooled);
                rows.next().await.unwrap().unwrap();
            }
            // In a transaction, whose statements sqlx runs by itself.
            1 => {
                let mut transaction = pooled.begin().await.unwrap();
                let slow = sqlx::query("SELECT pg_sleep(60)").execute(&mut *transaction);
                assert!(timeout(Duration::from_millis(50), slow).await.is_err());
            }
            // On sqlx's own connection.
            _ => {
                let slow = sqlx::query("SELECT pg_sleep(60)").execute(&mut **pooled);
                assert!(timeout(Duration::from_millis(50), slow).await.is_err());
            }
        }
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = $1";
        let sessions: i64 =
            sqlx::query_scalar(sql).bind(name).fetch_one(&mut *pooled).await.unwrap();
        assert_eq!((sessions, pool.status().kills), (1, 1), "{name}");
    }
}

/// A pool of a role that nobody else has, and the most sessions that the role ever had at once, as one
/// connection beside the pool sees it each millisecond until `is_over`.
async fn most_sessions(
    role: &str,
    policy: Policy,
    load: impl AsyncFnOnce(&Pool<Postgres>),
    is_over: impl Fn(&Pool<Postgres>) -> bool,
) -> (i64, Pool<Postgres>) {
    let server = Server::shared();
    run("roles", &format!("CREATE ROLE {role} LOGIN")).await;
    let url = server.url(role).replace("//farrier@", &format!("//{role}@"));
    let policy = policy.acquire_timeout(Duration::from_secs(60)).max_waiting(1_000);
    let pool = Pool::new(Postgres::new(&url).expect("a URL"), policy);
    let beside = Pool::new(Postgres::new(&server.url("beside")).expect("a URL"), Policy::default());
    let mut beside = beside.acquire().await.expect("a connection");
    let mut most = 0;
    let watch = async {
        while !is_over(&pool) {
            let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE usename = $1";
            let now =
                sqlx::query_scalar(sql).bind(role).fetch_one(&mut *beside).await.expect("a count");
            most = most.max(now);
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), async { tokio::join!(load(&pool), watch) })
        .await
        .expect("in time");
    (most, pool)
}

async fn hang_up(pool: &Pool<Postgres>, after: Duration) {
    let mut pooled = pool.acquire().await.expect("a connection");
    let slow = sqlx::query("SELECT pg_sleep(60)").execute(&mut *pooled);
    timeout(after, slow).await.expect_err("it is slow");
}

/// Behaviour C30: one beside the bound; also where each attempt to end a session has
/// too little time.
#[tokio::test]
async fn hang_ups_never_exceed_the_bound_at_the_server() {
    for (role, limit) in [("bound_role", 2_000_000), ("bound_quick", 1_500)] {
        let policy = policy().max_connections(4).close_timeout(Duration::from_micros(limit));
        let load = async |pool: &Pool<Postgres>| {
            let clients = (0..24).map(|_| async {
                for _ in 0..5 {
                    hang_up(pool, Duration::from_millis(30)).await;
                }
            });
            join_all(clients).await;
        };
        let all_closed = |pool: &Pool<Postgres>| pool.status().closed >= 120;
        let (most, pool) = most_sessions(role, policy, load, all_closed).await;
        let status = pool.status();
        assert!((1..=4 + 1).contains(&most), "{role}: {most}: {status:?}");
        assert_eq!((status.kills, status.kill_failures > 0), (120, limit < 10_000), "{status:?}");
    }
}

/// Behaviours C1 and C30: a session that was said good-bye to is there until it is
/// gone.
#[tokio::test]
async fn the_bound_holds_while_connections_come_and_go() {
    let load = async |pool: &Pool<Postgres>| {
        let clients = (0..4).map(|_| async {
            for _ in 0..50 {
                session(pool).await;
            }
        });
        join_all(clients).await;
    };
    let all_closed = |pool: &Pool<Postgres>| pool.status().closed >= 200;
    let policy = Policy::django().max_connections(2);
    let (most, pool) = most_sessions("comeandgo", policy, load, all_closed).await;
    assert!((1..=2 + 1).contains(&most), "{most}: {:?}", pool.status());
    assert_eq!(pool.status().opened, 200);
}

/// The server hides a session's start from a role that the session has changed to.
#[tokio::test]
async fn a_role_that_may_not_see_its_own_session_is_served_all_the_same() {
    let server = Server::shared();
    run("roles", "CREATE ROLE seen LOGIN; CREATE ROLE unseen; GRANT unseen TO seen").await;
    run("roles", "ALTER ROLE seen SET role = unseen").await;
    let url = server.url("seen").replace("//farrier@", "//seen@");
    let pool = Pool::new(Postgres::new(&url).unwrap(), policy().max_connections(1));
    let mut pooled = pool.acquire().await.unwrap();
    let slow = sqlx::query("SELECT pg_sleep(0.2)").execute(&mut *pooled);
    timeout(Duration::from_millis(50), slow).await.unwrap_err();
    drop(pooled);
    session(&pool).await;
    eventually("it is closed", async || pool.status().closed == 1).await;
    assert_eq!((pool.status().kills, pool.status().kill_failures), (0, 0));
}

/// Others are served meanwhile.
#[tokio::test]
async fn hang_ups_hold_up_nobody_else() {
    let pool = pool("others", policy().max_connections(8));
    let hang_ups = join_all((0..4).map(|_| async {
        for _ in 0..50 {
            hang_up(&pool, Duration::from_millis(10)).await;
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

/// The pool may have all the sessions that its role may, and the side connection is one more.
#[tokio::test]
async fn hang_ups_at_a_full_server_cost_no_slot() {
    let server = Server::shared();
    run("full_setup", "CREATE ROLE full_role LOGIN CONNECTION LIMIT 4").await;
    let url = server.url("full").replace("//farrier@", "//full_role@");
    let pool = Pool::new(Postgres::new(&url).unwrap(), policy().max_connections(4));
    for _ in 0..3 {
        let mut taken = Vec::new();
        for _ in 0..4 {
            taken.push(pool.acquire().await.unwrap());
        }
        for mut pooled in taken {
            let slow = sqlx::query("SELECT pg_sleep(0.3)").execute(&mut *pooled);
            timeout(Duration::from_millis(10), slow).await.unwrap_err();
        }
        let hung_up = Instant::now();
        for _ in 0..4 {
            session(&pool).await;
        }
        assert!(hung_up.elapsed() < Duration::from_millis(1_300), "{:?}", hung_up.elapsed());
    }
    eventually("all are closed", async || pool.status().closed_for(CloseReason::Poisoned) == 12)
        .await;
}

#[tokio::test]
async fn a_begin_that_fails_leaves_the_connection_as_it_was() {
    let pool = pool("nobegin", policy());
    let first = session(&pool).await;
    let mut pooled = pool.acquire().await.unwrap();
    pooled.begin_with("BEGIN NONSENSE").await.unwrap_err();
    drop(pooled);
    assert_eq!(session(&pool).await, first);
    assert_eq!((pool.status().opened, pool.status().resets), (1, 0));
}

/// Nobody meets a session that the server has closed, without any check.
#[tokio::test]
async fn an_idle_session_is_closed_before_the_server_does_it() {
    let server = Server::shared();
    let options: PgConnectOptions = server.url("idle").parse().expect("a URL");
    let options = options.options([("idle_session_timeout", "2000ms")]);
    let pool = Pool::new(Postgres::from_options(options), policy().health_checks(false));
    for closed in 1..=2 {
        session(&pool).await;
        eventually("it is closed", async || pool.status().closed == closed).await;
        assert_eq!(pool.status().closed_for(CloseReason::Idle), closed);
    }
}

/// Behaviour C13.
#[tokio::test]
async fn a_session_that_the_server_ended_costs_nothing_with_checks() {
    let pool = pool("ended", policy());
    let first = session(&pool).await;
    run("ender", &format!("SELECT pg_terminate_backend({first}, 5000)")).await;
    assert_ne!(session(&pool).await, first);
    assert_eq!(pool.status().check_failures, 1);
}

#[tokio::test]
async fn a_server_that_refuses_is_told_apart_from_one_that_is_not_there() {
    let server = Server::shared();
    let url = server.url("refused").replace("/postgres?", "/no_such_database?");
    let pool = Pool::new(Postgres::new(&url).unwrap(), policy());
    let error = pool.acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::Denied(_)), "{error:?}");
    let pool = Pool::new(Postgres::new("postgres://farrier@127.0.0.1:1/x").unwrap(), policy());
    let error = pool.acquire_once().await.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable(_)), "{error:?}");
}

/// The policy's `statement_timeout`, in every style.
#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up_and_its_session_ended() {
    const LIMIT: Duration = Duration::from_millis(100);
    #[track_caller]
    fn is_late<T: std::fmt::Debug>(result: sqlx::Result<T>) {
        let error = result.expect_err("it takes too long");
        assert_eq!(StatementTimedOut::find(&error).expect("typed").limit, LIMIT, "{error:?}");
    }
    let limited = policy().statement_timeout(LIMIT).max_connections(1);
    let pool = pool("late", limited);
    run("late", "CREATE TABLE late (id INT)").await;
    for style in 0..5 {
        let before = session(&pool).await;
        let mut pooled = pool.acquire().await.unwrap();
        let slow = "SELECT pg_sleep(60)";
        match style {
            0 => is_late(sqlx::query(slow).execute(&mut *pooled).await),
            1 => is_late(sqlx::query(slow).fetch_optional(&mut *pooled).await),
            2 => is_late(sqlx::raw_sql(slow).execute(&mut *pooled).await),
            3 => {
                let sql = "SELECT pg_sleep(0.02) FROM generate_series(1, 20) UNION ALL SELECT pg_sleep(60)";
                let rows: Vec<_> = sqlx::query(sql).fetch(&mut *pooled).collect().await;
                assert_eq!(rows.iter().filter(|row| row.is_ok()).count(), rows.len() - 1);
                is_late(rows.into_iter().last().unwrap().map(drop));
            }
            _ => {
                let mut transaction = pooled.begin().await.unwrap();
                sqlx::query("INSERT INTO late VALUES (1)")
                    .execute(&mut *transaction)
                    .await
                    .unwrap();
                is_late(sqlx::query(slow).execute(&mut *transaction).await);
                is_late(sqlx::query("SELECT 1").execute(&mut *transaction).await);
                is_late(transaction.commit().await);
            }
        }
        is_late(sqlx::query("SELECT 1").execute(&mut *pooled).await);
        drop(pooled);
        assert_ne!(session(&pool).await, before, "style {style}");
    }
    let mut pooled = pool.acquire().await.unwrap();
    let rows: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM late").fetch_one(&mut *pooled).await.unwrap();
    assert_eq!(rows, 0);
    assert_eq!(pool.status().closed_for(CloseReason::Poisoned), 5);
}

async fn insert(session: &mut Session<sqlx::Postgres>, table: &str, id: i32) -> sqlx::Result<()> {
    let sql = AssertSqlSafe(format!("INSERT INTO {table} VALUES ($1)"));
    sqlx::query(sql).bind(id).execute(session).await.map(drop)
}

async fn ids(pool: &Pool<Postgres>, table: &str) -> Vec<i32> {
    let mut pooled = pool.acquire().await.expect("a connection");
    let sql = AssertSqlSafe(format!("SELECT id FROM {table} ORDER BY id"));
    sqlx::query_scalar(sql).fetch_all(&mut *pooled).await.expect("rows")
}

/// A `BEGIN` that was cut off may have begun: nobody writes into that.
#[tokio::test]
async fn after_a_cancelled_begin_no_write_is_lost() {
    let pool = pool("begun", policy().max_connections(1));
    run("begun", "CREATE TABLE begun (id INT)").await;
    for polls in 1..4 {
        let mut pooled = pool.acquire().await.unwrap();
        poll_times(async { drop(pooled.begin().await) }, polls).await;
        let written = insert(&mut pooled, "begun", 0).await;
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        insert(&mut pooled, "begun", polls as i32).await.unwrap();
        drop(pooled);
        let expected = written.is_ok();
        let found = ids(&pool, "begun").await;
        assert_eq!(found.contains(&0), expected, "{polls} polls: {found:?}");
        assert!(found.contains(&(polls as i32)), "{polls} polls: {found:?}");
        run("begun", "DELETE FROM begun").await;
    }
}

/// A savepoint that fails or is cut off takes the transaction with it, and the commit says so.
#[tokio::test]
async fn a_savepoint_that_cannot_be_set_costs_no_half_transaction() {
    let pool = pool("halves", policy().max_connections(1));
    run("halves", "CREATE TABLE halves (id INT)").await;
    let mut pooled = pool.acquire().await.unwrap();
    let mut transaction = pooled.begin().await.unwrap();
    insert(&mut transaction, "halves", 1).await.unwrap();
    let refused = transaction.begin_with("BEGIN").await.map(drop);
    assert!(matches!(refused, Err(sqlx::Error::InvalidSavePointStatement)));
    insert(&mut transaction, "halves", 2).await.unwrap();
    transaction.commit().await.unwrap();
    drop(pooled);
    assert_eq!(ids(&pool, "halves").await, [1, 2]);
    for cut_off in [false, true] {
        let mut pooled = pool.acquire().await.unwrap();
        let mut transaction = pooled.begin().await.unwrap();
        insert(&mut transaction, "halves", 3).await.unwrap();
        if cut_off {
            // The server may have answered before it is read from.
            while transaction.begin().now_or_never().is_some() {}
        } else {
            sqlx::query("SELECT 1 / 0").execute(&mut *transaction).await.unwrap_err();
            transaction.begin().await.unwrap_err();
        }
        is_poisoned(insert(&mut transaction, "halves", 4).await);
        is_poisoned(transaction.commit().await);
        drop(pooled);
        assert_eq!(ids(&pool, "halves").await, [1, 2], "cut off: {cut_off}");
    }
}

/// PostgreSQL answers the `COMMIT` of an aborted transaction as if nothing were wrong.
#[tokio::test]
async fn a_commit_of_an_aborted_transaction_fails() {
    let pool = pool("aborted", policy().max_connections(1));
    run("aborted", "CREATE TABLE aborted (id INT PRIMARY KEY)").await;
    let first = session(&pool).await;
    let mut pooled = pool.acquire().await.unwrap();
    let mut transaction = pooled.begin().await.unwrap();
    insert(&mut transaction, "aborted", 1).await.unwrap();
    insert(&mut transaction, "aborted", 1).await.unwrap_err();
    let error = transaction.commit().await.unwrap_err();
    let sqlx::Error::AnyDriverError(inner) = &error else { panic!("{error:?}") };
    assert!(inner.is::<TransactionAborted>());
    // A savepoint contains it.
    let mut transaction = pooled.begin().await.unwrap();
    insert(&mut transaction, "aborted", 2).await.unwrap();
    for back in [true, false] {
        let mut savepoint = transaction.begin().await.unwrap();
        insert(&mut savepoint, "aborted", 2).await.unwrap_err();
        if back {
            savepoint.rollback().await.unwrap();
        } else {
            drop(savepoint);
        }
    }
    transaction.commit().await.unwrap();
    drop(pooled);
    assert_eq!(ids(&pool, "aborted").await, [2]);
    assert_eq!(session(&pool).await, first);
}

/// What sqlx has prepared is prepared again after a request has dropped it.
#[tokio::test]
async fn statements_that_a_request_deallocated_are_prepared_again() {
    let pool = pool("deallocated", policy().max_connections(1));
    for sql in ["DEALLOCATE ALL", "DISCARD ALL", "PREPARE a AS SELECT 1"] {
        let mut pooled = pool.acquire().await.unwrap();
        let _: i32 =
            sqlx::query_scalar("SELECT $1 + 1").bind(1).fetch_one(&mut *pooled).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut *pooled).await.unwrap();
        drop(pooled);
        let mut pooled = pool.acquire().await.unwrap();
        let two: i32 =
            sqlx::query_scalar("SELECT $1 + 1").bind(1).fetch_one(&mut *pooled).await.unwrap();
        assert_eq!(two, 2, "{sql}");
    }
    assert_eq!(pool.status().opened, 1);
}

/// The error of rows that nobody read comes with the next `BEGIN`, which is sent all the same.
#[tokio::test]
async fn a_begin_after_unread_rows_that_fail_loses_no_write() {
    let pool = pool("unread", policy().max_connections(1));
    run("unread", "CREATE TABLE unread (id INT)").await;
    let mut pooled = pool.acquire().await.unwrap();
    let sql = "SELECT 100 / (500 - x) FROM generate_series(1, 1000) x";
    let mut rows = sqlx::query(sql).fetch(&mut *pooled);
    rows.next().await.unwrap().unwrap();
    drop(rows);
    pooled.begin().await.unwrap_err();
    is_poisoned(insert(&mut pooled, "unread", 1).await);
    drop(pooled);
    let mut pooled = pool.acquire().await.unwrap();
    insert(&mut pooled, "unread", 2).await.unwrap();
    drop(pooled);
    run("unread_beside", "SELECT 1").await;
    assert_eq!(ids(&pool, "unread").await, [2]);
    assert_eq!(pool.status().opened, 1);
}

/// Errors that farrier does not see, and such that the transaction has got over.
#[tokio::test]
async fn a_commit_says_what_the_server_does() {
    let pool = pool("truth", policy().max_connections(1));
    run("truth", "CREATE TABLE truth (id INT PRIMARY KEY)").await;
    let mut pooled = pool.acquire().await.unwrap();
    let mut transaction = pooled.begin().await.unwrap();
    insert(&mut transaction, "truth", 1).await.unwrap();
    let beneath = sqlx::query("INSERT INTO truth VALUES (1)").execute(&mut **transaction).await;
    beneath.unwrap_err();
    transaction.commit().await.unwrap_err();

    let mut transaction = pooled.begin().await.unwrap();
    insert(&mut transaction, "truth", 2).await.unwrap();
    sqlx::query("SAVEPOINT a").execute(&mut *transaction).await.unwrap();
    insert(&mut transaction, "truth", 2).await.unwrap_err();
    sqlx::query("ROLLBACK TO a").execute(&mut *transaction).await.unwrap();
    insert(&mut transaction, "truth", 3).await.unwrap();
    transaction.commit().await.unwrap();
    drop(pooled);
    assert_eq!(ids(&pool, "truth").await, [2, 3]);
}
