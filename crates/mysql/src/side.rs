//! The side connection: what is said to the server about the pool's sessions, to end them and to see
//! them go.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farrier_connection::{ErrorClass, Interruption};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Result, Row};
use tokio::pin;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::session_id::ServerId;
use crate::{MySqlSessionId, error};

mod orders;

use orders::{Next, Orders, Speaker};

/// How long one order may take, with a connect. MariaDB tries for 2 s to wake a session that it ends.
const LIMIT: Duration = Duration::from_secs(5);
/// An order that takes longer than this is not in the way of the others: a second connection serves
/// those.
const PATIENCE: Duration = Duration::from_millis(100);

/// Orders about sessions, carried out by tasks of its own over one connection, and a second one only
/// while the first waits for a slow answer.
///
/// So the server sees one session beyond the pool's bound, and two while a kill is slow. The
/// connection is opened when it is needed and stays for a few seconds after.
#[derive(Debug)]
pub(crate) struct Side(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    opts: Opts,
    orders: Mutex<Orders>,
    /// Something has changed that a speaker may wait for.
    changed: Notify,
    /// A speaker has ended.
    ended: Notify,
}

/// A running task that speaks to the server; its drop says that it runs no more.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    speaker: Speaker,
    side: Option<SideConnection>,
    /// It has said so; dropped otherwise, its runtime has ended.
    ended: bool,
}

#[derive(Debug)]
struct SideConnection {
    conn: Conn,
    server: ServerId,
}

/// What is said.
#[derive(Clone, Copy, Debug)]
enum Statement {
    /// `KILL CONNECTION`, which needs no privilege for one's own sessions.
    ///
    /// Not `KILL QUERY`: a killed statement may report success, and the number may already run
    /// another.
    Kill(u32),
    /// `SHOW PROCESSLIST`: one answer for all who are awaited, and no temporary table at the server.
    Look,
}

#[derive(Debug)]
enum Reply {
    /// The session was marked: it ends, and lets go of its locks, by itself.
    Marked,
    NoSuchSession,
    Present(Vec<u32>),
    OtherServer,
}

// === impl Side ===

impl Side {
    pub(crate) fn new(opts: Opts) -> Self {
        // It needs no database, and is not listed among those who use it.
        let opts = OptsBuilder::from_opts(opts).db_name(None::<String>).into();
        let orders = Mutex::new(Orders::new(Instant::now()));
        Self(Arc::new(Shared { opts, orders, changed: Notify::new(), ended: Notify::new() }))
    }

    /// Ends a session; over when it is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the waiting, not the order; asking again joins it.
    pub(crate) async fn kill(&self, session: &MySqlSessionId) -> Result<Interruption> {
        self.order(session, true).await
    }

    /// Waits until a session is gone that ends by itself.
    pub(crate) async fn see_off(&self, session: &MySqlSessionId) -> Result<Interruption> {
        self.order(session, false).await
    }

    /// Closes the connection unless it is in use: another was refused.
    pub(crate) fn make_room(&self) {
        self.0.orders().make_room(Instant::now());
        self.0.changed.notify_waiters();
    }

    /// Forgets what was ordered, and closes the connection.
    pub(crate) async fn close(&self) {
        self.0.orders().close();
        self.0.changed.notify_waiters();
        loop {
            let ended = self.0.ended.notified();
            pin!(ended);
            // Registered before the look, or an end in between is missed.
            ended.as_mut().enable();
            if !self.0.orders().has_speakers() {
                return;
            }
            ended.await;
        }
    }

