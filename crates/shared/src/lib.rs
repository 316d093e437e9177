//! What the processes of a server share: a typed [`queue()`] between them; what they count together, a [`Counter`], a [`Gauge`],
//! a [`Histogram`] or a small [`Value`]; a lock that dies with its holder, a [`Mutex`]; and work that is done once,
//! [`once_per_server`].
//!
//! All of it is of use within one process as well. Variables and locks are known by name: whichever process names one first
//! makes it, and all that were forked from one have it, the launcher's workers and companions, through reloads and crashes.
//! A queue is made before the fork: under farrier's launcher it is how workers give work to a companion, where `main` makes it,
//! the app's function has the sender, and the companion's the receiver.
//!
//! ```
//! use farrier_shared::Counter;
//!
//! # fn main() -> Result<(), farrier_shared::VariableError> {
//! // In whichever process:
//! let logins = Counter::named("logins")?;
//! assert_eq!(logins.add(1), 1);
//! // In whichever other:
//! assert_eq!(Counter::named("logins")?.get(), 1);
//! # Ok(())
//! # }
//! ```
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

mod bytes;
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
pub use lock::{Mutex, MutexGuard, held_locks};
pub use names::descriptors;
pub use numbers::{Counter, Gauge};
pub use once::{OnceError, once_per_reload, once_per_server};
pub use queue::{Receiver, Sender, queue, queue_with_buffer};
pub use value::Value;
pub use variables::{VariableError, adopt, share};
