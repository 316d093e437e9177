//! farrierctl and the control socket.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use harness::eventually;
use harness::process::{self, Signal};
use harness::service;

#[test]
fn status_names_every_worker() {
    let lab = service::lab().start();
    eventually("both workers are ready", || {
        let status = lab.ctl(&["status"]);
        assert!(status.status.success(), "{status:?}");
        let text = String::from_utf8(status.stdout).unwrap();
        (text.matches("ready").count() >= 2
            && lab.workers().iter().all(|pid| text.contains(&pid.to_string())))
        .then_some(())
    });
    let status = lab.status();
    assert_eq!(status["pid"].as_u64(), Some(lab.pid().into()));
    let listeners = status["listeners"].to_string();
    assert!(listeners.contains(&lab.address().to_string()), "{status}");
}

#[test]
fn status_counts_open_connections() {
    let lab = service::lab().args(["--workers=1", "--header-read-timeout=600"]).start();
    let count = |expected: u64| {
        eventually("they are counted", || {
            (lab.status()["workers"][0]["connections"] == expected).then_some(())
        });
    };
    count(0);
    let open: Vec<_> = (0..3).map(|_| TcpStream::connect(lab.address()).unwrap()).collect();
    count(3);
    drop(open);
    count(0);
}

#[test]
fn stop_ends_the_service_and_waits_for_it() {
    let mut lab = service::lab().start();
    let stop = lab.ctl(&["stop"]);
    assert!(stop.status.success(), "{stop:?}");
    assert_eq!(lab.wait().code(), Some(0));
    let again = lab.ctl(&["stop"]);
    assert!(!again.status.success());
    let error = String::from_utf8(again.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn the_socket_is_the_owners_and_survives_nonsense() {
    let lab = service::lab().start();
    let path = lab.path("pid.sock");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    // One client that never finishes its line must not keep others waiting.
    let mut silent = UnixStream::connect(&path).unwrap();
    silent.write_all(b"{\"command\":").unwrap();

    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"nonsense\n{\"command\":\"dance\"}\n{\"command\":\"status\"}\n").unwrap();
    let answers: Vec<serde_json::Value> = BufReader::new(client)
        .lines()
        .take(3)
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(answers[0]["ok"], false);
    assert_eq!(answers[1]["ok"], false);
    assert!(answers[1]["error"].as_str().unwrap().contains("status"), "it says what is allowed");
    assert_eq!(answers[2]["ok"], true);
}

#[test]
fn a_reload_is_over_when_every_worker_is_new() {
    let lab = service::lab().args(["--workers=3"]).start();
    let before = lab.workers();
    let reload = lab.ctl(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
    assert_eq!(String::from_utf8_lossy(&reload.stdout), "reloaded: 3 workers of generation 2\n");
    let status = lab.status();
    let workers = status["workers"].as_array().expect("workers");
    let new = workers.iter().filter(|worker| worker["generation"] == 2);
    assert_eq!(new.filter(|worker| worker["state"] == "ready").count(), 3, "{status}");
    let ready = workers.iter().filter(|worker| worker["state"] == "ready");
    let pids: Vec<_> = ready.map(|worker| worker["pid"].as_u64().unwrap()).collect();
    assert!(!before.iter().any(|&pid| pids.contains(&pid.into())), "{status}");
    assert_eq!(status["last_reload"]["ok"], true);
}

#[test]
fn a_reload_that_fails_says_why_and_is_an_error() {
    let lab = service::lab().file("farrier.toml", "").env("LAB_BOOT_FILE", "boot").start();
    let before = lab.workers();
    let fails = |reasons: &[&str]| {
        let reload = lab.ctl(&["reload"]);
        assert_eq!(reload.status.code(), Some(1), "{reload:?}");
        let error = String::from_utf8(reload.stderr).unwrap();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(reasons.iter().all(|reason| error.contains(reason)), "{error}");
        let status = lab.status();
        assert_eq!(status["last_reload"]["ok"], false, "{status}");
        let error = status["last_reload"]["error"].to_string();
        assert!(reasons.iter().all(|reason| error.contains(reason)), "{error}");
        assert_eq!(lab.workers(), before, "the old workers stay: {}", lab.log());
    };
    fs::write(lab.path("farrier.toml"), "wrokers = 3\n").unwrap();
    fails(&["nothing is reloaded", "wrokers"]);
    for (boot, reason) in [
        ("fail", "LAB_BOOT said so"),
        ("exit", "exit status 0"),
        ("panic", "it panicked"),
        ("hang", "it did not become ready within boot_timeout"),
    ] {
        // Short for what takes for ever only.
        let limit = if boot == "hang" { "boot_timeout = 0.5\n" } else { "" };
        fs::write(lab.path("farrier.toml"), limit).unwrap();
        fs::write(lab.path("boot"), boot).unwrap();
        fails(&["the reload failed", reason, "the old workers stay"]);
    }
    fs::remove_file(lab.path("boot")).unwrap();
    fs::write(lab.path("farrier.toml"), "").unwrap();
    let reload = lab.ctl(&["reload"]);
    assert!(reload.status.success(), "{reload:?}");
}

/// One reload at a time: who asks while one is going on waits for the next.
#[test]
fn reloads_that_are_asked_for_together_are_all_answered() {
    let lab = service::lab().start();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| lab.ctl(&["reload"]))).collect();
        for reload in all {
            let reload = reload.join().unwrap();
            assert!(reload.status.success(), "{reload:?}: {}", lab.log());
        }
    });
    let generation = lab.status()["generation"].as_u64().unwrap();
    assert!((2..=9).contains(&generation), "{generation}");
}

