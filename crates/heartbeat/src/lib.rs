//! The heartbeat of a process: proof that its runtime turns, what it is working on, and whether it
//! wants traffic.
//!
//! A process that answers nothing is either busy or hung, and only something that was written down
//! *before* tells which. A [`Pulse`] is where it is written: the last beat, the [`State`], and the
//! requests in flight. It has three writers: [`keep_beating`], a task on the runtime itself, so that a
//! blocked runtime cannot look healthy; [`HeartbeatLayer`], which notes each request from its beginning
//! to the true end of its response; and the program, which says when it is ready. Its readers are
//! [`Livez`] and [`Readyz`], and whoever else holds the pulse: farrier's launcher keeps it in memory that
//! the master shares, where it outlives the worker.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use axum::{Router, routing::get};
//! use farrier_heartbeat::{HeartbeatLayer, Livez, LocalPulse, Pulse, Readyz, State, keep_beating};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let pulse = Arc::new(LocalPulse::new());
//! tokio::spawn(keep_beating(Arc::clone(&pulse), Duration::from_secs(1)));
//!
//! let app: Router = Router::new()
//!     .route("/", get(|| async { "hello" }))
//!     .layer(HeartbeatLayer::new(Arc::clone(&pulse)))
//!     // Below the layer: probes are not counted as requests.
//!     .route_service("/livez", Livez::new(Arc::clone(&pulse)))
//!     .route_service("/readyz", Readyz::new(Arc::clone(&pulse)));
//!
//! pulse.set_state(State::Ready);
//! # drop(app);
//! # }
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod beat;
mod layer;
mod local;
mod probe;
mod pulse;

#[cfg(feature = "tokio")]
pub use beat::keep_beating;
pub use layer::{HeartbeatLayer, InFlight};
pub use local::LocalPulse;
pub use probe::{Livez, Readyz};
pub use pulse::{Pulse, RequestHead, State, Ticket};
