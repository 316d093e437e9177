//! A database that exists only in memory, for tests of code that uses farrier's connections.
//!
//! [`Fake`] is the server and the [`Backend`](crate::Backend) in one: a test tells it how to behave, and reads what
//! was done to it. Its time is tokio's, so under `#[tokio::test(start_paused = true)]` hours pass
//! in no time.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use farrier_connection::fake::{Event, Fake};
//! use farrier_connection::{Policy, Pool};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fake = Fake::new();
//! let pool = Pool::new(fake.clone(), Policy::default().health_checks(true));
//! drop(pool.acquire().await?);
//! tokio::time::sleep(Duration::from_secs(1)).await;
//! drop(pool.acquire().await?); // it lay idle for a second, so it is checked
//! assert_eq!(fake.events(), [Event::Connect(1), Event::Check(1)]);
//! # Ok(())
//! # }
//! ```

mod backend;
mod connection;
mod server;

pub use connection::FakeConnection;
pub use server::{Behaviour, Event, Fake, FakeError};
