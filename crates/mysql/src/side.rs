//! The side connection: how sessions of MySQL and MariaDB are ended and looked for.

use farrier_connection::{ErrorClass, SideConnection};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, Result, Row};

use crate::MySqlSessionId;
use crate::error;
use crate::session_id::{About, ServerId};

/// A connection to the server, and which one that is.
#[derive(Debug)]
pub(crate) struct MySqlSide {
    conn: Conn,
    server: Option<ServerId>,
}

impl SideConnection for MySqlSide {
    type Options = Opts;
    type SessionId = MySqlSessionId;
    type ServerId = ServerId;
    type Error = Error;

    async fn open(options: &Opts) -> Result<Self> {
        let mut conn = Conn::new(options.clone()).await?;
        let About { server, .. } = About::ask(&mut conn).await?;
        Ok(Self { conn, server })
    }

    fn server(&self) -> Option<&ServerId> {
        self.server.as_ref()
    }

    fn server_of(session: &MySqlSessionId) -> &ServerId {
        &session.server
    }

    /// `KILL CONNECTION`, which needs no privilege for one's own sessions.
    ///
    /// Not `KILL QUERY`: a killed statement may report success, and the number may already run
    /// another.
    async fn kill(&mut self, session: &MySqlSessionId) -> Result<bool> {
        const NO_SUCH_THREAD: u16 = 1094;
        match self.conn.query_drop(format!("KILL CONNECTION {}", session.number)).await {
            Ok(()) => Ok(true),
            Err(Error::Server(error)) if error.code == NO_SUCH_THREAD => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `SHOW PROCESSLIST`, for which the server makes no temporary table.
    async fn present(&mut self, sessions: &[MySqlSessionId]) -> Result<Vec<MySqlSessionId>> {
        let rows: Vec<Row> = self.conn.query("SHOW PROCESSLIST").await?;
        let number = |row: &Row| row.get_opt::<u64, _>(0).and_then(std::result::Result::ok);
        let numbers: Vec<_> = rows.iter().filter_map(number).collect();
        let is_there = |session: &&MySqlSessionId| numbers.contains(&session.number.into());
        Ok(sessions.iter().filter(is_there).cloned().collect())
    }

    fn is_lost(error: &Error) -> bool {
        error::classify(error) == ErrorClass::Fatal
    }

    async fn close(self) -> Result<()> {
        self.conn.disconnect().await
    }
}
