//! A server at `max_connections`, and clients that wait for a place.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farrier_serve::Server;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Client, Running, connect_http2, early_answers, read_whole, soon, start, start_app,
};

/// Longer than a connection must have been idle before it has to go.
const LONG: Duration = Duration::from_millis(1500);

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

/// A connection that is kept alive after its first response.
async fn idle(server: &Running) -> Client {
    let mut client = server.client().await;
    assert_eq!(client.get("/").await.unwrap().status, 200);
    client
}

/// A connection that waits to be accepted, and its request with it.
async fn newcomer(server: &Running) -> Client {
    let mut client = server.client().await;
    client.request("/").await.unwrap();
    client
}

/// Waits until a connection that is idle from now on has been idle for `LONG`, as another server sees it.
async fn long() {
    let other = start(|server: Server<_>| server.keepalive(LONG)).await;
    idle(&other).await.end().await.unwrap();
}

#[tokio::test]
async fn a_newcomer_gets_the_place_of_the_connection_that_is_idle_for_longest() {
    let server = start(|server| server.max_connections(3)).await;
    let mut first = idle(&server).await;
    let began = Instant::now();
    let mut second = idle(&server).await;
    let mut third = idle(&server).await;
    // Idle since now.
    first.get("/").await.unwrap();

    let mut newcomer = newcomer(&server).await;
    second.end().await.expect("FIN, not RST");
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(newcomer.answer().await.unwrap().body, "only");
    for client in [&mut first, &mut third, &mut newcomer] {
        assert_eq!(client.get("/").await.expect("it was not closed").status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_newcomer_costs_one_connection() {
    let server = start(|server| server.max_connections(4)).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(idle(&server).await);
    }
    // They could all be closed by now.
    long().await;

    let mut newcomers = [newcomer(&server).await, newcomer(&server).await];
    for newcomer in &mut newcomers {
        assert_eq!(newcomer.answer().await.unwrap().body, "only");
    }
    for client in &mut clients[..2] {
        client.end().await.expect("FIN, not RST");
    }
    for client in &mut clients[2..] {
        assert_eq!(client.get("/").await.expect("it was not closed").status, 200);
    }
}

#[tokio::test]
async fn with_nobody_waiting_idle_connections_stay() {
    let server = start(|server| server.max_connections(2)).await;
    let mut clients = [idle(&server).await, idle(&server).await];
    for _ in 0..2 {
        long().await;
        for client in &mut clients {
            assert_eq!(client.get("/").await.expect("it was not closed").status, 200);
        }
    }
}

#[tokio::test]
async fn only_idle_connections_make_room() {
    let server = start(|server| server.max_connections(6)).await;
    let mut silent = server.client().await;
    let mut in_flight = server.client().await;
    in_flight.request("/gate").await.unwrap();
    let (http2, _connection) = connect_http2(server.addr).await;
    let mut http2 = soon(http2.ready()).await.unwrap();
    let request = Request::get("http://test/gate").body(()).unwrap();
    let (http2_in_flight, _) = http2.send_request(request, true).unwrap();
    server.gate.arrived(2).await;
    let mut in_the_midst = idle(&server).await;
    in_the_midst.send("G").await.unwrap();
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut upgraded, _) = client_async("ws://test/ws", stream).await.unwrap();
    let mut idle = idle(&server).await;

    let mut newcomer = newcomer(&server).await;
    idle.end().await.expect("FIN, not RST");
    assert_eq!(newcomer.answer().await.unwrap().body, "only");

    newcomer.request("/gate").await.unwrap();
    server.gate.arrived(3).await;
    let mut waits = self::newcomer(&server).await;
    long().await;
    upgraded.send(Message::text("hello")).await.unwrap();
    assert_eq!(soon(upgraded.next()).await.unwrap().unwrap(), Message::text("hello"));
    server.gate.open();
    assert_eq!(in_flight.answer().await.unwrap().body, "passed");
    assert_eq!(newcomer.answer().await.unwrap().body, "passed");
    assert_eq!(soon(read_whole(http2_in_flight)).await.unwrap(), b"passed");
    // It would not be, had it been told to go.
    let mut http2 = soon(http2.ready()).await.unwrap();
    let request = Request::get("http://test/").body(()).unwrap();
    let (response, _) = http2.send_request(request, true).unwrap();
    assert_eq!(soon(read_whole(response)).await.unwrap(), b"only");
    in_the_midst.send("ET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    assert_eq!(in_the_midst.answer().await.unwrap().status, 200);
    assert_eq!(silent.get("/").await.unwrap().status, 200);

    // All but one are idle now, and soon for long enough.
    assert_eq!(waits.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_to_go() {
    let server = start(|server| server.max_connections(1)).await;
    let (client, connection) = connect_http2(server.addr).await;
    let mut client = soon(client.ready()).await.unwrap();
    let request = Request::get("http://test/").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    soon(read_whole(response)).await.unwrap();

    let mut newcomer = newcomer(&server).await;
    soon(connection).await.unwrap().expect("GOAWAY without an error");
    assert_eq!(newcomer.answer().await.unwrap().body, "only");
    drop(client);
}

/// Its request's body, which a task reads, is not over.
#[tokio::test]
async fn one_that_cannot_leave_does_not_keep_the_next_one_from_it() {
    let (app, mut uploads) = early_answers();
    let server = start_app(app, |server| server.max_connections(2));
    let mut uploads_on = server.client().await;
    let head = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\n";
    uploads_on.send(head).await.unwrap();
    assert_eq!(uploads_on.answer().await.unwrap().body, "accepted");
    let mut idle = idle(&server).await;

    let mut newcomer = newcomer(&server).await;
    idle.end().await.expect("FIN, not RST");
    assert_eq!(newcomer.answer().await.unwrap().status, 200);
    uploads_on.send("abcd").await.unwrap();
    assert_eq!(soon(uploads.recv()).await.unwrap().unwrap(), 4);
}

#[tokio::test]
async fn a_full_server_says_so_once_in_a_while() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let server = start(|server| server.max_connections(2)).await;
    let _idle = [idle(&server).await, idle(&server).await];
    assert_eq!(log.text(), "", "nobody waits");

    for _ in 0..2 {
        newcomer(&server).await.answer().await.unwrap();
    }
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("WARN") && text.contains("limit=2"), "{text}");
}

/// Its rules are its own: an idle connection may send one more request.
#[tokio::test]
async fn a_drain_does_not_make_room() {
    let server = start(|server| server.max_connections(1)).await;
    let mut idle = idle(&server).await;
    let _newcomer = newcomer(&server).await;
    server.drain.start();
    long().await;
    assert!(idle.get("/").await.expect("it was not closed").closes());
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
