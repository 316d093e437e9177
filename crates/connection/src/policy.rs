//! How long connections live, how many there are, and how long anybody waits.

use std::time::Duration;

/// The rules of a [`Pool`](crate::Pool).
///
/// The default is the recommended profile; [`Policy::django`] has Django's defaults.
///
/// | setting | default | Django's name |
/// |---|---|---|
/// | [`max_connections`](Self::max_connections) | 10 | none (one per thread) |
/// | [`max_age`](Self::max_age) | 300 s | `CONN_MAX_AGE` (0) |
/// | [`max_age_jitter`](Self::max_age_jitter) | 0.2 | none |
/// | [`idle_timeout`](Self::idle_timeout) | 600 s | none |
/// | [`health_checks`](Self::health_checks) | on | `CONN_HEALTH_CHECKS` (off) |
/// | [`health_check_bypass`](Self::health_check_bypass) | 0.5 s | none (0) |
/// | [`acquire_timeout`](Self::acquire_timeout) | 5 s | none |
/// | [`connect_timeout`](Self::connect_timeout) | 2 s | a driver option |
/// | [`statement_timeout`](Self::statement_timeout) | none | a database option |
/// | [`check_timeout`](Self::check_timeout) | 1 s | none |
/// | [`reset_timeout`](Self::reset_timeout) | 1 s | none |
/// | [`close_timeout`](Self::close_timeout) | 2 s | none |
/// | [`max_waiting`](Self::max_waiting) | 1,000 | none |
/// | [`max_connecting`](Self::max_connecting) | 4 | none |
/// | [`kill_cancelled`](Self::kill_cancelled) | on | none |
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use farrier_connection::Policy;
///
/// let policy = Policy::default()
///     .max_connections(20)
///     .max_age(Duration::from_secs(60))
///     .acquire_timeout(Duration::from_secs(1));
/// assert_eq!(policy.max_age, Some(Duration::from_secs(60)));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Policy {
    /// How many server sessions may exist at once, those being opened and closed included; at least
    /// 1.
    pub max_connections: usize,
    /// How long a connection may live, counted from the end of its handshake.
    ///
    /// Zero closes it at the end of each request, `None` never. Use does not extend it, and a
    /// request that outlives it is not interrupted.
    pub max_age: Option<Duration>,
    /// By which part of `max_age` a connection may have to go sooner, rolled once per connection, 0
    /// to 1.
    ///
    /// So connections that were opened together are not closed together.
    pub max_age_jitter: f64,
    /// How long a connection may lie unused; `None` is for as long as the server lets it.
    ///
    /// Where the backend knows the server's own limit (MySQL's `wait_timeout`, PostgreSQL's
    /// `idle_session_timeout`), never longer than nine tenths of that.
    pub idle_timeout: Option<Duration>,
    /// Whether a connection that an earlier request used is checked at its first use in a request.
    pub health_checks: bool,
    /// A connection that was in use so recently is not checked.
    pub health_check_bypass: Duration,
    /// How long a request waits for its connection in all: for a slot, the check and the connect.
    ///
    /// The default lets four times as many clients as there are connections take turns with statements
    /// of a second, and answers well before a load balancer gives up.
    pub acquire_timeout: Duration,
    /// How long one attempt to connect may take.
    ///
    /// One that is given up then leaves a session at a slow server until that notices.
    pub connect_timeout: Duration,
    /// How long a handler's statement may wait for the database: until it is done, or, where rows are
    /// read one at a time, each time that nothing has come yet; `None` is for ever. 30 s suit requests.
    ///
    /// Then the statement's future ends with [`StatementTimedOut`](crate::StatementTimedOut), and the
    /// connection is poisoned, and ended as when the client hangs up. The time runs here, so it does not
    /// need a server that still answers. What a backend does not see is not limited: statements on the
    /// driver's own connection, and the rows of MySQL's `query_iter` and `exec_iter` after the first
    /// packet.
    pub statement_timeout: Option<Duration>,
    /// How long a health check may take; longer counts as failed.
    pub check_timeout: Duration,
    /// How long a rollback or a reset may take; longer closes the connection.
    pub reset_timeout: Duration,
    /// How long closing may take, and how long the pool waits for one attempt to end a cancelled
    /// session before it counts as failed and is repeated.
    pub close_timeout: Duration,
    /// How many requests may wait for a slot; the next is refused at once.
    ///
    /// By default as many as a worker has clients at most (gunicorn's `worker_connections`), so that it
    /// is `acquire_timeout` that limits a burst.
    pub max_waiting: usize,
    /// How many connections may be in the making at once; at least 1.
    ///
    /// While connects fail it is one, after a pause that grows from 10 ms to half a second.
    pub max_connecting: usize,
    /// Whether a session whose operation was cancelled is ended at the server, by
    /// [`Backend::interrupt`](crate::Backend::interrupt).
    ///
    /// The client's end is closed first, so the session ends with its statement at the latest. Its
    /// slot is free again when the server confirms the end; while the server does not answer, the
    /// attempt is repeated. For this the server sees one session more than `max_connections`, and
    /// a second one while a kill takes longer than 100 ms: let it take workers × (`max_connections` + 2).
    ///
    /// Nothing is ended where the side connection leads to another server than the session's, as it
    /// may behind a load balancer or a proxy that splits reads from writes; see
    /// [`kills_at_other_server`](crate::Status::kills_at_other_server). Switch it off behind a proxy
    /// that gives out session numbers of its own.
    pub kill_cancelled: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_connections: 10,
            max_age: Some(Duration::from_secs(300)),
            max_age_jitter: 0.2,
            idle_timeout: Some(Duration::from_secs(600)),
            health_checks: true,
            health_check_bypass: Duration::from_millis(500),
            acquire_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            statement_timeout: None,
            check_timeout: Duration::from_secs(1),
            reset_timeout: Duration::from_secs(1),
            close_timeout: Duration::from_secs(2),
            max_waiting: 1_000,
            max_connecting: 4,
            kill_cancelled: true,
        }
    }
}

