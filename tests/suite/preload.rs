//! What is loaded before the fork: once, for every worker, and anew at a reload; or the server stays as it was.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use harness::client;
use harness::load::{Load, Reuse};
use harness::process::{self, Signal};
use harness::service::{self, Builder, Service};
use harness::{eventually, eventually_async};
use serde_json::Value;

/// What a preload can leave behind, and how it is named.
const VIOLATIONS: [(&str, &str); 16] = [
    ("connection", "a TCP connection to 127.0.0.1:"),
    // By a library that knows no close-on-exec.
    ("inherited", "a TCP connection to 127.0.0.1:"),
    ("pair", "a Unix connection to a socket without a name"),
    ("unconnected", "a socket that is not connected and does not listen"),
    ("netlink", "a socket that is neither IP nor Unix"),
    ("epoll", "an epoll"),
    ("eventfd", "an eventfd"),
    ("signalfd", "a signalfd"),
    ("timerfd", "a timerfd"),
    ("inotify", "an inotify"),
    ("runtime", "an epoll"),
    ("runtimes", "the thread tokio-"),
    ("thread", "the thread reporter"),
    ("drop-thread", "the thread reporter"),
    ("drop-eventfd", "an eventfd"),
    ("fail", "the preload failed: LAB_PRELOAD_FILE said so"),
];

fn preloading(mb: u64, args: &[&str]) -> Builder {
    let mb = format!("--preload-mb={mb}");
    let lab = service::lab().args([&*mb, "--drain-idle=0.1"]).args(args.iter().copied());
    lab.env("LAB_PRELOAD_FILE", "preload")
}

/// What goes wrong from now on.
fn provoke(lab: &Service, what: &str) {
    fs::write(lab.path("preload"), what).expect("a folder of ours");
}

async fn asked(lab: &Service) -> Value {
    let response = client::get(lab.address(), "/preload").await.expect("a whole response");
    serde_json::from_str(response.text()).expect("JSON")
}

/// Why a reload was refused.
fn refused(reload: &Output) -> String {
    assert!(!reload.status.success(), "{reload:?}");
    String::from_utf8_lossy(&reload.stderr).into_owned()
}

/// KiB of memory that a process has for itself; nothing if it is gone.
fn private(pid: u32) -> u64 {
    memory(pid, "Private_")
}

/// KiB of memory that a process has.
fn resident(pid: u32) -> u64 {
    memory(pid, "Rss")
}

fn memory(pid: u32, kind: &str) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = maps.lines().filter(|line| line.starts_with(kind));
    lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// Behaviour L61: it is loaded in the master, once, and every worker has it without a copy of its own.
#[tokio::test]
async fn what_is_preloaded_is_there_once_for_all_workers() {
    let lab = preloading(64, &["--workers=3"]).start();
    let mut workers = BTreeSet::new();
    let numbers: u64 = 64 * 1024 * 1024 / 8;
    eventually_async("all three have answered", async || {
        let answer = asked(&lab).await;
        assert_eq!(answer["loaded_by"], lab.pid());
        assert_eq!(answer["generation"], 1);
        assert_eq!(answer["sum"], numbers * (numbers - 1) / 2);
        workers.insert(answer["worker"].as_u64());
        (workers.len() == 3).then_some(())
    })
    .await;
    for worker in lab.workers() {
        let private = private(worker);
        assert!(private < 16 * 1024, "{private} KiB are its own");
    }
    let log = lab.log();
    let place = |text: &str| log.find(text).unwrap_or_else(|| panic!("no {text}:\n{log}"));
    assert!(place("preloading") < place("preloaded in"), "{log}");
    assert!(place("preloaded in") < place("lab starts"), "{log}");
}

/// Behaviour L65: under load, and no request is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_loads_anew() {
    let lab = preloading(32, &["--workers=2"]).start();
    let load = Load::start(lab.address(), "/plaintext", 8, Reuse::KeepAlive);
    for generation in 2..=5 {
        let reload = lab.ctl(&["reload"]);
        assert!(reload.status.success(), "{reload:?}\n{}", lab.log());
        // The last of the old ones may be about to hear that it has to leave.
        eventually_async("the new ones answer", async || {
            let answer = asked(&lab).await;
            assert_eq!(answer["loaded_by"], lab.pid());
            (answer["generation"] == generation).then_some(())
        })
        .await;
    }
    let report = load.stop().await;
    assert!(report.ok > 0 && report.failed.is_empty(), "{:?}\n{}", report.failed, lab.log());
    assert_eq!(lab.log().matches("for which the master heard nothing").count(), 4, "{}", lab.log());
    // The first worker of each generation was forked while the master had two tables, and is replaced by one with one.
    eventually("nobody has an old table", || {
        lab.workers().into_iter().all(|worker| private(worker) < 16 * 1024).then_some(())
    });
    let log = lab.log();
    assert!(log.contains("it still holds what was preloaded before"), "{log}");
    let resident = resident(lab.pid());
    assert!(resident < 64 * 1024, "the master holds {resident} KiB: more than one table");
}

