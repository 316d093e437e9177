//! An app whose responses end in every way, a server for it on a loopback socket, and clients that see the bytes.

#![forbid(unsafe_code)]
#![expect(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::missing_panics_doc,
    reason = "for tests of this repository, whose failures are panics"
)]

use std::convert::Infallible;
use std::future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, WebSocketUpgrade};
use axum::http::{HeaderMap, Response, StatusCode, Version, header};
use axum::response::IntoResponse;
use axum::routing::{Route, get, post};
use bytes::Bytes;
use farrier_exchange::Outcome;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_layer::Layer;
use tower_service::Service;

/// Longer than any test takes, unless something hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Where the layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: what the client gets without it.
    Bare,
    /// `Router::layer`.
    RouterLayer,
    /// `Router::route_layer`, which fallbacks do not pass.
    RouteLayer,
    /// Around the whole router: nothing is routed yet.
    AroundRouter,
}

/// One way in which a response ends.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Of the request.
    pub method: &'static str,
    /// Of the request.
    pub path: &'static str,
    /// As a layer sees it.
    pub outcome: Outcome,
    /// `None` if there is no head.
    pub status: Option<u16>,
    /// Of the body.
    pub bytes: u64,
}

impl Case {
    /// How it ends, and how many bytes of its body the server takes.
    #[must_use]
    pub fn ending(&self, version: Version) -> (Outcome, u64) {
        match (self.path, version == Version::HTTP_2) {
            // HTTP/1 has no way to send a body with 204 or 304; hyper sends it over HTTP/2.
            ("/no-content-with-body" | "/not-modified-with-body", true) => (self.outcome, 9),
            // hyper mends the header over HTTP/1 and does not look at it over HTTP/2.
            ("/empty-with-length", true) => (Outcome::BodyFailed, 0),
            // Over HTTP/1 hyper asks for no more at the announced length: the client has all that it was told.
            ("/long", false) => (Outcome::Finished, 9),
            _ => (self.outcome, self.bytes),
        }
    }
}

/// The responses that end by themselves; those that a client must leave are tested one by one.
pub const CASES: &[Case] = &[
    case("GET", "/full", Outcome::Finished, 200, 5),
    case("HEAD", "/full", Outcome::Finished, 200, 0),
    case("GET", "/empty", Outcome::Finished, 200, 0),
    case("GET", "/empty-with-length", Outcome::Finished, 200, 0),
    case("GET", "/missing", Outcome::Finished, 404, 0),
    case("POST", "/full", Outcome::Finished, 405, 0),
    case("GET", "/no-content", Outcome::Finished, 204, 0),
    case("GET", "/no-content-with-body", Outcome::Finished, 204, 0),
    case("GET", "/not-modified-with-body", Outcome::Finished, 304, 0),
    case("GET", "/stream", Outcome::Finished, 200, 9),
    case("HEAD", "/stream", Outcome::Finished, 200, 0),
    case("GET", "/stream-exact", Outcome::Finished, 200, 9),
    case("GET", "/trailers", Outcome::Finished, 200, 5),
    case("GET", "/error-at-once", Outcome::BodyFailed, 200, 0),
    case("GET", "/error", Outcome::BodyFailed, 200, 3),
    case("GET", "/short", Outcome::BodyFailed, 200, 5),
    case("GET", "/long", Outcome::BodyFailed, 200, 12),
    case("GET", "/long-chunk", Outcome::BodyFailed, 200, 5),
    case("GET", "/panic-in-body", Outcome::Panicked, 200, 3),
    case("GET", "/panic-in-drop", Outcome::Panicked, 200, 3),
    case("GET", "/panic-in-drop-exact", Outcome::Panicked, 200, 3),
    case("GET", "/error-and-panic-in-drop", Outcome::BodyFailed, 200, 3),
    Case { method: "GET", path: "/panic", outcome: Outcome::Panicked, status: None, bytes: 0 },
];

const fn case(
    method: &'static str,
    path: &'static str,
    outcome: Outcome,
    status: u16,
    bytes: u64,
) -> Case {
    Case { method, path, outcome, status: Some(status), bytes }
}

