//! The driver's side of a side channel.

use std::error::Error;
use std::io;

/// A connection beside the pool's, over which its sessions are ended: the driver's side of a
/// [`SideChannel`](crate::SideChannel).
///
/// A connection that a dropped future leaves in the middle of something is dropped, too.
pub trait SideConnection: Sized + Send + Sync + 'static {
    /// What it takes to open one: address and credentials.
    type Options: Send + Sync + 'static;

    /// What tells a session from every other, as in [`Backend`](crate::Backend).
    type SessionId: Clone + PartialEq + Send + Sync + 'static;

    /// What tells one start of one server from every other that may answer at the same address.
    type ServerId: PartialEq + ?Sized;

    /// What its operations fail with.
    type Error: Error + From<io::Error> + Send + Sync + 'static;

    /// Opens a connection, and learns whose it is.
    fn open(options: &Self::Options) -> impl Future<Output = Result<Self, Self::Error>> + Send;

    /// The server that it leads to, where that can be known.
    fn server(&self) -> Option<&Self::ServerId>;

    /// The server that a session is at.
    fn server_of(session: &Self::SessionId) -> &Self::ServerId;

    /// Tells the server to end one of its sessions, without waiting until that has ended; whether there
    /// is one.
    fn kill(
        &mut self,
        session: &Self::SessionId,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Those of some sessions at its server that are there.
    fn present(
        &mut self,
        sessions: &[Self::SessionId],
    ) -> impl Future<Output = Result<Vec<Self::SessionId>, Self::Error>> + Send;

    /// Whether an error is about the connection, so that another may do better.
    fn is_lost(error: &Self::Error) -> bool;

    /// Closes it.
    fn close(self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}
