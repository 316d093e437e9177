//! Which session it is, at which server, and what that says of itself.

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

/// What a server says of itself; of what only speaks the protocol nothing is known.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) server: Option<ServerId>,
    /// How long it lets the session lie unused.
    pub(crate) wait_timeout: Option<Duration>,
    /// The largest packet that it takes and sends, in bytes.
    pub(crate) max_allowed_packet: Option<usize>,
    /// Statements that bring back what a reset keeps, or takes from the server's settings of its day: the
    /// current role and `wait_timeout`.
    pub(crate) restore: Option<String>,
}

impl fmt::Display for MySqlSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

impl About {
    /// Asks the server at the other end of `conn`, in one round trip.
    pub(crate) async fn ask(conn: &mut Conn) -> Result<Self> {
        // Generic; syntax; no such variable; not supported; no such function.
        const UNKNOWN: [u16; 5] = [1105, 1064, 1193, 1235, 1305];
        // MariaDB has no `SET ROLE DEFAULT`, MySQL no single role, and older ones have neither.
        let sql = "SELECT CONCAT(@@hostname, ':', @@port, ':', SUBSTRING(UUID(), 20)), \
            @@wait_timeout, @@max_allowed_packet, CONCAT('SET wait_timeout = ', @@wait_timeout\
            /*M!100005 , ';SET ROLE ', IFNULL(CONCAT('`', REPLACE(CURRENT_ROLE(), '`', '``'), '`'), 'NONE') */ \
            /*!80002 , ';SET ROLE ', IF(@@activate_all_roles_on_login, 'ALL', 'DEFAULT') */)";
        let row = match conn.query_first::<Row, _>(sql).await {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(Self::default()),
            Err(Error::Server(error)) if UNKNOWN.contains(&error.code) => {
                return Ok(Self::default());
            }
            Err(error) => return Err(error),
        };
        let server = row.get_opt::<String, _>(0).and_then(|server| server.ok());
        let seconds = row.get_opt(1).and_then(|seconds| seconds.ok());
        Ok(Self {
            server: server.map(|server| ServerId(server.into())),
            wait_timeout: seconds.map(Duration::from_secs),
            max_allowed_packet: row.get_opt(2).and_then(|bytes| bytes.ok()),
            restore: row.get_opt(3).and_then(|restore| restore.ok()),
        })
    }
}
