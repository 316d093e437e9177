//! Companions: processes that exist once beside the workers, and the queue that leads to them.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use harness::client;
use harness::load::{Load, Reuse};
use harness::process::{self, Signal};
use harness::service::{self, Builder, Service};
use harness::{eventually, eventually_async};
use hyper::StatusCode;
use serde_json::Value;
use tokio::task::JoinHandle;

fn with_companion(args: &[&str]) -> Builder {
    let lab = service::lab().args(["--companion=ticks", "--drain-idle=0.1"]);
    lab.args(args.iter().copied())
}

/// The pids of those that have ticked, one after the other.
fn lives(lab: &Service, file: &str) -> Vec<u32> {
    let ticks = fs::read_to_string(lab.path(file)).unwrap_or_default();
    let pids = ticks.lines().filter_map(|line| line.split(' ').next()?.parse().ok());
    let mut lives: Vec<u32> = pids.collect();
    lives.dedup();
    lives
}

/// The process of a companion that has started.
fn pid(lab: &Service, name: &str) -> u32 {
    eventually("it runs", || {
        let companion = status(lab, name);
        let process = &companion["process"];
        (process["state"] == "ready").then(|| process["pid"].as_u64()?.try_into().ok())?
    })
}

fn status(lab: &Service, name: &str) -> Value {
    let status = lab.status();
    let companions = status["companions"].as_array().expect("companions");
    companions.iter().find(|companion| companion["name"] == name).expect("its row").clone()
}

#[track_caller]
fn ran_once_at_a_time(lab: &Service, file: &str) {
    let lives = lives(lab, file);
    let mut once = lives.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), lives.len(), "two have ticked side by side: {lives:?}");
    assert!(!lab.log().contains("it runs twice"), "{}", lab.log());
}

async fn send(address: SocketAddr, message: String) -> StatusCode {
    let sent = client::post(address, "/queue", "text/plain", message).await;
    sent.expect("a whole response").status
}

async fn received(lab: &Service) -> usize {
    let response = client::get(lab.address(), "/queue").await.expect("a whole response");
    response.text().parse().expect("a number")
}

/// A request that a worker is serving, for so long.
fn in_flight(lab: &Service, ms: u64) -> JoinHandle<Result<client::Response, client::Lost>> {
    let (address, path) = (lab.address(), format!("/sleep?ms={ms}"));
    let request = tokio::spawn(async move { client::get(address, &path).await });
    eventually("it is served", || {
        lab.status()["workers"].to_string().contains("/sleep").then_some(())
    });
    request
}

/// Behaviour L66: recyclings and reloads under load, deaths of workers, its own death and its own hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_companion_exists_once_whatever_happens() {
    let lab = with_companion(&["--workers=5", "--max-requests=20", "--timeout=1"]).start();
    let first = pid(&lab, "companion-0");
    let load = Load::start(lab.address(), "/plaintext", 4, Reuse::Close);
    let due = || lab.log().matches("worker is due for recycling").count();
    eventually("200 workers are recycled", || (due() >= 200).then_some(()));
    assert_eq!(lives(&lab, "ticks"), [first], "they are nothing to it");
    for reloads in 1..=5 {
        let reload = lab.ctl(&["reload"]);
        assert!(reload.status.success(), "{reload:?}\n{}", lab.log());
        eventually("it is a new one", || (lives(&lab, "ticks").len() == reloads + 1).then_some(()));
    }
    let report = load.stop().await;
    assert!(report.ok > 0 && report.failed.is_empty(), "{:?}\n{}", report.failed, lab.log());
    let before = pid(&lab, "companion-0");
    for crash in 0..20 {
        let ready = lab.log().matches("worker ready").count();
        // Four in a row are made good at once in each slot.
        let worker = eventually("its worker serves", || {
            let status = lab.status();
            let mut workers = status["workers"].as_array()?.iter();
            let worker = workers.find(|worker| worker["slot"] == crash % 5)?;
            (worker["state"] == "ready").then(|| worker["pid"].as_u64()?.try_into().ok())?
        });
        process::kill(worker, Signal::SIGKILL);
        eventually("it is replaced", || {
            (lab.log().matches("worker ready").count() > ready).then_some(())
        });
    }
    assert_eq!(pid(&lab, "companion-0"), before);

    process::kill(before, Signal::SIGKILL);
    eventually("it is replaced", || (lives(&lab, "ticks").len() == 7).then_some(()));
    let hung = pid(&lab, "companion-0");
    fs::write(lab.path("ticks.hang"), "").expect("a folder of ours");
    eventually("it is hung", || {
        lab.log().contains("companion companion-0: no heartbeat").then_some(())
    });
    fs::remove_file(lab.path("ticks.hang")).expect("it is there");
    eventually("it is replaced", || (lives(&lab, "ticks").len() == 8).then_some(()));
    assert!(!process::is_alive(hung));
    client::get(lab.address(), "/plaintext").await.expect("a whole response");
    ran_once_at_a_time(&lab, "ticks");
}

