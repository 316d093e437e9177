//! The backend: how farrier opens, inspects, cleans and ends a MySQL session.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use farrier_connection::{Alteration, Backend, ErrorClass, Inspection, Interruption, SideChannel};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Result, UrlError};
use tokio::time::timeout;

use crate::connection::MySqlConnection;
use crate::error;
use crate::session_id::{About, MySqlSessionId};
use crate::side::MySqlSide;

/// More than the side connection reads or writes at once, so that its connect need not ask.
const SIDE_PACKET: usize = 1 << 20;
/// The server's own default in seconds: what the driver would ask for at each connect, but only its
/// pool would use.
const WAIT_TIMEOUT: usize = 28_800;

/// A MySQL or MariaDB database.
///
/// A session whose statement was cancelled is ended by `KILL`, at the server that it is at: the one with
/// its host name, port and `UUID()`s. What knows none of these only speaks the protocol, and its
/// sessions end with their statements.
///
/// The driver's `prefer_socket` is off: it would open a second session for each connection. Its
/// pool and its pool's options are not used.
pub struct MySql {
    /// With the largest packet of the server, as soon as that is known.
    opts: Mutex<Opts>,
    /// Whether the largest packet is the one that the user's options say.
    fixed_packet: bool,
    /// Run on each connection after the handshake.
    setup: Option<String>,
    /// Run after each reset: what a reset does not restore, then the setup.
    restore: String,
    side: SideChannel<MySqlSide>,
    /// How long the server lets a session lie unused, where the options say it.
    wait_timeout: Option<Duration>,
}

impl MySql {
    /// The database at `mysql://USER:PASSWORD@HOST:PORT/DATABASE`, with mysql_async's parameters.
    ///
    /// # Errors
    ///
    /// When the URL cannot be understood.
    pub fn new(url: &str) -> std::result::Result<Self, UrlError> {
        Opts::from_url(url).map(Self::from_opts)
    }

    /// The database that `opts` lead to.
    ///
    /// Its setup statements run after each connect and each reset, in the order in which they are
    /// written.
    #[must_use]
    pub fn from_opts(opts: impl Into<Opts>) -> Self {
        let opts = opts.into();
        let setup = (!opts.setup().is_empty()).then(|| opts.setup().join(";"));
        let restore = restore(&opts, setup.as_deref());
        let fixed_packet = opts.max_allowed_packet().is_some();
        let wait_timeout = opts
            .wait_timeout()
            .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX)));
        let wait = opts.wait_timeout().unwrap_or(WAIT_TIMEOUT);
        let opts = OptsBuilder::from_opts(opts)
            .prefer_socket(false)
            .wait_timeout(Some(wait))
            .setup(Vec::<String>::new());
        let opts = Opts::from(opts);
        // It needs no database, and is not listed among those who use it.
        let side = OptsBuilder::from_opts(opts.clone())
            .db_name(None::<String>)
            .max_allowed_packet(Some(SIDE_PACKET));
        let side = SideChannel::new(side.into());
        Self { opts: Mutex::new(opts), fixed_packet, setup, restore, side, wait_timeout }
    }

    fn opts(&self) -> Opts {
        self.opts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the server's largest packet, for which the driver would ask at each connect.
    fn note_packet(&self, bytes: Option<usize>) {
        let mut opts = self.opts.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.fixed_packet && bytes.is_some() && opts.max_allowed_packet() != bytes {
            *opts = OptsBuilder::from_opts(opts.clone()).max_allowed_packet(bytes).into();
        }
    }

    /// As little as brings the session back: a ping, or a reset.
    async fn clean(&self, connection: &mut MySqlConnection) -> Result<()> {
        let altered = connection.altered();
        let conn = connection.driver();
        if altered == Alteration::Lasting {
            return Ok(());
        }
        if altered == Alteration::Nothing {
            // After an error, or with rows left: a ping reads what is left and brings the flags
            // back, and keeps the prepared statements.
            conn.ping().await?;
            if connection.inspect() == Inspection::Clean {
                return Ok(());
            }
        }
        let conn = connection.driver();
        if conn.opts().db_name().is_none() || !conn.reset().await? {
            conn.change_user(Default::default()).await?;
        }
        match connection.restore() {
            Some(own) => {
                let restore = format!("{own};{}", self.restore);
                connection.driver().query_drop(restore).await?;
            }
            None => connection.driver().query_drop(&self.restore).await?,
        }
        connection.restored();
        Ok(())
    }
}

