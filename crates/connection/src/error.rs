//! Why a request gets no connection or no answer on it, and what its client is told.

use std::error::Error;
use std::fmt;
use std::iter;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

/// Why there is no connection.
///
/// [`status`](Self::status) is what a client should be answered. `Display` says what happened in
/// farrier's own words; the driver's are only in [`source`](Error::source), for the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AcquireError {
    /// Every connection stayed in use for the whole `acquire_timeout`: 503.
    Exhausted,
    /// As many requests wait as `max_waiting` allows: 503 at once.
    QueueFull,
    /// The server could not be reached or takes no more connections: 503.
    Unavailable(Arc<dyn Error + Send + Sync>),
    /// The server did not answer in time: 504.
    TimedOut,
    /// The server refuses the credentials or the database: 500.
    ///
    /// Until the next attempt to connect, half a second later at most, it is the answer to everybody
    /// for whom no connection is idle.
    Denied(Arc<dyn Error + Send + Sync>),
    /// The pool is closed: 503.
    Closed,
    /// The request's own connection broke, or one of its operations was cancelled: 500.
    ///
    /// The request has no other connection; what its lost transaction did is undone by the server.
    Lost,
    /// Another part of the same request kept the connection borrowed for the whole
    /// `acquire_timeout`, since this place in the code: 500.
    Borrowed(&'static Location<'static>),
    /// The request is over; work that outlives it takes its own from
    /// [`Pool::acquire`](crate::Pool::acquire): 500.
    Ended,
    /// No [`ConnectionLayer`](crate::ConnectionLayer) for this database is around the caller: 500.
    NoScope,
    /// The pool has connections from before a fork, which this process shares with its parent: 500.
    Forked,
    /// The pool has connections on another runtime: 500.
    ForeignRuntime,
    /// The caller is not on a tokio runtime: 500.
    NoRuntime,
}

impl AcquireError {
    /// The status of the answer to the client.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Exhausted | Self::QueueFull | Self::Unavailable(_) | Self::Closed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            Self::Denied(_)
            | Self::Lost
            | Self::Borrowed(_)
            | Self::Ended
            | Self::NoScope
            | Self::Forked
            | Self::ForeignRuntime
            | Self::NoRuntime => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Looks for it in an error and what that came from.
    #[must_use]
    pub fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        source_of(error)
    }

    /// When the client may try again: the `Retry-After` of a 503.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1))
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Exhausted => "no database connection became free in time",
            Self::QueueFull => "too many requests wait for a database connection",
            Self::Unavailable(_) => "the database server is not available",
            Self::TimedOut => "the database server did not answer in time",
            Self::Denied(_) => "the database server refuses the credentials or the database",
            Self::Closed => "the connection pool is closed",
            Self::Lost => "the request's database connection was lost",
            Self::Borrowed(place) => {
                let text = "another part of this request keeps the database connection borrowed";
                return write!(f, "{text}, since {place}");
            }
            Self::Ended => "the request that this database handle belongs to is over",
            Self::NoScope => "no connection layer for this database is around this request",
            Self::Forked => "the pool has connections from before a fork",
            Self::ForeignRuntime => "the pool has connections on another runtime",
            Self::NoRuntime => "a database connection needs a tokio runtime",
        };
        f.write_str(text)
    }
}

impl Error for AcquireError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unavailable(source) | Self::Denied(source) => Some(&**source),
            Self::Exhausted
            | Self::QueueFull
            | Self::TimedOut
            | Self::Closed
            | Self::Lost
            | Self::Borrowed(_)
            | Self::Ended
            | Self::NoScope
            | Self::Forked
            | Self::ForeignRuntime
            | Self::NoRuntime => None,
        }
    }
}

/// The first of this type, from the error itself to what it came from.
fn source_of<'e, T: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e T> {
    iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// A statement took longer than the policy's
/// [`statement_timeout`](crate::Policy::statement_timeout): 504.
///
/// It comes as the source of the driver's own error. The connection is [`Poisoned`]: the request gets one
/// that works after [`Db::release`](crate::Db::release).
///
/// # Example
///
/// ```
/// use farrier_connection::StatementTimedOut;
/// use http::StatusCode;
///
/// fn status(error: &(dyn std::error::Error + 'static)) -> StatusCode {
///     match StatementTimedOut::find(error) {
///         Some(_) => StatusCode::GATEWAY_TIMEOUT,
///         None => StatusCode::INTERNAL_SERVER_ERROR,
///     }
/// }
/// # assert_eq!(status(&std::fmt::Error), StatusCode::INTERNAL_SERVER_ERROR);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatementTimedOut {
    /// How long it was waited for.
    pub limit: Duration,
}

impl StatementTimedOut {
    /// For a backend: a statement was given up after `limit`.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit }
    }

    /// Looks for it in an error and what that came from.
    #[must_use]
    pub fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        source_of(error)
    }
}

impl fmt::Display for StatementTimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database did not answer a statement within {:?}", self.limit)
    }
}

impl Error for StatementTimedOut {}

/// An earlier operation on the connection was cut off; the connection does nothing more.
///
/// It comes as the source of the driver's own error. The request gets a connection that works after
/// [`Db::release`](crate::Db::release).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Poisoned;

impl Poisoned {
    /// For a backend.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl fmt::Display for Poisoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an earlier operation on this connection was cancelled or lost the connection")
    }
}

impl Error for Poisoned {}
