//! The launcher's promises, provoked on lab.

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::client::{self, Connection};
use harness::load::{Load, Reuse};
use harness::process::{self, Signal};
use harness::service::{self, Service, in_flight};
use harness::{eventually, eventually_async};
use hyper::StatusCode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn pid_of_a_worker(lab: &Service) -> u32 {
    let response = client::get(lab.address(), "/pid").await.expect("a whole response");
    response.text().parse().expect("a pid")
}

/// Behaviour L1: as many children as workers, every address answers, every worker serves.
#[tokio::test]
async fn workers_share_every_address() {
    let lab = service::lab().args(["--workers=3", "--bind=unix:lab.sock"]).start();
    let mut serving = HashSet::new();
    eventually_async("each worker has served", async || {
        // Kept-open connections push the next one to another worker.
        let mut open = Vec::new();
        for _ in 0..12 {
            let mut connection = Connection::open(lab.address()).await.unwrap();
            let pid = connection.get("/pid").await.unwrap();
            serving.insert(pid.text().parse::<u32>().unwrap());
            open.push(connection);
        }
        (serving.len() == 3).then_some(())
    })
    .await;
    assert_eq!(serving, lab.workers().into_iter().collect());
    let mut unix = UnixStream::connect(lab.path("lab.sock")).expect("the Unix socket listens");
    unix.write_all(b"GET /pid HTTP/1.0\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    unix.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

/// Behaviour L2: an idle server ends at once, and leaves nothing behind.
#[test]
fn term_leaves_nothing_behind() {
    let mut lab = service::lab().args(["--bind=unix:lab.sock"]).start();
    let workers = lab.workers();
    assert!(lab.path("pid").exists() && lab.path("lab.sock").exists());
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0), "{}", lab.log());
    assert!(!workers.iter().any(|&pid| process::is_alive(pid)), "{}", lab.log());
    assert!(!lab.path("pid").exists() && !lab.path("lab.sock").exists());
}

/// Behaviour L3: a request in flight is finished.
#[tokio::test]
async fn term_lets_requests_finish() {
    let mut lab = service::lab().start();
    let address = lab.address();
    let request = tokio::spawn(client::get(address, "/sleep?ms=1000"));
    in_flight(&lab, 1).await;
    lab.signal(Signal::SIGTERM);
    let response = request.await.unwrap().expect("a whole response");
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(response.headers["connection"], "close");
    assert_eq!(lab.wait().code(), Some(0));
}

/// Work that a hook's `post_request` has spawned is waited for, within the grace of the drain.
#[tokio::test]
async fn term_waits_for_work_after_the_response() {
    let mut lab = service::lab().args(["--workers=1", "--drain-idle=0.1"]).start();
    let response = client::get(lab.address(), "/later?ms=1000").await.expect("a whole response");
    assert_eq!(response.status, StatusCode::OK);
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
    assert!(lab.log().contains("the work after the response is done"), "{}", lab.log());

    let mut lab = service::lab().args(["--workers=1", "--graceful-timeout=0.5"]).start();
    client::get(lab.address(), "/later?ms=600000").await.expect("a whole response");
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
    assert!(lab.log().contains("work before the exit was not done in its time"), "{}", lab.log());
}

/// Behaviour L4: what outlasts `graceful_timeout` is cut, and the server still ends with 0.
#[tokio::test]
async fn graceful_timeout_ends_a_drain() {
    let mut lab = service::lab().args(["--graceful-timeout=0.5", "--drain-idle=0.1"]).start();
    let request = tokio::spawn(client::get(lab.address(), "/sleep?ms=60000"));
    in_flight(&lab, 1).await;
    lab.signal(Signal::SIGTERM);
    request.await.unwrap().expect_err("cut off");
    assert_eq!(lab.wait().code(), Some(0));
    let log = lab.log();
    let line = log.lines().find(|line| line.contains("cut at the end of graceful_timeout"));
    assert!(line.is_some_and(|line| line.contains(": GET /sleep (")), "{log}");
}

