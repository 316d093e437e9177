//! The accept loop's hand: it takes connections from the listeners, each for a place.

use std::future;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time;

use crate::listener::{Listener, Peer, Stream};
use crate::places::{Place, Places};

/// The first pause after an accept that failed for want of something; doubled up to the longest one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(640);

/// What to do with listeners in whose queues no connection waits, and with one that waits for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Wait for one, and ask an idle connection for its place.
    Wait,
    /// Leave them, and ask nobody: a drain has its own rules for who is idle.
    Leave,
}

/// The listeners and the places for what they accept.
pub(crate) struct Acceptor {
    listeners: Vec<Listener>,
    /// Which listener is asked first; the one after the last that gave a connection.
    next: usize,
    places: Places,
}

impl Acceptor {
    pub(crate) fn new(listeners: Vec<Listener>, places: Places) -> Self {
        Self { listeners, next: 0, places }
    }

    /// Waits for a place and then takes a connection; `None` if there is none to be left with.
    pub(crate) async fn accept(&mut self, queue: Queue) -> Option<(Stream, Peer, Place)> {
        let place = match queue {
            Queue::Wait => self.places.take_or_ask(&self.listeners).await,
            Queue::Leave => self.places.take().await,
        }?;
        let mut pause = SHORTEST_PAUSE;
        loop {
            let accepted = future::poll_fn(|cx| match self.poll_accept(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                Poll::Pending if queue == Queue::Leave => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match accepted.await? {
                Ok((stream, peer)) => return Some((stream, peer, place)),
                Err(error) => {
                    // Too many open files, say: the connection stays in the queue.
                    tracing::warn!(%error, "accept failed");
                    time::sleep(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Peer)>> {
        let Self { listeners, next, .. } = self;
        loop {
            let mut asked = 0;
            let accepted = poll_in_turn(next, listeners.len(), |index| {
                asked = index;
                listeners[index].poll_accept(cx)
            });
            match accepted {
                // Another process that shares the socket has shut it down: nobody comes there any more.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                    let listener = listeners.remove(asked);
                    tracing::debug!(?listener, "shut down from outside");
                }
                accepted => return accepted,
            }
        }
    }
}

/// Asks each of `count` sources, from the `next` one on, and leaves out connections that were gone before
/// they were accepted.
fn poll_in_turn<T>(
    next: &mut usize,
    count: usize,
    mut poll_accept: impl FnMut(usize) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    let mut pending = 0;
    while pending < count {
        let index = *next % count;
        *next = index + 1;
        match poll_accept(index) {
            Poll::Pending => pending += 1,
            Poll::Ready(Err(error)) if client_left(&error) => pending = 0,
            accepted => return accepted,
        }
    }
    Poll::Pending
}

fn client_left(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Two queues, and every connection that is taken out of them in turn.
    #[test]
    fn a_client_that_left_is_not_the_end_of_the_queue() {
        let left = || Err(io::ErrorKind::ConnectionAborted.into());
        let mut queues = [
            VecDeque::from([left(), Ok(1), left(), left(), Ok(2)]),
            VecDeque::from([Ok(3), left(), Err(io::ErrorKind::OutOfMemory.into()), Ok(4)]),
        ];
        let mut next = 0;
        let mut taken = Vec::new();
        let mut failed = 0;
        while let Poll::Ready(accepted) = poll_in_turn(&mut next, 2, |index| {
            queues[index].pop_front().map_or(Poll::Pending, Poll::Ready)
        }) {
            match accepted {
                Ok(connection) => taken.push(connection),
                Err(_) => failed += 1,
            }
        }
        assert_eq!(failed, 1);
        assert!(queues.iter().all(VecDeque::is_empty));
        taken.sort_unstable();
        assert_eq!(taken, [1, 2, 3, 4]);
    }
}