    async fn order(&self, session: &MySqlSessionId, kill: bool) -> Result<Interruption> {
        let (answer, answered) = oneshot::channel();
        self.0.orders().take(session, kill, answer, Instant::now());
        Shared::changed(&self.0);
        let gone = || io::Error::other("the side connection was closed").into();
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

// === impl Shared ===

impl Shared {
    /// Tells the speakers, and starts one that is wanted.
    fn changed(shared: &Arc<Self>) {
        let wanted = shared.orders().speaker_wanted();
        if let Some(speaker) = wanted {
            let running = Running { shared: Arc::clone(shared), speaker, side: None, ended: false };
            drop(tokio::spawn(running.run()));
        }
        shared.changed.notify_waiters();
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        // Nothing in there panics between two writes that belong together.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Running ===

impl Running {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let changed = shared.changed.notified();
            pin!(changed);
            // Registered before the look, or a change in between is missed.
            changed.as_mut().enable();
            let next = shared.orders().next(self.speaker, Instant::now());
            match next {
                Next::Kill(session) => {
                    let statement = Statement::Kill(session.number);
                    self.carry_out(statement, &[session]).await;
                }
                Next::Look(sessions) => self.carry_out(Statement::Look, &sessions).await,
                Next::Disconnect => self.disconnect().await,
                Next::Wait(until) => drop(timeout_at(until, changed).await),
                Next::End => {
                    self.disconnect().await;
                    if shared.orders().may_end(self.speaker) {
                        self.ended = true;
                        return;
                    }
                }
            }
        }
    }

    /// Says something about sessions of one server, and passes on what comes of it.
    async fn carry_out(&mut self, statement: Statement, sessions: &[MySqlSessionId]) {
        let Some(first) = sessions.first() else { return };
        let shared = Arc::clone(&self.shared);
        let reply = timeout(LIMIT, self.say(statement, &first.server)).await;
        let now = Instant::now();
        let mut orders = shared.orders();
        match reply {
            Ok(Ok(Reply::Marked)) => orders.killed(first, false, now),
            Ok(Ok(Reply::NoSuchSession)) => orders.killed(first, true, now),
            Ok(Ok(Reply::Present(found))) => orders.looked(sessions, &found, now),
            Ok(Ok(Reply::OtherServer)) => orders.elsewhere(sessions, now),
            Ok(Err(error)) => {
                orders.failed(sessions, &error, now);
                if self.side.is_none() {
                    orders.refused(&error, now);
                }
            }
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the server does not answer");
                orders.failed(sessions, &error.into(), now);
            }
        }
        if self.speaker == Speaker::First {
            orders.set_unanswered(false);
        }
        drop(orders);
        shared.changed.notify_waiters();
    }

    /// One statement to `server`: over the connection that there is, or over a new one if that is
    /// broken or leads elsewhere.
    async fn say(&mut self, statement: Statement, server: &ServerId) -> Result<Reply> {
        // Taken, so that an answer that does not come takes the connection along.
        if let Some(mut side) = self.side.take() {
            if side.server == *server {
                match self.ask(statement, &mut side.conn).await {
                    Err(error) if error::classify(&error) == ErrorClass::Fatal => {}
                    reply => {
                        self.side = Some(side);
                        return reply;
                    }
                }
            }
            disconnect(side).await;
        }
        let mut conn = Conn::new(self.shared.opts.clone()).await?;
        let (at, _) = ServerId::ask(&mut conn).await?;
        let mut side = SideConnection { conn, server: at };
        let reply = if side.server == *server {
            self.ask(statement, &mut side.conn).await
        } else {
            Ok(Reply::OtherServer)
        };
        self.side = Some(side);
        reply
    }

    /// Sends a statement, and lets a second speaker begin while a kill waits long for its answer.
    async fn ask(&self, statement: Statement, conn: &mut Conn) -> Result<Reply> {
        let reply = statement.run(conn);
        pin!(reply);
        if self.speaker == Speaker::First && matches!(statement, Statement::Kill(_)) {
            match timeout(PATIENCE, &mut reply).await {
                Ok(reply) => return reply,
                Err(_) => {
                    self.shared.orders().set_unanswered(true);
                    Shared::changed(&self.shared);
                }
            }
        }
        reply.await
    }

    async fn disconnect(&mut self) {
        if let Some(side) = self.side.take() {
            disconnect(side).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.orders().speaker_gone(self.speaker);
        }
        self.shared.ended.notify_waiters();
    }
}

// === impl Statement ===

impl Statement {
    async fn run(self, conn: &mut Conn) -> Result<Reply> {
        const NO_SUCH_THREAD: u16 = 1094;
        match self {
            Self::Kill(number) => {
                match conn.query_drop(format!("KILL CONNECTION {number}")).await {
                    Ok(()) => Ok(Reply::Marked),
                    Err(Error::Server(error)) if error.code == NO_SUCH_THREAD => {
                        Ok(Reply::NoSuchSession)
                    }
                    Err(error) => Err(error),
                }
            }
            Self::Look => {
                let rows: Vec<Row> = conn.query("SHOW PROCESSLIST").await?;
                let numbers = rows.into_iter().filter_map(|mut row| row.take(0));
                Ok(Reply::Present(numbers.collect()))
            }
        }
    }
}

async fn disconnect(side: SideConnection) {
    if let Err(error) = side.conn.disconnect().await {
        tracing::debug!(%error, "closing the side connection failed");
    }
}
