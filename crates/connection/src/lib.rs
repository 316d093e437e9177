//! Django's connection lifecycle for tower and axum: a database connection that belongs to the
//! request.
//!
//! A [`Pool`] opens at most `max_connections` connections to a [`Backend`], ages and checks and
//! cleans them by a [`Policy`]; a [`ConnectionLayer`] gives each request a [`Db`] handle,
//! whose connection is taken at first use, shared by all parts of the request and given back at its
//! end. Drivers are in other crates (`farrier-mysql`, `farrier-sqlx`); [`fake`] is one for tests.
//!
//! # Example
//!
//! ```
//! use axum::{Router, routing::get};
//! use farrier_connection::fake::Fake;
//! use farrier_connection::{AcquireError, ConnectionLayer, Db, Policy, Pool};
//!
//! async fn handler(db: Db<Fake>) -> Result<String, AcquireError> {
//!     let mut connection = db.get().await?; // the first use in this request takes the connection
//!     let session = connection.query().await.expect("a fake query");
//!     Ok(format!("served by session {session}"))
//! } // the response head gives it back
//!
//! let pool = Pool::new(Fake::new(), Policy::default().max_connections(20));
//! let app: Router = Router::new().route("/", get(handler)).layer(ConnectionLayer::new(pool));
//! ```
//!
//! # What is promised
//!
//! - *Bound*: never more than `max_connections` sessions, at the server: a slot is free again when its
//!   session is over. (To end what was cancelled, a backend may need one or two beside them.) Who waits is
//!   served in order, and answered by one deadline for everything; see [`too_many_connections`].
//! - *Scope*: one connection per request, taken at first use, shared by middleware and handler, given
//!   back at the last of handler, response body and clones; a request that does not use it costs nothing.
//! - *Hygiene*: a transaction or session state that a request leaves is gone before the next request has
//!   the connection; a clean one is handed back without a round trip.
//! - *Cancellation*: an operation that is dropped midway (the client left, a timeout fired) poisons its
//!   connection, which then refuses everything, is ended at the server and goes to nobody else.
//! - *Age and health*: Django's `CONN_MAX_AGE` and `CONN_HEALTH_CHECKS`, with what they lack: see
//!   [`Policy`]. After a detected disconnect every older connection is checked
//!   before its next use.
//! - *Errors*: [`AcquireError`] knows its status (503 with `Retry-After`, 504, 500); a client never sees
//!   the driver's words.
//!
//! # Outside of a request
//!
//! Jobs, command-line tools and sockets after an upgrade take their connection from [`Pool::acquire`].
#![forbid(unsafe_code)]

#[doc = include_str!("../docs/too-many-connections.md")]
pub mod too_many_connections {}

#[cfg(feature = "axum")]
mod axum;
mod back_off;
mod backend;
mod current;
mod db;
mod deadline;
mod error;
pub mod fake;
mod layer;
mod plain;
mod policy;
mod pool;
mod scope;
mod side_channel;
mod status;

pub use backend::{Backend, ErrorClass, Inspection, Interruption};
pub use db::Db;
pub use error::{AcquireError, Poisoned, StatementTimedOut};
pub use layer::{ConnectionLayer, RequestScope};
pub use plain::{Alteration, PlainStatements, Syntax};
pub use policy::Policy;
pub use pool::{Pool, PooledConnection};
pub use scope::Borrowed;
pub use side_channel::{SideChannel, SideConnection};
pub use status::{CloseReason, Status};
