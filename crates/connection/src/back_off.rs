//! How long to wait before trying again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(500);

/// The pause before the next attempt, after the first failure and `earlier` ones in a row: doubled for each.
pub(crate) fn back_off(earlier: u32) -> Duration {
    FIRST.saturating_mul(1 << earlier.min(6)).min(LONGEST)
}