/// Behaviour L5: INT and QUIT do not wait for requests.
#[tokio::test]
async fn int_and_quit_are_quick() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let mut lab = service::lab().args(["--graceful-timeout=60"]).start();
        let request = tokio::spawn(client::get(lab.address(), "/sleep?ms=60000"));
        in_flight(&lab, 1).await;
        lab.signal(signal);
        // It waits for less than `graceful_timeout`.
        assert_eq!(lab.wait().code(), Some(0));
        request.await.unwrap().expect_err("cut off");
        let log = lab.log();
        let line = log.lines().find(|line| line.contains("cut by the order to stop at once"));
        assert!(line.is_some_and(|line| line.contains(": GET /sleep (")), "{log}");
    }
}

/// Behaviour L6: a taken address is named.
#[test]
fn a_taken_address_is_named() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut lab = service::lab().args([format!("--bind={address}").as_str()]).spawn();
    assert_eq!(lab.wait().code(), Some(1));
    assert!(lab.log().contains(&address), "{}", lab.log());
}

/// Behaviour L10: what is queued at TERM is served, and what comes later is refused: nobody waits in a dead queue.
#[tokio::test]
async fn term_serves_what_is_queued() {
    let mut lab = service::lab().args(["--workers=1", "--timeout=0"]).start();
    let address = lab.address();
    let blocked = tokio::spawn(client::get(address, "/block?ms=2000"));
    in_flight(&lab, 1).await;
    // The kernel completes these handshakes; the blocked worker cannot.
    let mut queued = Vec::new();
    for _ in 0..50 {
        queued.push(TcpStream::connect(address).await.expect("a place in the queue"));
    }
    lab.signal(Signal::SIGTERM);
    eventually_async("new connections are refused", async || {
        let connect = TcpStream::connect(address);
        let refused = tokio::time::timeout(Duration::from_secs(5), connect).await;
        matches!(refused, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
            .then_some(())
    })
    .await;
    for mut connection in queued {
        connection.write_all(b"GET /pid HTTP/1.0\r\n\r\n").await.expect("an open connection");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("an answer, and no reset");
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer:?}");
    }
    assert_eq!(blocked.await.unwrap().expect("a whole response").status, StatusCode::OK);
    assert_eq!(lab.wait().code(), Some(0));
}

/// TERM to the whole process group, as service managers send it: the workers may hear of it first, and do not
/// leave before the master has shut the door.
#[tokio::test]
async fn term_to_everybody_is_term_to_the_master() {
    let mut lab = service::lab().start();
    lab.signal(Signal::SIGSTOP);
    lab.workers().iter().for_each(|&pid| process::kill(pid, Signal::SIGTERM));
    lab.signal(Signal::SIGTERM);
    // A master that is busy: meanwhile clients come.
    for _ in 0..20 {
        let response = client::get(lab.address(), "/pid");
        let response = tokio::time::timeout(Duration::from_secs(10), response).await;
        let response = response.expect("it is not left in the queue").expect("a whole response");
        assert_eq!(response.status, StatusCode::OK);
    }
    lab.signal(Signal::SIGCONT);
    assert_eq!(lab.wait().code(), Some(0));
    assert!(!lab.log().contains("WARN"), "{}", lab.log());
}

/// A program that a handler starts has the signals that a shell would give it.
#[tokio::test]
async fn a_handlers_child_has_no_signal_blocked() {
    let lab = service::lab().args(["--workers=1"]).start();
    let child = client::get(lab.address(), "/spawn").await.unwrap();
    let child: u32 = child.text().parse().expect("a pid");
    eventually("it runs", || {
        let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
        (comm == "sleep\n").then_some(())
    });
    let of = |pid: &str, mask: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find(|line| line.starts_with(mask)).unwrap().to_owned()
    };
    assert_eq!(of(&child.to_string(), "SigBlk:"), "SigBlk:\t0000000000000000");
    // Beyond these are the C library's own.
    let ignored = of(&child.to_string(), "SigIgn:");
    let ignored = u64::from_str_radix(ignored.split('\t').nth(1).unwrap(), 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0);
    process::kill(child, Signal::SIGTERM);
    eventually("it ends", || (!process::is_alive(child)).then_some(()));
}