#[test]
fn two_companions_do_not_disturb_each_other() {
    let lab = with_companion(&["--workers=1", "--companion=other"]).start();
    let (first, second) = (pid(&lab, "companion-0"), pid(&lab, "companion-1"));
    process::kill(first, Signal::SIGKILL);
    eventually("it is replaced", || (lives(&lab, "ticks").len() == 2).then_some(()));
    assert_eq!(pid(&lab, "companion-1"), second);
    let table = String::from_utf8(lab.ctl(&["status"]).stdout).expect("text");
    assert!(table.contains("companion-0  ") && table.contains("companion-1  "), "{table}");
    assert!(table.contains("companion-0: last exit"), "{table}");
}

/// Behaviour L67.
#[tokio::test]
async fn a_companion_that_does_not_start_harms_no_worker() {
    let lab = with_companion(&["--workers=2"]).file("ticks.fail", "").start();
    eventually("it is tried again", || {
        (status(&lab, "companion-0")["failures"].as_u64() >= Some(2)).then_some(())
    });
    let row = status(&lab, "companion-0");
    assert_eq!(row["last_exit"]["how"], "the file said so", "{row}");
    client::get(lab.address(), "/plaintext").await.expect("a whole response");
    assert!(!lab.log().contains("worker died"), "{}", lab.log());
    fs::remove_file(lab.path("ticks.fail")).expect("it is there");
    pid(&lab, "companion-0");
}

/// Behaviour L69.
#[test]
fn a_required_companion_comes_first_or_refuses_the_start() {
    let args = ["--workers=1", "--require-companions=true"];
    let mut lab = with_companion(&args).file("ticks.fail", "").spawn();
    assert_eq!(lab.wait().code(), Some(3), "{}", lab.log());
    let log = lab.log();
    assert!(log.contains("the file said so") && log.contains("require_companions"), "{log}");
    assert!(!log.contains("booting worker"), "{log}");
    let lab = with_companion(&args).start();
    let log = lab.log();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text}:\n{log}"));
    assert!(place("companion companion-0 ready") < place("booting worker"), "{log}");
}

/// Behaviour L68.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_for_the_workers_first() {
    let mut lab = with_companion(&["--workers=2", "--companion=other"]).start();
    for companion in ["companion-0", "companion-1"] {
        pid(&lab, companion);
    }
    let slow = in_flight(&lab, 500);
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
    assert_eq!(slow.await.expect("a task").expect("a whole response").status, StatusCode::OK);
    let log = lab.log();
    let last_worker = log.rfind("worker left").expect("workers left");
    for companion in ["companion-0", "companion-1"] {
        let left = log.find(&format!("companion {companion} left")).expect("it left");
        assert!(last_worker < left, "{log}");
    }
    let ticks = fs::read_to_string(lab.path("ticks")).expect("ticks");
    let last: Vec<_> =
        ticks.lines().rev().take(2).filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(last, ["exit", "left"], "its work before the exit is the last");
    assert!(!log.contains("ERROR") && !log.contains("SIGKILL"), "{log}");
}

/// It is cut at the end of the grace of which the workers had their part, and does its work before the exit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_companion_that_stays_is_cut_within_the_one_grace() {
    let args = ["--workers=1", "--graceful-timeout=3"];
    let mut lab = with_companion(&args).file("ticks.stay", "").start();
    pid(&lab, "companion-0");
    let slow = in_flight(&lab, 1500);
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
    slow.await.expect("a task").expect("a whole response");
    let log = lab.log();
    assert!(log.contains("cut at the end of graceful_timeout"), "{log}");
    assert!(!log.contains("SIGKILL"), "{log}");
    let ticks = fs::read_to_string(lab.path("ticks")).expect("ticks");
    assert!(ticks.trim_end().ends_with("exit"), "{ticks}");
}

/// It has the ends of the queue, and its own; no listener, and nothing of the master's.
#[test]
fn a_companion_has_no_listener() {
    let lab = with_companion(&["--workers=1"]).start();
    let companion = pid(&lab, "companion-0");
    let sockets = |pid: u32| -> BTreeSet<PathBuf> {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
        let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        open.filter(|link| link.to_string_lossy().starts_with("socket:")).collect()
    };
    let of_master = sockets(lab.pid());
    // The listener, the control socket, and the two ends; perhaps a client of the control socket.
    assert!(of_master.len() >= 4, "{of_master:?}");
    assert_eq!(sockets(companion).intersection(&of_master).count(), 2);
}

#[test]
fn a_companion_ends_with_its_master() {
    let lab = with_companion(&["--workers=1"]).start();
    let companion = pid(&lab, "companion-0");
    process::kill(lab.pid(), Signal::SIGKILL);
    eventually("it is gone", || (!process::is_alive(companion)).then_some(()));
}

