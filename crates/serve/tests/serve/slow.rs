//! Clients that are slow to read, slow to upload, or cut their bytes where nobody expects it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::get;
use farrier_serve::Server;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::client_async;

use crate::support::{
    BIG, Client, LARGE, PING, Running, connect_http2, count_frames, early_answers, mute_http2,
    read_body, read_whole, soon, start, start_app, stopped_accepting, until,
};

/// Long enough that a limit which is ignored is seen.
const MOMENT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_slow_reader_gets_the_whole_response() {
    let server = start(|server| server.keepalive(MOMENT).drain_idle(MOMENT)).await;
    let mut slow = server.client().await;
    slow.request("/large").await.unwrap();
    // Every limit for idle connections passes, while this client reads nothing.
    let mut mute = mute_http2(&server).await;
    soon(mute.read_to_end(&mut Vec::new())).await.unwrap();
    let mut silent = server.client().await;
    server.client().await.get("/").await.unwrap();
    server.drain.start();
    silent.end().await.unwrap();

    assert_eq!(slow.answer().await.unwrap().body.len(), LARGE);
    slow.end().await.unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

/// The body has left its service at once, and HTTP/2's flow control holds most of it back.
#[tokio::test]
async fn a_slow_http2_reader_gets_the_whole_response_and_keeps_its_connection() {
    let server = start(|server| server.keepalive(MOMENT)).await;
    let (mut client, _connection) = connect_http2(server.addr).await;
    let request = Request::get("http://test/big").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let body = soon(response).await.unwrap().into_body();
    // Until it was idle for too long, and then for too long without an answer to GOAWAY.
    let mut mute = mute_http2(&server).await;
    soon(mute.read_to_end(&mut Vec::new())).await.unwrap();

    client = soon(client.ready()).await.expect("no GOAWAY while a response is on its way");
    assert_eq!(soon(read_body(body)).await.unwrap().len(), BIG);
    drop(client);
}

#[tokio::test]
async fn a_slow_http2_reader_gets_the_whole_response_from_a_server_that_drains() {
    let server = start(|server| server.drain_idle(Duration::ZERO)).await;
    let (mut client, connection) = connect_http2(server.addr).await;
    let request = Request::get("http://test/big").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let body = soon(response).await.unwrap().into_body();
    let mut mute = mute_http2(&server).await;
    server.drain.start();
    soon(mute.read_to_end(&mut Vec::new())).await.unwrap();

    assert_eq!(soon(read_body(body)).await.unwrap().len(), BIG);
    soon(connection).await.unwrap().unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

/// A client whose connection nobody drives for a while: it does not even answer PING.
#[tokio::test]
async fn an_http2_response_that_is_not_read_is_cut_after_graceful_timeout_and_counted() {
    let grace = Duration::from_secs(3);
    let server = start(|server| server.drain_idle(MOMENT).graceful_timeout(grace)).await;
    let mut stalled = mute_http2(&server).await;
    // GET http://test/big, and END_STREAM with END_HEADERS.
    let request = b"\0\0\x0e\x01\x05\0\0\0\x01\x82\x86\x04\x04/big\x41\x04test";
    assert_eq!(request.len(), 9 + 14);
    stalled.write_all(request).await.unwrap();
    let mut head = [0; 9];
    soon(stalled.read_exact(&mut head)).await.unwrap();
    let mut mute = mute_http2(&server).await;
    server.drain.start();
    soon(mute.read_to_end(&mut Vec::new())).await.unwrap();
    assert_eq!(server.drained().await.cut, 1);
}

/// A client whose PING waits behind what it still has to read: it speaks, but it does not answer yet.
#[tokio::test]
async fn an_http2_client_that_speaks_may_be_late_with_its_answer_to_goaway() {
    let server = start(|server| server).await;
    let mut late = mute_http2(&server).await;
    let mut mute = mute_http2(&server).await;
    server.drain.start();
    let mute_ended = async {
        soon(mute.read_to_end(&mut Vec::new())).await.unwrap();
    };
    let late_speaks = async {
        loop {
            // WINDOW_UPDATE of the connection by one byte.
            late.write_all(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01").await.unwrap();
            tokio::time::sleep(MOMENT).await;
        }
    };
    tokio::select! {
        () = mute_ended => {}
        () = late_speaks => {}
    }
    assert!(server.is_running());
    late.write_all(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01").await.unwrap();
    soon(late.read_to_end(&mut Vec::new())).await.expect("FIN, not RST");
    assert_eq!(server.drained().await.cut, 0);
}

/// RFC 9112 section 9.6: a server that closes with bytes unread resets the connection, and its client may
/// lose what it has not read yet, or fail in the midst of its writes.
#[tokio::test]
async fn a_connection_is_not_reset_while_its_client_still_writes() {
    let server = start(|server| server).await;
    let mut client = server.client().await;
    // Nobody reads this body.
    let body = "x".repeat(LARGE);
    client
        .send(&format!("GET / HTTP/1.1\r\nhost: test\r\ncontent-length: {LARGE}\r\n\r\n"))
        .await
        .unwrap();
    client.send(&body).await.unwrap();
    assert_eq!(client.answer().await.unwrap().body, "only");
    client.end().await.expect("FIN, not RST");

    let mut http2 = mute_http2(&server).await;
    server.drain.start();
    let mut read = Vec::new();
    while count_frames(&read, PING) < 1 {
        soon(http2.read_buf(&mut read)).await.unwrap();
    }
    let ping = &read[read.len() - 8..];
    http2.write_all(&[&[0, 0, 8, PING, 1, 0, 0, 0, 0], ping].concat()).await.unwrap();
    soon(http2.read_to_end(&mut read)).await.unwrap();
    for _ in 0..3 {
        http2.write_all(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01").await.expect("no RST");
        tokio::time::sleep(MOMENT).await;
    }
    drop((client, http2));
    assert_eq!(server.drained().await.cut, 0);
}

/// A client that sends its next request before it has read: it is not answered, and what is destroys nothing.
#[tokio::test]
async fn a_request_behind_the_last_one_does_not_destroy_its_response() {
    for draining in [false, true] {
        let server = start(|server| server).await;
        let mut client = server.client().await;
        client.get("/").await.unwrap();
        let close = if draining { "" } else { "connection: close\r\n" };
        client.send(&format!("GET /two HTTP/1.1\r\nhost: test\r\n{close}\r\n")).await.unwrap();
        if draining {
            // Its head is out by then.
            server.client().await.get("/").await.unwrap();
            server.drain.start();
            stopped_accepting(&server).await;
        }
        client.request("/").await.unwrap();
        tokio::time::sleep(4 * MOMENT).await;
        assert_eq!(client.answer().await.unwrap().body.len(), 2 << 20);
        if !draining {
            server.drain.start();
        }
        assert_eq!(server.drained().await.cut, 0);
    }
}

/// Nor do requests behind a small last response destroy the large one before it, which the client has not read.
#[tokio::test]
async fn a_request_behind_the_last_one_does_not_destroy_the_response_before_it() {
    let close = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    for (last, status) in [(close, 200), ("GET / HTTP/1.1\r\n\r\n", 400)] {
        let server = start(|server| server).await;
        let mut client = server.client().await;
        client.request("/big").await.unwrap();
        // The server is through with it, and its kernel is not.
        tokio::time::sleep(4 * MOMENT).await;
        client.send(last).await.unwrap();
        tokio::time::sleep(4 * MOMENT).await;
        client.request("/").await.unwrap();
        tokio::time::sleep(4 * MOMENT).await;
        assert_eq!(client.answer().await.unwrap().body.len(), BIG);
        assert_eq!(client.answer().await.unwrap().status, status);
        server.drain.start();
        assert_eq!(server.drained().await.cut, 0);
    }
}

/// A client that sends its second request byte by byte, for ever.
async fn dripping(server: &Running) -> JoinHandle<()> {
    let mut client = server.client().await;
    client.get("/").await.unwrap();
    drip(client)
}

fn drip(mut client: Client) -> JoinHandle<()> {
    tokio::spawn(async move {
        while client.send("x").await.is_ok() {
            tokio::time::sleep(MOMENT / 3).await;
        }
    })
}

/// It has no answer to wait for, and no place to keep.
#[tokio::test]
async fn a_client_that_drips_its_head_keeps_no_place_and_no_server() {
    let set = |server: Server<Router>| server.header_read_timeout(MOMENT);
    let server = start(|server| set(server).max_connections(1)).await;
    let drips = dripping(&server).await;
    assert_eq!(server.client().await.get("/").await.unwrap().status, 200);
    soon(drips).await.unwrap();

    let server = start(set).await;
    let drips = dripping(&server).await;
    server.drain.start();
    assert_eq!(server.drained().await.cut, 0);
    soon(drips).await.unwrap();
}

/// What is read only to be thrown away needs no place, and ends.
#[tokio::test]
async fn a_client_that_drips_on_after_its_refusal_keeps_no_place_and_no_server() {
    let server = start(|server| server.max_connections(1)).await;
    let mut client = server.client().await;
    client.send("NO REQUEST AT ALL\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 400);
    let drips = drip(client);
    assert_eq!(server.client().await.get("/").await.unwrap().status, 200);
    server.drain.start();
    assert_eq!(server.drained().await.cut, 0);
    soon(drips).await.unwrap();
}

/// A handler that answers at once and leaves the body to a task of its own.
#[tokio::test]
async fn an_upload_that_goes_on_after_its_response_is_not_taken_for_a_slow_head() {
    let (app, mut uploads) = early_answers();
    let server = start_app(app, |server| server.keepalive(MOMENT).header_read_timeout(MOMENT));
    for pauses in [true, false] {
        let mut client = server.client().await;
        client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\n\r\n").await.unwrap();
        assert_eq!(client.answer().await.unwrap().body, "accepted");
        if pauses {
            both_limits_pass(&server).await;
        }
        for _ in 0..4 {
            client.send("ab").await.unwrap();
            both_limits_pass(&server).await;
        }
        assert_eq!(soon(uploads.recv()).await.unwrap().unwrap(), 8);
    }
}

#[tokio::test]
async fn an_upload_that_goes_on_after_its_response_is_finished_in_a_drain() {
    let (app, mut uploads) = early_answers();
    let server = start_app(app, |server| server.drain_idle(MOMENT).header_read_timeout(MOMENT));
    let mut http1 = server.client().await;
    http1.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 4\r\n\r\n").await.unwrap();
    assert_eq!(http1.answer().await.unwrap().body, "accepted");
    let (mut client, connection) = connect_http2(server.addr).await;
    let request = Request::post("http://test/").body(()).unwrap();
    let (response, mut http2) = client.send_request(request, false).unwrap();
    assert_eq!(soon(read_whole(response)).await.unwrap(), b"accepted");
    drop(client);

    // Longer than anybody may stay who is silent, and then for as long again.
    let mut mute = mute_http2(&server).await;
    server.drain.start();
    soon(mute.read_to_end(&mut Vec::new())).await.unwrap();
    let other = start(|server| server.keepalive(MOMENT)).await;
    let mut mute = mute_http2(&other).await;
    soon(mute.read_to_end(&mut Vec::new())).await.unwrap();
    for last in [false, true] {
        http1.send("ab").await.unwrap();
        http2.send_data("abc".into(), last).unwrap();
    }
    let mut lengths = [soon(uploads.recv()).await, soon(uploads.recv()).await]
        .map(|upload| upload.unwrap().unwrap());
    lengths.sort_unstable();
    assert_eq!(lengths, [4, 6]);
    http1.end().await.unwrap();
    soon(connection).await.unwrap().unwrap();
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn half_a_head_right_behind_a_request_is_a_request_too() {
    for draining in [false, true] {
        let server =
            start(
                |server| {
                    if draining { server.drain_idle(MOMENT) } else { server.keepalive(MOMENT) }
                },
            )
            .await;
        let mut client = server.client().await;
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\nGET / HTTP/1.1\r\n").await.unwrap();
        assert_eq!(client.answer().await.unwrap().status, 200);
        let mut idle = server.client().await;
        idle.get("/").await.unwrap();
        if draining {
            server.drain.start();
        }
        idle.end().await.unwrap();
        client.send("host: test\r\n\r\n").await.unwrap();
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn the_preface_of_http2_is_known_however_it_is_cut() {
    for draining in [false, true] {
        let server = start(|server| if draining { server } else { server.keepalive(MOMENT) }).await;
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for part in ["PRI * HT", "TP/2.0\r\n", "\r\nSM\r"] {
            stream.write_all(part.as_bytes()).await.unwrap();
            // The queue is in order: now the server has read the part.
            for _ in 0..2 {
                server.client().await.get("/").await.unwrap();
            }
        }
        stream.write_all(b"\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        if draining {
            server.client().await.get("/").await.unwrap();
            server.drain.start();
        }
        let mut read = Vec::new();
        soon(stream.read_to_end(&mut read)).await.unwrap();
        assert_eq!(count_frames(&read, PING), 1, "{read:?}");
    }
}

#[tokio::test]
async fn an_upgraded_connection_that_only_writes_is_cut() {
    let ended = Arc::new(AtomicBool::new(false));
    let pusher = Arc::clone(&ended);
    let push = |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(|mut socket| async move {
            let chunk = Message::binary(vec![0; 1 << 16]);
            while socket.send(chunk.clone()).await.is_ok() {}
            pusher.store(true, Ordering::Relaxed);
        })
    };
    let app = Router::new().route("/ws", get(push));
    let server = start_app(app, |server| server.graceful_timeout(MOMENT));
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (_reads_nothing, _) = client_async("ws://test/ws", stream).await.unwrap();
    server.drain.start();
    assert_eq!(server.drained().await.cut, 1);
    until(|| ended.load(Ordering::Relaxed)).await;
}

/// A connection that is silent, and then one that is idle, are closed.
async fn both_limits_pass(server: &Running) {
    server.client().await.end().await.unwrap();
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();
    idle.end().await.unwrap();
}
