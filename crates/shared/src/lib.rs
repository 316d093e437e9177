//! What processes that were forked from one share: a typed [`queue()`] between them, and what they count together, a
//! [`Counter`], a [`Gauge`], a [`Histogram`] or a small [`Value`]; a lock that dies with its
//! holder, a [`Mutex`]; and work that is done [`Once`].
//!
//! All of it is made before the fork, so that every process has it, and is of use within one process as well. Under
//! farrier's launcher a queue is how workers give work to a companion: `main` makes it, the app's function has the sender,
//! and the companion's the receiver.
//!
//! ```
//! use farrier_shared::queue;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct Mail {
//!     to: String,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Before the fork.
//! let (mails, mut inbox) = queue::<Mail>("mails")?;
//! // In a handler, which waits while the queue is full.
//! mails.send(&Mail { to: "ann".into() }).await?;
//! // Where the work is done.
//! assert_eq!(inbox.recv().await?, Mail { to: "ann".into() });
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod error;
mod histogram;
mod lock;
#[doc(hidden)]
pub mod memory;
mod names;
mod numbers;
mod once;
mod queue;
mod socket;
mod value;
mod variables;

pub use error::{QueueError, RecvError, SendError};
pub use histogram::{Histogram, HistogramReading};
pub use lock::{Mutex, MutexGuard};
pub use names::descriptors;
pub use numbers::{Counter, Gauge};
pub use once::{Once, OnceError};
pub use queue::{Receiver, Sender, queue, queue_with_buffer};
pub use value::Value;
pub use variables::VariableError;
