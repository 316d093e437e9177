//! MySQL and MariaDB for farrier's connection lifecycle, on [`mysql_async`]'s single connections.
//!
//! [`MySql`] is the [`Backend`](farrier_connection::Backend); a handler gets a [`MySqlConnection`],
//! which takes mysql_async's queries in both of its styles and refuses each of them once an earlier
//! one was dropped midway. (On the driver's own connection the next query would get the *earlier*
//! one's rows.)
//!
//! # Example
//!
//! ```no_run
//! use farrier_connection::{Policy, Pool};
//! use farrier_mysql::MySql;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let database = MySql::new("mysql://app:secret@127.0.0.1:3306/shop")?;
//! let pool = Pool::new(database, Policy::default().max_connections(20));
//! let mut connection = pool.acquire().await?;
//! let price: Option<u32> =
//!     connection.exec_first("SELECT price FROM goods WHERE id = ?", (7,)).await?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod backend;
mod connection;
mod error;
mod session_id;
mod side;
mod statement;

pub use backend::MySql;
pub use connection::MySqlConnection;
pub use farrier_connection::Poisoned;
pub use mysql_async;
pub use session_id::MySqlSessionId;
pub use statement::Statement;
