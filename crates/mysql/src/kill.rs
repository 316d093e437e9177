//! Ending sessions at the server, by a connection beside the pool's.

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

// === impl Killer ===

impl Killer {
    pub(crate) fn new(opts: Opts) -> Self {
        // It needs no database, and is not listed among those who use it.
        let opts = OptsBuilder::from_opts(opts).db_name(None::<String>).into();
        Self { opts, side: Arc::default() }
    }

    /// Ends a session, and returns when it is gone.
    pub(crate) async fn kill(&self, session: u64) -> Result<()> {
        let mut side = self.side.lock().await;
        let mut killed =
            Err(Error::Io(std::io::Error::from(std::io::ErrorKind::NotConnected).into()));
        if let Some(mut conn) = side.conn.take() {
            killed = kill(&mut conn, session).await;
            side.conn = Some(conn);
        }
        if killed.as_ref().is_err_and(Error::is_fatal) {
            // There was none, or the server had closed it.
            let mut conn = Conn::new(self.opts.clone()).await?;
            killed = kill(&mut conn, session).await;
            side.conn = Some(conn);
        }
        let closes = Instant::now() + LINGER;
        if side.closes.replace(closes).is_none() {
            tokio::spawn(close(Arc::clone(&self.side), closes));
        }
        killed
    }
}

/// `KILL CONNECTION`, which needs no privilege for one's own sessions, until there is none to kill.
///
/// Not `KILL QUERY`: a killed statement may report success, and the number may already run another.
async fn kill(conn: &mut Conn, session: u64) -> Result<()> {
    const NO_SUCH_THREAD: u16 = 1094;
    let mut pause = Duration::from_micros(500);
    loop {
        match conn.query_drop(format!("KILL CONNECTION {session}")).await {
            Err(Error::Server(error)) if error.code == NO_SUCH_THREAD => return Ok(()),
            result => result?,
        }
        // The server has only marked it: the session ends, and lets go of its locks, by itself.
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

async fn close(side: Arc<Mutex<Side>>, mut closes: Instant) {
    loop {
        sleep_until(closes).await;
        let mut side = side.lock().await;
        match side.closes {
            Some(later) if later > closes => closes = later,
            _ => {
                side.closes = None;
                if let Some(conn) = side.conn.take() {
                    if let Err(error) = conn.disconnect().await {
                        tracing::debug!(%error, "closing the side connection failed");
                    }
                }
                return;
            }
        }
    }
}
