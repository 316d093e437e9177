//! Server hooks: which is called when, in which process, and what becomes of one that fails.

use std::collections::BTreeMap;
use std::fs;

use harness::client;
use harness::eventually;
use harness::process::{self, Signal};
use harness::service::{self, Builder, Service};

/// The calls so far, without pids.
fn calls(lab: &Service) -> Vec<String> {
    let trace = fs::read_to_string(lab.path("trace")).unwrap_or_default();
    trace.lines().map(without_pid).collect()
}

fn without_pid(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let [hook, _, role, slot, generation] = words[..] else { panic!("{line}") };
    format!("{hook} {role} {slot} {generation}")
}

fn traced(args: &[&str]) -> Builder {
    let lab = service::lab().args(args.iter().copied()).args(["--drain-idle=0.1"]);
    lab.env("LAB_TRACE_HOOKS", "trace")
}

#[track_caller]
fn await_calls(lab: &Service, from: usize, expected: &[&str]) {
    eventually("the calls", || (calls(lab).len() >= from + expected.len()).then_some(()));
    assert_eq!(calls(lab)[from..], *expected, "{}", lab.log());
}

/// Behaviour L57: the order of the table, from the start over a reload, one worker more, a death and a recycling to
/// the stop.
#[test]
fn hooks_are_called_in_their_order() {
    let mut lab = traced(&["--workers=1"]).start();
    let start = [
        "nworkers_changed master - -",
        "on_starting master - -",
        "when_ready master - -",
        "pre_fork master 0 1",
        "post_fork worker 0 1",
        "post_worker_init worker 0 1",
        "worker_ready master 0 1",
    ];
    await_calls(&lab, 0, &start);
    let mut seen = start.len();
    let mut next = |lab: &Service, expected: &[&str]| {
        await_calls(lab, seen, expected);
        seen += expected.len();
    };

    lab.signal(Signal::SIGHUP);
    next(
        &lab,
        &[
            "on_reload master - -",
            "pre_fork master 0 2",
            "post_fork worker 0 2",
            "post_worker_init worker 0 2",
            "worker_ready master 0 2",
            "worker_exit worker 0 1",
            "child_exit master 0 1",
        ],
    );
    lab.signal(Signal::SIGTTIN);
    next(
        &lab,
        &[
            "nworkers_changed master - -",
            "pre_fork master 1 2",
            "post_fork worker 1 2",
            "post_worker_init worker 1 2",
            "worker_ready master 1 2",
        ],
    );
    lab.signal(Signal::SIGTTOU);
    next(&lab, &["nworkers_changed master - -", "worker_exit worker 1 2", "child_exit master 1 2"]);
    process::kill(lab.workers()[0], Signal::SIGKILL);
    next(
        &lab,
        &[
            "child_exit master 0 2",
            "pre_fork master 0 2",
            "post_fork worker 0 2",
            "post_worker_init worker 0 2",
            "worker_ready master 0 2",
        ],
    );
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
    next(&lab, &["worker_exit worker 0 2", "child_exit master 0 2", "on_exit master - -"]);
    assert_eq!(calls(&lab).len(), seen, "and nothing else");
}

/// Behaviour L59: each worker that was ever forked has one `child_exit`, those that never served and those that are
/// killed at the stop included, and one that served and leaves in order, also when it is recycled, a `worker_exit`.
#[tokio::test]
async fn each_worker_is_gone_once() {
    let mut lab = traced(&["--workers=3", "--max-requests=5", "--graceful-timeout=0.5"]).start();
    for _ in 0..60 {
        client::get(lab.address(), "/plaintext").await.expect("a whole response");
    }
    // Nobody is on the way.
    eventually("three workers", || {
        let due = lab.log().matches("is due").count();
        let forked = calls(&lab).iter().filter(|call| call.starts_with("pre_fork")).count();
        (lab.workers().len() == 3 && forked == 3 + due).then_some(())
    });
    // It neither drains nor hears, and is killed at the end of its grace.
    process::kill(lab.workers()[0], Signal::SIGSTOP);
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
    let trace = fs::read_to_string(lab.path("trace")).expect("a trace");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in trace.lines() {
        *counts.entry(line.split(' ').next().expect("a hook")).or_default() += 1;
    }
    assert!(counts["pre_fork"] > 6, "{counts:?}");
    assert_eq!(counts["child_exit"], counts["pre_fork"], "{counts:?}");
    // But for the one that was killed.
    assert_eq!(counts["worker_exit"] + 1, counts["worker_ready"], "{counts:?}\n{}", lab.log());
    assert!(lab.log().contains(r#"reason: "SIGKILL""#), "{}", lab.log());
}

/// A worker that is told to leave while it starts has its `worker_exit` too.
#[test]
fn a_worker_that_never_served_leaves_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut lab = traced(&["--workers=1"]).env("LAB_BOOT", "hang").spawn();
        eventually("it boots", || (calls(&lab).len() == 5).then_some(()));
        lab.signal(signal);
        assert_eq!(lab.wait().code(), Some(0), "{}", lab.log());
        let calls: Vec<_> = calls(&lab).into_iter().filter(|call| !call.contains("int")).collect();
        let end = ["worker_exit worker 0 1", "child_exit master 0 1", "on_exit master - -"];
        assert_eq!(calls[5..], end, "{signal}");
    }
}

