//! What the workspace's tests stand on: real processes, a private MariaDB, a client that never retries.
//!
//! Everything that is started here belongs to the value that started it, lives in a temporary folder, listens
//! on the loopback only, and is stopped by pid when that value is dropped.
#![forbid(unsafe_code)]
#![expect(
    clippy::exhaustive_enums,
    clippy::exhaustive_structs,
    clippy::missing_panics_doc,
    clippy::print_stderr,
    reason = "it serves this workspace's tests only, and panicking is how they fail"
)]

pub mod client;
pub mod load;
pub mod process;
pub mod service;

use std::time::{Duration, Instant};

/// How long a test waits for anything that should happen soon; a generous bound for a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until `condition` yields a value, or panics with `what` after [`SOON`].
///
/// # Panics
///
/// When the deadline passes.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        pause();
    }
}

/// [`eventually`], for a condition that must be awaited.
///
/// # Panics
///
/// When the deadline passes.
pub async fn eventually_async<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The pause between two looks at a condition.
#[expect(clippy::disallowed_methods, reason = "the one place that polls, always under a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
