//! What a database driver provides: connections, and what can be said and done about one.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::Policy;

/// A database that connections are opened to: the driver's side of a [`Pool`](crate::Pool).
///
/// One value is one database with its address and credentials. The pool decides *when* something
/// happens and puts a time limit on every future here; a backend only does it. So a future of a
/// backend may be dropped at any point, and [`inspect`](Self::inspect) must afterwards tell the
/// truth.
pub trait Backend: Send + Sync + 'static {
    /// One connection, as handlers use it.
    type Connection: Send + 'static;

    /// What the driver's operations fail with.
    type Error: Error + Send + Sync + 'static;

    /// What tells a session from every other, also from one with the same number at another server
    /// that answers at the same address; [`Infallible`](std::convert::Infallible) where there are none.
    type SessionId: fmt::Display + Send + Sync + 'static;

    /// Opens a connection, ready for statements.
    ///
    /// Names are resolved anew each time, so that a fail-over is followed.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;

    /// Closes a connection, politely if the server listens; over when the session is, as far as that
    /// can be known.
    ///
    /// One that is [`Poisoned`](Inspection::Poisoned) is only closed at the client, at once: its
    /// session ends with its statement, or by [`interrupt`](Self::interrupt).
    fn close(&self, connection: Self::Connection) -> impl Future<Output = ()> + Send;

    /// From now on a handler's statements on this connection end with
    /// [`StatementTimedOut`](crate::StatementTimedOut) after `limit`, and leave it
    /// [`Poisoned`](Inspection::Poisoned).
    ///
    /// Called once, after [`connect`](Self::connect), where the policy has such a limit. The default has
    /// none.
    fn limit_statements(&self, connection: &mut Self::Connection, limit: Duration) {
        let _ = (connection, limit);
    }

    /// What state a connection is in, without I/O and without waiting.
    fn inspect(&self, connection: &mut Self::Connection) -> Inspection;

    /// Asks the server whether the connection still works: one round trip.
    ///
    /// Called only for a connection that is [`Clean`](Inspection::Clean).
    fn check(
        &self,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Ends an open transaction without its changes.
    fn rollback(
        &self,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Brings the session back to the state after [`connect`](Self::connect).
    ///
    /// If that is impossible the backend leaves the connection not [`Clean`](Inspection::Clean),
    /// and the pool closes it.
    fn reset(
        &self,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// What an error says about the connection, or about the server if it came from
    /// [`connect`](Self::connect).
    fn classify(&self, error: &Self::Error) -> ErrorClass;

    /// Which session at the server this is; as text, the number that the server's process list shows.
    fn session_id(&self, connection: &Self::Connection) -> Option<Self::SessionId> {
        let _ = connection;
        None
    }

    /// How long the server lets this connection lie unused before it closes it, if that is known.
    ///
    /// Asked once, after [`connect`](Self::connect). The pool closes it a tenth sooner.
    fn idle_limit(&self, connection: &Self::Connection) -> Option<Duration> {
        let _ = connection;
        None
    }

    /// Ends a session at the server by a side channel; over when it is known to be gone.
    ///
    /// Closing the client's end does not stop a running statement: the server works on and holds
    /// its locks. The pool calls this for a connection whose operation was cut off, after
    /// [`close`](Self::close), and again after an error that is [`Fatal`](ErrorClass::Fatal),
    /// [`Busy`](ErrorClass::Busy) or [`Denied`](ErrorClass::Denied). The default has no side channel.
    fn interrupt(
        &self,
        session: &Self::SessionId,
    ) -> impl Future<Output = Result<Interruption, Self::Error>> + Send {
        let _ = session;
        async { Ok(Interruption::Unsupported) }
    }

    /// Closes what the backend itself keeps open, such as a side connection.
    ///
    /// Called when a closed pool has closed its last connection. The default has nothing.
    fn finish(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// The policy that this database can keep, from the one that was asked for.
    ///
    /// An in-memory database, for one, lives in exactly one connection that must never be closed.
    fn constrain(&self, policy: Policy) -> Policy {
        policy
    }
}

/// The state of a connection as far as it can be known without I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Inspection {
    /// Nothing is left behind: the connection may go to the next request as it is.
    Clean,
    /// A transaction is open: rolled back before anybody else has the connection.
    InTransaction,
    /// Something may be left behind: reset before anybody else has the connection.
    Unknown,
    /// An operation was dropped midway: no further operation, closed.
    Poisoned,
    /// The link is broken: closed, and every older connection is checked before its next use, whatever
    /// the policy says of checks.
    Dead,
    /// It leads to a server that is no longer the one to write to: closed, and every older connection
    /// too.
    FailedOver,
}

/// What became of a session that was to be ended from the side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interruption {
    /// There is no such session any more.
    Gone,
    /// The side channel leads to another server than the session: nothing was done.
    OtherServer,
    /// There is no side channel.
    Unsupported,
}

/// What an error says about the connection or the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// About the data or the statement only: the connection is as good as before.
    Harmless,
    /// The connection may have suffered.
    Suspect,
    /// The connection is lost, or the server could not be reached.
    Fatal,
    /// The server lives but is no longer the one to write to.
    Failover,
    /// The server takes no more connections now; ask again later, slowly.
    Busy,
    /// The server refuses these credentials or knows no such database; asking again is of no use.
    Denied,
}
