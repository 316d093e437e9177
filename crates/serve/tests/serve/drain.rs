//! The soft drain, seen by each kind of client.

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use farrier_serve::Server;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Client, HEADERS, PING, connect_http2, count_frames, handshake_http2, mute_http2, read_whole,
    soon, start, start_on, stopped_accepting,
};

/// Long enough that a drain which ignores it is seen.
const MOMENT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_kept_alive_connection_gets_one_more_response_and_is_told_to_close() {
    let server = start(|server| server).await;
    let mut client = server.client().await;
    assert!(!client.get("/").await.unwrap().closes());

    server.drain.start();
    stopped_accepting(&server).await;
    let last = client.get("/").await.unwrap();
    assert_eq!((last.status, last.body.as_str()), (200, "only"));
    assert!(last.closes(), "{}", last.head);
    client.end().await.unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn it_serves_until_it_is_told_and_then_drains() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = oneshot::channel::<()>();
    let app = Router::new().route("/", get(async || "served"));
    let serving = tokio::spawn(async {
        let server = Server::new([listener], app).drain_idle(Duration::ZERO);
        server.serve_until(async { told.await.unwrap() }).await
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"served") {
        assert_ne!(soon(client.read_buf(&mut answer)).await.unwrap(), 0);
    }
    assert!(!serving.is_finished());
    tell.send(()).unwrap();
    assert_eq!(soon(serving).await.unwrap().cut, 0);
    assert_eq!(soon(client.read_buf(&mut answer)).await.unwrap(), 0, "it is closed");
}

/// Behaviour L3.
#[tokio::test]
async fn a_request_in_flight_is_finished_and_is_the_connections_last() {
    let server = start(|server| server.drain_idle(Duration::ZERO)).await;
    let mut client = server.client().await;
    client.request("/gate").await.unwrap();
    server.gate.arrived(1).await;

    server.drain.start();
    stopped_accepting(&server).await;
    server.gate.open();
    let last = client.answer().await.unwrap();
    assert_eq!((last.status, last.body.as_str()), (200, "passed"));
    assert!(last.closes(), "{}", last.head);
    client.end().await.unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

/// Its client was never told to close, so it may send a next request, however long the body took.
#[tokio::test]
async fn a_response_that_began_before_the_drain_is_not_the_connections_last() {
    let server = start(|server| server.drain_idle(MOMENT)).await;
    let mut client = server.client().await;
    client.request("/body-at-gate").await.unwrap();
    server.gate.arrived(1).await;
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();

    server.drain.start();
    idle.end().await.unwrap();
    server.gate.open();
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.body, "passed");
    assert!(!answer.closes(), "{}", answer.head);
    let last = client.get("/").await.unwrap();
    assert_eq!(last.status, 200);
    assert!(last.closes(), "{}", last.head);
    client.end().await.unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn a_response_that_began_before_the_drain_is_followed_by_drain_idle_and_the_end() {
    let server = start(|server| server.drain_idle(MOMENT)).await;
    let mut client = server.client().await;
    client.request("/body-at-gate").await.unwrap();
    server.gate.arrived(1).await;
    server.drain.start();
    stopped_accepting(&server).await;
    server.gate.open();
    assert_eq!(client.answer().await.unwrap().body, "passed");
    client.end().await.expect("FIN, not RST");
    assert_eq!(server.drained().await.cut, 0);
}

/// RFC 9112 section 9.3.2: its client sends them again.
#[tokio::test]
async fn what_is_pipelined_behind_a_request_in_flight_is_not_answered() {
    let server = start(|server| server).await;
    let mut client = server.client().await;
    let request = "GET /gate HTTP/1.1\r\nhost: test\r\n\r\n";
    client.send(&request.repeat(3)).await.unwrap();
    server.gate.arrived(1).await;
    server.drain.start();
    stopped_accepting(&server).await;
    server.gate.open();
    assert!(client.answer().await.unwrap().closes());
    client.end().await.expect("FIN, not RST");
    assert_eq!(server.drained().await.cut, 0);
}

/// Behaviour S4.
#[tokio::test]
async fn an_idle_connection_is_closed_cleanly_after_drain_idle() {
    let server = start(|server| server.drain_idle(MOMENT)).await;
    let mut client = server.client().await;
    client.get("/").await.unwrap();

    let began = Instant::now();
    server.drain.start();
    client.end().await.expect("FIN, not RST");
    assert!(began.elapsed() >= MOMENT, "closed after {:?}", began.elapsed());
    assert_eq!(server.drained().await.cut, 0);
}

/// Behaviour L11.
#[tokio::test]
async fn silent_and_idle_connections_do_not_hold_the_drain_beyond_drain_idle() {
    let server = start(|server| server.drain_idle(MOMENT)).await;
    let mut silent = server.client().await;
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();

    server.drain.start();
    silent.end().await.expect("FIN, not RST");
    idle.end().await.expect("FIN, not RST");
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn a_connection_that_was_silent_is_served_within_drain_idle() {
    let server = start(|server| server).await;
    let mut silent = server.client().await;
    // The queue is in order: when a later connection was served, this one was accepted.
    server.client().await.get("/").await.unwrap();

    server.drain.start();
    stopped_accepting(&server).await;
    let first_and_last = silent.get("/").await.unwrap();
    assert_eq!(first_and_last.status, 200);
    assert!(first_and_last.closes(), "{}", first_and_last.head);
    silent.end().await.unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn half_a_head_at_the_end_of_drain_idle_is_still_a_request() {
    let server = start(|server| server.drain_idle(MOMENT)).await;
    let mut kept = server.client().await;
    kept.get("/").await.unwrap();
    let mut fresh = server.client().await;
    for client in [&mut kept, &mut fresh] {
        client.send("GET / HTTP/1.1\r\n").await.unwrap();
    }
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();

    server.drain.start();
    idle.end().await.unwrap();
    for client in [&mut kept, &mut fresh] {
        client.send("host: test\r\n\r\n").await.unwrap();
        let last = client.answer().await.unwrap();
        assert_eq!(last.status, 200);
        assert!(last.closes(), "{}", last.head);
        client.end().await.unwrap();
    }
    assert_eq!(server.drained().await.cut, 0);
}

/// Behaviour S3.
#[tokio::test]
async fn http2_gets_goaway_at_once_and_its_streams_finish() {
    let server = start(|server| server).await;
    let (mut client, connection) = connect_http2(server.addr).await;
    let get = |path: &str| Request::get(format!("http://test{path}")).body(()).unwrap();
    let mut in_flight = Vec::new();
    for _ in 0..10 {
        client = soon(client.ready()).await.unwrap();
        let (response, _) = client.send_request(get("/gate"), true).unwrap();
        in_flight.push(tokio::spawn(read_whole(response)));
    }
    server.gate.arrived(10).await;

    server.drain.start();
    // Only GOAWAY makes the client refuse: no response came, and drain_idle is for ever.
    soon(async {
        while client.clone().ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.send_request(get("/"), true).unwrap_err();
    server.gate.open();
    for response in in_flight {
        assert_eq!(soon(response).await.unwrap().unwrap(), b"passed");
    }
    drop(client);
    soon(connection).await.unwrap().unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn an_http2_client_that_was_silent_when_the_drain_began_gets_goaway_too() {
    let server = start(|server| server).await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    // The queue is in order: when a later connection was served, this one was accepted.
    server.client().await.get("/").await.unwrap();
    server.drain.start();
    stopped_accepting(&server).await;

    let (client, connection) = handshake_http2(stream).await;
    let mut client = soon(client.ready()).await.unwrap();
    let request = Request::get("http://test/").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(soon(read_whole(response)).await.unwrap(), b"only");
    // Still held, as a client's pool does.
    soon(connection).await.unwrap().unwrap();
    drop(client);
    assert_eq!(server.drained().await.cut, 0);
}

/// The client had queued its request when GOAWAY and PING came, and answers the PING first.
#[tokio::test]
async fn an_http2_request_right_behind_the_answer_to_goaway_is_served() {
    let server = start(|server| server).await;
    let mut stream = mute_http2(&server).await;
    let mut read = Vec::new();
    server.drain.start();
    while count_frames(&read, PING) < 1 {
        soon(stream.read_buf(&mut read)).await.unwrap();
    }
    let ping = &read[read.len() - 8..];
    let pong = [&[0, 0, 8, PING, 1, 0, 0, 0, 0], ping].concat();
    // GET http://test/ from the static table, and END_STREAM with END_HEADERS.
    let request = b"\0\0\x09\x01\x05\0\0\0\x01\x82\x86\x84\x41\x04test";
    stream.write_all(&[&pong, &request[..]].concat()).await.unwrap();
    soon(stream.read_to_end(&mut read)).await.unwrap();
    assert_eq!(count_frames(&read, HEADERS), 1, "{read:?}");
    assert!(read.windows(4).any(|bytes| bytes == b"only"), "{read:?}");
    drop(stream);
    assert_eq!(server.drained().await.cut, 0);
}

/// A client that never answers the PING after GOAWAY.
#[tokio::test]
async fn a_mute_http2_client_does_not_hold_the_drain() {
    let server = start(|server| server).await;
    let _mute = mute_http2(&server).await;
    server.drain.start();
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn an_http2_connection_without_streams_leaves_at_once() {
    for speaks in [true, false] {
        let server = start(|server| server).await;
        let (client, connection) = connect_http2(server.addr).await;
        let mut client = soon(client.ready()).await.unwrap();
        if speaks {
            let request = Request::get("http://test/").body(()).unwrap();
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(soon(read_whole(response)).await.unwrap(), b"only");
        } else {
            // The queue is in order: now the preface was read.
            server.client().await.get("/").await.unwrap();
        }

        server.drain.start();
        soon(connection).await.unwrap().unwrap();
        assert_eq!(server.drained().await.cut, 0);
    }
}

#[tokio::test]
async fn a_web_socket_lives_through_the_drain_until_graceful_timeout() {
    let grace = Duration::from_secs(1);
    let server = start(|server| server.drain_idle(Duration::ZERO).graceful_timeout(grace)).await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut socket, _) = client_async("ws://test/ws", stream).await.unwrap();
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();

    server.drain.start();
    idle.end().await.unwrap();
    socket.send(Message::text("still here?")).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("still here?"));
    let addr = server.addr;
    assert_eq!(server.drained().await.cut, 1);
    assert!(soon(socket.next()).await.is_none_or(|message| message.is_err()), "it was cut");
    TcpStream::connect(addr).await.unwrap_err();
}

#[tokio::test]
async fn the_server_returns_as_soon_as_the_last_web_socket_closes() {
    let server = start(|server| server.drain_idle(Duration::ZERO)).await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut socket, _) = client_async("ws://test/ws", stream).await.unwrap();

    server.drain.start();
    stopped_accepting(&server).await;
    socket.send(Message::text("x")).await.unwrap();
    soon(socket.next()).await.unwrap().unwrap();
    assert!(server.is_running());
    socket.close(None).await.unwrap();
    drop(socket);
    assert_eq!(server.drained().await.cut, 0);
}

/// Behaviour L4.
#[tokio::test]
async fn what_is_left_after_graceful_timeout_is_cut_and_counted() {
    let server = start(|server| server.drain_idle(Duration::ZERO).graceful_timeout(MOMENT)).await;
    let mut in_flight = server.client().await;
    in_flight.request("/gate").await.unwrap();
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();
    server.gate.arrived(1).await;

    server.drain.start();
    idle.end().await.expect("FIN, not RST");
    in_flight.answer().await.unwrap_err();
    assert_eq!(server.drained().await.cut, 1);
}

/// However many they are: tokio lets no task take them all in one turn.
#[tokio::test]
async fn a_long_queue_is_served_when_the_drain_begins() {
    let server = start(|server| server).await;
    // The server shares this thread and gets no turn meanwhile.
    let queue: Vec<_> =
        (0..126).map(|_| std::net::TcpStream::connect(server.addr).unwrap()).collect();
    server.drain.start();
    for queued in queue {
        queued.set_nonblocking(true).unwrap();
        let mut client = Client::new(TcpStream::from_std(queued).unwrap());
        assert_eq!(client.get("/").await.expect("no reset").status, 200);
    }
    assert_eq!(server.drained().await.cut, 0);
}

/// Who only waits loses nothing: not a kept-alive connection, and not one that has not said a word. Half a head
/// is a request that is lost.
#[tokio::test]
async fn idle_connections_do_not_count_as_cut() {
    let server = start(|server| server).await;
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();
    let silent = TcpStream::connect(server.addr).await.unwrap();
    let mut speaking = TcpStream::connect(server.addr).await.unwrap();
    speaking.write_all(b"GET / HT").await.unwrap();
    let mut in_flight = server.client().await;
    in_flight.request("/gate").await.unwrap();
    server.gate.arrived(1).await;
    // By the time of its answer the half head was read.
    idle.get("/").await.unwrap();

    server.drain.stop_quick();
    in_flight.answer().await.unwrap_err();
    assert_eq!(server.drained().await.cut, 2);
    drop(silent);
}

/// Behaviour L5.
#[tokio::test]
async fn a_quick_stop_cuts_at_once_also_within_a_soft_drain() {
    for soft_first in [false, true] {
        let server = start(|server| server).await;
        let mut in_flight = server.client().await;
        in_flight.request("/gate").await.unwrap();
        let stream = TcpStream::connect(server.addr).await.unwrap();
        let (mut socket, _) = client_async("ws://test/ws", stream).await.unwrap();
        server.gate.arrived(1).await;

        if soft_first {
            server.drain.start();
            stopped_accepting(&server).await;
        }
        server.drain.stop_quick();
        server.drain.start();
        in_flight.answer().await.unwrap_err();
        assert!(soon(socket.next()).await.is_none_or(|message| message.is_err()));
        assert_eq!(server.drained().await.cut, 2);
    }
}

/// Behaviour L10.
#[tokio::test]
async fn connections_in_the_queue_are_served_before_the_listener_is_left() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = Client::connect(listener.local_addr().unwrap()).await;
        client.request("/").await.unwrap();
        clients.push(client);
    }
    let server = start_on(&listener, "last", |server| server);
    server.drain.start();
    drop(listener);
    for mut client in clients {
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "last"));
        assert!(answer.closes(), "{}", answer.head);
    }
    assert_eq!(server.drained().await.cut, 0);
}