/// What the launcher ignores in a worker the app may take, and no signal to a worker that is not an order
/// ends it.
#[tokio::test]
async fn an_app_can_wait_for_a_signal() {
    let lab = service::lab().args(["--workers=1"]).start();
    let worker = pid_of_a_worker(&lab).await;
    let asked = tokio::spawn(client::get(lab.address(), "/usr1"));
    eventually_async("the app has it", async || {
        process::kill(worker, Signal::SIGUSR1);
        asked.is_finished().then_some(())
    })
    .await;
    assert_eq!(asked.await.unwrap().unwrap().text(), "USR1");
    for other in
        [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGWINCH]
    {
        process::kill(worker, other);
    }
    assert_eq!(pid_of_a_worker(&lab).await, worker);
    assert_eq!(lab.workers(), [worker]);
}

/// A signal that means nothing to a server ends none.
#[tokio::test]
async fn a_signal_that_nobody_knows_is_logged_and_ignored() {
    let lab = service::lab().args(["--workers=1"]).start();
    let workers = lab.workers();
    for (signal, name) in [
        ("ALRM", "SIGALRM"),
        ("VTALRM", "SIGVTALRM"),
        ("PROF", "SIGPROF"),
        ("IO", "SIGIO"),
        ("XCPU", "SIGXCPU"),
        ("XFSZ", "SIGXFSZ"),
        ("PWR", "SIGPWR"),
        ("USR2", "SIGUSR2"),
        ("37", "signal 37"),
    ] {
        for pid in [lab.pid(), workers[0]] {
            if pid != lab.pid() && signal == "USR2" {
                // gunicorn's orders are for the master.
                continue;
            }
            let sent = Command::new("kill").args(["-s", signal, &pid.to_string()]).status();
            assert!(sent.unwrap().success(), "{signal}");
            eventually(name, || {
                let log = lab.log();
                let mut lines = log.lines().filter(|line| line.contains(&format!("[{pid}]")));
                let said = format!("{name} is not supported and ignored");
                lines.any(|line| line.contains(&said)).then_some(())
            });
        }
    }
    assert_eq!(lab.workers(), workers, "{}", lab.log());
    assert_eq!(pid_of_a_worker(&lab).await, workers[0]);
}

/// A reload to a shorter `timeout` and `graceful_timeout` is for the workers that it starts.
#[tokio::test]
async fn a_reload_judges_old_workers_by_their_own_limits() {
    let settings = "bind = [\"127.0.0.1:0\"]\npidfile = \"pid\"\nworkers = 2\ntimeout = 30\ngraceful_timeout = 30\n";
    let lab = service::bare_lab().file("farrier.toml", settings).start();
    let (address, old) = (lab.address(), lab.workers());
    let requests: Vec<_> =
        (0..8).map(|_| tokio::spawn(client::get(address, "/sleep?ms=4000"))).collect();
    in_flight(&lab, 8).await;
    let strict = settings.replace("timeout = 30", "timeout = 0.5");
    fs::write(lab.path("farrier.toml"), strict).unwrap();
    lab.signal(Signal::SIGHUP);
    for request in requests {
        let response = request.await.unwrap().expect("a whole response");
        assert_eq!(response.status, StatusCode::OK, "{}", lab.log());
    }
    eventually("the old workers leave", || {
        old.iter().all(|&pid| !process::is_alive(pid)).then_some(())
    });
    assert!(!lab.log().contains("no heartbeat"), "{}", lab.log());
}

