//! A client that does what it is told, once: hyper without a pool and without a retry.

use std::fmt;
use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A whole response.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Why a request got no whole response.
#[derive(Debug)]
pub enum Lost {
    /// No connection could be made.
    Connect(std::io::Error),
    /// The connection ended before the response did.
    Exchange(hyper::Error),
}

/// One kept-alive HTTP/1.1 connection.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    sender: http1::SendRequest<Full<Bytes>>,
}

/// `GET path` on a connection of its own.
///
/// # Errors
///
/// When the response does not arrive whole.
pub async fn get(address: SocketAddr, path: &str) -> Result<Response, Lost> {
    Connection::open(address).await?.get(path).await
}

/// `POST path` on a connection of its own.
///
/// # Errors
///
/// When the response does not arrive whole.
pub async fn post(
    address: SocketAddr,
    path: &str,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Result<Response, Lost> {
    let request = Request::post(path).header("content-type", content_type);
    let request = request.body(Full::new(body.into())).expect("a well-formed request");
    Connection::open(address).await?.send(request).await
}

impl Connection {
    /// Opens a connection.
    ///
    /// # Errors
    ///
    /// When it is refused.
    pub async fn open(address: SocketAddr) -> Result<Self, Lost> {
        let stream = TcpStream::connect(address).await.map_err(Lost::Connect)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(Lost::Exchange)?;
        tokio::spawn(connection);
        Ok(Self { address, sender })
    }

    /// `GET path`.
    ///
    /// # Errors
    ///
    /// When the response does not arrive whole.
    pub async fn get(&mut self, path: &str) -> Result<Response, Lost> {
        let request = Request::get(path).body(Full::default()).expect("a well-formed request");
        self.send(request).await
    }

    /// Sends `request`, with the Host header that it lacks.
    ///
    /// # Errors
    ///
    /// When the response does not arrive whole.
    pub async fn send(&mut self, mut request: Request<Full<Bytes>>) -> Result<Response, Lost> {
        let host = self.address.to_string().parse().expect("an address is a header value");
        request.headers_mut().entry("host").or_insert(host);
        let (head, body) = self.start(request).await?.into_parts();
        let body = body.collect().await.map_err(Lost::Exchange)?.to_bytes();
        Ok(Response { status: head.status, headers: head.headers, body })
    }

    /// Sends `request` and leaves the response's body to the caller, to read it slowly or to drop it.
    ///
    /// # Errors
    ///
    /// When no response head arrives.
    pub async fn start(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<hyper::Response<Incoming>, Lost> {
        self.sender.ready().await.map_err(Lost::Exchange)?;
        self.sender.send_request(request).await.map_err(Lost::Exchange)
    }
}

impl Response {
    /// The body as text.
    ///
    /// # Panics
    ///
    /// When it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text")
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no connection: {error}"),
            Self::Exchange(error) => write!(f, "no whole response: {error}"),
        }
    }
}

impl std::error::Error for Lost {}
