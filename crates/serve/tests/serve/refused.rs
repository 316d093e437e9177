//! Requests that no service sees, and who is told of them.

use std::time::Duration;

use axum::Router;
use farrier_serve::{Refused, RefusedReason};
use http::Request;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::support::{Client, Running, connect_http2, read_whole, soon, start};

const MOMENT: Duration = Duration::from_millis(150);

/// A server, and what it refuses.
async fn start_noting(
    set: impl FnOnce(farrier_serve::Server<Router>) -> farrier_serve::Server<Router>,
) -> (Running, UnboundedReceiver<Refused>) {
    let (send, receive) = mpsc::unbounded_channel();
    let server = start(|server| {
        set(server).request_refused(move |refused| {
            let _ = send.send(refused.clone());
        })
    });
    (server.await, receive)
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_the_status_that_its_client_saw() {
    let (server, mut refused) = start_noting(|server| server).await;
    let long = "x".repeat(70_000);
    let cases = [
        ("no request at all\r\n\r\n".to_owned(), RefusedReason::Malformed, 400),
        ("GET / HTTP/3.0\r\n\r\n".to_owned(), RefusedReason::Malformed, 400),
        ("GET / HTTP/1.1\r\nbad header: x\r\n\r\n".to_owned(), RefusedReason::Malformed, 400),
        (
            "POST / HTTP/1.1\r\ncontent-length: five\r\n\r\n".to_owned(),
            RefusedReason::Malformed,
            400,
        ),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), RefusedReason::UriTooLong, 414),
        (
            format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200)),
            RefusedReason::HeadTooLarge,
            431,
        ),
        (
            format!("GET / HTTP/1.1\r\n{}", format!("a: {long}\r\n").repeat(8)),
            RefusedReason::HeadTooLarge,
            431,
        ),
    ];
    for (request, reason, status) in cases {
        for earlier_requests in [0, 1] {
            let stream = TcpStream::connect(server.addr).await.unwrap();
            let peer = stream.local_addr().unwrap();
            let mut client = Client::new(stream);
            for _ in 0..earlier_requests {
                assert_eq!(client.get("/").await.unwrap().status, 200);
            }
            client.send(&request).await.unwrap();
            assert_eq!(client.answer().await.unwrap().status, status, "{reason}");
            drop(client);
            let refused = soon(refused.recv()).await.unwrap();
            assert_eq!(refused.reason, reason);
            assert_eq!(refused.status.unwrap().as_u16(), status, "{reason}");
            assert_eq!(refused.peer.addr(), Some(peer));
            assert!(!refused.detail.is_empty());
        }
    }
    assert!(refused.try_recv().is_err(), "told once of each");
}

#[tokio::test]
async fn a_head_that_comes_too_slowly_is_refused_without_a_status() {
    let (server, mut refused) =
        start_noting(|server| server.header_read_timeout(MOMENT).keepalive(MOMENT)).await;
    for earlier_requests in [0, 1] {
        let mut slow = server.client().await;
        for _ in 0..earlier_requests {
            slow.get("/").await.unwrap();
        }
        slow.send("GET / HTTP/1.1\r\nhost: ").await.unwrap();
        slow.end().await.unwrap();
        let refused = soon(refused.recv()).await.unwrap();
        assert_eq!((refused.reason, refused.status), (RefusedReason::HeaderReadTimeout, None));
    }
}

#[tokio::test]
async fn a_client_that_goes_on_after_it_was_refused_is_not_a_slow_one() {
    let (server, mut refused) = start_noting(|server| server.header_read_timeout(MOMENT)).await;
    let mut client = server.client().await;
    client.send("nonsense\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 400);
    for _ in 0..3 {
        client.send("more\r\n").await.unwrap();
        // The limit for heads passes.
        server.client().await.end().await.unwrap();
    }
    drop(client);
    assert_eq!(soon(refused.recv()).await.unwrap().reason, RefusedReason::Malformed);
}

#[tokio::test]
async fn nothing_else_is_a_refused_request() {
    let (server, mut refused) = start_noting(|server| {
        server.header_read_timeout(MOMENT).keepalive(MOMENT).drain_idle(MOMENT)
    })
    .await;
    // A client that says nothing, one that is idle, one that leaves within a head, a panic, and HTTP/2.
    server.client().await.end().await.unwrap();
    let mut idle = server.client().await;
    idle.get("/").await.unwrap();
    idle.end().await.unwrap();
    server.client().await.send("GET / HTT").await.unwrap();
    server.client().await.get("/panic").await.unwrap_err();
    let (mut client, connection) = connect_http2(server.addr).await;
    let request = Request::get("http://test/").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    soon(read_whole(response)).await.unwrap();
    soon(connection).await.unwrap().unwrap();

    server.drain.start();
    assert_eq!(server.drained().await.cut, 0);
    assert_eq!(refused.recv().await, None, "the hook is dropped with the server");
}

#[tokio::test]
async fn a_panic_in_the_hook_costs_nothing() {
    let server = start(|server| server.request_refused(|_| panic!("expected in this test"))).await;
    for _ in 0..2 {
        let mut client = server.client().await;
        client.send("nonsense\r\n\r\n").await.unwrap();
        assert_eq!(client.answer().await.unwrap().status, 400);
        client.end().await.unwrap();
    }
    server.drain.start();
    assert_eq!(server.drained().await.cut, 0);
}
