//! Which session it is, at which server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Result};

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
/// a number that is drawn at the start.
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
    #[cfg(test)]
    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Asks the server at the other end of `conn`, in one round trip; also how long it lets the
    /// session lie unused.
    pub(crate) async fn ask(conn: &mut Conn) -> Result<(Self, Option<Duration>)> {
        let sql = "SELECT CONCAT(@@hostname, ':', @@port, ':', SUBSTRING(UUID(), 20)), \
            @@wait_timeout";
        match conn.query_first::<(String, u64), _>(sql).await {
            Ok(Some((server, seconds))) => {
                Ok((Self(server.into()), Some(Duration::from_secs(seconds))))
            }
            // What only speaks the protocol may know none of this: as if there were one server.
            Ok(None) | Err(Error::Server(_)) => Ok((Self("".into()), None)),
            Err(error) => Err(error),
        }
    }
}
