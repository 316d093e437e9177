//! What is served, and what a failing service costs.

use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use farrier_serve::{ConnectionEvent, Drain, Listener, Peer, Server};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_tungstenite::client_async;

use crate::support::{
    Client, LARGE, NEVER, connect_http2, early_answers, soon, start, start_app, start_on,
};

#[tokio::test]
async fn a_router_fits_as_it_is_and_learns_its_peer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, unix) = (tcp.local_addr().unwrap(), UnixListener::bind(&path).unwrap());
    let app = Router::new()
        .route("/", get(|Extension(peer): Extension<Peer>| async move { peer.to_string() }));
    let drain = Drain::new();
    let server = Server::new([Listener::from(tcp), Listener::from(unix)], app);
    let server = tokio::spawn(server.serve(drain.clone()));

    let stream = TcpStream::connect(addr).await.unwrap();
    let own_addr = stream.local_addr().unwrap();
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let response = soon(send.send_request(request)).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, own_addr.to_string());

    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nunix"), "{answer}");

    drop(send);
    drain.start();
    assert_eq!(soon(server).await.unwrap().cut, 0);
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served() {
    let server = start(|server| server).await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut send, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://test/").body(Empty::<Bytes>::new()).unwrap();
    let response = soon(send.send_request(request)).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "only");
}

#[tokio::test]
async fn a_panic_costs_its_own_connection_only() {
    let server = start(|server| server).await;
    let mut other = server.client().await;
    other.get("/").await.unwrap();

    let mut client = server.client().await;
    client.get("/panic").await.unwrap_err();

    assert_eq!(other.get("/").await.unwrap().status, 200);
    assert_eq!(server.client().await.get("/").await.unwrap().status, 200);
    drop((client, other));
    server.drain.start();
    assert_eq!(server.drained().await.cut, 0);
}

#[tokio::test]
async fn a_panic_on_http2_costs_its_own_stream_only() {
    let server = start(|server| server).await;
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut send, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let get = |path: &str| {
        Request::get(format!("http://test{path}")).body(Empty::<Bytes>::new()).unwrap()
    };
    soon(send.send_request(get("/panic"))).await.unwrap_err();
    assert_eq!(soon(send.send_request(get("/"))).await.unwrap().status(), 200);
}

#[tokio::test]
async fn dropping_the_server_cuts_its_connections() {
    let server = start(|server| server).await;
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();
    server.abort();
    idle.end().await.unwrap();
    soon(async { while TcpStream::connect(server.addr).await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_server_without_clients_stops_at_once() {
    let server = start(|server| server).await;
    let addr = server.addr;
    server.drain.start();
    assert_eq!(server.drained().await.cut, 0);
    TcpStream::connect(addr).await.unwrap_err();
}

#[tokio::test]
async fn a_client_may_pipeline() {
    let server = start(|server| server).await;
    let mut client = Client::connect(server.addr).await;
    let request = "GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    client.send(&request.repeat(3)).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.answer().await.unwrap().body, "only");
    }
}

/// As `printf … | nc` does: its request is the last thing that it has to say.
#[tokio::test]
async fn a_client_that_closes_its_sending_half_gets_its_answer() {
    let server = start(|server| server).await;
    for _ in 0..20 {
        let mut client = server.client().await;
        client.request("/").await.unwrap();
        client.close_sending_half().await;
        assert_eq!(client.answer().await.expect("an answer").body, "only");
        client.end().await.unwrap();
    }
    let server = start(|server| server.half_close_timeout(NEVER)).await;
    let mut client = server.client().await;
    client.request("/gate").await.unwrap();
    server.gate.arrived(1).await;
    client.close_sending_half().await;
    server.client().await.get("/").await.unwrap();
    server.gate.open();
    assert_eq!(client.answer().await.expect("an answer").body, "passed");
    client.end().await.unwrap();
    server.drain.start();
    assert_eq!(server.drained().await.cut, 0);
}

/// It cannot be told from one that left, whose handler must not go on for long.
#[tokio::test]
async fn a_client_that_closes_its_sending_half_is_not_waited_for_long() {
    for timeout in [None, Some(Duration::ZERO)] {
        let set = |server: Server<Router>| match timeout {
            Some(timeout) => server.half_close_timeout(timeout),
            None => server,
        };
        let server = start(set).await;
        let mut client = server.client().await;
        client.request("/gate").await.unwrap();
        server.gate.arrived(1).await;
        client.close_sending_half().await;
        client.end().await.unwrap();
        server.drain.start();
        assert_eq!(server.drained().await.cut, 0);
    }
}

/// A reset says that nobody is there, also behind the end.
#[tokio::test]
async fn a_client_that_resets_its_connection_has_left() {
    for half_closed in [false, true] {
        let server = start(|server| server.half_close_timeout(NEVER)).await;
        let mut client = server.client().await;
        client.request("/gate").await.unwrap();
        server.gate.arrived(1).await;
        if half_closed {
            client.close_sending_half().await;
            server.client().await.get("/").await.unwrap();
        }
        client.reset();
        server.drain.start();
        assert_eq!(server.drained().await.cut, 0);
    }
}

/// Nobody can wait for the rest of a body.
#[tokio::test]
async fn a_client_that_leaves_in_the_midst_of_its_upload_is_not_waited_for() {
    let (app, mut uploads) = early_answers();
    let server = start_app(app, |server| server.half_close_timeout(NEVER));
    let mut client = server.client().await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    client.close_sending_half().await;
    soon(uploads.recv()).await.unwrap().unwrap_err();
}

/// Who reads slowly is there.
#[tokio::test]
async fn a_client_that_has_closed_its_sending_half_may_read_slowly() {
    let server = start(|server| server).await;
    let mut client = server.client().await;
    client.request("/large").await.unwrap();
    client.close_sending_half().await;
    // Longer than it may take to answer.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(client.answer().await.unwrap().body.len(), LARGE);
    client.end().await.unwrap();
}

/// Another process that shares the listener has shut it down: what is in flight goes on, and the drain ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_shut_down_from_outside_is_left_alone() {
    for draining in [false, true] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = start_on(&listener, "only", |server| server.max_connections(2));
        let mut client = server.client().await;
        assert_eq!(client.get("/").await.unwrap().status, 200);
        let mut in_flight = server.client().await;
        in_flight.request("/gate").await.unwrap();
        server.gate.arrived(1).await;
        if draining {
            server.drain.start();
        }
        socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(client.get("/").await.unwrap().status, 200);
        server.gate.open();
        assert_eq!(in_flight.answer().await.unwrap().body, "passed");
        server.drain.start();
        drop((client, in_flight));
        assert_eq!(server.drained().await.cut, 0);
    }
}

