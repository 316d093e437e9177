//! An accept-and-serve loop on hyper that can be replaced without losing a request.
//!
//! `axum::serve` and hyper's own graceful shutdown close idle connections the moment they are told to
//! stop. A client that sends its next request in that moment loses it. This loop drains *softly*
//! instead: see [`Server::serve`]. It also accepts one connection at a time and lets the runtime turn
//! before the next one, so that a busy process leaves waiting connections to its siblings, and it
//! enforces what a server must bound: open connections, the time for a request head, idle time.
//!
//! Requests that a proxy in front may read otherwise than hyper are refused
//! ([`Server::tolerate_invalid_requests`]), so that nobody smuggles one behind another.
//!
//! It serves HTTP/1.1 and HTTP/2 with prior knowledge on TCP and Unix sockets, upgrades included, and
//! runs on either flavour of the tokio runtime. The service is any tower service: an axum `Router` as it
//! is. Which process accepts from a listener is none of its business; several may share one.
//!
//! # Example
//!
//! ```no_run
//! use axum::{Extension, Router, routing::get};
//! use farrier_serve::{Peer, Server};
//! use tokio::net::TcpListener;
//! use tokio::signal::unix::{SignalKind, signal};
//!
//! async fn hello(Extension(peer): Extension<Peer>) -> String {
//!     format!("hello, {peer}\n")
//! }
//!
//! # async fn run() -> std::io::Result<()> {
//! let app: Router = Router::new().route("/", get(hello));
//! let listener = TcpListener::bind("127.0.0.1:8000").await?;
//!
//! let mut terminate = signal(SignalKind::terminate())?;
//! let told = async { drop(terminate.recv().await) };
//! let drained = Server::new([listener], app).serve_until(told).await;
//! println!("{} connections were cut", drained.cut);
//! # Ok(())
//! # }
//! ```
//!
//! # The client's address
//!
//! Each request carries its [`Peer`] in its extensions: `Extension<Peer>` in an axum handler. Where
//! something expects axum's own `ConnectInfo<SocketAddr>`, a `middleware::map_request` that inserts
//! `ConnectInfo(addr)` from [`Peer::addr`] provides it.
#![forbid(unsafe_code)]

mod acceptor;
mod activity;
mod connection;
mod drain;
mod error;
mod framing;
mod goaway;
mod half_close;
mod handler;
mod hook;
mod linger;
mod listener;
mod open;
mod places;
mod refused;
mod server;
mod service;
mod socket;
mod validate;
mod wire;

pub use drain::{Drain, Level};
pub use error::BoxError;
pub use listener::{Listener, Peer};
pub use open::ConnectionEvent;
pub use refused::{Refused, RefusedReason};
pub use server::{CUT_PAUSE, Drained, Server};
pub use service::HttpService;
