//! Servers that replace each other on one listener, under clients that never retry.

use std::fmt::Debug;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use tokio::task::JoinHandle;

use crate::support::{
    Answer, BIG, Client, TRICKLE, connect_http2, read_whole, soon, start_on, until,
};

const REPLACEMENTS: usize = 20;

#[derive(Default)]
struct Count {
    done: AtomicBool,
    succeeded: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

/// Behaviours S1, S2 and S3.
#[tokio::test]
async fn replacing_servers_loses_no_request_on_one_thread() {
    replace_under_load().await;
}

/// Behaviours S1, S2 and S3.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_servers_loses_no_request_on_two_threads() {
    replace_under_load().await;
}

async fn replace_under_load() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(Count::default());
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(tokio::spawn(keep_alive(addr, &["/", "/"], Arc::clone(&count))));
    }
    for _ in 0..4 {
        clients.push(tokio::spawn(keep_alive(addr, &["/", "/big"], Arc::clone(&count))));
        clients.push(tokio::spawn(one_by_one(addr, Arc::clone(&count))));
        clients.push(tokio::spawn(over_http2(addr, &["/", "/big"], Arc::clone(&count))));
    }

    // Idle time exceeds the clients' pauses by far, also on a machine that is busy.
    let start_server =
        || start_on(&listener, "x", |server| server.drain_idle(Duration::from_secs(60)));
    let mut server = start_server();
    for _ in 0..REPLACEMENTS {
        let before = count.succeeded.load(Ordering::Relaxed);
        until(|| count.succeeded.load(Ordering::Relaxed) > before + 200).await;
        let old = std::mem::replace(&mut server, start_server());
        old.drain.start();
        assert_eq!(old.drained().await.cut, 0);
    }
    count.finish(clients).await;
    assert!(count.succeeded.load(Ordering::Relaxed) > REPLACEMENTS * 200);
}

/// Responses that began before the drain and end after all that idle connections are granted.
#[tokio::test]
async fn replacing_servers_loses_no_request_behind_a_long_response() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(Count::default());
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(tokio::spawn(keep_alive(addr, &["/trickle", "/"], Arc::clone(&count))));
        clients.push(tokio::spawn(over_http2(addr, &["/trickle", "/"], Arc::clone(&count))));
    }

    // Between a client's pauses and the time that a response takes.
    let start_server = || start_on(&listener, "x", |server| server.drain_idle(TRICKLE * 3 / 4));
    let mut server = start_server();
    for _ in 0..2 {
        let before = count.succeeded.load(Ordering::Relaxed);
        until(|| count.succeeded.load(Ordering::Relaxed) > before + 50).await;
        let old = std::mem::replace(&mut server, start_server());
        old.drain.start();
        assert_eq!(old.drained().await.cut, 0);
    }
    count.finish(clients).await;
}

/// Keeps its connection until a response tells it to close; writes without ever looking first.
async fn keep_alive(addr: SocketAddr, paths: &[&str], count: Arc<Count>) {
    let mut client = Client::connect(addr).await;
    let mut pause = 0;
    for path in paths.iter().cycle() {
        if count.is_done() {
            return;
        }
        let answer = client.get(path).await;
        let closes = answer.as_ref().is_ok_and(Answer::closes);
        let failed = count.note(path, answer.map(|answer| answer.body.into_bytes()));
        if closes || failed {
            client = Client::connect(addr).await;
        }
        // From none to 10 ms, so that some connections are idle whenever a server leaves.
        pause = (pause + 3) % 11;
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// A connection per request, which is sometimes accepted before it speaks.
async fn one_by_one(addr: SocketAddr, count: Arc<Count>) {
    let mut pause = 0;
    while !count.is_done() {
        let mut client = Client::connect(addr).await;
        pause = (pause + 2) % 6;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let answer = client.get("/").await;
        count.note("/", answer.map(|answer| answer.body.into_bytes()));
    }
}

/// Ten streams at once until GOAWAY. h2's own client tells what never left from what was lost.
async fn over_http2(addr: SocketAddr, paths: &'static [&'static str], count: Arc<Count>) {
    while !count.is_done() {
        let (mut client, _) = connect_http2(addr).await;
        let mut may_send = true;
        while may_send && !count.is_done() {
            let mut sent = Vec::new();
            for path in paths.iter().cycle().take(10) {
                may_send = soon(std::future::poll_fn(|cx| client.poll_ready(cx))).await.is_ok();
                let request = Request::get(format!("http://test{path}")).body(()).unwrap();
                let Ok((response, _)) = client.send_request(request, true) else { break };
                sent.push((path, tokio::spawn(read_whole(response))));
            }
            for (path, response) in sent {
                count.note(path, soon(response).await.unwrap());
            }
        }
    }
}

impl Count {
    /// Notes how a request for `path` has ended, and returns whether it failed.
    fn note<E: Debug>(&self, path: &str, body: Result<Vec<u8>, E>) -> bool {
        let length = match path {
            "/big" => BIG,
            "/trickle" => 5,
            _ => 1,
        };
        let failure = match body {
            Ok(body) if body == vec![b'x'; length] => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                return false;
            }
            Ok(body) => format!("{path}: {} bytes", body.len()),
            Err(error) => format!("{path}: {error:?}"),
        };
        self.failures.lock().unwrap().push(failure);
        true
    }

    /// Lets the clients end, none of which has seen a failure.
    async fn finish(&self, clients: Vec<JoinHandle<()>>) {
        self.done.store(true, Ordering::Relaxed);
        for client in clients {
            soon(client).await.unwrap();
        }
        assert_eq!(*self.failures.lock().unwrap(), [""; 0]);
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}
