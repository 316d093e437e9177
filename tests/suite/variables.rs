//! Variables that all workers have together, through whatever becomes of each of them.

use harness::client;
use harness::process::Signal;
use harness::service::{self, Service};
use harness::{eventually, eventually_async};
use nix::sys::signal::kill;
use nix::unistd::Pid;

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