/// A master that was paused blames nobody for the beats that it could not see.
#[tokio::test]
async fn a_paused_master_kills_nobody() {
    let lab = service::lab().args(["--timeout=1"]).start();
    let before = lab.workers();
    process::kill(lab.pid(), Signal::SIGSTOP);
    // The passing of time is what is tested.
    tokio::time::sleep(Duration::from_secs(4)).await;
    process::kill(lab.pid(), Signal::SIGCONT);
    // Long enough to judge twice.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(lab.workers(), before, "{}", lab.log());
    assert!(before.contains(&pid_of_a_worker(&lab).await));
}

/// Behaviours L13 and L18: a blocked worker is replaced, and the log says what it was doing.
#[tokio::test]
async fn a_blocked_worker_is_replaced_with_evidence() {
    let lab = service::lab().args(["--workers=1", "--timeout=1"]).start();
    let blocked = pid_of_a_worker(&lab).await;
    let request = tokio::spawn(client::get(lab.address(), "/block?ms=600000"));
    eventually_async("it is killed", async || (!process::is_alive(blocked)).then_some(())).await;
    request.await.unwrap().expect_err("the request died with its worker");
    assert_ne!(pid_of_a_worker(&lab).await, blocked);
    let log = lab.log();
    assert!(log.contains("GET") && log.contains("/block"), "{log}");
    assert!(log.contains(&blocked.to_string()), "{log}");
}

/// An app that ends its process, with whatever status, is told of with the requests that it cost.
#[tokio::test]
async fn a_worker_that_ends_itself_is_told_of_with_its_requests() {
    for code in [0, 3, 70, 7] {
        let lab = service::lab().args(["--workers=1"]).start();
        let victim = tokio::spawn(client::get(lab.address(), "/sleep?ms=60000"));
        // Noted on the board by then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        client::get(lab.address(), &format!("/exit?code={code}")).await.unwrap_err();
        victim.await.unwrap().expect_err("it died with the worker");
        let line = eventually("the log says so", || {
            let log = lab.log();
            log.lines().find(|line| line.contains("/sleep")).map(str::to_owned)
        });
        assert!(line.contains("ERROR") && line.contains(&format!("exit status {code}")), "{line}");
        assert_eq!(line.contains("could not be started"), code == 3, "{line}");
        assert_eq!(line.contains("panicked"), code == 70, "{line}");
    }
}

/// Busy is not hung: requests that begin and end are life, however long the beat waits behind them.
#[tokio::test]
async fn a_busy_worker_that_makes_progress_is_not_killed() {
    let lab = service::lab().args(["--workers=1", "--timeout=1"]).start();
    let worker = pid_of_a_worker(&lab).await;
    let load = Load::start(lab.address(), "/spin?ms=60", 64, Reuse::KeepAlive);
    // The passing of time is what is tested.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:?}\n{}", report.failed, lab.log());
    assert!(report.ok > 64);
    assert!(!lab.log().contains("no heartbeat"), "{}", lab.log());
    assert_eq!(pid_of_a_worker(&lab).await, worker);
}

/// Behaviour L14: a stopped worker is replaced.
#[tokio::test]
async fn a_stopped_worker_is_replaced() {
    let lab = service::lab().args(["--workers=1", "--timeout=1"]).start();
    let stopped = pid_of_a_worker(&lab).await;
    process::kill(stopped, Signal::SIGSTOP);
    eventually_async("it is killed", async || (!process::is_alive(stopped)).then_some(())).await;
    assert_ne!(pid_of_a_worker(&lab).await, stopped);
}

/// Behaviour L15: `timeout` 0 judges nobody.
#[tokio::test]
async fn timeout_zero_judges_nobody() {
    let lab = service::lab().env("FARRIER_TIMEOUT", "1");
    // Without the flag the worker would be killed.
    let lab = lab.args(["--workers=1", "--timeout=0"]).start();
    let worker = pid_of_a_worker(&lab).await;
    let response = client::get(lab.address(), "/block?ms=5000").await.expect("a whole response");
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(pid_of_a_worker(&lab).await, worker);
}

