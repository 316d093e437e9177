//! Limits of connections, of time, and of open files.

use std::env;
use std::future;
use std::io::{BufRead, BufReader, Write};
use std::iter;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use farrier_serve::{Drain, Listener, Server};
use http::Request;
use tokio::net::TcpListener;

use crate::support::{Client, SOON, connect_http2, read_whole, soon, start, start_on};

const MOMENT: Duration = Duration::from_millis(150);

/// A process that does not outlive its test.
struct Killed(Child);

#[tokio::test]
async fn beyond_max_connections_clients_wait_in_the_queue_for_whoever_accepts_next() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let full = start_on(&listener, "full", |server| server.max_connections(1));
    let mut first = full.client().await;
    assert_eq!(first.get("/").await.unwrap().body, "full");
    let mut queued = full.client().await;
    queued.request("/").await.unwrap();
    // Had `full` a second place, it would have taken the connection by now.
    assert_eq!(first.get("/").await.unwrap().body, "full");

    let other = start_on(&listener, "other", |server| server);
    assert_eq!(queued.answer().await.unwrap().body, "other");

    drop((first, queued));
    full.drain.start();
    other.drain.start();
    assert_eq!(full.drained().await.cut, 0);
    assert_eq!(other.drained().await.cut, 0);
}

/// What a process has accepted is lost with it, what it left in the queue is not.
#[tokio::test]
async fn connections_are_accepted_no_faster_than_they_are_begun_to_be_served() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = Client::connect(addr).await;
        client.request("/").await.unwrap();
        clients.push(client);
    }
    let shared = Listener::try_from(listener.try_clone().unwrap()).unwrap();
    // The first request that is served takes all that are still in the queue.
    let listener = Arc::new(listener);
    let take_queued = move || {
        let queued = iter::from_fn(|| listener.accept().ok()).count();
        future::ready(queued.to_string())
    };
    let app = axum::Router::new().route("/", axum::routing::get(take_queued));
    let serving = tokio::spawn(Server::new([shared], app).serve(Drain::new()));
    let queued: usize = clients[0].answer().await.unwrap().body.parse().unwrap();
    assert!(queued > 20, "{queued} of 40 connections were still in the queue");
    serving.abort();
}

#[tokio::test]
async fn a_place_is_free_again_when_its_connection_closes() {
    let server = start(|server| server.max_connections(1)).await;
    let mut first = server.client().await;
    first.get("/").await.unwrap();
    let mut second = server.client().await;
    second.request("/").await.unwrap();
    drop(first);
    assert_eq!(second.answer().await.unwrap().status, 200);
}

/// Nobody else would: when the last listener of an address closes, the kernel resets its queue.
#[tokio::test]
async fn the_last_server_takes_what_is_queued_as_places_become_free() {
    let server = start(|server| server.max_connections(2)).await;
    let mut busy = server.client().await;
    busy.request("/gate").await.unwrap();
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();
    server.gate.arrived(1).await;
    let mut queued = Vec::new();
    for _ in 0..20 {
        let mut client = server.client().await;
        client.request("/").await.unwrap();
        queued.push(client);
    }

    server.drain.start();
    // Its place is needed; it says so to the first who asks after the order has arrived.
    while !idle.get("/").await.unwrap().closes() {}
    for client in &mut queued {
        let answer = client.answer().await.unwrap();
        assert!(answer.closes(), "{}", answer.head);
    }
    server.gate.open();
    assert_eq!(busy.answer().await.unwrap().body, "passed");
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn what_is_queued_beyond_drain_idle_is_left_to_whoever_shares_the_listener() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let old = start_on(&listener, "old", |server| server.max_connections(1).drain_idle(MOMENT));
    let mut busy = old.client().await;
    busy.request("/gate").await.unwrap();
    old.gate.arrived(1).await;
    let mut queued = Vec::new();
    for _ in 0..5 {
        let mut client = old.client().await;
        client.request("/").await.unwrap();
        queued.push(client);
    }

    old.drain.start();
    let other = start(|server| server.drain_idle(2 * MOMENT)).await;
    let mut idle = other.client().await;
    idle.get("/").await.unwrap();
    other.drain.start();
    idle.end().await.unwrap();
    old.gate.open();
    assert_eq!(busy.answer().await.unwrap().body, "passed");
    busy.end().await.unwrap();
    assert_eq!(old.drained().await.cut, 0);
    let _new = start_on(&listener, "new", |server| server);
    for client in &mut queued {
        assert_eq!(client.answer().await.unwrap().body, "new");
    }
}

