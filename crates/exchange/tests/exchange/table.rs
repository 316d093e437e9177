//! The table of ends in the crate's docs: responses that end by themselves.

use axum::http::Version;
use farrier_exchange::Outcome;

use crate::Record;
use crate::support::{self, CASES, Case, Place};

const PLACES: [Place; 3] = [Place::RouterLayer, Place::RouteLayer, Place::AroundRouter];

/// What the layer must have seen of a case; a `route_layer` sees no fallback.
async fn check(record: &Record, case: &Case, version: Version, place: Place) {
    let context = format!("{version:?} {place:?} {case:?}");
    if place == Place::RouteLayer && case.path == "/missing" {
        assert_eq!(record.ended(), 0, "{context}");
        return;
    }
    let end = record.only_end().await;
    let (outcome, bytes) = case.ending(version);
    let seen = (end.outcome, end.status.map(|status| status.as_u16()), end.bytes);
    assert_eq!(seen, (outcome, case.status, bytes), "{context}");
    assert_eq!(end.time_to_head.is_some(), case.status.is_some(), "{context}");
    assert!(end.time_to_head <= Some(end.total), "{context}");
}

/// Every case over HTTP/1.1 and HTTP/1.0: the right end, and the wire byte for byte as without the layer.
async fn over_h1(version: Version) {
    let bare = support::serve_placed(support::app(), Record::default(), Place::Bare).await;
    for place in PLACES {
        let record = Record::default();
        let layered = support::serve_placed(support::app(), record.clone(), place).await;
        for case in CASES {
            let request = support::request(case.method, case.path, version);
            let wire = support::raw(layered, &request).await;
            check(&record, case, version, place).await;
            let bare = support::raw(bare, &request).await;
            assert_eq!(wire, bare, "{version:?} {place:?} {case:?}");
        }
    }
}

/// Over HTTP/1.1.
#[tokio::test]
async fn http_11() {
    over_h1(Version::HTTP_11).await;
}

/// Over HTTP/1.0, where a stream of unknown length ends with the connection.
#[tokio::test]
async fn http_10() {
    over_h1(Version::HTTP_10).await;
}

/// Over HTTP/2.
#[tokio::test]
async fn http_2() {
    let bare = support::serve_placed(support::app(), Record::default(), Place::Bare).await;
    for place in PLACES {
        let record = Record::default();
        let layered = support::serve_placed(support::app(), record.clone(), place).await;
        for case in CASES {
            let wire = support::over_h2(layered, case.method, case.path).await;
            check(&record, case, Version::HTTP_2, place).await;
            let bare = support::over_h2(bare, case.method, case.path).await;
            assert_eq!(wire, bare, "{place:?} {case:?}");
        }
    }
}

/// Three requests in one write: three exchanges, in order, one after the other.
#[tokio::test]
async fn pipelined() {
    let bare = support::serve(support::app()).await;
    for place in PLACES {
        let record = Record::default();
        let layered = support::serve_placed(support::app(), record.clone(), place).await;
        let requests = "GET /full HTTP/1.1\r\nhost: test\r\n\r\n\
            HEAD /stream HTTP/1.1\r\nhost: test\r\n\r\n\
            GET /stream HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        let wire = support::raw(layered, requests).await;
        let ends = record.ends(3).await;
        let bytes: Vec<_> = ends.iter().map(|end| (end.outcome, end.bytes)).collect();
        let finished = Outcome::Finished;
        assert_eq!(bytes, [(finished, 5), (finished, 0), (finished, 9)], "{place:?}");
        assert_eq!(wire, support::raw(bare, requests).await, "{place:?}");
    }
}

/// HTTP/1.0 that asks for keep-alive gets it, and each request on the connection is an exchange.
#[tokio::test]
async fn http_10_keep_alive() {
    let record = Record::default();
    let bare = support::serve(support::app()).await;
    let layered = support::serve(support::app().layer(record.clone())).await;
    let requests = "GET /full HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n\
        GET /full HTTP/1.0\r\nhost: test\r\n\r\n";
    let wire = support::raw(layered, requests).await;
    assert_eq!(wire.matches("hello").count(), 2, "{wire}");
    assert!(record.ends(2).await.iter().all(|end| end.outcome == Outcome::Finished));
    assert_eq!(wire, support::raw(bare, requests).await);
}

/// The interim 100 is hyper's own and no response of the exchange.
#[tokio::test]
async fn expect_100_continue() {
    let bare = support::serve(support::app()).await;
    for place in PLACES {
        let record = Record::default();
        let layered = support::serve_placed(support::app(), record.clone(), place).await;
        let request = "POST /echo HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\n\
            connection: close\r\ncontent-length: 4\r\n\r\nbody";
        let wire = support::raw(layered, request).await;
        assert!(wire.starts_with("HTTP/1.1 100 Continue\r\n"), "{wire}");
        let end = record.only_end().await;
        assert_eq!((end.outcome, end.bytes), (Outcome::Finished, 4), "{place:?}");
        assert_eq!(wire, support::raw(bare, request).await, "{place:?}");
    }
}
