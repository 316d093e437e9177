//! What is done beside the pool's connections: ending sessions at the server, and seeing them go.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Result};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

/// How long the side connection stays open for the next.
const LINGER: Duration = Duration::from_secs(5);

/// One side connection, opened when it is needed and used for one session at a time: the server sees
/// at most one session beyond the pool's bound.
#[derive(Debug)]
pub(crate) struct Killer {
    opts: Opts,
    side: Arc<Mutex<Side>>,
}

#[derive(Debug, Default)]
struct Side {
    /// `None` while it is in use, so that a use that is dropped midway takes it along.
    conn: Option<Conn>,
    /// When to close it; `None` while nothing waits for that.
    closes: Option<Instant>,
}

/// What is said to the server about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// `KILL CONNECTION`, which needs no privilege for one's own sessions.
    ///
    /// Not `KILL QUERY`: a killed statement may report success, and the number may already run
    /// another.
    End,
    /// Only a look whether it is still there.
    Look,
}

// === impl Killer ===

impl Killer {
    pub(crate) fn new(opts: Opts) -> Self {
        // It needs no database, and is not listed among those who use it.
        let opts = OptsBuilder::from_opts(opts).db_name(None::<String>).into();
        Self { opts, side: Arc::default() }
    }

    /// Ends a session, and returns when it is gone.
    pub(crate) async fn kill(&self, session: u32) -> Result<()> {
        self.until_gone(Order::End, session).await
    }

    /// Returns when a session is gone that ends by itself.
    pub(crate) async fn see_off(&self, session: u32) -> Result<()> {
        self.until_gone(Order::Look, session).await
    }

    /// Closes the side connection, if there is one.
    pub(crate) async fn close(&self) {
        let conn = self.side.lock().await.conn.take();
        disconnect(conn).await;
    }

    /// The server only marks a killed session: it ends, and lets go of its locks, by itself. One that
    /// takes its time over that is not in the way of the others here.
    async fn until_gone(&self, order: Order, session: u32) -> Result<()> {
        let mut pause = Duration::from_micros(500);
        while !self.give(order, session).await? {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Gives one order; `true` when there is no such session.
    async fn give(&self, order: Order, session: u32) -> Result<bool> {
        let mut side = self.side.lock().await;
        // Numbers only grow in the life of a server. One that gives a later connection a smaller
        // number was started anew: the session is gone, and its number may be somebody else's.
        let mut answer = None;
        if let Some(mut conn) = side.conn.take().filter(|conn| conn.id() > session) {
            answer = Some(order.give(&mut conn, session).await);
            side.conn = Some(conn);
        }
        let answer = match answer {
            // There was none, or the server had closed it.
            None | Some(Err(Error::Io(_) | Error::Driver(_))) => {
                disconnect(side.conn.take()).await;
                let mut conn = Conn::new(self.opts.clone()).await?;
                let is_later = conn.id() > session;
                let answer = if is_later { order.give(&mut conn, session).await } else { Ok(true) };
                side.conn = Some(conn);
                answer
            }
            Some(answer) => answer,
        };
        let closes = Instant::now() + LINGER;
        if side.closes.replace(closes).is_none() {
            tokio::spawn(linger(Arc::clone(&self.side), closes));
        }
        answer
    }
}

// === impl Order ===

impl Order {
    async fn give(self, conn: &mut Conn, session: u32) -> Result<bool> {
        const NO_SUCH_THREAD: u16 = 1094;
        match self {
            Self::End => match conn.query_drop(format!("KILL CONNECTION {session}")).await {
                Err(Error::Server(error)) if error.code == NO_SUCH_THREAD => Ok(true),
                result => result.map(|()| false),
            },
            Self::Look => {
                let sql = "SELECT id FROM information_schema.processlist WHERE id = ?";
                let found: Option<u32> = conn.exec_first(sql, (session,)).await?;
                Ok(found.is_none())
            }
        }
    }
}

async fn linger(side: Arc<Mutex<Side>>, mut closes: Instant) {
    loop {
        sleep_until(closes).await;
        let mut side = side.lock().await;
        match side.closes {
            Some(later) if later > closes => closes = later,
            _ => {
                side.closes = None;
                let conn = side.conn.take();
                return disconnect(conn).await;
            }
        }
    }
}

async fn disconnect(conn: Option<Conn>) {
    if let Some(conn) = conn {
        if let Err(error) = conn.disconnect().await {
            tracing::debug!(%error, "closing the side connection failed");
        }
    }
}
