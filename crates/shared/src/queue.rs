//! A queue: typed messages from many senders, each to exactly one of many receivers, in any of the processes.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::task::coop::consume_budget;

use crate::error::{QueueError, RecvError, SendError};
use crate::names::Name;
use crate::socket::{self, End, Waiting};

/// The first byte of each message: how the others are written. It also keeps a message from being empty, which would be
/// the end.
const POSTCARD: u8 = 1;

/// The sending end of a [`queue`]; a clone sends to the same.
///
/// It may be used by several tasks at once, on any runtime. When the queue is full, the tasks of a process send in the order in
/// which they came; between processes there is no order.
pub struct Sender<T> {
    end: Arc<End>,
    longest: usize,
    messages: PhantomData<fn(T)>,
}

/// The receiving end of a [`queue`]; a clone receives from the same, and each message goes to one of them.
///
/// It waits on the runtime that it has first waited on: another runtime has a clone of its own.
pub struct Receiver<T> {
    end: Arc<End>,
    waiting: OnceLock<Waiting>,
    buffer: Vec<u8>,
    longest: usize,
    messages: PhantomData<fn() -> T>,
}

/// Makes a queue, whose ends are usable in this process and in all that it forks.
///
/// Messages are written by [postcard](https://docs.rs/postcard), which is compact and does not say what the fields are: types
/// that are read by what is in them cannot be sent, such as `serde_json::Value` and whatever is `#[serde(untagged)]`,
/// internally tagged, or leaves fields out.
///
/// It holds what the kernel's own buffer for a socket holds (`net.core.wmem_default`, mostly 208 KiB), in which a small
/// message takes about 800 bytes, so some 250 of them; who sends more waits. Messages that nobody has received stay while any
/// process has an end: one that starts anew finds them. A message that was received is its receiver's alone: if that is killed
/// before it is done, the message is lost with it (at most once).
///
/// The queue is closed when no process has the other end any more. A process that forks others keeps both ends for the next
/// one, so between forked processes a queue does not close before the first process ends.
///
/// When several processes wait, a message wakes each of them, and one gets it.
///
/// `name` is for people and launchers; two living queues of a process have different ones. Make it in `main`: a launcher's
/// preload is called again at each reload, while the queue of the one before is still there.
///
/// # Errors
///
/// The name is taken; or the kernel's, no descriptor.
pub fn queue<T>(name: &str) -> Result<(Sender<T>, Receiver<T>), QueueError> {
    make(name, None)
}

/// Makes a [`queue`] that holds more, or less: `buffer` bytes, of which a message takes what it has and some 800 more. A
/// message has at most 4 MiB, whatever the buffer.
///
/// # Errors
///
/// The name is taken; the kernel allows no such buffer (twice `net.core.wmem_max`); or the kernel's, no descriptor.
pub fn queue_with_buffer<T>(
    name: &str,
    buffer: usize,
) -> Result<(Sender<T>, Receiver<T>), QueueError> {
    make(name, Some(buffer))
}

fn make<T>(name: &str, asked: Option<usize>) -> Result<(Sender<T>, Receiver<T>), QueueError> {
    let name = Name::take(name).ok_or_else(|| QueueError::NameTaken(name.to_owned()))?;
    let made = socket::pair(&Arc::new(name), asked).map_err(QueueError::Io)?;
    let (sending, receiving, buffer) = made;
    if let Some(asked) = asked.filter(|asked| buffer < *asked) {
        return Err(QueueError::BufferTooLarge { asked, most: buffer });
    }
    let longest = socket::longest_message(buffer);
    let sender = Sender { end: Arc::new(sending), longest, messages: PhantomData };
    let receiver = Receiver {
        end: Arc::new(receiving),
        waiting: OnceLock::new(),
        buffer: Vec::new(),
        longest,
        messages: PhantomData,
    };
    Ok((sender, receiver))
}

