//! The task that beats.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{self, MissedTickBehavior};

use crate::Pulse;

/// Beats at once and then once per `every`, for ever: spawn it on the runtime that serves.
///
/// The beat comes from a task of the runtime itself and never from a helper thread, which would stay
/// healthy while the runtime is blocked. It goes on while the process drains. On a multi-thread runtime
/// it proves that the runtime turns, not that each of its threads does: a blocked thread is not seen as
/// long as another one drives the timers. `every` is at least a millisecond.
///
/// # Cancel safety
///
/// Dropping the future stops the beat and nothing else.
pub async fn keep_beating<P: Pulse + ?Sized>(pulse: Arc<P>, every: Duration) -> Infallible {
    let mut interval = time::interval(every.max(Duration::from_millis(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        pulse.beat();
    }
}
