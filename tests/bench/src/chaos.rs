//! A search for a wrong answer: clients hang up, sessions are killed, the server restarts and stands still.
//!
//! Each request writes a number of its own on its connection and reads it back there. Another number, or state
//! that an earlier request left, means that a connection was handed on that should not have been.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::response;
use axum::routing::get;
use farrier::connection::{Db, Policy, Pool};
use farrier::mysql::MySql;
use farrier::mysql::mysql_async::prelude::Queryable;
use farrier::mysql::mysql_async::{self, Conn, Opts};
use farrier_test_servers::MariaDb;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::report::{self, Error, Row};
use crate::service::{self, Service, USER, statement_failed};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long it lasts.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How many clients send requests, each one after the other.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=500))]
    clients: u32,
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What the clients saw.
#[derive(Debug, Default)]
struct Seen {
    checked: u64,
    wrong: u64,
    hang_ups: u64,
    /// By status; 0 is no whole response.
    failed: BTreeMap<u16, u64>,
    /// Transactions whose commit was answered.
    kept: u64,
}

/// What was done to the server.
#[derive(Debug, Default)]
struct Done {
    kills: u64,
    pauses: u64,
    restarts: u64,
}

/// What the server saw of the pool's user.
#[derive(Debug, Default)]
struct Watch {
    over: AtomicBool,
    looks: AtomicU64,
    most: AtomicUsize,
    /// Looks with more sessions than the bound and the one that ends others.
    above: AtomicU64,
}

/// A line of the table.
#[derive(Debug, Serialize)]
struct Figure {
    what: String,
    count: u64,
}

const CONNECTIONS: usize = 10;
/// Longer than any answer may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How soon all is in order again.
const SOON: Duration = Duration::from_secs(10);

/// Provokes for the time that was asked for, and prints the table.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    service::runtime()?.block_on(chaos(args))
}

async fn chaos(args: &Args) -> Result<(), Error> {
    let mut server = service::server().await;
    server.run("CREATE TABLE test.entry (n BIGINT UNSIGNED PRIMARY KEY, kept BOOL NOT NULL)").await;
    let policy = Policy::default().max_connections(CONNECTIONS).max_age(Duration::from_secs(2));
    let routes = Router::new()
        .route("/variable/{n}", get(variable))
        .route("/kept/{n}", get(async |path, db| transaction(path, db, true).await))
        .route("/left/{n}", get(async |path, db| transaction(path, db, false).await))
        .route("/slow/{n}", get(slow));
    let service = Service::start(&server, policy, routes).await?;

    let watch = Arc::new(Watch::default());
    let watching =
        tokio::spawn(Arc::clone(&watch).run(Opts::from_url(&server.url("root", "test"))?));
    let until = Instant::now() + Duration::from_secs(args.seconds.into());
    let numbers = Arc::new(AtomicU64::new(1));
    let clients: JoinSet<Seen> =
        (0..args.clients).map(|_| client(service.address, Arc::clone(&numbers), until)).collect();
    let done = provoke(&mut server, until).await;
    let mut seen = Seen::default();
    for one in clients.join_all().await {
        seen.add(one);
    }

    let begun = Instant::now();
    let answer = timeout(LIMIT, service::get(service.address, "/variable/0")).await??;
    let answered = begun.elapsed();
    let balanced = balance(&service.pool).await;
    watch.over.store(true, Ordering::Relaxed);
    watching.await?;
    let (left, kept) = rows(&service.pool).await?;
    let status = service.pool.status();
    service.stop().await?;

    let lost = seen.kept.saturating_sub(kept);
    let count = |what: &str, count| Figure { what: what.to_owned(), count };
    let mut figures = vec![
        count("answers checked", seen.checked),
        count("wrong values", seen.wrong),
        count("transactions left open that were committed", left),
        count("commits answered that are lost", lost),
        count("hang-ups", seen.hang_ups),
        count("sessions killed", done.kills),
        count("pauses of the server", done.pauses),
        count("restarts of the server", done.restarts),
        count("connections allowed", CONNECTIONS.try_into()?),
        count("most sessions at the server", watch.most.load(Ordering::Relaxed).try_into()?),
        count("looks at its sessions", watch.looks.load(Ordering::Relaxed)),
        count("looks with two or more too many", watch.above.load(Ordering::Relaxed)),
        count("connections opened", status.opened),
        count("closed", status.closed),
        count("idle", status.idle.try_into()?),
        count("cancelled sessions ended", status.kills),
        count("resets", status.resets),
        count("rollbacks", status.rollbacks),
        count("the request after, ms", answered.as_millis().try_into()?),
    ];
    figures.extend(seen.failed.iter().map(|(status, &failed)| match status {
        0 => count("no whole response", failed),
        _ => count(&format!("failed with {status}"), failed),
    }));
    report::print(&figures, args.json.as_deref())?;

    if seen.wrong + left + lost > 0 {
        return Err("a request saw what is not its own".into());
    }
    if !balanced {
        return Err(format!("the pool is not balanced: {status:?}").into());
    }
    if answer.status != 200 || answered > Duration::from_secs(2) {
        return Err(format!("the request after: {} in {answered:?}", answer.status).into());
    }
    Ok(())
}