/// What died with a worker is in its `child_exit`.
#[tokio::test]
async fn child_exit_names_the_requests_that_died_with_it() {
    let lab = traced(&["--workers=1"]).start();
    let address = lab.address();
    let request = tokio::spawn(client::get(address, "/sleep?ms=60000"));
    service::in_flight(&lab, 1).await;
    process::kill(lab.workers()[0], Signal::SIGKILL);
    request.await.expect("no panic").expect_err("it is lost");
    eventually("it is told of", || {
        let log = lab.log();
        let line = log.lines().find(|line| line.contains("child_exit exit=WorkerExit"))?;
        assert!(line.contains(r#"reason: "SIGKILL", in_flight: ["GET /sleep"]"#), "{line}");
        Some(())
    });
}

/// A worker that is told to leave at once, and one that hangs, have their hooks too; of the second it is the last.
#[tokio::test]
async fn int_and_abort_have_hooks() {
    let lab = traced(&["--workers=1", "--timeout=1"]).start();
    let blocked = tokio::spawn(client::get(lab.address(), "/block?ms=60000"));
    service::in_flight(&lab, 1).await;
    eventually("it is gone", || {
        calls(&lab).contains(&"child_exit master 0 1".to_owned()).then_some(())
    });
    let calls = calls(&lab);
    assert!(calls.contains(&"worker_abort worker 0 1".to_owned()), "{calls:?}");
    assert!(!calls.iter().any(|call| call.starts_with("worker_exit")), "{calls:?}");
    assert!(lab.log().contains("killed by the launcher: SIGABRT"), "{}", lab.log());
    blocked.await.expect("no panic").expect_err("it is lost");

    let mut lab = traced(&["--workers=1"]).start();
    await_calls(&lab, 6, &["worker_ready master 0 1"]);
    lab.signal(Signal::SIGINT);
    assert_eq!(lab.wait().code(), Some(0));
    let end = ["worker_int worker 0 1", "worker_exit worker 0 1", "child_exit master 0 1"];
    await_calls(&lab, 7, &[end.as_slice(), &["on_exit master - -"]].concat());
}

/// A hook that can refuse refuses the start, in one line, and leaves nothing behind.
#[test]
fn a_start_can_be_refused() {
    for hook in ["on_starting", "when_ready"] {
        for (how, reason) in
            [("fail", "failed: LAB_HOOK said so"), ("panic", "panicked: LAB_HOOK said so")]
        {
            let provoked = format!("{hook}={how}");
            let lab = traced(&["--bind=unix:socket", "--pidfile=pid"]).env("LAB_HOOK", &provoked);
            let mut lab = lab.spawn();
            assert_eq!(lab.wait().code(), Some(1), "{provoked}");
            let line = format!("the hook {hook} {reason}");
            assert!(lab.log().contains(&line), "{provoked}: {}", lab.log());
            for file in ["socket", "pid", "pid.sock"] {
                assert!(!lab.path(file).exists(), "{provoked}: {file}");
            }
        }
    }
}

/// Any other that panics is a line in the log, and one that is slow another.
#[tokio::test]
async fn no_other_hook_ends_anything() {
    for hook in [
        "nworkers_changed",
        "pre_fork",
        "worker_ready",
        "worker_exit",
        "child_exit",
        "on_reload",
        "on_exit",
    ] {
        for how in ["panic", "slow"] {
            let provoked = format!("{hook}={how}");
            let mut lab = traced(&["--workers=1"]).env("LAB_HOOK", &provoked).start();
            lab.signal(Signal::SIGHUP);
            eventually("it is reloaded", || lab.log().contains("the reload is over").then_some(()));
            client::get(lab.address(), "/plaintext").await.expect("a whole response");
            lab.signal(Signal::SIGTERM);
            assert_eq!(lab.wait().code(), Some(0), "{provoked}");
            let said = if how == "slow" { "took 0." } else { "panicked: LAB_HOOK said so" };
            assert!(lab.log().contains(&format!("the hook {hook} {said}")), "{}", lab.log());
        }
    }
}

/// What came while a hook held the master up is heard before anybody is judged late.
#[test]
fn a_slow_hook_makes_nobody_late() {
    for hook in ["worker_ready", "pre_fork", "child_exit"] {
        let provoked = format!("{hook}=slow");
        let args = ["--workers=4", "--boot-timeout=0.5", "--graceful-timeout=0.3"];
        let mut lab = traced(&args).env("LAB_HOOK", &provoked).start();
        eventually("all are ready", || {
            (lab.log().matches("worker ready").count() == 4).then_some(())
        });
        lab.signal(Signal::SIGTERM);
        assert_eq!(lab.wait().code(), Some(0));
        assert!(!lab.log().contains("SIGKILL"), "{hook}: {}", lab.log());
    }
}

/// Who tells a server to stop while a hook holds its start up gets no worker first.
#[test]
fn an_order_to_stop_that_comes_before_the_workers_is_obeyed_before_them() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut lab = traced(&["--workers=1"]).env("LAB_HOOK", "when_ready=slow").spawn();
        eventually("the hook holds it up", || {
            calls(&lab).iter().any(|call| call.starts_with("when_ready")).then_some(())
        });
        lab.signal(signal);
        assert_eq!(lab.wait().code(), Some(0), "{}", lab.log());
        assert!(!lab.log().contains("booting worker"), "{signal}: {}", lab.log());
    }
}

/// In a worker they refuse that worker; a first generation of which none starts is the end.
#[test]
fn a_worker_can_be_refused() {
    for hook in ["post_fork", "post_worker_init"] {
        for how in ["fail", "panic"] {
            let provoked = format!("{hook}={how}");
            let mut lab = traced(&["--workers=1"]).env("LAB_HOOK", &provoked).spawn();
            assert_eq!(lab.wait().code(), Some(3), "{provoked}: {}", lab.log());
            assert!(lab.log().contains(&format!("the hook {hook} ")), "{}", lab.log());
        }
    }
}