impl Policy {
    /// Django's defaults: a connection lives for one request and is never checked.
    ///
    /// What Django does not have stays: the bound and the time limits.
    #[must_use]
    pub fn django() -> Self {
        Self {
            max_age: Some(Duration::ZERO),
            max_age_jitter: 0.0,
            idle_timeout: None,
            health_checks: false,
            health_check_bypass: Duration::ZERO,
            ..Self::default()
        }
    }

    /// At most so many sessions at the server; 10 by default, 0 is taken as 1.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// A connection is closed at this age; 300 s by default, `None` never, zero at the end of each request.
    #[must_use]
    pub fn max_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.max_age = age.into();
        self
    }

    /// Connections go up to this part of `max_age` sooner; 0.2 by default, kept between 0 and 1.
    #[must_use]
    pub fn max_age_jitter(mut self, part: f64) -> Self {
        self.max_age_jitter = if part.is_nan() { 0.0 } else { part.clamp(0.0, 1.0) };
        self
    }

    /// A connection is closed that lies unused for so long; 600 s by default, `None` when the server would.
    #[must_use]
    pub fn idle_timeout(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = idle.into();
        self
    }

    /// A connection is checked that an earlier request used; on by default.
    #[must_use]
    pub fn health_checks(mut self, on: bool) -> Self {
        self.health_checks = on;
        self
    }

    /// One that was used so recently is not checked; 0.5 s by default.
    #[must_use]
    pub fn health_check_bypass(mut self, window: Duration) -> Self {
        self.health_check_bypass = window;
        self
    }

    /// A request waits no longer than this for its connection, in all; 5 s by default.
    #[must_use]
    pub fn acquire_timeout(mut self, limit: Duration) -> Self {
        self.acquire_timeout = limit;
        self
    }

    /// An attempt to connect fails after this; 2 s by default.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// A statement ends with an error after this, and its connection with it; `None` by default, which is never.
    #[must_use]
    pub fn statement_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.statement_timeout = limit.into();
        self
    }

    /// A health check fails after this; 1 s by default.
    #[must_use]
    pub fn check_timeout(mut self, limit: Duration) -> Self {
        self.check_timeout = limit;
        self
    }

    /// A rollback or reset fails after this, and the connection is closed; 1 s by default.
    #[must_use]
    pub fn reset_timeout(mut self, limit: Duration) -> Self {
        self.reset_timeout = limit;
        self
    }

    /// A close, and an attempt to end a cancelled session, is given up after this; 2 s by default.
    #[must_use]
    pub fn close_timeout(mut self, limit: Duration) -> Self {
        self.close_timeout = limit;
        self
    }

    /// One request more than so many that wait is refused at once; 1,000 by default.
    #[must_use]
    pub fn max_waiting(mut self, requests: usize) -> Self {
        self.max_waiting = requests;
        self
    }

    /// At most so many connects are under way; 4 by default, 0 is taken as 1.
    #[must_use]
    pub fn max_connecting(mut self, connections: usize) -> Self {
        self.max_connecting = connections.max(1);
        self
    }

    /// A session whose operation was cancelled is ended at the server; on by default.
    #[must_use]
    pub fn kill_cancelled(mut self, on: bool) -> Self {
        self.kill_cancelled = on;
        self
    }

    /// The fields are public, so a zero can come past the setters.
    pub(crate) fn normalized(mut self) -> Self {
        self.max_connections = self.max_connections.max(1);
        self.max_connecting = self.max_connecting.max(1);
        let jitter = self.max_age_jitter;
        self.max_age_jitter(jitter)
    }
}