/// The app whose responses end in every way.
pub fn app() -> Router {
    Router::new()
        .route("/full", get(|| async { "hello" }))
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/empty", get(|| async {}))
        .route("/empty-with-length", get(|| async { ([(header::CONTENT_LENGTH, "5")], ()) }))
        .route("/no-content", get(|| async { StatusCode::NO_CONTENT }))
        .route("/no-content-with-body", get(|| async { (StatusCode::NO_CONTENT, "forbidden") }))
        .route("/not-modified-with-body", get(|| async { (StatusCode::NOT_MODIFIED, "forbidden") }))
        .route("/stream", get(|| async { Body::from_stream(chunks()) }))
        .route(
            "/stream-exact",
            get(|| async { ([(header::CONTENT_LENGTH, "9")], Body::from_stream(chunks())) }),
        )
        .route(
            "/short",
            get(|| async { ([(header::CONTENT_LENGTH, "9")], Body::from_stream(one("hello"))) }),
        )
        .route(
            "/long",
            get(|| async { ([(header::CONTENT_LENGTH, "9")], Body::from_stream(long())) }),
        )
        .route(
            "/long-chunk",
            get(|| async { ([(header::CONTENT_LENGTH, "3")], Body::from_stream(one("hello"))) }),
        )
        .route("/trailers", get(trailers))
        .route("/error-at-once", get(|| async { Body::from_stream(failing().skip(1)) }))
        .route("/error", get(|| async { Body::from_stream(failing()) }))
        .route("/panic", get(panics))
        .route("/panic-in-body", get(|| async { Body::from_stream(panicking()) }))
        .route("/panic-in-drop", get(|| async { breaking(one("abc")) }))
        .route(
            "/panic-in-drop-exact",
            get(|| async { ([(header::CONTENT_LENGTH, "3")], breaking(one("abc"))) }),
        )
        .route("/error-and-panic-in-drop", get(|| async { breaking(failing()) }))
        .route("/never", get(future::pending::<()>))
        .route("/stalls", get(|| async { Body::from_stream(one("abc").chain(stream::pending())) }))
        .route("/endless", get(|| async { Body::from_stream(endless()) }))
        .route("/websocket", get(websocket))
}

type Chunk = Result<&'static str, &'static str>;

fn one(chunk: &'static str) -> impl futures_util::Stream<Item = Chunk> {
    stream::iter([Ok(chunk)])
}

fn chunks() -> impl futures_util::Stream<Item = Chunk> {
    stream::iter([Ok("abc"), Ok("def"), Ok("ghi")])
}

fn long() -> impl futures_util::Stream<Item = Chunk> {
    chunks().chain(one("jkl"))
}

fn failing() -> impl futures_util::Stream<Item = Chunk> {
    stream::iter([Ok("abc"), Err("the body failed")])
}

fn endless() -> impl futures_util::Stream<Item = Chunk> {
    stream::repeat_with(|| Ok("data: tick\n\n")).then(|item| async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        item
    })
}

/// Panics without the default hook's lines on stderr.
fn panicking() -> impl futures_util::Stream<Item = Chunk> {
    one("abc").chain(stream::poll_fn(|_| std::panic::resume_unwind(Box::new("in the body"))))
}

/// A body of `chunks` that panics when it is dropped.
fn breaking(chunks: impl futures_util::Stream<Item = Chunk> + Send + 'static) -> Body {
    struct Breaks;
    impl Drop for Breaks {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                std::panic::resume_unwind(Box::new("in drop"));
            }
        }
    }

    let breaks = Breaks;
    Body::from_stream(chunks.map(move |chunk| {
        let _held = &breaks;
        chunk
    }))
}

async fn panics() {
    std::panic::resume_unwind(Box::new("in the handler"))
}

