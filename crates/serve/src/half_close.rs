//! The time between the end of what a client sends and the moment when it is taken for one that left.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{self, Sleep};

use crate::activity::Activity;

/// Holds the end of the stream back while a request is being answered.
#[derive(Debug)]
pub(crate) struct HalfClose {
    limit: Duration,
    /// Runs from the end on.
    over: Option<Pin<Box<Sleep>>>,
}

impl HalfClose {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, over: None }
    }

    /// Waits, after the end of the stream, until hyper may hear of it.
    ///
    /// It drops the request in flight then. When that is answered before, the connection's task has it ask again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, activity: &Activity) -> Poll<()> {
        if activity.is_answering() && !self.limit.is_zero() {
            let limit = self.limit;
            let over = self.over.get_or_insert_with(|| Box::pin(time::sleep(limit)));
            let waits = over.as_mut().poll(cx);
            activity.note_half_closed(waits.is_pending());
            return waits;
        }
        activity.note_half_closed(false);
        Poll::Ready(())
    }
}
