//! The lab itself: each provocation does what its name says, or the tests that use it prove nothing.

use std::time::Instant;

use farrier_test_servers::MariaDb;
use futures_util::{SinkExt, StreamExt};
use harness::client;
use harness::process::Signal;
use harness::{eventually_async, service};
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn plain_routes_need_no_database() {
    let lab = service::lab().start();
    let address = lab.address();
    assert_eq!(client::get(address, "/plaintext").await.unwrap().text(), "Hello, World!");
    let pid: u32 = client::get(address, "/pid").await.unwrap().text().parse().unwrap();
    assert!(lab.workers().contains(&pid));
    assert_eq!(client::get(address, "/db").await.unwrap().status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn time_is_taken_and_streams_are_whole() {
    let lab = service::lab().start();
    let address = lab.address();
    for path in ["/sleep?ms=120", "/block?ms=120", "/spin?ms=120"] {
        let began = Instant::now();
        assert_eq!(client::get(address, path).await.unwrap().status, StatusCode::OK);
        assert!(began.elapsed().as_millis() >= 120, "{path}");
    }
    let stream = client::get(address, "/stream?chunks=3&ms=1").await.unwrap();
    assert_eq!(stream.text(), "chunk 0\nchunk 1\nchunk 2\n");
    assert_eq!(client::get(address, "/leak?mb=1").await.unwrap().status, StatusCode::OK);
    let panicked = client::get(address, "/panic").await.unwrap();
    assert_eq!(panicked.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn crashes_cost_the_request_and_the_worker_only() {
    let lab = service::lab().start();
    let address = lab.address();
    for path in ["/exit?code=7", "/abort"] {
        let before = lab.workers();
        client::get(address, path).await.expect_err("the worker dies with the request");
        eventually_async("it is replaced", async || {
            let now = lab.workers();
            (now.len() == 2 && now != before).then_some(())
        })
        .await;
        eventually_async("requests are served", async || client::get(address, "/pid").await.ok())
            .await;
    }
}

#[tokio::test]
async fn database_routes() {
    let url = MariaDb::shared().database("lab_routes").await;
    let lab = service::lab().env("LAB_DATABASE_URL", &url).start();
    let address = lab.address();
    let row = client::get(address, "/db").await.unwrap().json();
    assert!((1..=10_000).contains(&row["id"].as_u64().unwrap()), "{row}");
    assert!((1..=10_000).contains(&row["randomnumber"].as_u64().unwrap()), "{row}");
    let rows = client::get(address, "/queries?n=5").await.unwrap().json();
    assert_eq!(rows.as_array().map(Vec::len), Some(5));
    let session: u64 = client::get(address, "/db/session").await.unwrap().text().parse().unwrap();
    assert!(session > 0);
    let created = client::post(address, "/db/entry?status=201", "text/plain", "").await.unwrap();
    assert_eq!(created.status, StatusCode::CREATED);
    let slept = client::get(address, "/db/sleep?s=0.1").await.unwrap();
    assert_eq!(slept.status, StatusCode::OK);
}

/// The same routes on SQLite, which has no sessions to number or to keep busy.
#[tokio::test]
async fn database_routes_on_sqlite() {
    let lab = service::lab().env("LAB_DATABASE_URL", "sqlite:lab.db").start();
    let address = lab.address();
    let row = client::get(address, "/db").await.unwrap().json();
    assert!((1..=10_000).contains(&row["id"].as_u64().unwrap()), "{row}");
    let rows = client::get(address, "/queries?n=20").await.unwrap().json();
    assert_eq!(rows.as_array().map(Vec::len), Some(20));
    let refused = client::post(address, "/db/entry?status=422", "text/plain", "").await.unwrap();
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    for path in ["/db/session", "/db/sleep?s=0"] {
        let response = client::get(address, path).await.unwrap();
        assert_eq!(response.status, StatusCode::NOT_IMPLEMENTED, "{path}");
    }
}

#[tokio::test]
async fn sockets_and_events_stay_open() {
    let lab = service::lab().start();
    let url = format!("ws://{}/ws", lab.address());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("an upgrade");
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }

    let request = Request::get("/sse?ms=1").header("host", "lab").body(Full::default()).unwrap();
    let mut connection = client::Connection::open(lab.address()).await.unwrap();
    let mut events = connection.start(request).await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while !text.contains("data: 2\n\n") {
        let frame = events.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert!(text.starts_with("data: 0\n\ndata: 1\n\n"), "{text}");
}

/// A worker that drains tells those whose connections would never end by themselves.
#[tokio::test]
async fn sockets_and_events_are_told_that_the_worker_drains() {
    let mut lab = service::lab().args(["--graceful-timeout=600"]).start();
    let url = format!("ws://{}/ws", lab.address());
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("an upgrade");
    socket.send(Message::text("one")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("one"));
    socket.send(Message::Ping("are you there?".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("are you there?".into()));
    let request = Request::get("/sse?ms=1").header("host", "lab").body(Full::default()).unwrap();
    let mut connection = client::Connection::open(lab.address()).await.unwrap();
    let mut events = connection.start(request).await.unwrap();
    let mut last = events.frame().await.unwrap().unwrap().into_data().unwrap();

    lab.signal(Signal::SIGTERM);
    let close = socket.next().await.unwrap().unwrap();
    let Message::Close(Some(frame)) = close else { panic!("no reason: {close:?}") };
    assert_eq!(u16::from(frame.code), 1012, "service restart");
    while let Some(Ok(_)) = socket.next().await {}
    while let Some(frame) = events.frame().await {
        last = frame.expect("it ends as it should").into_data().unwrap();
    }
    assert!(last.ends_with(b"\n\n"), "a whole event: {last:?}");
    drop((socket, connection));
    assert_eq!(lab.wait().code(), Some(0));
    assert!(!lab.log().contains("cut"), "{}", lab.log());
}

/// A request that no layer sees is told to the launcher's hook.
#[tokio::test]
async fn refused_requests_are_told() {
    let lab = service::lab().start();
    let mut connection = TcpStream::connect(lab.address()).await.unwrap();
    connection.write_all(b"NO REQUEST AT ALL\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    eventually_async("the log tells it", async || {
        lab.log().contains("request refused").then_some(())
    })
    .await;
}

#[tokio::test]
async fn term_ends_it() {
    let mut lab = service::lab().start();
    lab.signal(Signal::SIGTERM);
    assert_eq!(lab.wait().code(), Some(0));
}
