//! What can go wrong with a queue.

use std::{fmt, io};

/// Why a queue was not made.
#[derive(Debug)]
#[non_exhaustive]
pub enum QueueError {
    /// This process has a queue of this name already.
    NameTaken(String),
    /// The kernel does not allow a buffer of so many bytes: `net.core.wmem_max`.
    BufferTooLarge {
        /// What was asked for.
        asked: usize,
        /// What the kernel gives at most.
        most: usize,
    },
    /// The kernel's: no descriptor, no memory.
    Io(io::Error),
}

/// Why a message was not sent; the queue is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// There is no room now; [`Sender::try_send`](crate::Sender::try_send) only.
    Full,
    /// No process has the receiving end any more.
    Closed,
    /// The message does not fit into the queue at all.
    TooLarge {
        /// Bytes of the message, as it is sent.
        size: usize,
        /// Bytes that a message may have.
        most: usize,
    },
    /// The message cannot be written: its `Serialize` says so.
    Unwritable(Box<dyn std::error::Error + Send + Sync>),
    /// The kernel's.
    Io(io::Error),
}

/// Why no message was received.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// There is none now; [`Receiver::try_recv`](crate::Receiver::try_recv) only.
    Empty,
    /// There is none, and no process has the sending end any more.
    Closed,
    /// What came is no message of this type, and is gone: another image of the program has sent it, or the type is one that
    /// can be written and not read (see [`queue`](crate::queue())).
    Malformed(Box<dyn std::error::Error + Send + Sync>),
    /// The kernel's.
    Io(io::Error),
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTaken(name) => write!(f, "there is a queue {name:?} already"),
            Self::BufferTooLarge { asked, most } => {
                write!(f, "a buffer of {asked} bytes; the kernel allows {most} (net.core.wmem_max)")
            }
            Self::Io(error) => write!(f, "a queue cannot be made: {error}"),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the queue is full"),
            Self::Closed => f.write_str("nobody can receive from the queue any more"),
            Self::TooLarge { size, most } => {
                write!(
                    f,
                    "a message of {size} bytes is too large for the queue, which takes {most}"
                )
            }
            Self::Unwritable(error) => write!(f, "the message cannot be written: {error}"),
            Self::Io(error) => write!(f, "the queue cannot be written to: {error}"),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the queue is empty"),
            Self::Closed => f.write_str("the queue is empty, and nobody can send to it any more"),
            Self::Malformed(error) => write!(f, "what came is no message of this queue: {error}"),
            Self::Io(error) => write!(f, "the queue cannot be read: {error}"),
        }
    }
}

impl std::error::Error for QueueError {}
impl std::error::Error for SendError {}
impl std::error::Error for RecvError {}