/// A first worker that fails takes the new value with it, and the old one stays.
#[tokio::test]
async fn a_reload_that_is_reverted_keeps_the_old_value() {
    let lab = preloading(32, &["--workers=2"]).env("LAB_BOOT_FILE", "boot").start();
    eventually("both are ready", || (lab.log().matches("worker ready").count() == 2).then_some(()));
    fs::write(lab.path("boot"), "fail").expect("a folder of ours");
    for _ in 0..3 {
        let why = refused(&lab.ctl(&["reload"]));
        assert!(why.contains("the old workers stay"), "{why}");
    }
    let resident = resident(lab.pid());
    assert!(resident < 64 * 1024, "the master holds {resident} KiB: more than one table");
    fs::remove_file(lab.path("boot")).expect("it is there");
    for worker in lab.workers() {
        process::kill(worker, Signal::SIGKILL);
    }
    eventually("both are replaced", || {
        (lab.log().matches("worker ready").count() == 4).then_some(())
    });
    assert_eq!(asked(&lab).await["generation"], 1);
    let reload = lab.ctl(&["reload"]);
    assert!(reload.status.success(), "{reload:?}\n{}", lab.log());
    eventually_async("the new ones answer", async || {
        // What was loaded for those that failed counts.
        (asked(&lab).await["generation"] == 5).then_some(())
    })
    .await;
}

/// What its own process could do the master may still fail to do.
#[tokio::test]
async fn a_preload_that_goes_wrong_in_the_master_changes_nothing() {
    let lab = preloading(1, &["--workers=2"]).start();
    eventually("both serve", || (lab.workers().len() == 2).then_some(()));
    let before = lab.workers();
    for (what, said) in [
        ("master-fail", "the preload failed: LAB_PRELOAD_FILE said so; in the master itself, in "),
        (
            "master-panic",
            "the preload panicked: LAB_PRELOAD_FILE said so; in the master itself, in ",
        ),
        ("master-eventfd", "so that no process can be forked before a restart"),
    ] {
        provoke(&lab, what);
        let why = refused(&lab.ctl(&["reload"]));
        assert!(why.contains(said), "{what}: {why}");
        assert_eq!(lab.workers(), before, "{what}: {}", lab.log());
        assert_eq!(asked(&lab).await["generation"], 1);
    }
}

/// The master hears what it has to hear whatever the preload did to it.
#[test]
fn a_preload_that_unblocks_signals_is_none_the_masters_would_miss() {
    let mut lab = preloading(1, &["--workers=1"]).start();
    provoke(&lab, "unblock");
    let reload = lab.ctl(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
    // The old worker, and the one that was forked while the master had both tables.
    eventually("two have left", || (lab.log().matches("worker left").count() == 2).then_some(()));
    let before = lab.log().matches("worker ready").count();
    process::kill(lab.workers()[0], Signal::SIGKILL);
    eventually("it is replaced", || {
        (lab.log().matches("worker ready").count() > before).then_some(())
    });
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0), "{}", lab.log());
}

/// Whoever waits for a reload hears of that one and of no other.
#[test]
fn a_verdict_is_that_of_the_reload_that_was_asked_for() {
    let lab = preloading(1, &["--workers=4", "--boot-timeout=4"])
        .env("LAB_BOOT_FILE", "boot")
        .env("LAB_HOOK", "pre_fork=slow")
        .start();
    eventually("all serve", || (lab.log().matches("worker ready").count() == 4).then_some(()));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lab.ctl(&["reload"]));
        eventually("it is proven", || {
            lab.log().contains("the first worker of the new").then_some(())
        });
        fs::write(lab.path("boot"), "fail").expect("a folder of ours");
        eventually("it is stuck", || {
            (lab.log().matches("LAB_BOOT said so").count() >= 2).then_some(())
        });
        provoke(&lab, "hang");
        let second = scope.spawn(|| lab.ctl(&["reload"]));
        let tried = || lab.log().matches("preloading, at first").count() == 2;
        eventually("the second one is tried", || tried().then_some(()));
        fs::remove_file(lab.path("boot")).expect("it is there");
        let first = first.join().expect("a thread of ours");
        assert!(first.status.success(), "{first:?}\n{}", lab.log());
        let why = refused(&second.join().expect("a thread of ours"));
        assert!(why.contains("the preload did not end within boot_timeout"), "{why}");
    });
}

