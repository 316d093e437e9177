//! Private database servers for farrier's tests: each in a folder of its own, on a free loopback port, gone when
//! the test is, however that ends.
#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "panicking is how a test fails")]

mod keeper;
mod mariadb;
mod postgres;

pub use mariadb::MariaDb;
pub use postgres::Postgres;

use std::time::{Duration, Instant};

/// Waits until something is so, or panics with `what` after a time that is generous on a busy machine.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
