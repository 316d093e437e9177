//! What is told of each connection: that it was opened, each request on it, and that it is closed.

use tokio::sync::OwnedSemaphorePermit;

use crate::hook::Hook;

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// It was accepted.
    Opened,
    /// A request on it is given to the service.
    Request,
    /// It is closed; if it was upgraded, by whoever had it then.
    Closed,
}

/// Held until a connection is closed: the server waits for that, and tells of it.
#[derive(Debug)]
pub(crate) struct Open {
    events: Hook<ConnectionEvent>,
    _counted: OwnedSemaphorePermit,
}

impl Open {
    pub(crate) fn new(events: Hook<ConnectionEvent>, counted: OwnedSemaphorePermit) -> Self {
        events.call(&ConnectionEvent::Opened);
        Self { events, _counted: counted }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.events.call(&ConnectionEvent::Closed);
    }
}