/// Behaviour L16: a handler that waits is not a worker that hangs.
#[tokio::test]
async fn waiting_is_not_hanging() {
    let lab = service::lab().args(["--timeout=1"]).start();
    let before = lab.workers();
    let response = client::get(lab.address(), "/sleep?ms=3000").await.expect("a whole response");
    assert_eq!(response.status, StatusCode::OK);
    assert_eq!(lab.workers(), before);
}

/// A server that hangs, and whose queue is full, is one that lives.
#[test]
fn a_unix_socket_with_a_full_queue_is_taken() {
    let lab = service::lab().args(["--bind=unix:full"]);
    let _full = full_queue(&lab.path("full"));
    let mut lab = lab.spawn();
    assert_eq!(lab.wait().code(), Some(1));
    assert!(lab.log().contains("another process listens on it"), "{}", lab.log());
}

/// A listener that nobody accepts from, and the connections that fill its queue.
fn full_queue(path: &Path) -> Vec<Socket> {
    let new = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("a socket of ours");
        socket
    };
    let (listener, address) = (new(), SockAddr::unix(path).expect("a short path"));
    listener.bind(&address).expect("a free place");
    listener.listen(1).expect("a socket of ours");
    let mut sockets = vec![listener];
    loop {
        let client = new();
        if client.connect(&address).is_err() {
            return sockets;
        }
        sockets.push(client);
    }
}

/// Signals that go to the whole group, and a reload that is asked for, while the preparation runs.
#[test]
fn a_preparation_is_ended_by_orders_to_stop_only() {
    // It accepts and never says a word.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("mysql://root@{}/test", silent.local_addr().unwrap());
    let mut lab = service::lab().env("LAB_DATABASE_URL", &url).spawn();
    let preparing = eventually("it prepares", || lab.workers().first().copied());
    eventually("it has its name", || {
        let name = fs::read_to_string(format!("/proc/{preparing}/comm")).ok()?;
        name.starts_with("farrier:prepare").then_some(())
    });
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTTIN, Signal::SIGALRM] {
        process::kill(preparing, signal);
    }
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| lab.ctl(&["reload"]));
        eventually("the order has come", || lab.log().contains("ordered to reload").then_some(()));
        assert_eq!(lab.workers(), [preparing], "{}", lab.log());
        lab.signal(Signal::SIGTERM);
        let reload = reload.join().unwrap();
        let error = String::from_utf8(reload.stderr).unwrap();
        assert!(error.contains("the server"), "{error}");
    });
    assert_eq!(lab.wait().code(), Some(0), "{}", lab.log());
}

/// Behaviour L26: a killed worker is replaced, pid and cause are in the log, and no connection is refused meanwhile.
#[tokio::test]
async fn a_killed_worker_is_replaced_under_load() {
    let lab = service::lab().start();
    let (clients, kills) = (8, 5);
    let load = Load::start(lab.address(), "/plaintext", clients, Reuse::Close);
    for _ in 0..kills {
        let victim = pid_of_a_worker(&lab).await;
        process::kill(victim, Signal::SIGKILL);
        eventually_async("a replacement runs", async || {
            let now = lab.workers();
            (now.len() == 2 && !now.contains(&victim)).then_some(())
        })
        .await;
        let log = lab.log();
        assert!(log.contains(&victim.to_string()) && log.contains("SIGKILL"), "{log}");
    }
    let report = load.stop().await;
    assert!(report.ok > 0);
    assert!(
        !report.failed.iter().any(|failure| failure.starts_with("no connection")),
        "{report:?}"
    );
}

