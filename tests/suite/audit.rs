//! What is open before the launcher forks: it is named and refused, or shared without harm, or closed in the
//! workers.

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

/// What is the master's alone is in no worker: its signals, the pidfile with its lock, the control socket.
#[test]
fn a_worker_has_nothing_that_only_the_master_may_have() {
    let lab = service::lab();
    let pidfile = lab.path("master.pid").display().to_string();
    let lab = lab.args(["--workers=2", &format!("--pidfile={pidfile}")]).start();
    let open = |pid: u32| -> Vec<String> {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process");
        let links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.map(|link| link.display().to_string()).collect()
    };
    let sockets = fs::read_to_string("/proc/net/unix").expect("a list");
    let control = format!("{pidfile}.sock");
    let control = sockets.lines().find(|line| line.ends_with(&control)).expect("it listens");
    let control = control.split_whitespace().nth(6).expect("an inode");
    let control = format!("socket:[{control}]");
    let is_masters =
        |link: &String| link.contains("signalfd") || *link == pidfile || *link == control;
    let of_master = open(lab.pid());
    assert_eq!(of_master.iter().filter(|link| is_masters(link)).count(), 3, "{of_master:?}");
    eventually("all serve", || (lab.workers().len() == 2).then_some(()));
    for worker in lab.workers() {
        let of_worker = open(worker);
        assert!(!of_worker.iter().any(is_masters), "{of_worker:?}");
        let listeners =
            of_master.iter().filter(|link| link.starts_with("socket:") && **link != control);
        assert!(listeners.clone().count() > 0);
        assert!(listeners.clone().all(|link| of_worker.contains(link)), "{of_worker:?}");
    }
}