/// Each connection is told of when it opens and closes, whoever has it then, and each request on it.
#[tokio::test]
async fn connections_and_requests_are_told_of() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let hook = move |event: &ConnectionEvent| {
        // The test may be over.
        let _ = tell.send(*event);
        panic!("is caught");
    };
    let server = start(|server| server.on_connection(hook)).await;
    let mut client = server.client().await;
    client.get("/").await.unwrap();
    assert_eq!(told.recv().await, Some(ConnectionEvent::Opened));
    assert_eq!(told.recv().await, Some(ConnectionEvent::Request));
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (socket, _) = client_async("ws://test/ws", stream).await.unwrap();
    assert_eq!(told.recv().await, Some(ConnectionEvent::Opened));
    assert_eq!(told.recv().await, Some(ConnectionEvent::Request));
    client.get("/").await.unwrap();
    assert_eq!(told.recv().await, Some(ConnectionEvent::Request));
    client.request("/ HTTP/9.9\r\n").await.unwrap();
    drop(socket);
    assert_eq!(told.recv().await, Some(ConnectionEvent::Closed));
    drop(client);
    assert_eq!(told.recv().await, Some(ConnectionEvent::Closed));
}

/// Who asks for keep-alive learns by the close where a body of unknown length ends.
#[tokio::test]
async fn an_http_1_0_response_of_unknown_length_does_not_promise_keep_alive() {
    let server = start(|server| server).await;
    for (path, kept) in [("/", true), ("/unknown", false)] {
        let mut client = server.client().await;
        client
            .send(&format!("GET {path} HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"))
            .await
            .unwrap();
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.closes(), !kept, "{path}: {}", answer.head);
        assert_eq!(answer.head.contains("keep-alive"), kept, "{path}: {}", answer.head);
        if kept {
            assert_eq!(client.get("/").await.unwrap().status, 200);
        }
    }
}

/// An interim status is no answer (RFC 9110 section 15.2).
#[tokio::test]
async fn a_handlers_interim_status_is_a_server_error() {
    let server = start(|server| server).await;
    let mut client = server.client().await;
    let answer = client.get("/continue").await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (500, ""));
    assert_eq!(client.get("/").await.unwrap().status, 200, "and costs no connection");

    let (mut client, _connection) = connect_http2(server.addr).await;
    let request = Request::get("http://test/continue").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 500);
}
