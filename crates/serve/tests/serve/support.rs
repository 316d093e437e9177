//! A server to test, and a client that sees every byte.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use farrier_serve::{Drain, Drained, Listener, Server};
use futures_util::stream::{self, StreamExt};
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// No test waits longer than this for anything.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Far longer than a test runs.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// The body of `/large`: more than the sockets' buffers hold.
pub(crate) const LARGE: usize = 32 << 20;

/// The body of `/big`, in one chunk: more than HTTP/2's windows hold.
pub(crate) const BIG: usize = 1 << 20;

/// How long the body of `/trickle` takes.
pub(crate) const TRICKLE: Duration = Duration::from_millis(1500);

pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) drain: Drain,
    pub(crate) gate: Gate,
    task: JoinHandle<Drained>,
}

/// Holds requests to `/gate` back until it is opened.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    waiting: Arc<AtomicUsize>,
    open: Arc<Notify>,
}

/// A connection that never looks before it writes, and of which every failure is an error.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A server whose limits never strike by themselves; `set` sets the ones that a test is about.
pub(crate) async fn start(set: impl FnOnce(Server<Router>) -> Server<Router>) -> Running {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    start_on(&listener, "only", set)
}

/// A server named `name` that shares `listener` with others.
pub(crate) fn start_on(
    listener: &std::net::TcpListener,
    name: &'static str,
    set: impl FnOnce(Server<Router>) -> Server<Router>,
) -> Running {
    let gate = Gate::default();
    serve_on(listener, app(name, gate.clone()), gate, set)
}

/// A server of `app`, whose limits never strike by themselves.
pub(crate) fn start_app(
    app: Router,
    set: impl FnOnce(Server<Router>) -> Server<Router>,
) -> Running {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    serve_on(&listener, app, Gate::default(), set)
}

fn serve_on(
    listener: &std::net::TcpListener,
    app: Router,
    gate: Gate,
    set: impl FnOnce(Server<Router>) -> Server<Router>,
) -> Running {
    let addr = listener.local_addr().unwrap();
    let shared = Listener::try_from(listener.try_clone().unwrap()).unwrap();
    let drain = Drain::new();
    let server = Server::new([shared], app)
        .keepalive(NEVER)
        .header_read_timeout(NEVER)
        .drain_idle(NEVER)
        .graceful_timeout(NEVER);
    let task = tokio::spawn(set(server).serve(drain.clone()));
    Running { addr, drain, gate, task }
}

fn app(name: &'static str, gate: Gate) -> Router {
    Router::new()
        .route("/", get(move || async move { name }))
        .route("/large", get(|| async { Bytes::from(vec![b'x'; LARGE]) }))
        .route("/continue", get(|| async { (StatusCode::CONTINUE, "not yet") }))
        .route(
            "/unknown",
            get(|| async { Body::from_stream(stream::iter([Ok::<_, io::Error>("x")])) }),
        )
        .route("/two", get(|| async { Bytes::from(vec![b'x'; 2 << 20]) }))
        .route("/big", get(|| async { Bytes::from(vec![b'x'; BIG]) }))
        .route("/trickle", get(trickle))
        .route("/gate", {
            let gate = gate.clone();
            get(move || async move { gate.pass().await })
        })
        .route("/body-at-gate", get(move || async move { body_at_gate(gate) }))
        .route("/panic", get(panic_as_expected))
        .route("/ws", get(echo))
}

/// A response whose head leaves at once and whose body, "passed", waits at the gate.
fn body_at_gate(gate: Gate) -> Response {
    let body = stream::once(async move { Ok::<_, io::Error>(gate.pass().await) });
    Response::builder().header("content-length", 6).body(Body::from_stream(body)).unwrap()
}

/// Five bytes, one by one.
async fn trickle() -> Response {
    let body = stream::iter(0..5).then(|_| async {
        tokio::time::sleep(TRICKLE / 5).await;
        Ok::<_, io::Error>("x")
    });
    Response::builder().header("content-length", 5).body(Body::from_stream(body)).unwrap()
}

