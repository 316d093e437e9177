//! What bad input gets: one line that names the key, the value and what is allowed, exit 1 soon, and nothing
//! left behind.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use harness::process;
use harness::service::{self, Builder};

/// Promised are three seconds; a busy machine may take its time to start a process.
const SOON: Duration = Duration::from_secs(8);

/// Starts it and expects it to end; `words` must stand together in one line of what it says.
#[track_caller]
fn refused(service: Builder, words: &[&str]) {
    let began = Instant::now();
    let mut service = service.spawn();
    let status = service.wait();
    assert!(began.elapsed() < SOON, "{:?}: {}", began.elapsed(), service.log());
    assert_eq!(status.code(), Some(1), "{}", service.log());
    let log = service.log();
    let lines: Vec<&str> =
        log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect();
    assert_eq!(lines.len(), 1, "one line has all of {words:?}:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert!(!service.path("pid").exists(), "no pidfile is left: {log}");
    assert_eq!(process::running_in(service.folder()), [0_u32; 0], "no process is left: {log}");
}

#[test]
fn an_unknown_flag() {
    refused(service::guestbook().args(["--wrokers=3"]), &["--wrokers", "--help"]);
}

#[test]
fn a_wrong_value() {
    let allowed = "a whole number from 1 to 512";
    refused(service::guestbook().args(["--workers=0"]), &["workers", "\"0\"", "flag", allowed]);
    let variable = service::guestbook().env("FARRIER_TIMEOUT", "-1");
    refused(variable, &["timeout", "\"-1\"", "FARRIER_TIMEOUT", "allowed"]);
    let file = service::guestbook().file("farrier.toml", "backlog = \"many\"\n");
    refused(file, &["backlog", "many", "farrier.toml", "allowed"]);
}

#[test]
fn an_unreadable_settings_file() {
    refused(
        service::guestbook().args(["--config=nowhere.toml"]),
        &["config", "nowhere.toml", "allowed"],
    );
    let broken = service::guestbook().file("farrier.toml", "workers = [\n");
    refused(broken, &["farrier.toml"]);
    let unknown = service::guestbook().file("farrier.toml", "wrokers = 3\n");
    refused(unknown, &["wrokers", "farrier.toml", "there are bind, "]);
}

/// One line, whatever is in the value.
#[test]
fn a_value_with_a_line_end() {
    for argument in ["--config=no\nwhere\u{1b}[2J", "--control-socket=no\nwhere/socket"] {
        let mut lab = service::lab().args([argument]).spawn();
        assert_eq!(lab.wait().code(), Some(1));
        let log = lab.log();
        assert!(log.lines().count() == 1 && log.contains("no\\nwhere"), "{log}");
    }
}

#[test]
fn a_taken_port() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let bind = format!("--bind={address}");
    refused(service::guestbook().args([bind.as_str()]), &["bind", &address]);
}

#[test]
fn an_unknown_database() {
    let allowed = "sqlite:FILE or mysql://";
    let oracle = service::guestbook().env("DATABASE_URL", "oracle://scott:tiger@db/guests");
    refused(oracle, &["database_url", "oracle://scott:***@db/guests", "DATABASE_URL", allowed]);
    let memory = service::guestbook().args(["--database-url=sqlite::memory:"]);
    refused(memory, &["database_url", "sqlite::memory:", allowed]);
}

#[test]
fn an_unreachable_database() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closed = format!("mysql://root:secret@{}/test", free.local_addr().unwrap());
    drop(free);
    let shown = closed.replace("secret", "***");
    let service = service::guestbook().env("DATABASE_URL", &closed);
    refused(service, &["database_url", &shown, "not available", "allowed"]);

    // It accepts and never says a word.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("mysql://root@{}/test", silent.local_addr().unwrap());
    refused(service::guestbook().env("DATABASE_URL", &url), &["database_url", &url, "allowed"]);

    let folder = service::guestbook().env("DATABASE_URL", "sqlite:missing/folder/guests.db");
    refused(folder, &["database_url", "sqlite:missing/folder/guests.db", "allowed"]);
}

/// An empty variable is an unset one.
#[test]
fn an_empty_variable_is_none() {
    let service = service::guestbook().env("DATABASE_URL", "").env("FARRIER_TIMEOUT", "").start();
    assert!(fs::exists(service.path("guestbook.db")).unwrap());
}
