//! Workers that are replaced though nothing is wrong with them: `max_requests`, `max_lifetime`, `max_rss`.

use std::collections::BTreeMap;
use std::fs;
use std::future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::client;
use harness::load::{Load, Reuse};
use harness::process::{self, Signal};
use harness::service::{self, Service};
use harness::{eventually, eventually_async};
use hyper::{Request, StatusCode};
use tokio::net::TcpStream;

/// How often a worker was said to be due.
fn due(lab: &Service) -> usize {
    lab.log().matches("worker is due for recycling").count()
}

/// How many workers serve.
fn ready(lab: &Service) -> usize {
    let status = lab.status();
    let workers = status["workers"].as_array().expect("workers");
    workers.iter().filter(|worker| worker["state"] == "ready").count()
}

/// Asks over HTTP/2, on one connection until that takes no more, until it is told to stop; how often. h2's own client
/// tells what never left from what was lost.
async fn http2(address: SocketAddr, stop: Arc<AtomicBool>) -> u64 {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        let socket = TcpStream::connect(address).await.expect("it listens");
        let (mut client, connection) = h2::client::handshake(socket).await.expect("a handshake");
        tokio::spawn(connection);
        while future::poll_fn(|cx| client.poll_ready(cx)).await.is_ok() {
            let request = Request::get(format!("http://{address}/plaintext"));
            let request = request.body(()).expect("a request");
            let Ok((response, _)) = client.send_request(request, true) else { break };
            let response = response.await.expect("a request is lost");
            assert_eq!(response.status(), StatusCode::OK);
            let mut body = response.into_body();
            while let Some(chunk) = body.data().await {
                chunk.expect("a whole body");
            }
            answered += 1;
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    answered
}

/// Behaviour L43: under load each worker goes after its requests, none is missing meanwhile, and nobody loses one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recycling_loses_no_request() {
    let args = ["--workers=3", "--max-requests=200", "--max-requests-jitter=50"];
    let lab = service::lab().args(args).start();
    let address = lab.address();
    eventually("all serve", || (ready(&lab) == 3).then_some(()));
    let kept = Load::start(address, "/plaintext", 16, Reuse::KeepAlive);
    let closed = Load::start(address, "/plaintext", 16, Reuse::Close);
    let stop = Arc::new(AtomicBool::new(false));
    let streams: Vec<_> = (0..4).map(|_| tokio::spawn(http2(address, Arc::clone(&stop)))).collect();
    eventually_async("50 are due", async || {
        assert!(ready(&lab) >= 3, "{}", lab.log());
        (due(&lab) >= 50).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for streams in streams {
        assert!(streams.await.expect("no request is lost") > 0);
    }
    for load in [kept, closed] {
        let report = load.stop().await;
        assert!(report.ok > 1_000, "{}", report.ok);
        assert!(report.failed.is_empty(), "{:?}\n{}", report.failed, lab.log());
    }
    let log = lab.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert!(log.contains("it has begun max_requests"), "{log}");
}

/// A worker has at least its requests, and goes soon after.
#[tokio::test]
async fn a_worker_has_its_requests() {
    let lab = service::lab().args(["--workers=1", "--max-requests=10"]).start();
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    let mut order = Vec::new();
    while served.len() < 5 {
        let pid =
            client::get(lab.address(), "/pid").await.expect("a whole response").text().to_owned();
        *served.entry(pid.clone()).or_default() += 1;
        order.push(pid);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let last = order.pop().expect("requests");
    served.remove(&last);
    for (pid, requests) in served {
        assert!((10..200).contains(&requests), "{pid} served {requests}");
    }
}

/// Without any traffic, and each at its own time.
#[test]
fn a_worker_is_replaced_when_it_is_old() {
    let lab = service::lab().args(["--workers=2", "--max-lifetime=1"]).start();
    let first = lab.workers();
    eventually("both are new", || first.iter().all(|&pid| !process::is_alive(pid)).then_some(()));
    assert!(lab.log().contains("it has lived for max_lifetime"), "{}", lab.log());
    eventually("there are two", || (lab.workers().len() == 2).then_some(()));
}

/// More memory than any process is without cannot bring a storm of forks.
#[test]
fn a_worker_that_is_too_large_is_replaced_and_not_at_once_again() {
    let lab = service::lab().args(["--workers=2", "--max-rss=1"]).start();
    let began = Instant::now();
    let first = lab.workers();
    eventually("both are new", || first.iter().all(|&pid| !process::is_alive(pid)).then_some(()));
    assert!(lab.log().contains("it holds more memory than max_rss"), "{}", lab.log());
    let looks = usize::try_from(began.elapsed().as_secs()).expect("a few") + 2;
    assert!(due(&lab) <= 2 * looks, "{} in {looks} looks", due(&lab));
}

/// Behaviour L48: while its successor cannot start, a worker that is due serves on.
#[tokio::test]
async fn a_worker_stays_until_its_successor_serves() {
    let args = ["--workers=1", "--max-requests=5"];
    let lab = service::lab().args(args).env("LAB_BOOT_FILE", "boot").start();
    fs::write(lab.path("boot"), "fail").expect("a folder of ours");
    let first = lab.workers();
    for _ in 0..50 {
        let response = client::get(lab.address(), "/pid").await.expect("a whole response");
        assert_eq!(response.text(), first[0].to_string(), "{}", lab.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(lab.log().contains("worker died before it was ready"), "{}", lab.log());
    fs::remove_file(lab.path("boot")).expect("it is there");
    eventually("it is replaced", || (!process::is_alive(first[0])).then_some(()));
    let response = client::get(lab.address(), "/pid").await.expect("a whole response");
    assert_eq!(response.status, StatusCode::OK);
}

/// A worker that is due is replaced by a reload, or stopped with the others, as any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_due_is_reloaded_and_stopped_as_any() {
    let args = ["--workers=2", "--max-requests=1"];
    let mut lab = service::lab().args(args).start();
    let load = Load::start(lab.address(), "/plaintext", 4, Reuse::Close);
    for _ in 0..3 {
        let before = due(&lab);
        eventually("one is due", || (due(&lab) > before).then_some(()));
        let reloaded = lab.ctl(&["reload"]);
        assert!(reloaded.status.success(), "{reloaded:?}");
    }
    let report = load.stop().await;
    assert!(report.ok > 0 && report.failed.is_empty(), "{:?}\n{}", report.failed, lab.log());
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
}

/// Behaviour L64: what was registered before the fork to run at the exit is the master's, and runs once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_exit_handler_of_the_master_runs_in_a_worker() {
    let args = ["--workers=2", "--max-requests=5", "--drain-idle=0.1"];
    let mut lab = service::lab().args(args).env("LAB_BEFORE", "exit-handler").start();
    let load = Load::start(lab.address(), "/plaintext", 4, Reuse::Close);
    eventually("50 are due", || (due(&lab) >= 50).then_some(()));
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    let file = lab.path("at-exit");
    assert!(!file.exists(), "{:?}", fs::read_to_string(file));
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
    let ran = fs::read_to_string(file).expect("it has run");
    assert_eq!(ran, format!("{}\n", lab.pid()), "{}", lab.log());
}

/// One that is told to leave in the moment in which it begins to serve does one or the other, not both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_leaves_as_it_comes_loses_nothing() {
    let lab = service::lab().args(["--workers=1"]).start();
    let load = Load::start(lab.address(), "/plaintext", 8, Reuse::Close);
    for _ in 0..150 {
        lab.signal(Signal::SIGTTIN);
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..3_000))).await;
        lab.signal(Signal::SIGTTOU);
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    let report = load.stop().await;
    assert!(report.ok > 0 && report.failed.is_empty(), "{:?}\n{}", report.failed, lab.log());
    assert!(!lab.log().contains("WARN"), "{}", lab.log());
}
