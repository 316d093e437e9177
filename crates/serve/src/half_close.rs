//! The time between the end of what a client sends and the moment when it is taken for one that left.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{self, Instant, Sleep};

use crate::activity::Activity;

/// How often is looked whether the connection was reset meanwhile, of which nobody is told behind the end.
const LOOK: Duration = Duration::from_millis(100);

/// Looks are not more frequent than this, however small the limit is.
const SHORTEST: Duration = Duration::from_millis(10);

/// Holds the end of the stream back while a request is being answered.
#[derive(Debug)]
pub(crate) struct HalfClose {
    limit: Duration,
    /// From the end on.
    waits: Option<Waits>,
}

#[derive(Debug)]
struct Waits {
    look: Pin<Box<Sleep>>,
    /// Since when nothing was written, and how much was written before.
    quiet: Instant,
    written: usize,
}

impl HalfClose {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, waits: None }
    }

    /// Waits, after the end of the stream, until hyper may hear of it.
    ///
    /// It drops the request in flight then. When that is answered before, the connection's task has it ask again.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        activity: &Activity,
        is_reset: impl Fn() -> bool,
    ) -> Poll<()> {
        let over = if activity.is_answering() && !self.limit.is_zero() {
            let limit = self.limit;
            let waits = self.waits.get_or_insert_with(|| Waits::new(limit, activity));
            waits.poll(cx, limit, activity, is_reset)
        } else {
            Poll::Ready(())
        };
        activity.note_half_closed(over.is_pending());
        over
    }
}

impl Waits {
    fn new(limit: Duration, activity: &Activity) -> Self {
        let look = Box::pin(time::sleep(LOOK.min(limit)));
        Self { look, quiet: Instant::now(), written: activity.written() }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        limit: Duration,
        activity: &Activity,
        is_reset: impl Fn() -> bool,
    ) -> Poll<()> {
        while self.look.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            // While a response is on its way, a write tells whether somebody is there.
            if activity.is_stalled() || activity.written() != self.written {
                self.written = activity.written();
                self.quiet = now;
            }
            let over = self.quiet + limit;
            if over <= now || is_reset() {
                return Poll::Ready(());
            }
            self.look.as_mut().reset(over.max(now + SHORTEST).min(now + LOOK));
        }
        Poll::Pending
    }
}
