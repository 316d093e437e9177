//! SQLite and PostgreSQL for farrier's connection lifecycle, on [`sqlx`]'s single connections.
//!
//! `Sqlite` and `Postgres`, each by its feature, are the [`Backend`](farrier_connection::Backend)s; a
//! handler gets a `Session`, which is an sqlx executor.
//!
//! # Example
//!
//! ```
//! use farrier_connection::{Policy, Pool};
//! # #[cfg(feature = "sqlite")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use farrier_sqlx::Sqlite;
//!
//! let pool = Pool::new(Sqlite::memory(), Policy::default());
//! let mut connection = pool.acquire().await?;
//! let sum: i64 =
//!     sqlx::query_scalar("SELECT ? + ?").bind(3).bind(4).fetch_one(&mut *connection).await?;
//! assert_eq!(sum, 7);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "sqlite"))]
//! # fn main() {}
//! ```
#![forbid(unsafe_code)]

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod engine;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod session;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod transaction;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod watch;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use engine::Engine;
#[cfg(feature = "postgres")]
pub use postgres::{PgSessionId, Postgres};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use session::Session;
#[cfg(feature = "sqlite")]
pub use sqlite::{Sqlite, SqliteSessionId};
pub use sqlx;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use transaction::{Transaction, TransactionAborted};
