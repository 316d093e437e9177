//! The side channel of a backend: what is said to the server about the pool's sessions, to end them
//! and to see them go.

use std::fmt;
use std::io;
use std::mem;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::pin;
use tokio::runtime::{self, Handle};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::Interruption;

mod orders;
mod side_connection;

pub use side_connection::SideConnection;

use orders::{Next, Orders, Speaker};

/// How long opening a connection may take.
const OPEN_LIMIT: Duration = Duration::from_secs(2);
/// How long a statement may take. MariaDB tries for 2 s to wake a session that it ends.
const LIMIT: Duration = Duration::from_secs(3);
/// A kill that takes longer than this is not in the way of the others: a second connection serves
/// those.
const SLOW: Duration = Duration::from_millis(100);

/// Orders about sessions, carried out by tasks of its own over one connection, and over a second one
/// only while the first waits for the answer to a slow kill.
///
/// So the server sees one session beyond the pool's bound, and two while a kill is slow. The
/// connection is opened when it is needed and stays for 5 seconds after. A session is left alone
/// where the connection leads to another server than the session's.
///
/// # Example
///
/// ```
/// use std::io;
/// use std::sync::{Arc, Mutex};
///
/// use farrier_connection::{Interruption, SideChannel, SideConnection};
///
/// /// The numbers of a server's sessions.
/// type Server = Arc<Mutex<Vec<u32>>>;
///
/// struct Side(Server);
///
/// impl SideConnection for Side {
///     type Options = Server;
///     type SessionId = u32;
///     type ServerId = str;
///     type Error = io::Error;
///
///     async fn open(server: &Server) -> io::Result<Self> {
///         Ok(Self(Arc::clone(server)))
///     }
///     fn server(&self) -> Option<&str> {
///         Some("the only one")
///     }
///     fn server_of(_: &u32) -> &str {
///         "the only one"
///     }
///     async fn kill(&mut self, session: &u32) -> io::Result<bool> {
///         let mut sessions = self.0.lock().unwrap();
///         let before = sessions.len();
///         sessions.retain(|number| number != session);
///         Ok(sessions.len() < before)
///     }
///     async fn present(&mut self, sought: &[u32]) -> io::Result<Vec<u32>> {
///         let sessions = self.0.lock().unwrap();
///         Ok(sought.iter().copied().filter(|number| sessions.contains(number)).collect())
///     }
///     fn is_lost(_: &io::Error) -> bool {
///         true
///     }
///     async fn close(self) -> io::Result<()> {
///         Ok(())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> io::Result<()> {
/// let server = Server::new(Mutex::new(vec![7, 8]));
/// let channel = SideChannel::<Side>::new(Arc::clone(&server));
/// assert_eq!(channel.kill(&7).await?, Interruption::Gone);
/// assert_eq!(*server.lock().unwrap(), [8]);
/// # Ok(())
/// # }
/// ```
pub struct SideChannel<C: SideConnection> {
    options: Arc<C::Options>,
    home: Mutex<Option<Home<C>>>,
}

/// The process and the runtime that the speakers run in. From another one the channel begins anew:
/// nobody knows whether those of the last one still run.
struct Home<C: SideConnection> {
    pid: u32,
    runtime: runtime::Id,
    channel: Arc<Channel<C>>,
}

struct Channel<C: SideConnection> {
    options: Arc<C::Options>,
    orders: Mutex<Orders<C>>,
    /// Something has changed that a speaker may wait for.
    changed: Notify,
    /// A speaker has ended.
    ended: Notify,
}

/// A running task that speaks to the server; its drop says that it runs no more.
struct Running<C: SideConnection> {
    channel: Arc<Channel<C>>,
    speaker: Speaker,
    side: Option<C>,
    /// It has said so; dropped otherwise, its runtime has ended.
    ended: bool,
}

/// What is said.
#[derive(Clone, Copy, Debug)]
enum Statement {
    Kill,
    /// One answer for all who are awaited.
    Look,
}

enum Reply<S> {
    /// The session was marked: it ends, and lets go of its locks, by itself.
    Marked,
    NoSuchSession,
    Present(Vec<S>),
    OtherServer,
}

impl<C: SideConnection> SideChannel<C> {
    /// A channel whose connection is opened with `options`, when it is needed.
    #[must_use]
    pub fn new(options: C::Options) -> Self {
        Self { options: Arc::new(options), home: Mutex::new(None) }
    }

