//! What a database that goes away costs: a steady load, in whose middle the server is away.
//!
//! Who waits for a connection waits until the server is back. Only statements that had already been sent when
//! it went may fail, for nobody can know whether they were carried out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use farrier::connection::{Db, Policy};
use farrier::mysql::MySql;
use farrier_test_servers::MariaDb;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::report::{self, Error, Row};
use crate::service::{self, Service};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each of the three runs takes.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(6..=600))]
    seconds: u32,
    /// Requests per second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Checks each connection before its request has it, also one that was used a moment ago.
    #[arg(long)]
    check_always: bool,
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How the server goes and comes back.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Terminated,
    Killed,
    Stopped,
}

/// When the server went, seen from the start of the run.
#[derive(Clone, Copy, Debug)]
struct Away {
    /// It was told to go.
    from: Duration,
    /// It was known to be gone.
    gone: Duration,
    /// It was there again.
    back: Duration,
}

#[derive(Debug, Serialize)]
struct Outcome {
    way: Way,
    away_ms: u128,
    requests: usize,
    answered: u64,
    /// Statements that had been sent when the server went.
    sent_before: u64,
    /// Statements that were sent to a server that was gone, or fine.
    sent_otherwise: u64,
    /// Requests that got no connection.
    no_connection: u64,
    /// Requests that got no whole response.
    no_response: u64,
    failed_by_status: BTreeMap<u16, u64>,
    slowest_ms: u128,
}

/// What became of one request.
struct Seen {
    status: Option<u16>,
    /// When the statement was sent that failed.
    sent: Option<Duration>,
    took: Duration,
}

/// How long the server is away, without the time that its start takes.
const AWAY: Duration = Duration::from_secs(2);
/// More than that, on a machine that takes its time over the start.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(6);
/// What a statement of 10 ms may take on a busy machine.
const STATEMENT: Duration = Duration::from_secs(1);
/// The end of everybody's patience, so that the run ends.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes the three runs and prints the table.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let rows = service::runtime()?.block_on(async {
        let mut server = service::server().await;
        let mut rows = Vec::new();
        for way in [Way::Terminated, Way::Killed, Way::Stopped] {
            rows.push(outage(args, &mut server, way).await?);
        }
        Ok::<_, Error>(rows)
    })?;
    report::print(&rows, args.json.as_deref())?;
    let wrong: u64 = rows.iter().map(Outcome::wrong).sum();
    if wrong > 0 {
        return Err(format!("{wrong} requests failed that need not have").into());
    }
    Ok(())
}

async fn outage(args: &Args, server: &mut MariaDb, way: Way) -> Result<Outcome, Error> {
    let requests = usize::try_from(args.rate * args.seconds)?;
    let mut policy = Policy::default().acquire_timeout(ACQUIRE_TIMEOUT).max_waiting(requests);
    if args.check_always {
        policy = policy.health_check_bypass(Duration::ZERO);
    }
    let start = Instant::now();
    let routes = Router::new().route("/", get(statement)).with_state(start);
    let service = Service::start(server, policy, routes).await?;
    let load = tokio::spawn(load(service.address, args.rate, requests));
    sleep(Duration::from_secs(args.seconds.into()) / 2 - AWAY / 2).await;
    let away = way.pass(server, start).await;
    let seen = load.await?;
    service.stop().await?;
    Ok(Outcome::of(way, away, &seen))
}

/// One short statement; its failure tells when it was sent.
async fn statement(State(start): State<Instant>, db: Db<MySql>) -> Response {
    let mut connection = match db.get().await {
        Ok(connection) => connection,
        Err(error) => return error.into_response(),
    };
    let sent = start.elapsed();
    match connection.query_first("SELECT SLEEP(0.01)").await {
        Ok(Some(0)) => StatusCode::OK.into_response(),
        Ok::<Option<u8>, _>(_) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, sent.as_micros().to_string()).into_response()
        }
    }
}

/// Sends the requests at their time, whatever became of the earlier ones.
async fn load(address: SocketAddr, rate: u32, requests: usize) -> Vec<Seen> {
    let mut tick = interval(Duration::from_secs(1) / rate);
    let mut all = JoinSet::new();
    for _ in 0..requests {
        tick.tick().await;
        all.spawn(async move {
            let begun = Instant::now();
            let answer = timeout(LIMIT, service::get(address, "/")).await;
            let answer = answer.ok().and_then(Result::ok);
            Seen {
                status: answer.as_ref().map(|answer| answer.status),
                sent: answer.and_then(|answer| answer.body.parse().ok()).map(Duration::from_micros),
                took: begun.elapsed(),
            }
        });
    }
    all.join_all().await
}

impl Way {
    /// Lets the server go and come back.
    async fn pass(self, server: &mut MariaDb, start: Instant) -> Away {
        let from = start.elapsed();
        match self {
            Self::Terminated => server.stop(),
            Self::Killed => server.crash(),
            Self::Stopped => server.pause().await,
        }
        let gone = start.elapsed();
        sleep((from + AWAY).saturating_sub(gone)).await;
        match self {
            Self::Terminated | Self::Killed => server.restart(),
            Self::Stopped => server.resume(),
        }
        Away { from, gone, back: start.elapsed() }
    }
}

impl Away {
    /// Whether a statement may have been under way when the server went.
    fn cut_off(self, sent: Duration) -> bool {
        sent <= self.gone && sent + STATEMENT >= self.from
    }
}

impl Outcome {
    fn of(way: Way, away: Away, seen: &[Seen]) -> Self {
        let mut outcome = Self {
            way,
            away_ms: (away.back - away.from).as_millis(),
            requests: seen.len(),
            answered: 0,
            sent_before: 0,
            sent_otherwise: 0,
            no_connection: 0,
            no_response: 0,
            failed_by_status: BTreeMap::new(),
            slowest_ms: seen.iter().map(|seen| seen.took.as_millis()).max().unwrap_or_default(),
        };
        for seen in seen {
            let kind = match (seen.status, seen.sent) {
                (Some(200), _) => &mut outcome.answered,
                (None, _) => &mut outcome.no_response,
                (_, None) => &mut outcome.no_connection,
                (_, Some(sent)) if away.cut_off(sent) => &mut outcome.sent_before,
                (_, Some(_)) => &mut outcome.sent_otherwise,
            };
            *kind += 1;
            if let Some(status) = seen.status.filter(|&status| status != 200) {
                *outcome.failed_by_status.entry(status).or_default() += 1;
            }
        }
        outcome
    }

    fn wrong(&self) -> u64 {
        self.sent_otherwise + self.no_connection + self.no_response
    }
}

impl Row for Outcome {
    const HEADS: &'static [&'static str] = &[
        "the server is",
        "away, ms",
        "requests",
        "answered 200",
        "failed: sent before",
        "sent otherwise",
        "no connection",
        "no response",
        "failed by status",
        "slowest, ms",
    ];

    fn cells(&self) -> Vec<String> {
        let way = match self.way {
            Way::Terminated => "terminated",
            Way::Killed => "killed",
            Way::Stopped => "stopped",
        };
        let statuses =
            self.failed_by_status.iter().map(|(status, count)| format!("{status}: {count}"));
        vec![
            way.to_owned(),
            self.away_ms.to_string(),
            self.requests.to_string(),
            self.answered.to_string(),
            self.sent_before.to_string(),
            self.sent_otherwise.to_string(),
            self.no_connection.to_string(),
            self.no_response.to_string(),
            statuses.collect::<Vec<_>>().join(", "),
            self.slowest_ms.to_string(),
        ]
    }
}
