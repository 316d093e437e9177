//! An open connection and what the pool knows of it.

use std::time::Duration;

use tokio::time::Instant;

use crate::CloseReason;
use crate::deadline::after;

/// An open connection and what the pool knows of it.
#[derive(Debug)]
pub(super) struct Live<C> {
    pub(super) connection: C,
    /// When its age is over; rolled once.
    pub(super) expires: Option<Instant>,
    /// How long it may lie unused.
    pub(super) idle_timeout: Option<Duration>,
    /// The count of detected disconnects when its connect began.
    pub(super) generation: u64,
    /// That count when it was last known to work.
    pub(super) checked: u64,
    /// When it last came back.
    pub(super) last_used: Instant,
    /// How often it was given out.
    pub(super) uses: u64,
}

impl<C> Live<C> {
    /// Why it must not be given out any more, where generations before `trusted` are not.
    pub(super) fn outlived(&self, now: Instant, trusted: u64) -> Option<CloseReason> {
        if self.expires.is_some_and(|expires| now >= expires) {
            Some(CloseReason::Age)
        } else if self.generation < trusted {
            Some(CloseReason::Generation)
        } else if self.idle_timeout.is_some_and(|idle| now >= after(self.last_used, idle)) {
            Some(CloseReason::Idle)
        } else {
            None
        }
    }

    /// When it is outlived if nobody uses it.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        let idle = self.idle_timeout.map(|idle| after(self.last_used, idle));
        [self.expires, idle].into_iter().flatten().min()
    }
}
