//! The connection lifecycle, as MariaDB's own process list sees it. Numbers are those of the behaviour
//! list on connections that farrier keeps to.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use farrier_test_servers::MariaDb;
use harness::client;
use harness::eventually_async;
use harness::load::{Load, Reuse};
use harness::process::Signal;
use harness::service::{self, Service};
use hyper::StatusCode;
use tokio::task::JoinSet;
use tokio::time::sleep;

async fn lab_on(database: &str, args: &[&str]) -> (Service, &'static MariaDb) {
    let server = MariaDb::shared();
    let url = server.database(database).await;
    let lab = service::lab().env("LAB_DATABASE_URL", &url).args(["--workers=1"]);
    (lab.args(args.iter().copied()).start(), server)
}

async fn session(lab: &Service) -> u64 {
    let response = client::get(lab.address(), "/db/session").await.expect("a whole response");
    assert_eq!(response.status, StatusCode::OK, "{}\n{}", response.text(), lab.log());
    response.text().parse().expect("a session id")
}

/// Behaviour C1: `max_age` 0 closes the session with the request; one request uses one session.
#[tokio::test]
async fn max_age_zero_closes_with_the_request() {
    let (lab, server) = lab_on("age_zero", &["--max-age=0"]).await;
    let rows = client::get(lab.address(), "/queries?n=3").await.unwrap();
    assert_eq!(rows.status, StatusCode::OK);
    eventually_async("no session is left", async || {
        server.sessions("age_zero").await.is_empty().then_some(())
    })
    .await;
    assert_ne!(session(&lab).await, session(&lab).await);
}

/// Behaviour C2: within `max_age` the session is used again.
#[tokio::test]
async fn a_session_is_used_again() {
    let (lab, server) = lab_on("reuse", &["--max-age=60"]).await;
    let first = session(&lab).await;
    for _ in 0..5 {
        assert_eq!(session(&lab).await, first);
    }
    assert_eq!(server.sessions("reuse").await, [first]);
}

/// Behaviour C3: a request that uses no database opens no session.
#[tokio::test]
async fn no_use_no_session() {
    let (lab, server) = lab_on("unused", &[]).await;
    client::get(lab.address(), "/plaintext").await.unwrap();
    assert_eq!(server.sessions("unused").await, [0_u64; 0]);
}

/// Behaviour C13: a session killed between two requests is replaced when health checks are on; when they
/// are off it costs one request.
#[tokio::test]
async fn a_killed_session_is_replaced() {
    let on = ["--max-age=60", "--health-checks=true", "--health-check-bypass=0"];
    let (lab, server) = lab_on("killed", &on).await;
    let first = session(&lab).await;
    server.run(&format!("KILL CONNECTION {first}")).await;
    assert_ne!(session(&lab).await, first);

    let (lab, server) = lab_on("killed_unchecked", &["--health-checks=false"]).await;
    let first = session(&lab).await;
    server.run(&format!("KILL CONNECTION {first}")).await;
    let failed = client::get(lab.address(), "/db/session").await.expect("a whole response");
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_ne!(session(&lab).await, first);
}

/// Behaviour C50: more requests than connections wait their turn, and the server never sees more sessions.
#[tokio::test]
async fn the_bound_holds_at_the_server() {
    let (lab, server) = lab_on("bound", &["--max-connections=3", "--acquire-timeout=30"]).await;
    let address = lab.address();
    let requests: Vec<_> =
        (0..12).map(|_| tokio::spawn(client::get(address, "/db/sleep?s=0.2"))).collect();
    let mut seen = HashSet::new();
    while !requests.iter().all(tokio::task::JoinHandle::is_finished) {
        let sessions = server.sessions("bound").await;
        assert!(sessions.len() <= 3, "{sessions:?}");
        seen.extend(sessions);
    }
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status, StatusCode::OK);
    }
    assert_eq!(seen.len(), 3, "three sessions served them all");
}

/// Behaviour C50, the deadline: 503 with Retry-After, and nothing of the driver.
#[tokio::test]
async fn no_connection_in_time_is_a_503() {
    let (lab, _) = lab_on("late", &["--max-connections=1", "--acquire-timeout=0.2"]).await;
    let address = lab.address();
    let holder = tokio::spawn(client::get(address, "/db/sleep?s=2"));
    let refused = eventually_async("a request finds none free", async || {
        let response = client::get(address, "/db/session").await.unwrap();
        (response.status != StatusCode::OK).then_some(response)
    })
    .await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers.contains_key("retry-after"));
    assert!(!refused.text().to_lowercase().contains("mysql"), "{}", refused.text());
    assert_eq!(holder.await.unwrap().unwrap().status, StatusCode::OK);
}

/// What is "too many connections" elsewhere: 80 clients at once with statements of a second, on 20
/// connections, at a server that takes 60. All are served, and the bound holds at every look.
#[tokio::test]
async fn more_clients_than_connections_wait_and_are_all_served() {
    tokio::join!(eighty_clients(Reuse::KeepAlive), eighty_clients(Reuse::Close));
}

