//! Which session it is, at which server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Result, Row};

/// A session of a MySQL or MariaDB server; as text, its number in the server's process list.
///
/// The number alone is another session's at another server behind the same address, and after a
/// restart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MySqlSessionId {
    pub(crate) number: u32,
    pub(crate) server: ServerId,
}

/// One start of one server: its host name, its port, and what its `UUID()`s end in: the machine, and
/// a number that is drawn at the start. (And when the clock steps back: sessions from before then end
/// with their statements.)
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServerId(Arc<str>);

// === impl MySqlSessionId ===

impl fmt::Display for MySqlSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

// === impl ServerId ===

impl ServerId {
    /// Asks the server at the other end of `conn`, in one round trip; also how long it lets the
    /// session lie unused.
    ///
    /// Neither is known of what only speaks the protocol, or is a server of old.
    pub(crate) async fn ask(conn: &mut Conn) -> Result<(Option<Self>, Option<Duration>)> {
        // Generic; syntax; no such variable; not supported; no such function.
        const UNKNOWN: [u16; 5] = [1105, 1064, 1193, 1235, 1305];
        let sql = "SELECT CONCAT(@@hostname, ':', @@port, ':', SUBSTRING(UUID(), 20)), \
            @@wait_timeout";
        match conn.query_first::<Row, _>(sql).await {
            Ok(row) => {
                let server = row.as_ref().and_then(|row| row.get_opt::<String, _>(0)?.ok());
                let seconds = row.as_ref().and_then(|row| row.get_opt(1)?.ok());
                Ok((server.map(|server| Self(server.into())), seconds.map(Duration::from_secs)))
            }
            Err(Error::Server(error)) if UNKNOWN.contains(&error.code) => Ok((None, None)),
            Err(error) => Err(error),
        }
    }
}