/// Behaviour L62.
#[test]
fn a_reload_whose_preload_goes_wrong_changes_nothing() {
    let lab = preloading(1, &["--workers=2"]).start();
    eventually("both serve", || (lab.workers().len() == 2).then_some(()));
    let before = lab.workers();
    for (what, said) in
        VIOLATIONS.into_iter().chain([("panic", "the preload panicked: LAB_PRELOAD")])
    {
        provoke(&lab, what);
        let why = refused(&lab.ctl(&["reload"]));
        assert!(why.contains("nothing is reloaded: the preload "), "{what}: {why}");
        assert!(why.contains(said), "{what}: {why}");
        assert!(what == "fail" || what == "panic" || why.contains("`prepare`"), "{what}: {why}");
        assert!(lab.log().contains(why.trim_start_matches("farrierctl: error: ").trim()), "{why}");
        assert_eq!(lab.workers(), before, "{what}: {}", lab.log());
    }
    fs::remove_file(lab.path("preload")).expect("it is there");
    let reload = lab.ctl(&["reload"]);
    assert!(reload.status.success(), "{reload:?}\n{}", lab.log());
    assert_eq!(lab.status()["generation"], 2);
}

/// Behaviour L62: it has `boot_timeout`, and the server goes on meanwhile.
#[tokio::test]
async fn a_preload_that_hangs_holds_nothing_up() {
    let lab = preloading(1, &["--workers=2", "--boot-timeout=2"]).start();
    provoke(&lab, "hang");
    lab.signal(Signal::SIGHUP);
    eventually("it is tried", || lab.log().contains("preloading, at first").then_some(()));
    assert_eq!(lab.status()["state"], "reloading");
    let victim = lab.workers()[0];
    process::kill(victim, Signal::SIGKILL);
    eventually("a worker is replaced", || {
        (lab.log().matches("worker ready").count() == 3).then_some(())
    });
    assert_eq!(asked(&lab).await["generation"], 1);
    // And it has nothing of the process that hangs.
    let pipes = |pid: &u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
        let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        open.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
    };
    let (old, new) = (lab.workers()[0], lab.workers()[2]);
    assert_eq!(pipes(&old), pipes(&new), "{}", lab.log());
    let said = "nothing is reloaded: the preload did not end within boot_timeout";
    eventually("it is given up", || lab.log().contains(said).then_some(()));
    eventually("it is gone", || (lab.workers().len() == 2).then_some(()));
    assert_eq!(lab.status()["state"], "running");
    assert_eq!(lab.status()["last_reload"]["ok"], false);
}

#[test]
fn a_stop_does_not_wait_for_a_preload() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut lab = preloading(1, &["--workers=1"]).start();
        provoke(&lab, "hang");
        lab.signal(Signal::SIGHUP);
        eventually("it is tried", || (lab.workers().len() == 2).then_some(()));
        lab.signal(signal);
        assert_eq!(lab.wait().code(), Some(0));
        assert!(lab.workers().is_empty() && !lab.log().contains("SIGKILL"), "{}", lab.log());
        assert!(!lab.log().contains("ERROR"), "{}", lab.log());
    }
}

/// It comes before there is anything that could be left behind.
#[test]
fn a_preload_that_goes_wrong_refuses_the_start() {
    let violations = VIOLATIONS.into_iter().filter(|(what, _)| !what.starts_with("drop-"));
    for (what, said) in violations.chain([("panic", "the preload panicked: LAB_PRELOAD")]) {
        let lab = preloading(1, &["--bind=unix:socket"]).file("preload", what);
        let mut lab = lab.spawn();
        assert_eq!(lab.wait().code(), Some(1), "{what}: {}", lab.log());
        let log = lab.log();
        let line = log.lines().last().unwrap_or_default();
        assert!(
            line.starts_with("lab: error: the preload ") && line.contains(said),
            "{what}: {log}"
        );
        for file in ["socket", "pid", "pid.sock"] {
            assert!(!lab.path(file).exists(), "{what}: {file}");
        }
    }
}

/// The first one has no limit, since it holds no server up, and an order to stop ends it.
#[test]
fn the_first_preload_can_be_stopped() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut lab = preloading(1, &["--boot-timeout=0.1"]).file("preload", "hang").spawn();
        eventually("it loads", || lab.log().contains("preloading").then_some(()));
        lab.signal(signal);
        assert_eq!(lab.wait().code(), Some(0), "{signal}");
        assert!(!lab.path("pid").exists() && !lab.log().contains("starts"), "{}", lab.log());
    }
}