#[tokio::test]
async fn a_client_that_is_silent_or_slow_with_its_head_is_disconnected() {
    let server = start(|server| server.header_read_timeout(MOMENT)).await;
    let mut silent = server.client().await;
    let mut slow = server.client().await;
    slow.send("GET / HT").await.unwrap();
    let mut slow_again = server.client().await;
    slow_again.get("/").await.unwrap();
    slow_again.send("GET / HTTP/1.1\r\nx: ").await.unwrap();
    let mut half_a_preface = server.client().await;
    half_a_preface.send("PRI * HT").await.unwrap();
    for client in [&mut silent, &mut slow, &mut slow_again, &mut half_a_preface] {
        client.end().await.unwrap();
    }
}

#[tokio::test]
async fn the_limit_for_heads_touches_neither_handlers_nor_idle_connections() {
    let server = start(|server| server.header_read_timeout(MOMENT)).await;
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();
    let mut in_flight = server.client().await;
    in_flight.request("/gate").await.unwrap();
    server.gate.arrived(1).await;
    // Disconnected after the limit, and after it once more: the limit has passed for the others.
    for _ in 0..2 {
        server.client().await.end().await.unwrap();
    }
    assert_eq!(idle.get("/").await.unwrap().status, 200);
    server.gate.open();
    assert_eq!(in_flight.answer().await.unwrap().body, "passed");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_keepalive() {
    let server = start(|server| server.keepalive(MOMENT)).await;
    let mut in_flight = server.client().await;
    in_flight.request("/gate").await.unwrap();
    server.gate.arrived(1).await;
    let mut idle = server.client().await;
    let answer = idle.get("/").await.unwrap();
    assert!(!answer.closes());
    idle.end().await.expect("FIN, not RST");
    server.gate.open();
    assert_eq!(in_flight.answer().await.unwrap().body, "passed");
    in_flight.end().await.expect("FIN, not RST");
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_to_go_after_keepalive() {
    let server = start(|server| server.keepalive(MOMENT)).await;
    for speaks in [true, false] {
        let (client, connection) = connect_http2(server.addr).await;
        let mut client = soon(client.ready()).await.unwrap();
        if speaks {
            let request = Request::get("http://test/").body(()).unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            soon(read_whole(response)).await.unwrap();
        }
        soon(connection).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn keepalive_zero_closes_after_each_response() {
    let server = start(|server| server.keepalive(Duration::ZERO)).await;
    let mut client = server.client().await;
    let answer = client.get("/").await.unwrap();
    assert!(answer.closes(), "{}", answer.head);
    client.end().await.unwrap();
}

/// Too many open files must not end the loop: clients wait, and are served once files are closed.
///
/// The server is this test again in a process of its own, whose limit of open files is low.
#[test]
fn accepting_goes_on_after_it_ran_out_of_files() {
    const NAME: &str = "limits::accepting_goes_on_after_it_ran_out_of_files";
    const ROLE: &str = "FARRIER_TEST_FEW_FILES";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if env::var_os(ROLE).is_some() {
        runtime.block_on(serve_with_few_files());
        return;
    }

    let mut server = Killed(
        Command::new("/bin/sh")
            .args(["-c", "ulimit -n 32 && exec \"$@\"", "sh"])
            .arg(env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(ROLE, "server")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let addr = lines
        .map(Result::unwrap)
        .find_map(|line| line.split_once("serving on ").map(|(_, addr)| addr.parse().unwrap()))
        .expect("the server's address");
    runtime.block_on(async {
        let mut served = Vec::new();
        let mut waiting = Vec::new();
        for _ in 0..64 {
            let mut client = Client::connect(addr).await;
            client.request("/").await.unwrap();
            waiting.push(client);
        }
        // Each in the queue gets its turn when one before it has left.
        let mut waited = 0;
        for mut client in waiting {
            let answer = tokio::time::timeout(MOMENT, client.answer()).await;
            match answer {
                Ok(answer) => assert_eq!(answer.unwrap().status, 200),
                Err(_) => {
                    waited += 1;
                    served.clear();
                    assert_eq!(client.answer().await.unwrap().status, 200);
                }
            }
            served.push(client);
        }
        assert!(waited > 0, "the server never ran out of files, so this test shows nothing");
    });
}

async fn serve_with_few_files() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nserving on {}", listener.local_addr().unwrap()).unwrap();
    let app = axum::Router::new().route("/", axum::routing::get(|| async { "few files" }));
    let serve = Server::new([listener], app).keepalive(SOON).serve(Drain::new());
    // Killed long before, unless the test that started it died.
    let _ = tokio::time::timeout(6 * SOON, serve).await;
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