/// Behaviour Q6: what nobody has received yet outlives the receiver, also one that is killed.
#[tokio::test]
async fn messages_outlive_their_receiver() {
    let lab = with_companion(&["--workers=2"]).start();
    let companion = pid(&lab, "companion-0");
    assert_eq!(send(lab.address(), "the first".to_owned()).await, StatusCode::OK);
    eventually_async("it is received", async || (received(&lab).await == 1).then_some(())).await;
    process::kill(companion, Signal::SIGSTOP);
    for number in 0..50 {
        assert_eq!(send(lab.address(), format!("message {number}")).await, StatusCode::OK);
    }
    process::kill(companion, Signal::SIGKILL);
    eventually_async("all are received", async || (received(&lab).await == 51).then_some(())).await;
    let lines = fs::read_to_string(lab.path("ticks.queue")).expect("lines");
    let expected: Vec<_> = (0..50).map(|number| format!("message {number}")).collect();
    assert_eq!(lines.lines().skip(1).collect::<Vec<_>>(), expected);
    let blob = "x".repeat(1 << 20);
    assert_eq!(send(lab.address(), blob).await, StatusCode::PAYLOAD_TOO_LARGE);
}

/// Behaviour Q1: handlers wait while the queue is full, and nothing is lost.
#[tokio::test]
async fn handlers_wait_for_a_full_queue() {
    const MESSAGES: usize = 600;
    let lab = with_companion(&["--workers=2"]).start();
    let companion = pid(&lab, "companion-0");
    process::kill(companion, Signal::SIGSTOP);
    let address = lab.address();
    let sends: Vec<_> =
        (0..MESSAGES).map(|number| tokio::spawn(send(address, number.to_string()))).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answered = sends.iter().filter(|send| send.is_finished()).count();
    assert!((100..MESSAGES).contains(&answered), "{answered}");
    process::kill(companion, Signal::SIGCONT);
    for send in sends {
        assert_eq!(send.await.expect("a task"), StatusCode::OK);
    }
    eventually_async("all are received", async || (received(&lab).await == MESSAGES).then_some(()))
        .await;
}

/// Behaviour L68: also by one that has to be started for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_loses_no_message_though_the_companion_dies() {
    let mut lab = with_companion(&["--workers=2"]).start();
    let companion = pid(&lab, "companion-0");
    process::kill(companion, Signal::SIGSTOP);
    for number in 0..50 {
        assert_eq!(send(lab.address(), number.to_string()).await, StatusCode::OK);
    }
    lab.signal(Signal::SIGTERM);
    eventually("the workers are gone", || (lab.workers() == [companion]).then_some(()));
    process::kill(companion, Signal::SIGKILL);
    assert_eq!(lab.wait().code(), Some(0));
    let lines = fs::read_to_string(lab.path("ticks.queue")).unwrap_or_default();
    // It was told, and then killed, which nobody makes good.
    assert_eq!(lines.lines().count(), 0, "{}", lab.log());

    let mut lab = with_companion(&["--workers=2"]).start();
    process::kill(pid(&lab, "companion-0"), Signal::SIGSTOP);
    for number in 0..50 {
        assert_eq!(send(lab.address(), number.to_string()).await, StatusCode::OK);
    }
    let slow = in_flight(&lab, 500);
    let companion = lab.status()["companions"][0]["process"]["pid"].as_u64().expect("a pid");
    lab.signal(Signal::SIGTERM);
    eventually("it stops", || lab.log().contains("handling signal SIGTERM").then_some(()));
    process::kill(companion.try_into().expect("a pid"), Signal::SIGKILL);
    assert_eq!(lab.wait().code(), Some(0));
    slow.await.expect("a task").expect("a whole response");
    let lines = fs::read_to_string(lab.path("ticks.queue")).expect("lines");
    assert_eq!(lines.lines().count(), 50, "{}", lab.log());
}

/// Behaviour L68: what the workers have left in the queue is done before the end.
#[tokio::test]
async fn a_stop_loses_no_message() {
    let mut lab = with_companion(&["--workers=2"]).start();
    let companion = pid(&lab, "companion-0");
    process::kill(companion, Signal::SIGSTOP);
    for number in 0..50 {
        assert_eq!(send(lab.address(), number.to_string()).await, StatusCode::OK);
    }
    lab.signal(Signal::SIGTERM);
    eventually("the workers are gone", || (lab.workers() == [companion]).then_some(()));
    process::kill(companion, Signal::SIGCONT);
    assert_eq!(lab.wait().code(), Some(0));
    let lines = fs::read_to_string(lab.path("ticks.queue")).expect("lines");
    assert_eq!(lines.lines().count(), 50, "{}", lab.log());
}