#[test]
fn who_waits_for_a_reload_hears_that_the_server_stops() {
    let mut lab = service::lab().env("LAB_BOOT_FILE", "boot").start();
    fs::write(lab.path("boot"), "hang").unwrap();
    let late = lab.ctl(&["reload", "--timeout=0.3"]);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    let error = String::from_utf8(late.stderr).unwrap();
    assert!(error.contains("not over after 0.3 s"), "{error}");

    let mut client = UnixStream::connect(lab.path("pid.sock")).unwrap();
    client.write_all(b"{\"command\":\"reload\"}\n{\"command\":\"status\"}\n").unwrap();
    let mut client = BufReader::new(client);
    // A second one is answered: the first only waits.
    assert_eq!(lab.status()["state"], "reloading");
    lab.signal(Signal::SIGTERM);
    let mut answer = String::new();
    client.read_line(&mut answer).unwrap();
    assert!(answer.starts_with("{\"ok\":false") && answer.contains("the server stops"), "{answer}");
    assert_eq!(lab.wait().code(), Some(0));
}

/// A slot that waits for its next try says why, and until when.
#[test]
fn status_tells_of_a_slot_that_fails() {
    let lab = service::lab().args(["--workers=1"]).env("LAB_BOOT_FILE", "boot").start();
    assert_eq!(lab.status()["slots"][0]["last_exit"], serde_json::Value::Null);
    fs::write(lab.path("boot"), "fail").unwrap();
    lab.workers().iter().for_each(|&pid| process::kill(pid, Signal::SIGKILL));
    let slot = eventually("it waits", || {
        let slot = lab.status()["slots"][0].clone();
        slot["retry_in"].as_f64().is_some_and(|wait| wait > 1.0).then_some(slot)
    });
    assert!(slot["failures"].as_u64().unwrap() >= 3, "{slot}");
    assert!(slot["last_exit"]["how"].as_str().unwrap().contains("LAB_BOOT said so"), "{slot}");
    assert!(slot["last_exit"]["age"].as_f64().unwrap() < 60.0, "{slot}");
    let text = String::from_utf8(lab.ctl(&["status"]).stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("slot 0: "));
    let line = line.unwrap_or_else(|| panic!("no line: {text}"));
    assert!(line.contains("LAB_BOOT said so") && line.contains("next try in "), "{line}");

    // And of one whose worker was replaced at once.
    let lab = service::lab().start();
    process::kill(lab.workers()[0], Signal::SIGKILL);
    eventually("it is told", || {
        let slots = lab.status()["slots"].clone();
        let mut exits = slots.as_array()?.iter().map(|slot| slot["last_exit"]["how"].clone());
        exits.any(|how| how == "SIGKILL").then_some(())
    });
}
