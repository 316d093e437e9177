//! Layers of other crates, outside and inside.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode, Version};
use axum::routing::get;
use farrier_exchange::{End, Outcome};
use futures_util::StreamExt;
use tower::{ServiceBuilder, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::timeout::TimeoutLayer;

use crate::Record;
use crate::support;

/// Asks for `path` over HTTP/1.1; what came back.
async fn get_raw(router: Router, path: &str) -> String {
    let address = support::serve(router).await;
    support::raw(address, &support::request("GET", path, Version::HTTP_11)).await
}

fn facts(end: End) -> (Outcome, Option<u16>, u64) {
    (end.outcome, end.status.map(|status| status.as_u16()), end.bytes)
}

/// The panic is caught outside, where the thread no longer unwinds when the future is dropped.
#[tokio::test]
async fn catch_panic_outside() {
    let record = Record::default();
    let stack = ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(record.clone());
    let wire = get_raw(support::app().layer(stack), "/panic").await;
    assert!(wire.starts_with("HTTP/1.1 500"), "{wire}");
    assert_eq!(facts(record.only_end().await), (Outcome::Panicked, None, 0));
}

/// The panic is caught inside: a 500 like any other.
#[tokio::test]
async fn catch_panic_inside() {
    let record = Record::default();
    let stack = ServiceBuilder::new().layer(record.clone()).layer(CatchPanicLayer::new());
    let wire = get_raw(support::app().layer(stack), "/panic").await;
    assert!(wire.starts_with("HTTP/1.1 500"), "{wire}");
    let (outcome, status, bytes) = facts(record.only_end().await);
    assert_eq!((outcome, status), (Outcome::Finished, Some(500)));
    assert!(bytes > 0);
}

/// `CatchPanicLayer` does not see a panic of the body; the exchange does.
#[tokio::test]
async fn catch_panic_and_a_body_that_panics() {
    for outside in [true, false] {
        let record = Record::default();
        let app = support::app();
        let app = if outside {
            app.layer(record.clone()).layer(CatchPanicLayer::new())
        } else {
            app.layer(CatchPanicLayer::new()).layer(record.clone())
        };
        get_raw(app, "/panic-in-body").await;
        let end = facts(record.only_end().await);
        assert_eq!(end, (Outcome::Panicked, Some(200), 3), "outside: {outside}");
    }
}

/// A timeout outside looks like a client that left; one inside is an answer.
#[tokio::test]
async fn timeout() {
    let timeout =
        || TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(10));
    for (outside, expected) in
        [(true, (Outcome::Aborted, None, 0)), (false, (Outcome::Finished, Some(408), 0))]
    {
        let record = Record::default();
        let app = support::app();
        let app = if outside {
            app.layer(record.clone()).layer(timeout())
        } else {
            app.layer(timeout()).layer(record.clone())
        };
        let wire = get_raw(app, "/never").await;
        assert!(wire.starts_with("HTTP/1.1 408"), "{wire}");
        assert_eq!(facts(record.only_end().await), expected, "outside: {outside}");
    }
}

/// Outside the layer the compressor polls again after the end (tower-http #732), which an `unfold`
/// answers with a panic and the fused body with `None`; inside it, the app's stream must be fused.
#[tokio::test]
async fn compression() {
    let unfold = || {
        let chunk =
            |n: u32| async move { (n < 20).then(|| (Ok::<_, Infallible>("0123456789"), n + 1)) };
        futures_util::stream::unfold(0, chunk)
    };
    let request = "GET /long HTTP/1.1\r\nhost: test\r\naccept-encoding: gzip\r\n\
        connection: close\r\n\r\n";
    for outside in [true, false] {
        let record = Record::default();
        let app = if outside {
            Router::new()
                .route("/long", get(async move || Body::from_stream(unfold())))
                .layer(record.clone())
                .layer(CompressionLayer::new())
        } else {
            Router::new()
                .route("/long", get(async move || Body::from_stream(unfold().fuse())))
                .layer(CompressionLayer::new())
                .layer(record.clone())
        };
        let address = support::serve(app).await;
        let wire = support::raw(address, request).await;
        assert!(wire.contains("content-encoding: gzip"), "{wire}");
        assert!(wire.ends_with("\r\n0\r\n\r\n"), "the response is complete: {wire:?}");
        let (outcome, status, bytes) = facts(record.only_end().await);
        assert_eq!((outcome, status), (Outcome::Finished, Some(200)), "outside: {outside}");
        assert_eq!(bytes == 200, outside, "bytes are those that pass here: {bytes}");
    }
}

/// A service that fails instead of answering: plain hyper closes the connection.
#[tokio::test]
async fn service_fails() {
    let record = Record::default();
    let service = ServiceBuilder::new().layer(record.clone()).service(service_fn(
        |_: hyper::Request<hyper::body::Incoming>| async {
            Err::<Response<Body>, _>(std::io::Error::other("no database"))
        },
    ));
    let address = support::serve(service).await;
    let wire = support::raw(address, &support::request("GET", "/", Version::HTTP_11)).await;
    assert_eq!(wire, "");
    assert_eq!(facts(record.only_end().await), (Outcome::ServiceFailed, None, 0));
}

/// Two layers: two ends for one request, the inner first.
#[tokio::test]
async fn nested() {
    let (outer, inner) = (Record::default(), Record::default());
    let app = support::app().layer(inner.clone()).layer(outer.clone());
    get_raw(app, "/stream").await;
    let (outer, inner) = (outer.only_end().await, inner.only_end().await);
    assert_eq!(facts(outer), (Outcome::Finished, Some(200), 9));
    assert_eq!(facts(inner), facts(outer));
    assert!(inner.total <= outer.total);
}
