//! Variables and locks that all workers have together, through whatever becomes of each of them.

use std::net::SocketAddr;
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

/// Behaviour V3: what any worker has named, all have by this name, those too that are forked later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_names_a_counter_and_all_have_it() {
    let lab = service::lab().args(["--workers=4", "--preload-mb=1"]).start();
    let address = lab.address();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..8 {
        clients.spawn(async move {
            for number in 0..100 {
                // The same names come up in all workers at once.
                let path = format!("/counter?name=c{}", (number + client) % 20);
                let counted = client::post(address, &path, "text/plain", "").await;
                assert_eq!(counted.expect("a whole response").status, StatusCode::OK);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("a task");
    }
    let counts = async |lab: &Service| {
        let mut counts = Vec::new();
        for number in 0..20 {
            let path = format!("/counter?name=c{number}");
            counts.push(client::get(lab.address(), &path).await.expect("a whole response"));
        }
        counts.iter().map(|count| count.text().parse().expect("a number")).collect::<Vec<u64>>()
    };
    assert_eq!(counts(&lab).await, [40; 20]);
    let loads = async || {
        let preload = client::get(address, "/preload").await.expect("a whole response");
        serde_json::from_str::<Value>(preload.text()).expect("JSON")["loads"].clone()
    };
    assert_eq!(loads().await, 1);
    let reload = lab.ctl(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
    assert_eq!(counts(&lab).await, [40; 20]);
    assert_eq!(loads().await, 3, "the start, the dry run and the reload");
    let other = client::get(address, "/counter?name=who%20has%20the%20lock").await;
    let other = other.expect("a whole response");
    assert_eq!(other.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(other.text().contains("another kind of variable"), "{}", other.text());
}

/// `None` if its worker was killed.
async fn once(address: SocketAddr, query: String) -> Option<Value> {
    let answer = client::post(address, &format!("/once?{query}"), "text/plain", "").await.ok()?;
    Some(serde_json::from_str(answer.text()).expect("JSON"))
}

/// Behaviour V4: work that is done once is done by one worker, the others wait for it; if that one is killed in the midst of
/// it, the next begins it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_once_is_done_by_one_worker_and_anew_if_it_is_killed() {
    let lab = service::lab().args(["--workers=4"]).start();
    let address = lab.address();
    let counted = async |name: &str| {
        let path = format!("/counter?name={name}");
        client::get(address, &path).await.expect("a whole response").text().to_owned()
    };
    let all_at_once = async |query: &str| {
        let asked = (0..16).map(|_| once(address, query.to_owned()));
        asked.collect::<tokio::task::JoinSet<_>>().join_all().await
    };
    let here = |answers: &[Option<Value>]| {
        answers.iter().flatten().filter(|answer| answer["here"] == true).count()
    };
    let answers = all_at_once("name=first&ms=100").await;
    assert_eq!((answers.iter().flatten().count(), here(&answers)), (16, 1));
    assert_eq!(here(&all_at_once("name=first&ms=0").await), 0);
    assert_eq!(counted("first%20begun").await, "1");

    let killed = tokio::spawn(once(address, "name=killed&ms=60000".to_owned()));
    eventually_async("it is begun", async || {
        (counted("killed%20begun").await == "1").then_some(())
    })
    .await;
    let waiting = tokio::spawn(once(address, "name=killed&ms=1".to_owned()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished(), "it waits for who does it");
    // All: whichever does it.
    let ready = lab.log().matches("worker ready").count();
    for worker in lab.workers() {
        kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL).expect("it lives");
    }
    assert_eq!(killed.await.expect("a task"), None);
    assert_eq!(waiting.await.expect("a task"), None);
    eventually("they are replaced", || {
        (lab.log().matches("worker ready").count() >= ready + 4).then_some(())
    });
    assert_eq!(here(&all_at_once("name=killed&ms=1").await), 1);
    assert_eq!(
        (counted("killed%20begun").await, counted("killed%20done").await),
        ("2".into(), "1".into())
    );

    for generation in 1..=2 {
        let answers = all_at_once(&format!("name=each&ms=1&generation={generation}")).await;
        assert_eq!(here(&answers), 1, "{generation}");
    }
    let reload = lab.ctl(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
    assert_eq!(here(&all_at_once("name=first&ms=0").await), 0, "a reload changes nothing");
}
