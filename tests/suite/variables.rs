//! Variables and locks that all workers have together, through whatever becomes of each of them.

use std::time::Duration;

use harness::client;
use harness::process::Signal;
use harness::service::{self, Service};
use harness::{eventually, eventually_async};
use hyper::StatusCode;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;

async fn counted(lab: &Service) -> u64 {
    let response = client::get(lab.address(), "/counter").await.expect("a whole response");
    response.text().parse().expect("a number")
}

/// Behaviour V1: a counter is one for all workers, and outlives recyclings, reloads and crashes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_is_one_for_all_workers_and_outlives_them() {
    let args = ["--workers=3", "--max-requests=50", "--drain-idle=0.1"];
    let lab = service::lab().args(args).start();
    let address = lab.address();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move {
            let (mut answered, mut lost) = (0, 0);
            for _ in 0..150 {
                match client::post(address, "/counter", "text/plain", "").await {
                    Ok(_) => answered += 1,
                    // Its worker was killed: it has counted, or it has not.
                    Err(_) => lost += 1,
                }
            }
            (answered, lost)
        });
    }
    for round in 0..12 {
        let ready = lab.log().matches("worker ready").count();
        if round == 6 {
            let reload = lab.ctl(&["reload"]);
            assert!(reload.status.success(), "{reload:?}");
        }
        if let Some(&worker) = lab.workers().last() {
            // It may have left by itself just now.
            let _ = kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL);
        }
        eventually("one is ready", || {
            (lab.log().matches("worker ready").count() > ready).then_some(())
        });
    }
    let (mut answered, mut lost) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (ok, failed) = client.expect("a task");
        answered += ok;
        lost += failed;
    }
    assert!(answered > 1_000, "{answered} and {lost}");
    let sum = counted(&lab).await;
    assert!((answered..=answered + lost).contains(&sum), "{sum}: {answered} and perhaps {lost}");
    assert!(lab.log().contains("worker is due for recycling"), "{}", lab.log());
    // All of them read the same.
    eventually_async("it is read", async || (counted(&lab).await == sum).then_some(())).await;
}

/// Behaviour V2: who holds a lock and is killed holds it no more, and the next one is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_dies_with_its_holder_and_the_next_one_is_told() {
    let lab =
        service::lab().args(["--workers=4", "--max-requests=100", "--drain-idle=0.1"]).start();
    let address = lab.address();
    let hold = async move |ms: u64| {
        let held = client::post(address, &format!("/lock?ms={ms}"), "text/plain", "").await.ok()?;
        assert_eq!(held.status, StatusCode::OK, "two have it at once");
        serde_json::from_str::<Value>(held.text()).ok()
    };
    let first = hold(0).await.expect("a whole response");
    assert_eq!(first["holder_died"], false);

    let holding = tokio::spawn(async move { hold(60_000).await });
    let holder = eventually_async("it is held", async || {
        let holder = client::get(address, "/lock").await.expect("a whole response");
        holder.text().parse().ok().filter(|&holder| holder > 0)
    })
    .await;
    let waiting = tokio::spawn(async move { hold(0).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    kill(Pid::from_raw(holder), Signal::SIGKILL).expect("it lives");
    assert!(holding.await.expect("a task").is_none(), "its request died with it");
    // It may have been in the worker that was killed.
    let next = waiting.await.expect("a task");
    let next = if next.is_some() { next } else { hold(0).await };
    assert_eq!(next.expect("a whole response")["holder_died"], true);
    assert_eq!(hold(0).await.expect("a whole response")["holder_died"], false);

    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        clients.spawn(async move {
            let (mut held, mut told) = (0, 0);
            for _ in 0..60 {
                let Some(answer) = hold(1).await else { continue };
                held += 1;
                told += u32::from(answer["holder_died"] == true);
            }
            (held, told)
        });
    }
    for _ in 0..12 {
        let ready = lab.log().matches("worker ready").count();
        if let Some(&worker) = lab.workers().first() {
            // It may have left by itself just now.
            let _ = kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL);
        }
        eventually("one is ready", || {
            (lab.log().matches("worker ready").count() > ready).then_some(())
        });
    }
    let (mut held, mut told) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (ok, died) = client.expect("a task");
        held += ok;
        told += died;
    }
    assert!(held > 300 && told <= 12, "{held} and {told}");
}
