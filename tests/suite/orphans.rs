//! What becomes of workers and addresses when the master is killed.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use harness::process::{self, Signal};
use harness::service::{self, in_flight};
use harness::{client, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Behaviour L24: workers do not outlive their master.
#[test]
fn workers_follow_their_master() {
    let mut lab = service::lab().start();
    let workers = lab.workers();
    assert_eq!(workers.len(), 2);
    lab.signal(Signal::SIGKILL);
    lab.wait();
    eventually("the workers are gone", || {
        (!workers.iter().any(|&pid| process::is_alive(pid))).then_some(())
    });
}

/// A master that is killed leaves no queue that nobody serves, and no address that nobody can take: not even when
/// a worker is blocked.
#[tokio::test]
async fn a_killed_master_leaves_the_addresses() {
    let lab = service::lab().args(["--timeout=0", "--bind=unix:lab.sock"]);
    let mut lab = lab.args(["--graceful-timeout=600", "--drain-idle=60"]).start();
    let address = lab.address();
    let block = || tokio::spawn(client::get(address, "/block?ms=600000"));
    let _blocked = block();
    in_flight(&lab, 1).await;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        waiting.push(TcpStream::connect(address).await.expect("a place in the queue"));
    }
    lab.signal(Signal::SIGKILL);
    lab.wait();
    // One worker can serve, and it serves who was there.
    for mut connection in waiting {
        connection.write_all(b"GET /pid HTTP/1.0\r\n\r\n").await.expect("an open connection");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer, and no reset");
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer:?}");
    }
    eventually("the port is free", || TcpListener::bind(address).ok());
    let socket = lab.path("lab.sock");
    eventually("nobody listens on the Unix socket", || UnixStream::connect(&socket).err());
    assert!(!lab.log().contains("accept failed"), "{}", lab.log());
    process::running_in(lab.folder())
        .into_iter()
        .for_each(|pid| process::kill(pid, Signal::SIGKILL));
}

/// The same when no worker can serve: who waits in the queue is told.
#[tokio::test]
async fn a_killed_master_and_blocked_workers_leave_nobody_waiting() {
    let lab = service::lab().args(["--timeout=0", "--workers=1", "--graceful-timeout=600"]);
    let mut lab = lab.args(["--bind=unix:lab.sock"]).start();
    let address = lab.address();
    let _blocked = tokio::spawn(client::get(address, "/block?ms=600000"));
    in_flight(&lab, 1).await;
    let mut waiting = TcpStream::connect(address).await.expect("a place in the queue");
    let mut waiting_too = UnixStream::connect(lab.path("lab.sock")).expect("a place in the queue");
    waiting_too.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    lab.signal(Signal::SIGKILL);
    lab.wait();
    let mut nothing = Vec::new();
    let told = tokio::time::timeout(Duration::from_secs(20), waiting.read_to_end(&mut nothing));
    assert!(told.await.expect("it is told").is_err(), "a reset");
    assert_eq!(waiting_too.read(&mut [0]).expect("it is told"), 0, "an end");
    eventually("the port is free", || TcpListener::bind(address).ok());
    process::running_in(lab.folder())
        .into_iter()
        .for_each(|pid| process::kill(pid, Signal::SIGKILL));
}

/// A worker that is stopped holds nothing open, as long as there is another one, if only one that boots.
#[test]
fn a_killed_master_and_a_stopped_worker_leave_the_address() {
    for booting in [false, true] {
        let lab = service::lab().args(["--workers=1"]).env("LAB_BOOT_FILE", "boot");
        let mut lab = lab.start();
        let address = lab.address();
        let stopped = lab.workers()[0];
        if booting {
            fs::write(lab.path("boot"), "hang").unwrap();
        }
        lab.signal(Signal::SIGTTIN);
        eventually("there is another one", || {
            let status = lab.status();
            let other = &status["workers"][1];
            (other["state"] == if booting { "booting" } else { "ready" }).then_some(())
        });
        if booting {
            let other = lab.workers()[1];
            eventually("it has its threads", || {
                let threads = fs::read_dir(format!("/proc/{other}/task")).ok()?.count();
                (threads >= 2).then_some(())
            });
        }
        process::kill(stopped, Signal::SIGSTOP);
        lab.signal(Signal::SIGKILL);
        lab.wait();
        eventually("the port is free", || TcpListener::bind(address).ok());
        process::kill(stopped, Signal::SIGKILL);
    }
}

/// A master that is started again at once finds the address that the last one's workers still have.
#[test]
fn a_master_follows_a_killed_one_at_once() {
    let mut lab = service::lab().args(["--bind=unix:lab.sock"]).start();
    let address = format!("--bind={}", lab.address());
    let socket = format!("--bind=unix:{}", lab.path("lab.sock").display());
    lab.signal(Signal::SIGKILL);
    lab.wait();
    let heir = service::bare_lab().args([address.as_str(), &socket]).start();
    eventually("the workers of the first are gone", || {
        process::running_in(lab.folder()).is_empty().then_some(())
    });
    let status = heir.ctl(&["status"]);
    assert!(status.status.success(), "{status:?}");
    UnixStream::connect(lab.path("lab.sock")).expect("the heir's socket");
}