async fn eighty_clients(reuse: Reuse) {
    let server = MariaDb::start(&["--max-connections=60"]);
    let url = server.database("many").await;
    let lab = service::lab().env("LAB_DATABASE_URL", &url);
    let lab = lab.args(["--workers=1", "--max-connections=20"]).start();
    let address = lab.address();
    let load = Load::start(address, "/db/sleep?s=1", 80, reuse);
    let start = Instant::now();
    let mut most = 0;
    // Four waves for each of five rounds, the last of which is answered after the stop.
    while start.elapsed() < Duration::from_secs(18) {
        most = most.max(server.sessions("many").await.len());
        sleep(Duration::from_millis(100)).await;
    }
    let report = load.stop().await;
    assert_eq!(report.failed, [""; 0], "{reuse:?}: {}", lab.log());
    assert!(report.ok >= 400, "{reuse:?}: {}", report.ok);
    assert_eq!(most, 20, "{reuse:?}");
    let before = server.status("Connections").await;
    let load = Load::start(address, "/db", 80, reuse);
    sleep(Duration::from_secs(2)).await;
    let quick = load.stop().await;
    assert_eq!(quick.failed, [""; 0], "{reuse:?}");
    // The second look is one, too.
    let opened = server.status("Connections").await - before - 1;
    assert!(opened * 10_000 <= quick.ok * 40, "{reuse:?}: {opened} for {} requests", quick.ok);
}

/// A burst that is longer than the pool is wide waits, too.
#[tokio::test]
async fn a_burst_waits_for_its_turn() {
    let (lab, _) = lab_on("burst", &["--max-connections=8"]).await;
    let address = lab.address();
    let mut clients = JoinSet::new();
    for _ in 0..200 {
        clients.spawn(client::get(address, "/db/sleep?s=0.05"));
    }
    for response in clients.join_all().await {
        assert_eq!(response.expect("a whole response").status, StatusCode::OK, "{}", lab.log());
    }
}

/// A server that stands still in the middle of a statement: the client has its answer all the same, and
/// the next one is served when the server goes on.
#[tokio::test]
async fn a_statement_that_takes_too_long_is_a_504() {
    let server = MariaDb::start(&[]);
    let url = server.database("still").await;
    let lab = service::lab().env("LAB_DATABASE_URL", &url);
    let lab = lab.args(["--workers=1", "--statement-timeout=0.5"]).start();
    let address = lab.address();
    session(&lab).await;
    let working = tokio::spawn(client::get(address, "/db/sleep?s=60"));
    sleep(Duration::from_millis(100)).await;
    server.pause().await;
    let late = working.await.unwrap().unwrap();
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(lab.log().contains("did not answer a statement within 500ms"), "{}", lab.log());
    assert!(!late.text().to_lowercase().contains("mysql"), "{}", late.text());
    server.resume();
    eventually_async("it serves again", async || {
        let response = client::get(address, "/db").await.unwrap();
        (response.status == StatusCode::OK).then_some(())
    })
    .await;
    eventually_async("the late one is ended", async || {
        (server.sessions("still").await.len() == 1).then_some(())
    })
    .await;
}

/// Clients that leave while the server is full of their statements: it serves again as soon as those
/// are over, in every worker.
#[tokio::test]
async fn hang_ups_at_a_full_server_are_no_lasting_outage() {
    let server = MariaDb::start(&["--max-connections=30"]);
    server.database("full").await;
    server.run("CREATE USER lab").await;
    server.run("GRANT ALL ON full.* TO lab").await;
    let lab = service::lab().env("LAB_DATABASE_URL", &server.url("lab", "full"));
    let lab = lab.args(["--workers=4", "--max-connections=10", "--acquire-timeout=1"]).start();
    let address = lab.address();
    let mut clients = JoinSet::new();
    // Refused by the server: it has no place left.
    while !lab.log().contains("Too many connections") {
        for _ in 0..8 {
            clients.spawn(client::get(address, "/db/sleep?s=2"));
        }
        sleep(Duration::from_millis(50)).await;
    }
    let left = Instant::now();
    clients.shutdown().await;
    let mut served = 0;
    while served < 40 {
        let response = client::get(address, "/db").await.expect("a whole response");
        served = if response.status == StatusCode::OK { served + 1 } else { 0 };
        assert!(left.elapsed() < Duration::from_secs(20), "{}", lab.log());
    }
}

/// Behaviour C57: a worker that leaves says good-bye to the server; no client counts as aborted.
#[tokio::test]
async fn sessions_end_politely() {
    // A server of its own: the counter is the server's, and other tests kill workers.
    let server = MariaDb::start(&[]);
    let url = server.database("polite").await;
    let mut lab = service::lab().env("LAB_DATABASE_URL", &url).args(["--workers=1"]).start();
    let before = server.status("Aborted_clients").await;
    session(&lab).await;
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
    assert_eq!(server.sessions("polite").await, [0_u64; 0]);
    assert_eq!(server.status("Aborted_clients").await, before);
}
