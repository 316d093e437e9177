//! The places for connections, `max_connections` of them, and who gives one up when all are taken.

use std::future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{self, Instant};

use crate::activity::Activity;
use crate::listener::Listener;

/// How long a connection has to be idle before it gives up its place.
const IDLE: Duration = Duration::from_secs(1);

/// How long one that was asked for its place has, before the next one is asked: a request may have come in
/// that very moment, and an HTTP/2 client may be slow to leave.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the log is silent about a full server after it was told.
const SILENCE: Duration = Duration::from_secs(60);

/// The places of a server, as its accept loop gives them away.
#[derive(Debug)]
pub(crate) struct Places {
    limit: u32,
    free: Arc<Semaphore>,
    /// Of the connections, and of some that are gone. Only the accept loop knows this list, so no connection
    /// locks anything.
    holders: Vec<Weak<Holder>>,
    /// Nobody has been idle for long enough before then.
    look: Instant,
    warned: Option<Instant>,
}

/// A place that was taken.
#[derive(Debug)]
pub(crate) struct Place {
    /// Held until the connection's last byte is written.
    pub(crate) permit: OwnedSemaphorePermit,
    /// Held as long as the connection may be asked for its place.
    pub(crate) holder: Arc<Holder>,
}

/// A connection that may be asked for its place.
#[derive(Debug, Default)]
pub(crate) struct Holder {
    /// Set once the connection is served.
    served: OnceLock<Served>,
    asked: AtomicBool,
}

#[derive(Debug)]
struct Served {
    activity: Arc<Activity>,
    task: Waker,
}

impl Places {
    pub(crate) fn new(limit: u32) -> Self {
        let free = Arc::new(Semaphore::new(limit as usize));
        Self { limit, free, holders: Vec::new(), look: Instant::now(), warned: None }
    }

    /// Waits for a place. When somebody waits at one of `listeners` meanwhile, the connection that is idle for
    /// longest is asked for its place, and if that one does not leave, the next one.
    ///
    /// `None` if the semaphore is closed, which it never is. Nothing is lost when the future is dropped.
    pub(crate) async fn take_or_ask(&mut self, listeners: &[Listener]) -> Option<Place> {
        let mut place = pin!(Arc::clone(&self.free).acquire_owned());
        loop {
            tokio::select! {
                biased;
                permit = place.as_mut() => return Some(self.give(permit.ok()?)),
                waits = somebody_waits(listeners, self.look) => if let Err(error) = waits {
                    // Too many open files, say: then nobody is asked for now.
                    tracing::debug!(%error, "cannot tell whether clients wait");
                    self.look = Instant::now() + IDLE;
                    continue;
                },
            }
            self.warn();
            // The runtime has just turned to its sockets, or it would not know of the newcomer. So a request
            // that came before is known too, if only to the connection's task, which looks before it leaves.
            let now = Instant::now();
            match self.longest_idle() {
                Some((since, holder)) if since + IDLE <= now => {
                    holder.ask();
                    if let Ok(permit) = time::timeout(PATIENCE, place.as_mut()).await {
                        return Some(self.give(permit.ok()?));
                    }
                }
                Some((since, _)) => self.look = since + IDLE,
                None => self.look = now + IDLE,
            }
        }
    }

    /// Waits for a place, and asks nobody.
    pub(crate) async fn take(&mut self) -> Option<Place> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        Some(self.give(permit))
    }

    fn give(&mut self, permit: OwnedSemaphorePermit) -> Place {
        if self.holders.len() == self.holders.capacity() {
            self.holders.retain(|holder| holder.strong_count() > 0);
            // At least as much again, or this would be done for each connection.
            self.holders.reserve(self.holders.len() + 1);
        }
        let holder = Arc::default();
        self.holders.push(Arc::downgrade(&holder));
        Place { permit, holder }
    }

    fn longest_idle(&self) -> Option<(Instant, Arc<Holder>)> {
        let holders = self.holders.iter().filter_map(Weak::upgrade);
        holders
            .filter_map(|holder| Some((holder.idle_since()?, holder)))
            .min_by_key(|(since, _)| *since)
    }

    fn warn(&mut self) {
        if self.warned.is_none_or(|warned| warned.elapsed() >= SILENCE) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                limit = self.limit,
                "as many connections are open as may be, and clients wait for a place"
            );
        }
    }
}