    /// Ends a session; over when it is gone.
    ///
    /// # Errors
    ///
    /// The server's or the driver's, also when there is no connection to be had; asking again may help.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the waiting, not a kill; asking again joins it.
    pub async fn kill(&self, session: &C::SessionId) -> Result<Interruption, C::Error> {
        self.order(session, true).await
    }

    /// Waits until a session is gone that ends by itself.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the waiting.
    pub async fn see_off(&self, session: &C::SessionId) -> Result<Interruption, C::Error> {
        self.order(session, false).await
    }

    /// Makes room for another, which was refused because the server is full: the connection is closed
    /// when it has nobody to kill, and does not look for the others for a quarter of a second.
    pub fn make_room(&self) {
        if let Some(channel) = Home::of_this_runtime(self.home().as_ref()) {
            channel.orders().make_room(Instant::now());
            channel.changed.notify_waiters();
        }
    }

    /// Forgets what was ordered, and closes the connection; a later order opens another.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the waiting.
    pub async fn close(&self) {
        let home = self.home().take();
        let here = Home::of_this_runtime(home.as_ref());
        drop(home);
        // Nobody knows whether the speakers of another runtime run.
        let Some(channel) = here else { return };
        loop {
            let ended = channel.ended.notified();
            pin!(ended);
            // Registered before the look, or an end in between is missed.
            ended.as_mut().enable();
            if !channel.orders().has_speakers() {
                return;
            }
            ended.await;
        }
    }

    async fn order(&self, session: &C::SessionId, kill: bool) -> Result<Interruption, C::Error> {
        let channel = self.here()?;
        let (answer, answered) = oneshot::channel();
        channel.orders().take(session, kill, answer, Instant::now());
        Channel::changed(&channel);
        let none = || C::Error::from(io::Error::other("there is no side connection"));
        answered.await.unwrap_or_else(|_| Err(none()))
    }

    /// What runs here, in this process and on this runtime.
    fn here(&self) -> Result<Arc<Channel<C>>, C::Error> {
        let runtime = Handle::try_current().map_err(io::Error::other)?.id();
        let mut home = self.home();
        if let Some(channel) = Home::of_this_runtime(home.as_ref()) {
            return Ok(channel);
        }
        let channel = Arc::new(Channel {
            options: Arc::clone(&self.options),
            orders: Mutex::new(Orders::new(Instant::now())),
            changed: Notify::new(),
            ended: Notify::new(),
        });
        let here = Home { pid: process::id(), runtime, channel: Arc::clone(&channel) };
        let before = home.replace(here);
        // Not dropped under the lock.
        drop(home);
        drop(before);
        Ok(channel)
    }

    fn home(&self) -> MutexGuard<'_, Option<Home<C>>> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: SideConnection> fmt::Debug for SideChannel<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the options: they hold the password.
        f.debug_struct("SideChannel").finish_non_exhaustive()
    }
}

impl<C: SideConnection> Home<C> {
    /// `None` where the last orders came from another one.
    fn of_this_runtime(home: Option<&Self>) -> Option<Arc<Channel<C>>> {
        let here = Handle::try_current().ok()?.id();
        // No two runtimes have the same id, on both sides of a fork.
        let home = home.filter(|home| home.runtime == here)?;
        Some(Arc::clone(&home.channel))
    }
}

impl<C: SideConnection> Drop for Home<C> {
    fn drop(&mut self) {
        if self.pid == process::id() {
            self.channel.close();
        } else {
            // What waits there waits in the parent's tasks, and would be woken.
            #[expect(clippy::mem_forget, reason = "dropping would reach for the parent's runtime")]
            mem::forget(Arc::clone(&self.channel));
        }
    }
}

impl<C: SideConnection> Channel<C> {
    /// Tells the speakers, and starts one that is wanted.
    fn changed(channel: &Arc<Self>) {
        let wanted = channel.orders().speaker_wanted();
        if let Some(speaker) = wanted {
            let running =
                Running { channel: Arc::clone(channel), speaker, side: None, ended: false };
            drop(tokio::spawn(running.run()));
        }
        channel.changed.notify_waiters();
    }

    fn close(&self) {
        self.orders().close();
        self.changed.notify_waiters();
    }

