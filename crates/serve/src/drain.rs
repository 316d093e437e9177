//! The order to stop, and what it makes the server want of its connections.

use std::future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::watch;

/// The handle that tells a [`Server`](crate::Server) to stop; all clones are one handle.
///
/// An order can be sharpened and never taken back.
#[derive(Clone, Debug)]
pub struct Drain {
    level: Arc<watch::Sender<Level>>,
}

/// How urgently a server was told to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Not at all. Exits: [`Soft`](Self::Soft), [`Quick`](Self::Quick).
    #[default]
    Serving,
    /// Finish what is in flight, lose nothing (gunicorn's TERM). Exit: [`Quick`](Self::Quick).
    Soft,
    /// Cut every connection now (gunicorn's INT and QUIT). No exit.
    Quick,
}

/// What the server wants of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Requests. Exits: `LastResponses`, `Cut`.
    Serving,
    /// HTTP/1: each further response is the connection's last. HTTP/2: GOAWAY. Exit: `Cut`.
    LastResponses,
    /// Drop everything. No exit.
    Cut,
}

impl Drain {
    /// A handle that has told nobody to stop yet.
    #[must_use]
    pub fn new() -> Self {
        Self { level: Arc::new(watch::Sender::new(Level::Serving)) }
    }

    /// Starts the soft drain.
    pub fn start(&self) {
        self.raise(Level::Soft);
    }

    /// Cuts every connection, also in the midst of a soft drain.
    pub fn stop_quick(&self) {
        self.raise(Level::Quick);
    }

    /// How urgently the server was told to stop.
    #[must_use]
    pub fn level(&self) -> Level {
        *self.level.borrow()
    }

    /// Whether the server was told to stop, softly or at once.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.level() >= Level::Soft
    }

    /// Waits until the server is told to stop.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn started(&self) {
        self.reached(Level::Soft).await;
    }

    /// Waits until the server is told to stop at least as urgently as `level`.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn reached(&self, level: Level) {
        let mut levels = self.level.subscribe();
        // An error would mean that the sender is gone, and `self` holds it.
        let mut told = pin!(levels.wait_for(|now| *now >= level));
        // Who waits is told one after the other. Of two that wait in one task the first must not hear of it
        // last, so each looks for itself.
        future::poll_fn(|cx| {
            if self.level() >= level { Poll::Ready(()) } else { told.as_mut().poll(cx).map(drop) }
        })
        .await;
    }

    fn raise(&self, level: Level) {
        self.level.send_if_modified(|now| {
            let higher = level > *now;
            *now = level.max(*now);
            higher
        });
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}
