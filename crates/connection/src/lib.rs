//! Django's connection lifecycle for tower and axum: a database connection that belongs to the request.
//!
//! A [`Pool`] opens at most `max_connections` connections to a [`Backend`], ages and checks and cleans
//! them by a [`Policy`]; a [`ConnectionLayer`] gives each request a [`Database`] handle, whose connection
//! is taken at first use, shared by all parts of the request and given back at its end. Drivers are in
//! other crates (`farrier-mysql`, `farrier-sqlx`); [`fake`] is one for tests.
//!
//! # Example
//!
//! ```
//! use axum::{Router, routing::get};
//! use farrier_connection::fake::Fake;
//! use farrier_connection::{AcquireError, ConnectionLayer, Database, Policy, Pool};
//!
//! async fn handler(db: Database<Fake>) -> Result<String, AcquireError> {
//!     let mut connection = db.get().await?; // the first use in this request takes the connection
//!     let session = connection.query().await.expect("a fake query");
//!     Ok(format!("served by session {session}"))
//! } // the response head gives it back
//!
//! let pool = Pool::new(Fake::new(), Policy::default().max_connections(20));
//! let app: Router = Router::new().route("/", get(handler)).layer(ConnectionLayer::new(pool));
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "axum")]
mod axum;
mod backend;
mod error;
pub mod fake;
mod layer;
mod policy;
mod pool;
mod scope;
mod status;

pub use backend::{Backend, ErrorClass, Inspection};
pub use error::AcquireError;
pub use layer::{ConnectionLayer, ConnectionService, ResponseFuture, ScopeEnd};
pub use policy::Policy;
pub use pool::{Loan, Pool};
pub use scope::{Borrowed, Database};
pub use status::{CloseReason, Status};