impl<T: Serialize> Sender<T> {
    /// Sends a message, and waits for room while the queue is full.
    ///
    /// # Errors
    ///
    /// All of [`SendError`] but `Full`; the message was not sent.
    ///
    /// # Panics
    ///
    /// If it has to wait outside of a tokio runtime with I/O and time.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it is ready has sent nothing.
    pub async fn send(&self, message: &T) -> Result<(), SendError> {
        // A loop that always finds room lets others have a turn, too.
        consume_budget().await;
        let message = self.written(message)?;
        let sent = match self.end.send_in_turn(&message) {
            Err(Errno::EAGAIN) => self.end.send_when_there_is_room(&message).await,
            sent => sent,
        };
        sent.map_err(|error| self.not_sent(error, message.len()))
    }

    /// Sends a message if there is room now, and no task of this process waits for it.
    ///
    /// # Errors
    ///
    /// [`SendError`]; the message was not sent.
    pub fn try_send(&self, message: &T) -> Result<(), SendError> {
        let message = self.written(message)?;
        self.end.send_in_turn(&message).map_err(|error| self.not_sent(error, message.len()))
    }

    fn written(&self, message: &T) -> Result<Vec<u8>, SendError> {
        let written = postcard::to_extend(message, vec![POSTCARD]);
        let written = written.map_err(|error| SendError::Unwritable(error.into()))?;
        if written.len() > self.longest {
            return Err(SendError::TooLarge { size: written.len(), most: self.longest });
        }
        Ok(written)
    }

    fn not_sent(&self, error: Errno, size: usize) -> SendError {
        match error {
            Errno::EAGAIN => SendError::Full,
            // The second, if there were messages in it.
            Errno::EPIPE | Errno::ECONNRESET => SendError::Closed,
            Errno::EMSGSIZE => SendError::TooLarge { size, most: self.longest },
            error => SendError::Io(error.into()),
        }
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Receives the oldest message, and waits for one while there is none. A wait alone keeps no process busy.
    ///
    /// # Errors
    ///
    /// All of [`RecvError`] but `Empty`.
    ///
    /// # Panics
    ///
    /// If it has to wait outside of a tokio runtime that does I/O.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it is ready has taken nothing from the queue.
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        consume_budget().await;
        self.make_room();
        let Self { end, waiting: known, buffer, .. } = self;
        let received = match end.recv(buffer) {
            Err(Errno::EAGAIN) => match waiting(known, end) {
                Ok(waiting) => waiting.until_done(Interest::READABLE, || end.recv(buffer)).await,
                Err(error) => Err(error),
            },
            received => received,
        };
        self.read(received)
    }

    /// Receives the oldest message if there is one now.
    ///
    /// # Errors
    ///
    /// [`RecvError`].
    pub fn try_recv(&mut self) -> Result<T, RecvError> {
        self.make_room();
        let received = self.end.recv(&mut self.buffer);
        self.read(received)
    }

    /// For the longest message; what none has ever needed is no memory.
    fn make_room(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.longest];
        }
    }

    fn read(&self, received: Result<usize, Errno>) -> Result<T, RecvError> {
        match received {
            Ok(0) | Err(Errno::ECONNRESET) => Err(RecvError::Closed),
            Ok(length) => match self.buffer.get(1..length).filter(|_| self.buffer[0] == POSTCARD) {
                Some(message) => postcard::from_bytes(message)
                    .map_err(|error| RecvError::Malformed(error.into())),
                None => Err(RecvError::Malformed("it is written in another way".into())),
            },
            Err(Errno::EAGAIN) => Err(RecvError::Empty),
            Err(error) => Err(RecvError::Io(error.into())),
        }
    }
}

/// An end as it is waited on, from the first time on.
fn waiting<'a>(known: &'a OnceLock<Waiting>, end: &End) -> Result<&'a Waiting, Errno> {
    if let Some(waiting) = known.get() {
        return Ok(waiting);
    }
    let waiting = end.waiting()?;
    Ok(known.get_or_init(|| waiting))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        let Self { end, longest, .. } = self;
        Self { end: Arc::clone(end), longest: *longest, messages: PhantomData }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        let Self { end, longest, .. } = self;
        let (end, waiting, buffer) = (Arc::clone(end), OnceLock::new(), Vec::new());
        Self { end, waiting, buffer, longest: *longest, messages: PhantomData }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("queue", &self.end.name()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queue", &self.end.name()).finish_non_exhaustive()
    }
}
