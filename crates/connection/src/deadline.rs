//! Deadlines.

use std::time::Duration;

use tokio::time::Instant;

/// The end of `wait` from `now`; a wait that no clock can count is a century.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(wait).unwrap_or_else(|| now + CENTURY)
}