/// Behaviour L29: a first generation that never becomes ready ends the server with 3, however many workers.
#[test]
fn a_broken_first_generation_exits_3() {
    for workers in ["--workers=1", "--workers=8"] {
        for boot in ["fail", "exit", "panic"] {
            let mut lab = service::lab().args([workers]).env("LAB_BOOT", boot).spawn();
            assert_eq!(lab.wait().code(), Some(3), "{workers} {boot}: {}", lab.log());
            assert!(!lab.path("pid").exists(), "{workers} {boot}");
        }
    }
}

/// Behaviour L17: boot has a limit of its own.
#[test]
fn boot_timeout_ends_a_hanging_boot() {
    let mut lab = service::lab().args(["--boot-timeout=0.5"]).env("LAB_BOOT", "hang").spawn();
    assert_eq!(lab.wait().code(), Some(3), "{}", lab.log());
    assert!(lab.log().contains("boot_timeout"), "{}", lab.log());
}

/// Behaviours L34 and L35: HUP replaces every worker, and no client loses a request over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hup_loses_no_request() {
    let lab = service::lab().start();
    let kept = Load::start(lab.address(), "/plaintext", 8, Reuse::KeepAlive);
    let closed = Load::start(lab.address(), "/plaintext", 8, Reuse::Close);
    for _ in 0..4 {
        let before: HashSet<u32> = lab.workers().into_iter().collect();
        lab.signal(Signal::SIGHUP);
        eventually_async("every worker is a new one", async || {
            let now = lab.workers();
            (now.len() == 2 && !now.iter().any(|pid| before.contains(pid))).then_some(())
        })
        .await;
    }
    for load in [kept, closed] {
        let report = load.stop().await;
        assert!(report.ok > 0);
        assert!(report.failed.is_empty(), "{:?}\n{}", report.failed, lab.log());
    }
}

/// Behaviour L38: HUP with a wrong settings file changes nothing, and the log says what is wrong.
#[tokio::test]
async fn hup_with_wrong_settings_changes_nothing() {
    let settings = "workers = 2\nbind = [\"127.0.0.1:0\"]\n";
    let lab = service::bare_lab().file("farrier.toml", settings).start();
    eventually_async("two workers", async || (lab.workers().len() == 2).then_some(())).await;
    let before = lab.workers();
    fs::write(lab.path("farrier.toml"), "workers = \"many\"\n").unwrap();
    lab.signal(Signal::SIGHUP);
    eventually_async("the log says so", async || lab.log().contains("many").then_some(())).await;
    assert_eq!(lab.workers(), before);
    assert!(before.contains(&pid_of_a_worker(&lab).await));

    fs::write(lab.path("farrier.toml"), settings.replace("workers = 2", "workers = 3")).unwrap();
    lab.signal(Signal::SIGHUP);
    eventually_async("three new workers", async || {
        let now = lab.workers();
        (now.len() == 3 && !now.iter().any(|pid| before.contains(pid))).then_some(())
    })
    .await;
}

/// Behaviour L30: TTIN and TTOU change the number of workers, and never to none.
#[test]
fn ttin_and_ttou_change_the_number() {
    let lab = service::lab().start();
    for workers in 3..=4 {
        lab.signal(Signal::SIGTTIN);
        eventually("one more", || (lab.workers().len() == workers).then_some(()));
    }
    for workers in [3, 2, 1] {
        lab.signal(Signal::SIGTTOU);
        eventually("one fewer", || (lab.workers().len() == workers).then_some(()));
    }
    // It is the last; this one does nothing. A worker more shows that the master has seen it.
    lab.signal(Signal::SIGTTOU);
    eventually("it was seen", || (lab.log().matches("SIGTTOU").count() == 4).then_some(()));
    lab.signal(Signal::SIGTTIN);
    eventually("two workers", || (lab.workers().len() == 2).then_some(()));
}