    fn orders(&self) -> MutexGuard<'_, Orders<C>> {
        // Nothing in there panics between two writes that belong together.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn disconnect<C: SideConnection>(side: C) {
    // Late, it is dropped.
    if let Ok(Err(error)) = timeout(LIMIT, side.close()).await {
        tracing::debug!(%error, "closing the side connection failed");
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server does not answer")
}

impl<C: SideConnection> Running<C> {
    async fn run(mut self) {
        let channel = Arc::clone(&self.channel);
        loop {
            let changed = channel.changed.notified();
            pin!(changed);
            // Registered before the look, or a change in between is missed.
            changed.as_mut().enable();
            let next = channel.orders().next(self.speaker, self.side.is_some(), Instant::now());
            match next {
                Next::Kill(session) => self.carry_out(Statement::Kill, &[session]).await,
                Next::Look(sessions) => self.carry_out(Statement::Look, &sessions).await,
                Next::Disconnect => self.disconnect().await,
                Next::Wait(until) => drop(timeout_at(until, changed).await),
                Next::End => {
                    self.disconnect().await;
                    if channel.orders().may_end(self.speaker) {
                        self.ended = true;
                        return;
                    }
                }
            }
        }
    }

    /// Says something about sessions of one server, and passes on what comes of it.
    async fn carry_out(&mut self, statement: Statement, sessions: &[C::SessionId]) {
        let Some(first) = sessions.first() else { return };
        let channel = Arc::clone(&self.channel);
        let reply = self.say(statement, sessions).await;
        let now = Instant::now();
        let mut orders = channel.orders();
        if self.side.is_some() {
            orders.opened();
        }
        match reply {
            Ok(Reply::Marked) => orders.killed(first, true, now),
            Ok(Reply::NoSuchSession) => orders.killed(first, false, now),
            Ok(Reply::Present(present)) => orders.looked(sessions, &present, now),
            Ok(Reply::OtherServer) => orders.elsewhere(sessions, now),
            Err(error) => {
                orders.failed(sessions, error, now);
                if self.side.is_none() {
                    orders.refused(self.speaker, now);
                }
            }
        }
        drop(orders);
        channel.changed.notify_waiters();
    }

    /// One statement about sessions of one server: over the connection that there is, or over a new
    /// one if that is broken or leads elsewhere.
    async fn say(
        &mut self,
        statement: Statement,
        sessions: &[C::SessionId],
    ) -> Result<Reply<C::SessionId>, C::Error> {
        let leads_there = |side: &C| {
            sessions.first().is_some_and(|session| side.server() == Some(C::server_of(session)))
        };
        // Taken, so that an answer that does not come takes the connection along.
        if let Some(mut side) = self.side.take() {
            if leads_there(&side) {
                let reply = timeout(LIMIT, self.ask(statement, &mut side, sessions)).await;
                match reply.map_err(|_| late())? {
                    Err(error) if C::is_lost(&error) => {}
                    reply => {
                        self.side = Some(side);
                        return reply;
                    }
                }
            }
            disconnect(side).await;
        }
        let opened = timeout(OPEN_LIMIT, C::open(&self.channel.options)).await;
        let mut side = opened.map_err(|_| late())??;
        let reply = if leads_there(&side) {
            let reply = timeout(LIMIT, self.ask(statement, &mut side, sessions)).await;
            reply.map_err(|_| late())?
        } else {
            Ok(Reply::OtherServer)
        };
        self.side = Some(side);
        reply
    }

    /// Sends a statement, and lets a second speaker begin while a kill waits long for its answer.
    async fn ask(
        &self,
        statement: Statement,
        side: &mut C,
        sessions: &[C::SessionId],
    ) -> Result<Reply<C::SessionId>, C::Error> {
        let (Statement::Kill, [session, ..]) = (statement, sessions) else {
            return side.present(sessions).await.map(Reply::Present);
        };
        let killed = side.kill(session);
        pin!(killed);
        let killed = match timeout(SLOW, &mut killed).await {
            Ok(killed) => killed,
            Err(_) => {
                self.channel.orders().is_slow(self.speaker);
                Channel::changed(&self.channel);
                killed.await
            }
        };
        killed.map(|there| if there { Reply::Marked } else { Reply::NoSuchSession })
    }

    async fn disconnect(&mut self) {
        if let Some(side) = self.side.take() {
            disconnect(side).await;
        }
    }
}

impl<C: SideConnection> Drop for Running<C> {
    fn drop(&mut self) {
        if !self.ended {
            self.channel.orders().speaker_gone(self.speaker);
        }
        self.channel.ended.notify_waiters();
    }
}