async fn trailers() -> Response<Body> {
    let mut map = HeaderMap::new();
    map.insert("x-sum", "42".parse().expect("valid"));
    let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from("hello"))), Ok(Frame::trailers(map))];
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    response.headers_mut().insert(header::TRAILER, "x-sum".parse().expect("valid"));
    response
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response<Body> {
    upgrade.on_upgrade(|mut socket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

/// Serves `router` with `layer` in `place`.
pub async fn serve_placed<L, A, R>(router: Router, layer: L, place: Place) -> SocketAddr
where
    L: Layer<Route> + Layer<Router, Service = A> + Clone + Send + Sync + 'static,
    <L as Layer<Route>>::Service: Service<
            Request,
            Error = Infallible,
            Response: IntoResponse + 'static,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static,
    A: Service<
            hyper::Request<hyper::body::Incoming>,
            Response = Response<R>,
            Error = Infallible,
            Future: Send,
        > + Clone
        + Send
        + 'static,
    R: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    match place {
        Place::Bare => serve(router).await,
        Place::RouterLayer => serve(router.layer(layer)).await,
        Place::RouteLayer => serve(router.route_layer(layer)).await,
        Place::AroundRouter => serve(layer.layer(router)).await,
    }
}

/// Serves a tower service on a free loopback port, HTTP/1 and HTTP/2, until the runtime ends.
pub async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<
            hyper::Request<hyper::body::Incoming>,
            Response = Response<B>,
            Error: Into<Box<dyn std::error::Error + Send + Sync>>,
            Future: Send,
        > + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // An error is the client's to see.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection_with_upgrades(TokioIo::new(socket), service)
                    .await;
            });
        }
    });
    address
}

/// Sends `request` as it stands and returns all that comes back until the server closes, without
/// the line that depends on the clock.
pub async fn raw(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.expect("the server listens");
    socket.write_all(request.as_bytes()).await.expect("the server reads");
    let mut response = Vec::new();
    // A reset after the answer is an end like any other.
    let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut response))
        .await
        .expect("the server closes");
    String::from_utf8_lossy(&response)
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("date: "))
        .collect()
}

/// A request of its own connection.
#[must_use]
pub fn request(method: &str, path: &str, version: Version) -> String {
    match version {
        Version::HTTP_10 => format!("{method} {path} HTTP/1.0\r\nhost: test\r\n\r\n"),
        _ => format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nte: trailers\r\nconnection: close\r\n\r\n"
        ),
    }
}

/// One request over HTTP/2; everything that the client sees of the response, or of its failure.
pub async fn over_h2(address: SocketAddr, method: &str, path: &str) -> String {
    let request = hyper::Request::builder().method(method).uri(format!("http://test{path}"));
    send_h2(address, request.body(Body::empty()).expect("a request")).await
}

/// As [`over_h2`], with any request.
pub async fn send_h2(address: SocketAddr, request: hyper::Request<Body>) -> String {
    let socket = TcpStream::connect(address).await.expect("the server listens");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("a handshake");
    let connection = tokio::spawn(connection);
    let seen = tokio::time::timeout(DEADLINE, async {
        let mut seen = String::new();
        match client.send_request(request).await {
            Err(error) => seen += &format!("{error:?}"),
            Ok(response) => {
                let (mut parts, mut body) = response.into_parts();
                parts.headers.remove(header::DATE);
                seen += &format!("{} {:?}\n", parts.status, parts.headers);
                let mut data = Vec::new();
                while let Some(frame) = body.frame().await {
                    match frame.map(Frame::into_data) {
                        Ok(Ok(chunk)) => data.extend_from_slice(&chunk),
                        Ok(Err(frame)) => seen += &format!("{:?}\n", frame.into_trailers().ok()),
                        // hyper's client would repeat it for ever.
                        Err(error) => {
                            seen += &format!("{error:?}\n");
                            break;
                        }
                    }
                }
                seen += &String::from_utf8_lossy(&data);
            }
        }
        seen
    })
    .await
    .expect("the response ends");
    connection.abort();
    seen
}

/// A request over HTTP/1.1 whose response the client has begun to read; dropping it is leaving.
pub async fn begin(address: SocketAddr, path: &str, until: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.expect("the server listens");
    let request = request("GET", path, Version::HTTP_11);
    socket.write_all(request.as_bytes()).await.expect("the server reads");
    read_until(&mut socket, until).await;
    socket
}

/// Reads until `until` has come.
pub async fn read_until(socket: &mut TcpStream, until: &str) -> String {
    let mut response = Vec::new();
    tokio::time::timeout(DEADLINE, async {
        while !String::from_utf8_lossy(&response).contains(until) {
            let read = socket.read_buf(&mut response).await.expect("the server writes");
            assert_ne!(read, 0, "the server closed before {until:?}");
        }
    })
    .await
    .unwrap_or_else(|_| panic!("the server never wrote {until:?}"));
    String::from_utf8_lossy(&response).into_owned()
}