async fn panic_as_expected() -> &'static str {
    panic!("the handler panics: expected in this test")
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|mut socket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Close(_)) || socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

/// A service that leaves each request's body to a task of its own, and the bytes that those have read.
pub(crate) fn early_answers() -> (Router, UnboundedReceiver<Result<usize, axum::Error>>) {
    let (send, receive) = mpsc::unbounded_channel();
    let answer = |request: Request| async move {
        tokio::spawn(async move {
            let body = request.into_body().collect().await;
            let _ = send.send(body.map(|body| body.to_bytes().len()));
        });
        "accepted"
    };
    (Router::new().route("/", get(|| async { "" }).post(answer)), receive)
}

/// A connection over HTTP/2, and the task that drives it.
pub(crate) async fn connect_http2(
    addr: SocketAddr,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    handshake_http2(soon(TcpStream::connect(addr)).await.unwrap()).await
}

pub(crate) async fn handshake_http2(
    stream: TcpStream,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (client, connection) = soon(h2::client::handshake(stream)).await.unwrap();
    (client, tokio::spawn(connection))
}

/// The whole body of a response.
pub(crate) async fn read_whole(response: ResponseFuture) -> Result<Vec<u8>, h2::Error> {
    read_body(response.await?.into_body()).await
}

pub(crate) async fn read_body(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("in time")
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never held");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A connection that has exchanged SETTINGS and on which nobody answers by itself.
pub(crate) async fn mute_http2(server: &Running) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(hello).await.unwrap();
    let mut read = Vec::new();
    // The server's, and its acknowledgement of ours.
    while count_frames(&read, SETTINGS) < 2 {
        assert!(soon(stream.read_buf(&mut read)).await.unwrap() > 0);
    }
    stream
}

pub(crate) const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;

pub(crate) fn count_frames(mut bytes: &[u8], kind: u8) -> usize {
    let mut count = 0;
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((_, rest)) = rest.split_at_checked(length) else { break };
        count += usize::from(head[3] == kind);
        bytes = rest;
    }
    count
}

/// Waits until the server has let go of its listener, which no other process shares.
pub(crate) async fn stopped_accepting(server: &Running) {
    soon(async { while TcpStream::connect(server.addr).await.is_ok() {} }).await;
}

impl Running {
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// Waits for the server to return.
    pub(crate) async fn drained(self) -> Drained {
        soon(self.task).await.unwrap()
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Drops the future of the server.
    pub(crate) fn abort(&self) {
        self.task.abort();
    }
}

impl Gate {
    async fn pass(&self) -> &'static str {
        let opened = self.open.notified();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        opened.await;
        "passed"
    }

    /// Waits until `count` requests have arrived here.
    pub(crate) async fn arrived(&self, count: usize) {
        until(|| self.waiting.load(Ordering::SeqCst) >= count).await;
    }

    pub(crate) fn open(&self) {
        self.open.notify_waiters();
    }
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::new(soon(TcpStream::connect(addr)).await.unwrap())
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: &str) -> io::Result<()> {
        soon(self.stream.write_all(bytes.as_bytes())).await
    }

    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    pub(crate) async fn close_sending_half(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    pub(crate) async fn request(&mut self, path: &str) -> io::Result<()> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request(path).await?;
        self.answer().await
    }

    /// Reads one response with a Content-Length.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more().await?;
        };
        let head = String::from_utf8_lossy(&self.unread[..head_end]).to_lowercase();
        let value = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        let length = value("content-length:").map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < head_end + length {
            self.read_more().await?;
        }
        let body = String::from_utf8_lossy(&self.unread[head_end..head_end + length]).into_owned();
        self.unread.drain(..head_end + length);
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Ok(Answer { status, head, body })
    }

    /// Waits for the end of the stream: `Ok` for FIN, an error for RST or unexpected bytes.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        let read = soon(self.stream.read_buf(&mut self.unread)).await?;
        if read > 0 {
            return Err(io::Error::other("bytes instead of an end"));
        }
        Ok(())
    }

    async fn read_more(&mut self) -> io::Result<()> {
        if soon(self.stream.read_buf(&mut self.unread)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl Answer {
    pub(crate) fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}
