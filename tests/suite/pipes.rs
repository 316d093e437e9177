//! Pipes at whose other end nobody reads or writes: they hold up neither master nor worker.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use harness::process::Signal;
use harness::service;
use harness::{client, eventually};
use hyper::StatusCode;

/// A pipe that nobody reads, and that takes nothing more.
fn full_pipe(path: &Path) -> File {
    make_pipe(path);
    let options = File::options().read(true).write(true).custom_flags(0o4000).open(path);
    let mut pipe = options.expect("both its ends");
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    pipe
}

/// Who reads the log, if anybody does, holds up nobody; and a log that cannot be written is told at once.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nobody() {
    let lab = service::lab().args(["--bind=unix:lab.sock", "--errorlog=fifo"]);
    let _unread = full_pipe(&lab.path("fifo"));
    let mut lab = lab.spawn();
    let socket = lab.path("lab.sock");
    eventually("it serves", || UnixStream::connect(&socket).ok());
    lab.signal(Signal::SIGHUP);
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));

    let lab = service::lab().args(["--errorlog=fifo"]);
    drop(full_pipe(&lab.path("fifo")));
    let mut lab = lab.spawn();
    assert_eq!(lab.wait().code(), Some(1));
    assert!(lab.log().contains("errorlog") && lab.log().contains("fifo"), "{}", lab.log());
}

/// A panic goes into the log like anything else, and never past it.
#[tokio::test]
async fn a_panic_is_in_the_log_and_blocks_nobody() {
    let lab = service::lab().args(["--workers=1", "--errorlog=errors", "--timeout=5"]);
    let lab = lab.args(["--bind=unix:lab.sock"]);
    let _unread = full_pipe(&lab.path("fifo"));
    // A write to this one waits.
    let stderr = File::options().write(true).open(lab.path("fifo")).unwrap();
    let lab = lab.stderr(stderr).spawn();
    let errors = || fs::read_to_string(lab.path("errors")).unwrap_or_default();
    eventually("it is ready", || errors().contains("worker ready").then_some(()));
    let listening = errors().lines().find_map(|line| {
        line.split_once("listening on ")?.1.trim().parse::<std::net::SocketAddr>().ok()
    });
    let address = listening.expect("an address");
    for _ in 0..20 {
        let panicked = client::get(address, "/panic").await.unwrap();
        assert_eq!(panicked.status, StatusCode::INTERNAL_SERVER_ERROR);
    }
    client::get(address, "/pid").await.unwrap();
    let log = errors();
    let line = log.lines().find(|line| line.contains("provoked by /panic")).expect("a line");
    assert!(line.contains("provoke.rs:") && line.contains("thread"), "{line}");
    assert!(!log.contains("no heartbeat"), "{log}");
}

fn make_pipe(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
}

/// What `main` has printed and standard output does not take is lost, and nothing else is.
#[tokio::test]
async fn standard_output_that_nobody_reads_holds_up_nobody() {
    for dead in [false, true] {
        let lab = service::lab().env("LAB_BEFORE", "output");
        let unread = full_pipe(&lab.path("fifo"));
        // A write to this one waits; without a reader it fails.
        let stdout = File::options().write(true).open(lab.path("fifo")).unwrap();
        let unread = Some(unread).filter(|_| !dead);
        let mut lab = lab.stdout(stdout).start();
        let response = client::get(lab.address(), "/pid").await.unwrap();
        assert_eq!(response.status, StatusCode::OK);
        assert!(lab.ctl(&["reload"]).status.success(), "{}", lab.log());
        lab.signal(Signal::SIGTERM);
        assert_eq!(lab.wait().code(), Some(0), "{}", lab.log());
        assert!(!lab.log().contains("WARN"), "{}", lab.log());
        drop(unread);
    }
}

/// What `main` has printed comes once, however many processes are forked.
#[test]
fn standard_output_is_written_once() {
    let lab = service::lab().env("LAB_BEFORE", "output");
    let stdout = File::create(lab.path("stdout")).unwrap();
    let mut lab = lab.stdout(stdout).start();
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0), "{}", lab.log());
    assert_eq!(fs::read_to_string(lab.path("stdout")).unwrap(), "without a line's end");
}

#[test]
fn a_refusal_that_nobody_reads_is_over_at_once() {
    let lab = service::lab().args(["--wrokers=3"]);
    let _unread = full_pipe(&lab.path("fifo"));
    let stderr = File::options().write(true).open(lab.path("fifo")).unwrap();
    assert_eq!(lab.stderr(stderr).spawn().wait().code(), Some(1));
}

/// A pipe cannot be read again at a reload, and nobody may ever write to it.
#[test]
fn a_settings_file_that_is_a_pipe_is_refused() {
    let lab = service::lab().args(["--config=settings.toml"]);
    make_pipe(&lab.path("settings.toml"));
    let mut lab = lab.spawn();
    assert_eq!(lab.wait().code(), Some(1));
    let log = lab.log();
    assert!(log.contains("settings.toml") && log.contains("a pipe"), "{log}");

    let lab = service::lab().file("farrier.toml", "").start();
    fs::remove_file(lab.path("farrier.toml")).unwrap();
    make_pipe(&lab.path("farrier.toml"));
    let reload = lab.ctl(&["reload"]);
    assert_eq!(reload.status.code(), Some(1), "{reload:?}");
    let error = String::from_utf8(reload.stderr).unwrap();
    assert!(error.contains("farrier.toml") && error.contains("a pipe"), "{error}");
}

#[test]
fn farrierctl_waits_for_no_pipe() {
    let lab = service::lab().start();
    make_pipe(&lab.path("farrier.toml"));
    let status = lab.ctl_of(&["--config=farrier.toml", "status"]);
    assert_eq!(status.status.code(), Some(1), "{status:?}");
    assert!(String::from_utf8_lossy(&status.stderr).contains("a pipe"), "{status:?}");
}

/// A pidfile is written beside its place first.
#[test]
fn a_pidfile_that_is_a_pipe_is_refused() {
    let lab = service::lab();
    make_pipe(&lab.path("pid.new"));
    let mut lab = lab.spawn();
    assert_eq!(lab.wait().code(), Some(1));
    assert!(lab.log().contains("pid"), "{}", lab.log());
}