/// Behaviour L33: signals that are the master's do a worker no harm.
#[test]
fn workers_ignore_the_masters_signals() {
    let lab = service::lab().start();
    let workers = lab.workers();
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGWINCH,
    ] {
        workers.iter().for_each(|&pid| process::kill(pid, signal));
    }
    // A worker that TERM reaches after all these was alive until then.
    process::kill(workers[0], Signal::SIGTERM);
    eventually("the other one is left, and a replacement", || {
        let now = lab.workers();
        (now.len() == 2 && !now.contains(&workers[0])).then_some(())
    });
    assert!(lab.workers().contains(&workers[1]), "{}", lab.log());
    assert!(!lab.log().contains("died"), "{}", lab.log());
}

/// Behaviour L52: a pidfile protects a living master and nothing else.
#[test]
fn pidfile_rules() {
    let lab = service::lab().start();
    let pid = fs::read_to_string(lab.path("pid")).unwrap();
    assert_eq!(pid.trim(), lab.pid().to_string());

    let shared = format!("--pidfile={}", lab.path("pid").display());
    let mut second = service::bare_lab().args(["--bind=127.0.0.1:0", &shared]).spawn();
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().contains(pid.trim()), "{}", second.log());
    assert_eq!(fs::read_to_string(lab.path("pid")).unwrap(), pid, "another's file is left alone");

    // Killed, it left its file; a worker that lives on for a moment is no master.
    lab.signal(Signal::SIGKILL);
    let heir = service::bare_lab().args(["--bind=127.0.0.1:0", &shared]).start();
    assert_eq!(fs::read_to_string(lab.path("pid")).unwrap().trim(), heir.pid().to_string());

    // A number that some other program has by now says nothing.
    let stranger = std::process::id().to_string();
    for stale in ["999999999", "garbage", "", "1", &stranger] {
        let third = service::lab().file("pid", stale).start();
        let pid = fs::read_to_string(third.path("pid")).unwrap();
        assert_eq!(pid.trim(), third.pid().to_string(), "after {stale:?}");
    }
}

/// The socket beside the pidfile is made if it can be; nobody has asked for it.
#[test]
fn a_long_path_of_the_pidfile_costs_the_control_socket_only() {
    let folder = format!("{}/{}", "long".repeat(20), "path".repeat(20));
    let lab = service::lab().folder(&folder);
    let lab = lab.args([format!("--pidfile={folder}/pid").as_str()]).start();
    assert!(lab.path(&format!("{folder}/pid")).exists());
    assert!(!lab.path(&format!("{folder}/pid.sock")).exists());
    assert!(lab.log().contains("no control socket"), "{}", lab.log());
}

/// A settings file is read; a flag wins over the environment, which wins over the file.
#[test]
fn settings_come_in_order() {
    let file = "workers = 3\nbind = [\"127.0.0.1:0\"]\n";
    let lab = service::bare_lab().file("farrier.toml", file).start();
    eventually("three workers", || (lab.workers().len() == 3).then_some(()));
    let lab = service::bare_lab().file("farrier.toml", file).env("FARRIER_WORKERS", "2").start();
    eventually("two workers", || (lab.workers().len() == 2).then_some(()));
    let lab = service::bare_lab().file("farrier.toml", file).env("FARRIER_WORKERS", "2");
    let lab = lab.args(["--workers=1"]).start();
    eventually("one worker", || (lab.workers().len() == 1).then_some(()));
}

/// A wrong setting names the key, the value and what is allowed, and ends with 1.
#[test]
fn a_wrong_setting_is_explained() {
    let mut lab = service::bare_lab().file("farrier.toml", "timeout = \"soon\"\n").spawn();
    assert_eq!(lab.wait().code(), Some(1));
    let log = lab.log();
    assert!(
        log.contains("timeout") && log.contains("soon") && log.contains("farrier.toml"),
        "{log}"
    );
    let mut lab = service::bare_lab().file("farrier.toml", "worker = 3\n").spawn();
    assert_eq!(lab.wait().code(), Some(1));
    assert!(lab.log().contains("worker"), "{}", lab.log());
}