/// COM_RESET_CONNECTION keeps the current role and database, and MySQL takes the server's global character
/// set in place of the handshake's.
fn restore(opts: &Opts, setup: Option<&str>) -> String {
    let mut restore = "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci".to_owned();
    if let Some(name) = opts.db_name() {
        restore = format!("{restore};USE `{}`", name.replace('`', "``"));
    }
    if let Some(setup) = setup {
        restore = format!("{restore};{setup}");
    }
    restore
}

impl Backend for MySql {
    type Connection = MySqlConnection;
    type Error = Error;
    type SessionId = MySqlSessionId;

    async fn connect(&self) -> Result<MySqlConnection> {
        let mut conn = match Conn::new(self.opts()).await {
            Err(error) if error::classify(&error) == ErrorClass::Busy => {
                self.side.make_room();
                return Err(error);
            }
            conn => conn?,
        };
        let mut about = About::ask(&mut conn).await?;
        if let Some(setup) = &self.setup {
            conn.query_drop(setup).await?;
            // It runs after each reset, too: what it needs for that is what there was before it.
            about.wait_timeout = About::ask(&mut conn).await?.wait_timeout;
        }
        self.note_packet(about.max_allowed_packet);
        about.wait_timeout = self.wait_timeout.or(about.wait_timeout);
        Ok(MySqlConnection::new(conn, about))
    }

    async fn close(&self, mut connection: MySqlConnection) {
        let session = connection.session_id();
        let state = connection.inspect();
        let good_bye = connection.into_inner().disconnect();
        let closed = async {
            if state == Inspection::Poisoned {
                // The driver would first read what is left of a result. Begun and dropped, it closes
                // the socket.
                drop(timeout(Duration::ZERO, good_bye).await);
                return Ok(());
            }
            let closed = good_bye.await;
            if let Some(session) = session {
                // The server ends the session a moment later, and tells nobody; also one that it has
                // hung up on itself, as after a `KILL`.
                self.side.see_off(&session).await?;
            }
            closed
        };
        if let Err(error) = closed.await {
            tracing::debug!(%error, "closing a connection failed");
        }
    }

    fn limit_statements(&self, connection: &mut MySqlConnection, limit: Duration) {
        connection.limit_statements(limit);
    }

    fn inspect(&self, connection: &mut MySqlConnection) -> Inspection {
        connection.inspect()
    }

    async fn check(&self, connection: &mut MySqlConnection) -> Result<()> {
        let result = connection.driver().ping().await;
        connection.note(result)
    }

    async fn rollback(&self, connection: &mut MySqlConnection) -> Result<()> {
        let result = connection.driver().query_drop("ROLLBACK").await;
        connection.note(result)
    }

    async fn reset(&self, connection: &mut MySqlConnection) -> Result<()> {
        let result = self.clean(connection).await;
        connection.note(result)
    }

    fn classify(&self, error: &Error) -> ErrorClass {
        error::classify(error)
    }

    fn session_id(&self, connection: &MySqlConnection) -> Option<MySqlSessionId> {
        connection.session_id()
    }

    fn idle_limit(&self, connection: &MySqlConnection) -> Option<Duration> {
        connection.wait_timeout()
    }

    async fn interrupt(&self, session: &MySqlSessionId) -> Result<Interruption> {
        self.side.kill(session).await
    }

    async fn finish(&self) {
        self.side.close().await;
    }
}

impl fmt::Debug for MySql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the whole options: they hold the password.
        let opts = self.opts();
        f.debug_struct("MySql")
            .field("host", &opts.ip_or_hostname())
            .field("port", &opts.tcp_port())
            .field("database", &opts.db_name())
            .finish_non_exhaustive()
    }
}
