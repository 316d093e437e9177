//! Clients that leave, and sockets that go on as something else.

use axum::http::Version;
use farrier_exchange::Outcome;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::Record;
use crate::support::{self, Place};

const PLACES: [Place; 3] = [Place::RouterLayer, Place::RouteLayer, Place::AroundRouter];

/// The request has reached the service.
async fn begun(record: &Record) {
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    while record.begun() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the request never came");
        tokio::task::yield_now().await;
    }
}

/// Before the head: the handler is still at work.
#[tokio::test]
async fn before_the_head() {
    for place in PLACES {
        let record = Record::default();
        let address = support::serve_placed(support::app(), record.clone(), place).await;
        let socket = support::begin(address, "/never", "").await;
        begun(&record).await;
        drop(socket);
        let end = record.only_end().await;
        assert_eq!((end.outcome, end.status), (Outcome::Aborted, None), "{place:?}");
        assert_eq!(end.time_to_head, None);
    }
}

/// In the middle of an endless stream.
#[tokio::test]
async fn in_mid_stream() {
    for place in PLACES {
        let record = Record::default();
        let address = support::serve_placed(support::app(), record.clone(), place).await;
        let socket = support::begin(address, "/endless", "data: tick").await;
        assert_eq!(record.ended(), 0, "the stream is open");
        drop(socket);
        let end = record.only_end().await;
        assert_eq!(end.outcome, Outcome::Aborted, "{place:?}");
        assert!(end.bytes >= 12 && end.bytes % 12 == 0, "whole events: {end:?}");
    }
}

/// While the body has nothing to send: the server notices by the closed socket alone.
#[tokio::test]
async fn while_the_stream_stalls() {
    for place in PLACES {
        let record = Record::default();
        let address = support::serve_placed(support::app(), record.clone(), place).await;
        drop(support::begin(address, "/stalls", "abc").await);
        let end = record.only_end().await;
        assert_eq!((end.outcome, end.bytes), (Outcome::Aborted, 3), "{place:?}");
    }
}

/// Over HTTP/2 only the stream ends; its neighbour on the same connection does not notice.
#[tokio::test]
async fn one_of_two_streams() {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    for place in PLACES {
        let record = Record::default();
        let address = support::serve_placed(support::app(), record.clone(), place).await;
        let socket = TcpStream::connect(address).await.expect("the server listens");
        let (client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
                .await
                .expect("a handshake");
        tokio::spawn(connection);
        let get = |path: &str| {
            let mut client = client.clone();
            let request = hyper::Request::get(format!("http://test{path}"));
            let request = request.body(Body::empty()).expect("a request");
            async move { client.send_request(request).await.expect("a response") }
        };
        let mut leaving = get("/endless").await.into_body();
        let mut staying = get("/endless").await.into_body();
        leaving.frame().await.expect("a frame").expect("data");
        drop(leaving);
        while record.ended() == 0 {
            staying.frame().await.expect("a frame").expect("data");
        }
        staying.frame().await.expect("a frame").expect("data");
        drop(staying);
        let ends = record.ends(2).await;
        assert!(ends.iter().all(|end| end.outcome == Outcome::Aborted), "{place:?}: {ends:?}");
    }
}

/// A client that shuts its sending side while the handler works: to hyper that is leaving.
#[tokio::test]
async fn half_close() {
    for place in PLACES {
        let record = Record::default();
        let address = support::serve_placed(support::app(), record.clone(), place).await;
        let mut socket = support::begin(address, "/never", "").await;
        begun(&record).await;
        socket.shutdown().await.expect("open");
        assert_eq!(record.only_end().await.outcome, Outcome::Aborted, "{place:?}");
    }
}

/// The exchange is over at the 101; the socket lives on and nothing is counted for it.
#[tokio::test]
async fn upgrade() {
    let request = "GET /websocket HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    for place in PLACES {
        let record = Record::default();
        let address = support::serve_placed(support::app(), record.clone(), place).await;
        let mut socket = TcpStream::connect(address).await.expect("the server listens");
        socket.write_all(request.as_bytes()).await.expect("the server reads");
        let head = support::read_until(&mut socket, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let end = record.only_end().await;
        let seen = (end.outcome, end.status.map(|status| status.as_u16()), end.bytes);
        assert_eq!(seen, (Outcome::Finished, Some(101), 0), "{place:?}");
        // A masked text frame "hi" and its echo: the socket is alive after the end.
        socket.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.expect("open");
        support::read_until(&mut socket, "hi").await;
        drop(socket);
        // While others come and go the server notices that it is gone.
        for _ in 0..20 {
            support::raw(address, &support::request("GET", "/full", Version::HTTP_11)).await;
        }
        // Counts what began, too.
        record.ends(20).await;
    }
}

/// A request that the server refuses itself never reaches a layer.
#[tokio::test]
async fn refused_by_the_server() {
    let record = Record::default();
    let address = support::serve(support::app().layer(record.clone())).await;
    let wire = support::raw(address, "GET / HTTP/9.9\r\n\r\n").await;
    assert!(!wire.contains(" 200 "), "{wire}");
    let full = support::request("GET", "/full", Version::HTTP_11);
    support::raw(address, &full).await;
    assert_eq!(record.only_end().await.bytes, 5, "only the second was seen");
}
