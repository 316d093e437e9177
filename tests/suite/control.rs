//! farrierctl and the control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use harness::eventually;
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
