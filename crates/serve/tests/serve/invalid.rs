//! Requests that a proxy in front may read otherwise than hyper: they are refused before any service.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::routing::post;
use bytes::Bytes;
use farrier_serve::RefusedReason::{self, InvalidFraming, InvalidHost, InvalidTarget};
use http::{Method, Uri, header};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::support::{Running, connect_http2, read_whole, soon, start_app};

/// HTTP/1 requests, why each is refused, and with which status.
const INVALID: &[(&str, RefusedReason, u16)] = &[
    // RFC 9112 section 3.2: one Host, and a valid one.
    ("GET / HTTP/1.1\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: [::1]80\r\n\r\n", InvalidHost, 400),
    ("GET / HTTP/1.1\r\nHost: []\r\n\r\n", InvalidHost, 400),
    ("GET http://a/ HTTP/1.1\r\n\r\n", InvalidHost, 400),
    // Section 3.2.4 and 3.2.3: `*` is for OPTIONS, an authority for CONNECT.
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget, 400),
    ("POST * HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget, 400),
    ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget, 400),
    ("OPTIONS a:80 HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget, 400),
    ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget, 400),
    ("CONNECT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget, 400),
    // RFC 9110 section 4.2.4.
    ("GET http://user:word@a/ HTTP/1.1\r\nHost: a\r\n\r\n", InvalidTarget, 400),
    // RFC 9112 section 6.1: how long the body is must be beyond doubt.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        InvalidFraming,
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        InvalidFraming,
        400,
    ),
    // Also behind another one, with which it came.
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        InvalidFraming,
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        InvalidFraming,
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        InvalidFraming,
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        InvalidFraming,
        501,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        InvalidFraming,
        501,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
        InvalidFraming,
        400,
    ),
];

/// HTTP/1 requests, and what the service sees: the target, the Host and the body.
const VALID: &[(&str, &str)] = &[
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "/ a "),
    ("GET / HTTP/1.1\r\nHost: a.example:8000\r\n\r\n", "/ a.example:8000 "),
    ("GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n", "/ 127.0.0.1:8000 "),
    ("GET / HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n", "/ [::1]:8000 "),
    ("GET / HTTP/1.1\r\nHost: a_b\r\n\r\n", "/ a_b "),
    ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", "/ a: "),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "/  "),
    ("GET / HTTP/1.0\r\n\r\n", "/ none "),
    ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "/ a "),
    // Section 3.2.2: the authority of the target replaces Host.
    ("GET http://b:81/c HTTP/1.1\r\nHost: a\r\n\r\n", "http://b:81/c b:81 "),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "* a "),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok", "/ a ok"),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "/ a ok",
    ),
];

fn start(tolerant: bool) -> (Running, mpsc::UnboundedReceiver<RefusedReason>, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let (tell, told) = mpsc::unbounded_channel();
    let counter = Arc::clone(&seen);
    let whole = post(async |body: Bytes| body);
    let app = Router::new().route("/whole", whole).fallback(move |request: Request| async move {
        counter.fetch_add(1, Ordering::Relaxed);
        let host = request.headers().get(header::HOST);
        let host = host.map_or("none", |host| host.to_str().unwrap()).to_owned();
        let target = request.uri().to_string();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        format!("{target} {host} {}", String::from_utf8_lossy(&body))
    });
    let server = start_app(app, |server| {
        server.tolerate_invalid_requests(tolerant).request_refused(move |refused| {
            let _ = tell.send(refused.reason);
        })
    });
    (server, told, seen)
}

#[tokio::test]
async fn invalid_requests_are_refused_and_told() {
    let (server, mut told, seen) = start(false);
    for (request, reason, status) in INVALID {
        for earlier in [0, 1] {
            let mut client = server.client().await;
            for _ in 0..earlier {
                assert_eq!(client.get("/").await.unwrap().status, 200);
            }
            let before = seen.load(Ordering::Relaxed);
            client.send(request).await.unwrap();
            let answer = client.answer().await.unwrap();
            assert_eq!(answer.status, *status, "{request:?}");
            assert!(answer.closes(), "{request:?}");
            assert_eq!(soon(told.recv()).await, Some(*reason), "{request:?}");
            client.end().await.expect("FIN, not RST");
            assert_eq!(seen.load(Ordering::Relaxed), before, "{request:?}");
        }
    }
}

#[tokio::test]
async fn valid_requests_are_served_as_they_are() {
    for tolerant in [false, true] {
        let (server, mut told, _) = start(tolerant);
        for (request, sees) in VALID {
            let mut client = server.client().await;
            client.send(request).await.unwrap();
            let answer = client.answer().await.unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, *sees), "{request:?}");
        }
        assert!(told.try_recv().is_err());
    }
}

/// Where a body ends is not clear: its request is in the service's hands, whose reading fails, and nothing behind
/// it is a request.
#[tokio::test]
async fn a_body_without_a_clear_end_is_answered_and_the_last() {
    for end in ["0\n\n", "0\r\n\n", "0\r\nA: b\n\r\n"] {
        for cut in 0..=end.len() {
            let (server, ..) = start(false);
            let mut client = server.client().await;
            let head = "POST /whole HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            client.send(&format!("{head}1\r\nx\r\n{}", &end[..cut])).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            client
                .send(&format!("{}GET / HTTP/1.1\r\nHost: a\r\n\r\n", &end[cut..]))
                .await
                .unwrap();
            assert_eq!(client.answer().await.unwrap().status, 400, "{end:?} cut at {cut}");
            client.end().await.unwrap();
        }
    }
}

/// What hyper itself takes is served then.
#[tokio::test]
async fn a_tolerant_server_serves_invalid_requests() {
    let (server, mut told, _) = start(true);
    for (request, ..) in INVALID {
        // That is an answer without an end.
        if request.starts_with("CONNECT") {
            continue;
        }
        let mut client = server.client().await;
        client.send(request).await.unwrap();
        assert_eq!(client.answer().await.unwrap().status, 200, "{request:?}");
    }
    assert!(told.try_recv().is_err());
}

/// RFC 9113 section 8.3.1: Host says what `:authority` says, and `*` is for OPTIONS there too.
#[tokio::test]
async fn an_invalid_http2_request_costs_its_stream_only() {
    let (server, mut told, _) = start(false);
    let (mut client, _connection) = connect_http2(server.addr).await;
    let get = |uri: &'static str| http::Request::get(Uri::from_static(uri));
    let invalid = [
        (get("http://a/").header("host", "b").body(()).unwrap(), InvalidHost),
        (get("http://a/").header("host", "a").header("host", "a").body(()).unwrap(), InvalidHost),
        (get("http://user@a/").body(()).unwrap(), InvalidTarget),
    ];
    for (request, reason) in invalid {
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(soon(response).await.unwrap().status(), 400);
        assert_eq!(soon(told.recv()).await, Some(reason));
    }
    for request in [
        get("http://a/").header("host", "a").body(()).unwrap(),
        get("http://a/").body(()).unwrap(),
        http::Request::builder().method(Method::OPTIONS).uri("http://a/").body(()).unwrap(),
    ] {
        let (response, _) = client.send_request(request, true).unwrap();
        assert!(soon(read_whole(response)).await.unwrap().starts_with(b"http://a/"));
    }
    assert!(told.try_recv().is_err());
}