/// Waits until a connection is in the queue of one of `listeners`, and does not look before `start`.
///
/// Tokio's listeners tell only by accepting it, and then no other process could. Readiness that they have
/// noted may be of long ago, so the kernel is asked anew: a descriptor that is registered while it is ready
/// is reported at once.
async fn somebody_waits(listeners: &[Listener], start: Instant) -> io::Result<()> {
    time::sleep_until(start).await;
    let watched: Vec<_> = listeners.iter().map(watch).collect::<io::Result<_>>()?;
    future::poll_fn(|cx| {
        let mut polled = watched.iter().map(|listener| listener.poll_read_ready(cx).map_ok(drop));
        polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// A second descriptor, since one and the same cannot be registered twice.
#[expect(
    deprecated,
    reason = "unsound with a type that tells of changing descriptors: not with `OwnedFd`"
)]
fn watch(listener: &Listener) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(listener.as_fd().try_clone_to_owned()?, Interest::READABLE)
}

impl Holder {
    /// Notes that a connection is served from now on, by the task of this `task`, which is always the same.
    pub(crate) fn serves(&self, activity: &Arc<Activity>, task: Waker) {
        let _ = self.served.set(Served { activity: Arc::clone(activity), task });
    }

    fn idle_since(&self) -> Option<Instant> {
        self.served.get()?.activity.idle_since()
    }

    fn ask(&self) {
        self.asked.store(true, Relaxed);
        if let Some(served) = self.served.get() {
            served.task.wake_by_ref();
        }
    }

    /// Whether the connection was asked for its place since this was last called, and still is idle.
    pub(crate) fn must_leave(&self) -> bool {
        // No swap: this is read each time that the connection is polled.
        if !self.asked.load(Relaxed) {
            return false;
        }
        self.asked.store(false, Relaxed);
        self.idle_since().is_some_and(|since| since.elapsed() >= IDLE)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

    use super::*;

    async fn waits(listeners: &[Listener]) -> bool {
        let waits = somebody_waits(listeners, Instant::now());
        time::timeout(Duration::from_millis(50), waits).await.is_ok_and(|waits| waits.is_ok())
    }

    async fn accept(listener: &Listener) {
        future::poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
    }

    #[tokio::test]
    async fn whether_somebody_waits_is_known_before_and_after_each_accept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = tcp.local_addr().unwrap();
        let listeners = [tcp.into(), UnixListener::bind(&path).unwrap().into()];
        assert!(!waits(&listeners).await);

        let _tcp =
            [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
        for _ in 0..2 {
            assert!(waits(&listeners).await);
            accept(&listeners[0]).await;
        }
        assert!(!waits(&listeners).await);

        let (waits_for_it, client) =
            tokio::join!(somebody_waits(&listeners, Instant::now()), UnixStream::connect(&path));
        assert!(waits_for_it.is_ok() && client.is_ok());
        assert!(waits(&listeners).await);
        accept(&listeners[1]).await;
        assert!(!waits(&listeners).await);
    }

    #[test]
    fn places_of_connections_that_are_gone_are_forgotten() {
        let mut places = Places::new(100);
        let free = Arc::clone(&places.free);
        let mut take = || places.give(Arc::clone(&free).try_acquire_owned().unwrap());
        let _stay: Vec<_> = (0..10).map(|_| take()).collect();
        for _ in 0..1000 {
            drop(take());
        }
        assert!(places.holders.len() <= 2 * 11, "{}", places.holders.len());
    }
}
