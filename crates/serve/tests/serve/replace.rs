//! Servers that replace each other on one listener, under clients that never retry.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;

use crate::support::{Client, connect_http2, read_whole, soon, start_on, until};

const REPLACEMENTS: usize = 20;

#[derive(Default)]
struct Count {
    done: AtomicBool,
    succeeded: AtomicUsize,
    failed: AtomicUsize,
}

/// prefork.md 6, tests 3, 4 and 5.
#[tokio::test]
async fn replacing_servers_loses_no_request_on_one_thread() {
    replace_under_load().await;
}

/// prefork.md 6, tests 3, 4 and 5.
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
        clients.push(tokio::spawn(keep_alive(addr, Arc::clone(&count))));
    }
    for _ in 0..4 {
        clients.push(tokio::spawn(one_by_one(addr, Arc::clone(&count))));
        clients.push(tokio::spawn(over_http2(addr, Arc::clone(&count))));
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
    count.done.store(true, Ordering::Relaxed);
    for client in clients {
        soon(client).await.unwrap();
    }
    assert_eq!(count.failed.load(Ordering::Relaxed), 0);
    assert!(count.succeeded.load(Ordering::Relaxed) > REPLACEMENTS * 200);
}

/// Keeps its connection until a response tells it to close; writes without looking first.
async fn keep_alive(addr: SocketAddr, count: Arc<Count>) {
    let mut client = Client::connect(addr).await;
    let mut pause = 0;
    while !count.is_done() {
        match client.get("/").await {
            Ok(answer) => {
                count.note(answer.status == 200);
                if answer.closes() {
                    client = Client::connect(addr).await;
                }
            }
            Err(_) => {
                count.note(false);
                client = Client::connect(addr).await;
            }
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
        count.note(answer.is_ok_and(|answer| answer.status == 200));
    }
}

/// Ten streams at once until GOAWAY. h2's own client tells what never left from what was lost.
async fn over_http2(addr: SocketAddr, count: Arc<Count>) {
    while !count.is_done() {
        let (mut client, _) = connect_http2(addr).await;
        'until_goaway: while !count.is_done() {
            let mut sent = Vec::new();
            for _ in 0..10 {
                let request = Request::get("http://test/").body(()).unwrap();
                let Ok(ready) = soon(client.ready()).await else { break 'until_goaway };
                client = ready;
                let Ok((response, _)) = client.send_request(request, true) else {
                    break 'until_goaway;
                };
                sent.push(tokio::spawn(read_whole(response)));
            }
            for response in sent {
                count.note(soon(response).await.unwrap().is_ok());
            }
        }
    }
}
// === impl Count ===

impl Count {
    fn note(&self, succeeded: bool) {
        let counter = if succeeded { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}
