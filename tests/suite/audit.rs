//! What is open before the launcher forks: it is named and refused, or shared without harm, or closed in the
//! workers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use harness::client;
use harness::eventually;
use harness::service;
use hyper::StatusCode;

/// Starts with `before` open, and returns the one line by which that is refused.
#[track_caller]
fn refused(before: &str) -> String {
    let mut lab = service::lab().env("LAB_BEFORE", before).spawn();
    assert_eq!(lab.wait().code(), Some(1), "{before}: {}", lab.log());
    let log = lab.log();
    assert_eq!(log.lines().count(), 1, "{before}: {log}");
    log
}

#[test]
fn a_connection_is_refused_with_its_peer_and_its_place() {
    let line = refused("connection");
    assert!(line.contains("a TCP connection to 127.0.0.1:"), "{line}");
    assert!(line.contains("descriptor ") && line.contains("`prepare`"), "{line}");
    let line = refused("pair");
    assert_eq!(line.matches("a Unix connection to a socket without a name").count(), 2, "{line}");
}

#[test]
fn what_no_two_processes_can_wait_on_is_refused() {
    for object in ["eventfd", "timerfd", "inotify"] {
        let line = refused(object);
        assert!(line.contains(&format!(" {object}. Open it in")), "{line}");
    }
}

#[test]
fn a_runtime_gets_the_same_advice_with_one_thread_and_with_many() {
    let one = refused("runtime");
    assert!(one.contains("an epoll"), "{one}");
    let many = refused("runtimes");
    assert!(many.contains("the thread tokio-"), "{many}");
    for line in [one, many] {
        assert!(line.contains("plain `fn main`, not #[tokio::main]"), "{line}");
    }
}

#[test]
fn a_thread_is_called_by_its_own_name() {
    let line = refused("thread");
    assert!(line.contains("the thread reporter. Open it in"), "{line}");
}

#[test]
fn a_lock_that_is_held_is_called_by_its_name() {
    let line = refused("lock");
    assert!(line.contains(r#"the lock "held too early", which is held. Open it in"#), "{line}");
}

#[tokio::test]
async fn what_the_parent_left_open_does_not_reach_the_workers() {
    let lab = service::lab().env("LAB_BEFORE", "inherited").start();
    let log = lab.log();
    let warning = log.lines().find(|line| line.contains("from this program's parent"));
    let warning = warning.unwrap_or_else(|| panic!("no warning:\n{log}"));
    assert!(warning.contains("a TCP connection to 127.0.0.1:"), "{warning}");
    let number = warning.split("descriptor ").nth(1).and_then(|rest| rest.split(',').next());
    let number: u32 = number.and_then(|number| number.parse().ok()).expect("its number");
    let open = |pid: u32| fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
    assert!(open(lab.pid()).to_string_lossy().starts_with("socket:"), "{log}");
    for worker in lab.workers() {
        assert_eq!(open(worker).to_str(), Some("/dev/null"), "{log}");
    }
    let response = client::get(lab.address(), "/pid").await.expect("a whole response");
    assert_eq!(response.status, StatusCode::OK);
}

#[tokio::test]
async fn what_processes_can_share_is_let_through() {
    let lab = service::lab().env("LAB_BEFORE", "harmless").start();
    assert!(!lab.log().contains("descriptor"), "{}", lab.log());
    let response = client::get(lab.address(), "/pid").await.expect("a whole response");
    assert_eq!(response.status, StatusCode::OK);
}

/// What a process has open, as the kernel names it; without what this test has given it.
fn open(pid: u32) -> BTreeSet<String> {
    let links = |of: &str| -> BTreeSet<String> {
        let descriptors = fs::read_dir(format!("/proc/{of}/fd")).expect("a process");
        let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    };
    &links(&pid.to_string()) - &links("self")
}

/// Everything that a worker has open is its own, or is meant for it: the listener, the board, the variables, its two
/// pipes to the master, the log. Not the master's signals, pidfile and control socket, and nothing of another worker's.
#[test]
fn a_worker_has_nothing_that_it_must_not_have() {
    let lab = service::lab();
    let pidfile = lab.path("master.pid").display().to_string();
    let log = lab.path("log").display().to_string();
    let args = ["--workers=3", "--preload-mb=1", &*format!("--pidfile={pidfile}")];
    let lab = lab.args(args).start();
    let sockets = fs::read_to_string("/proc/net/unix").expect("a list");
    let control = format!("{pidfile}.sock");
    let control = sockets.lines().find(|line| line.ends_with(&control)).expect("it listens");
    let control = control.split_whitespace().nth(6).expect("an inode");
    let control = format!("socket:[{control}]");
    eventually("all serve", || (lab.log().matches("worker ready").count() == 3).then_some(()));
    let of_master = open(lab.pid());
    for of_masters in [&pidfile, &control, "anon_inode:[signalfd]"] {
        assert!(of_master.contains(of_masters), "{of_masters}: {of_master:?}");
    }
    let of_workers: Vec<_> = lab.workers().into_iter().map(open).collect();
    let mut pipes: BTreeMap<&String, usize> = BTreeMap::new();
    for of_worker in &of_workers {
        let shared: Vec<_> = of_worker.intersection(&of_master).collect();
        let count = |start: &str| shared.iter().filter(|link| link.starts_with(start)).count();
        assert_eq!([count("pipe:"), count("socket:"), count("/memfd:")], [2, 1, 2], "{shared:?}");
        let rest = shared.iter().filter(|link| link.starts_with('/') && !link.contains("memfd"));
        assert!(rest.clone().all(|link| **link == log), "{shared:?}");
        assert_eq!(shared.len(), 5 + rest.count(), "{shared:?}");
        assert!(!of_worker.contains(&control), "{of_worker:?}");
        for pipe in of_worker.iter().filter(|link| link.starts_with("pipe:")) {
            *pipes.entry(pipe).or_default() += 1;
        }
    }
    let common: Vec<_> = pipes.values().filter(|workers| **workers > 1).collect();
    assert_eq!(common, [&3], "one pipe is common to all, by which they learn of the master's end");
}