async fn variable(Path(n): Path<u64>, db: Db<MySql>) -> response::Result<String> {
    let mut connection = db.get().await?;
    let before = connection.query_first("SELECT @n").await;
    let before: Option<Option<u64>> = before.map_err(statement_failed)?;
    connection.exec_drop("SET @n = ?", (n,)).await.map_err(statement_failed)?;
    let after = connection.exec_first("SELECT @n, ?", (n,)).await;
    let after: Option<(u64, u64)> = after.map_err(statement_failed)?;
    let is_own = before == Some(None) && after == Some((n, n));
    Ok(if is_own { n.to_string() } else { format!("{before:?}, {after:?}") })
}

/// `keep` commits; otherwise the transaction is left open.
async fn transaction(Path(n): Path<u64>, db: Db<MySql>, keep: bool) -> response::Result<String> {
    let mut connection = db.get().await?;
    connection.query_drop("BEGIN").await.map_err(statement_failed)?;
    let insert = "INSERT INTO entry (n, kept) VALUES (?, ?)";
    connection.exec_drop(insert, (n, keep)).await.map_err(statement_failed)?;
    let select = "SELECT n FROM entry WHERE n = ?";
    let read: Option<u64> = connection.exec_first(select, (n,)).await.map_err(statement_failed)?;
    if keep {
        connection.query_drop("COMMIT").await.map_err(statement_failed)?;
    }
    Ok(read.unwrap_or_default().to_string())
}

async fn slow(Path(n): Path<u64>, db: Db<MySql>) -> response::Result<String> {
    let mut connection = db.get().await?;
    let read = connection.exec_first("SELECT ?, SLEEP(0.05)", (n,)).await;
    let read: Option<(u64, u8)> = read.map_err(statement_failed)?;
    Ok(read.unwrap_or_default().0.to_string())
}

async fn client(address: SocketAddr, numbers: Arc<AtomicU64>, until: Instant) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < until {
        let n = numbers.fetch_add(1, Ordering::Relaxed);
        let route = ["variable", "kept", "left", "slow"][fastrand::usize(..4)];
        // Some hang up, at any point of the conversation with the database.
        let hangs_up = fastrand::u8(..4) == 0;
        let patience =
            if hangs_up { Duration::from_micros(fastrand::u64(..60_000)) } else { LIMIT };
        match timeout(patience, service::get(address, &format!("/{route}/{n}"))).await {
            Ok(Ok(answer)) if answer.status == 200 => {
                seen.checked += 1;
                seen.wrong += u64::from(answer.body != n.to_string());
                seen.kept += u64::from(route == "kept");
            }
            Ok(Ok(answer)) => seen.failed(answer.status),
            Err(_) if hangs_up => seen.hang_ups += 1,
            Ok(Err(_)) | Err(_) => seen.failed(0),
        }
    }
    seen
}

/// Does one thing after the other to the server.
async fn provoke(server: &mut MariaDb, until: Instant) -> Done {
    let mut done = Done::default();
    for number in 1_u32.. {
        sleep(Duration::from_millis(fastrand::u64(20..300))).await;
        if Instant::now() >= until {
            break;
        }
        if number % 24 == 0 {
            server.stop();
            server.restart();
            done.restarts += 1;
        } else if number % 8 == 0 {
            server.pause().await;
            sleep(Duration::from_millis(fastrand::u64(50..1500))).await;
            server.resume();
            done.pauses += 1;
        } else if let Some(session) = fastrand::choice(server.sessions_of(USER).await) {
            done.kills += u64::from(server.kill_session(session).await);
        }
    }
    done
}

/// Whether every connection that was opened is closed or idle, soon.
async fn balance(pool: &Pool<MySql>) -> bool {
    let balanced = async {
        loop {
            let status = pool.status();
            let busy = status.in_use + status.maintaining + status.connecting + status.waiting;
            if busy == 0 && status.opened == status.closed + status.idle as u64 {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, balanced).await.is_ok()
}

/// How many rows are there that were never committed, and that were.
async fn rows(pool: &Pool<MySql>) -> Result<(u64, u64), Error> {
    let mut connection = pool.acquire().await?;
    let sql = "SELECT COUNT(*) FROM entry WHERE NOT kept";
    let left = connection.query_first(sql).await?.unwrap_or_default();
    let sql = "SELECT COUNT(*) FROM entry WHERE kept";
    Ok((left, connection.query_first(sql).await?.unwrap_or_default()))
}

impl Seen {
    fn failed(&mut self, status: u16) {
        *self.failed.entry(status).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.checked += other.checked;
        self.wrong += other.wrong;
        self.hang_ups += other.hang_ups;
        self.kept += other.kept;
        for (status, count) in other.failed {
            *self.failed.entry(status).or_default() += count;
        }
    }
}

impl Watch {
    /// Looks each millisecond, over one connection of another user, while there is a server.
    async fn run(self: Arc<Self>, opts: Opts) {
        while !self.over.load(Ordering::Relaxed) {
            if let Ok(mut conn) = Conn::new(opts.clone()).await {
                // It ends with the server.
                let _ = self.look(&mut conn).await;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn look(&self, conn: &mut Conn) -> mysql_async::Result<()> {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = ?";
        while !self.over.load(Ordering::Relaxed) {
            let sessions: usize = conn.exec_first(sql, (USER,)).await?.unwrap_or_default();
            self.looks.fetch_add(1, Ordering::Relaxed);
            self.most.fetch_max(sessions, Ordering::Relaxed);
            self.above.fetch_add(u64::from(sessions > CONNECTIONS + 1), Ordering::Relaxed);
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

impl Row for Figure {
    const HEADS: &'static [&'static str] = &["what", "count"];

    fn cells(&self) -> Vec<String> {
        vec![self.what.clone(), self.count.to_string()]
    }
}
