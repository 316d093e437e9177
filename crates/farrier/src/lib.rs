//! gunicorn's process model and Django's connection lifecycle for axum.
//!
//! Three tower layers that any axum app takes with `.layer()`, and a launcher that runs the app in worker
//! processes:
//!
//! - [`connection`]: a database connection that belongs to the request; never stale, never leaked, never
//!   another request's, and never more of them than the server allows;
//! - [`hooks`]: `pre_request` and `post_request`, called exactly once per request;
//! - [`heartbeat`]: tells a hung process from a busy one;
//! - [`prefork`]: forks the workers, watches them and replaces them;
//! - `shared` (a feature): what workers have together: variables, locks, and a queue to a companion, a process beside them.
//!
//! Each part works without the others. Under them are [`exchange`], one HTTP exchange that ends exactly
//! once, for middleware of your own, and [`serve`], the accept-and-serve loop with the soft drain, for
//! programs that do not fork.
//!
//! # Example
//!
//! ```no_run
//! # #[cfg(all(feature = "axum", feature = "prefork", feature = "sqlite"))]
//! # mod quickstart {
//! use std::process::ExitCode;
//!
//! use axum::Router;
//! use axum::routing::get;
//! use farrier::hooks;
//! use farrier::prelude::*;
//! use farrier::sqlite::Sqlite;
//! use farrier::sqlx;
//!
//! fn main() -> ExitCode {
//!     // Settings come from defaults, farrier.toml, FARRIER_* and the command line.
//!     Launcher::from_args("quickstart").run(app)
//! }
//!
//! /// Runs once in every worker, after the fork.
//! async fn app(worker: Worker) -> Result<Router, BoxError> {
//!     let database = Pool::new(Sqlite::new("sqlite:quickstart.db")?, Policy::default());
//!     // From outside to inside.
//!     let layers = layers((
//!         HeartbeatLayer::new(worker.pulse()),
//!         hooks::post_request(|request, end| {
//!             println!("{} {:?} {:?}", request.uri, end.outcome, end.total);
//!         }),
//!         ConnectionLayer::new(database),
//!     ));
//!     // Last: handlers become routes now, and not at each request.
//!     Ok(Router::new().route("/", get(hello)).layer(layers).with_state(()))
//! }
//!
//! /// The connection is opened at the first `get`, and given back with the response.
//! async fn hello(db: Db<Sqlite>) -> Result<String, farrier::Error> {
//!     let mut connection = db.get().await?;
//!     let answer: i64 = sqlx::query_scalar("SELECT 6 * 7").fetch_one(&mut *connection).await?;
//!     Ok(format!("The database says {answer}.\n"))
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! # Features
//!
//! - `axum` (default): [`Error`], and the database handle as an extractor;
//! - `prefork` (default): the launcher;
//! - `shared`: variables, locks and queues between processes;
//! - `mysql`: MySQL and MariaDB through mysql_async;
//! - `sqlite`, `postgres`: SQLite and PostgreSQL through sqlx, which is `farrier::sqlx`.
#![forbid(unsafe_code)]

#[cfg(feature = "axum")]
mod error;

#[cfg(feature = "axum")]
pub use error::Error;
pub use farrier_connection as connection;
pub use farrier_exchange as exchange;
pub use farrier_heartbeat as heartbeat;
pub use farrier_hooks as hooks;
#[cfg(feature = "mysql")]
pub use farrier_mysql as mysql;
#[cfg(feature = "prefork")]
pub use farrier_prefork as prefork;
pub use farrier_serve as serve;
#[cfg(feature = "shared")]
pub use farrier_shared as shared;
/// sqlx itself, in the version that the backends stand on.
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub use farrier_sqlx::sqlx;

/// PostgreSQL, through [`sqlx`].
#[cfg(feature = "postgres")]
pub mod postgres {
    pub use farrier_sqlx::{
        Engine, PgSessionId, Postgres, Session, Transaction, TransactionAborted,
    };
}

/// SQLite, through [`sqlx`].
#[cfg(feature = "sqlite")]
pub mod sqlite {
    pub use farrier_sqlx::{
        Engine, Session, Sqlite, SqliteSessionId, Transaction, TransactionAborted,
    };
}

use exchange::{ExchangeLayer, Interceptor};

/// Several layers as one: `layers((a, b, c))` does what the layers `a`, `b` and `c` do one in the other, `a` outermost, for less.
///
/// That is a [`HeartbeatLayer`](heartbeat::HeartbeatLayer), a [`RequestHookLayer`](hooks::RequestHookLayer), a
/// [`ConnectionLayer`](connection::ConnectionLayer) and whatever else is an [`Interceptor`], also in an `Option`: up to four of
/// them, each of which may be a tuple again. What is none, such as a layer of tower-http or one of an async hook, stands around
/// or inside of what is joined, or between two such stacks. [`Interceptor`] says what differs.
///
/// ```
/// use std::ops::ControlFlow;
/// use std::sync::Arc;
///
/// use axum::{Router, routing::get};
/// use farrier::exchange::{Answer, Interceptor};
/// use farrier::heartbeat::{HeartbeatLayer, LocalPulse};
/// use farrier::{hooks, layers};
/// use http::{HeaderValue, Response, request::Parts};
///
/// /// Gives each request a number.
/// #[derive(Clone)]
/// struct Numbers;
///
/// impl Interceptor for Numbers {
///     /// It does not look at the rest of the exchange.
///     type Observer = fn(farrier::exchange::End);
///
///     fn intercept(
///         &self,
///         request: &mut Parts,
///         _: &mut Option<Self::Observer>,
///     ) -> ControlFlow<Response<Answer>> {
///         request.headers.insert("x-number", HeaderValue::from_static("4"));
///         ControlFlow::Continue(())
///     }
/// }
///
/// let stack = layers((
///     HeartbeatLayer::new(Arc::new(LocalPulse::new())),
///     Numbers,
///     hooks::post_request(|request, end| println!("{} {:?}", request.uri, end.total)),
/// ));
/// let app: Router = Router::new().route("/", get("hello")).layer(stack);
/// # drop(app);
/// ```
pub const fn layers<I: Interceptor>(layers: I) -> ExchangeLayer<I> {
    ExchangeLayer::new(layers)
}

#[cfg(all(feature = "prefork", feature = "shared"))]
#[doc = include_str!("../docs/after-the-request.md")]
pub mod after_the_request {}

/// What an app with the three layers under the launcher names: `use farrier::prelude::*`.
pub mod prelude {
    pub use crate::layers;
    pub use farrier_connection::{AcquireError, ConnectionLayer, Db, Policy, Pool};
    pub use farrier_exchange::{End, Outcome};
    pub use farrier_heartbeat::{HeartbeatLayer, Livez, Pulse, Readyz};
    pub use farrier_hooks::Pre;
    #[cfg(feature = "prefork")]
    pub use farrier_prefork::{Companion, Launcher, Worker};
    pub use farrier_serve::BoxError;
}
