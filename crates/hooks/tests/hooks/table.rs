//! Every way in which a response ends by itself, seen by hooks.

use axum::Router;
use axum::http::{Response, StatusCode, Version};
use farrier_hooks::{Outcome, from_async_hook};
use tokio::io::AsyncWriteExt;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::{self, CASES, Case, Place};
use crate::{Post, Record};

const PLACES: [Place; 3] = [Place::RouterLayer, Place::RouteLayer, Place::AroundRouter];
const VERSIONS: [Version; 3] = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2];

async fn ask(address: std::net::SocketAddr, case: &Case, version: Version) -> String {
    if version == Version::HTTP_2 {
        return support::over_h2(address, case.method, case.path).await;
    }
    support::raw(address, &support::request(case.method, case.path, version)).await
}

fn check(post: &Post, case: &Case, version: Version, place: Place) {
    let context = format!("{version:?} {place:?} {case:?}");
    assert_eq!((post.end.outcome, post.end.bytes), case.ending(version), "{context}");
    assert_eq!(post.end.status.map(|status| status.as_u16()), case.status, "{context}");
    assert_eq!(post.head, post.end.status, "{context}: on_response saw the head");
    assert_eq!(post.request, format!("{} {}", case.method, case.path), "{context}");
    let routed = place != Place::AroundRouter && case.path != "/missing";
    let matched = routed.then_some(case.path);
    assert_eq!(post.matched_path.as_deref(), matched, "{context}");
}

/// Every case, place and version: one pre, one post, and the wire byte for byte as without the layer.
#[tokio::test]
async fn every_end() {
    let bare = support::serve(support::app()).await;
    for place in PLACES {
        let record = Record::default();
        let layered = support::serve_placed(support::app(), record.layer(), place).await;
        for version in VERSIONS {
            for case in CASES {
                let wire = ask(layered, case, version).await;
                if place == Place::RouteLayer && case.path == "/missing" {
                    assert_eq!(record.pres(), 0, "no route, no hook");
                } else {
                    check(&record.only_post().await, case, version, place);
                }
                assert_eq!(wire, ask(bare, case, version).await, "{version:?} {place:?} {case:?}");
            }
        }
    }
}

/// The same with a pre that waits.
#[tokio::test]
async fn every_end_async() {
    let bare = support::serve(support::app()).await;
    for place in PLACES {
        let record = Record::default();
        let layer = from_async_hook(record.clone());
        let layered = support::serve_placed(support::app(), layer, place).await;
        for version in VERSIONS {
            for case in CASES {
                let wire = ask(layered, case, version).await;
                if place != Place::RouteLayer || case.path != "/missing" {
                    check(&record.only_post().await, case, version, place);
                }
                assert_eq!(wire, ask(bare, case, version).await, "{version:?} {place:?} {case:?}");
            }
        }
    }
}

/// The client leaves before the head, in mid-stream, and while the stream stalls.
#[tokio::test]
async fn clients_that_leave() {
    for place in PLACES {
        let record = Record::default();
        let address = support::serve_placed(support::app(), record.layer(), place).await;
        for (path, until, status) in [
            ("/never", "", None),
            ("/endless", "data: tick", Some(StatusCode::OK)),
            ("/stalls", "abc", Some(StatusCode::OK)),
        ] {
            let socket = support::begin(address, path, until).await;
            let deadline = tokio::time::Instant::now() + support::DEADLINE;
            while record.pres() == 0 {
                assert!(tokio::time::Instant::now() < deadline, "the request never came");
                tokio::task::yield_now().await;
            }
            drop(socket);
            let post = record.only_post().await;
            assert_eq!((post.end.outcome, post.end.status), (Outcome::Aborted, status), "{path}");
        }
    }
}

/// The request is over at the 101, not when the socket closes.
#[tokio::test]
async fn upgrade() {
    let record = Record::default();
    let address = support::serve(support::app().layer(record.layer())).await;
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("the server listens");
    let request = "GET /websocket HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("the server reads");
    support::read_until(&mut socket, "\r\n\r\n").await;
    let post = record.only_post().await;
    assert_eq!(post.head, Some(StatusCode::SWITCHING_PROTOCOLS));
    assert_eq!((post.end.outcome, post.end.status), (Outcome::Finished, post.head));
}

/// A panic that is caught outside the hook is a panic, one that is caught inside is a 500.
#[tokio::test]
async fn catch_panic() {
    let record = Record::default();
    let request = support::request("GET", "/panic", Version::HTTP_11);

    let outside = ServiceBuilder::new().layer(CatchPanicLayer::new()).layer(record.layer());
    let wire = support::raw(support::serve(support::app().layer(outside)).await, &request).await;
    assert!(wire.starts_with("HTTP/1.1 500"), "{wire}");
    let end = record.only_post().await.end;
    assert_eq!((end.outcome, end.status), (Outcome::Panicked, None));

    let inside = ServiceBuilder::new().layer(record.layer()).layer(CatchPanicLayer::new());
    let wire = support::raw(support::serve(support::app().layer(inside)).await, &request).await;
    assert!(wire.starts_with("HTTP/1.1 500"), "{wire}");
    let end = record.only_post().await.end;
    assert_eq!(end.status, Some(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(end.outcome, Outcome::Finished);
}

/// Plain hyper, no axum: a service that answers, and one that fails.
#[tokio::test]
async fn plain_hyper() {
    let record = Record::default();
    let service = ServiceBuilder::new().layer(record.layer()).service(tower::service_fn(
        async |request: hyper::Request<hyper::body::Incoming>| match request.uri().path() {
            "/" => Ok(Response::new(axum::body::Body::from("hello"))),
            _ => Err(std::io::Error::other("no such thing")),
        },
    ));
    let address = support::serve(service).await;
    support::raw(address, &support::request("GET", "/", Version::HTTP_11)).await;
    let end = record.only_post().await.end;
    assert_eq!((end.outcome, end.bytes), (Outcome::Finished, 5));
    support::raw(address, &support::request("GET", "/else", Version::HTTP_11)).await;
    assert_eq!(record.only_post().await.end.outcome, Outcome::ServiceFailed);
}

/// What inner layers make of the URI does not change what post sees; a fallback has no route.
#[tokio::test]
async fn request_as_it_was() {
    let record = Record::default();
    let app = Router::new().nest("/api/{version}", support::app()).layer(record.layer());
    let address = support::serve(app).await;
    let request = support::request("GET", "/api/1/full", Version::HTTP_11);
    support::raw(address, &request).await;
    let post = record.only_post().await;
    assert_eq!(post.request, "GET /api/1/full");
    assert_eq!(post.matched_path.as_deref(), Some("/api/{version}/full"));
    assert_eq!(post.context, 1);
}
