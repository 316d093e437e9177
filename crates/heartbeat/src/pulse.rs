//! The writer's side of a heartbeat.

use std::fmt;
use std::time::Duration;

use farrier_exchange::End;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};

/// Where a process writes that it lives and what it is working on.
///
/// Every method is called on the request path or on the runtime's own task: an implementation neither
/// blocks nor allocates. Those that are shared with another process keep their values in atomics of
/// shared memory.
pub trait Pulse: Send + Sync + 'static {
    /// Notes that the runtime turned.
    fn beat(&self);

    /// Time since the last beat; before the first one, since the pulse was made.
    fn beat_age(&self) -> Duration;

    /// Notes what the process is doing now.
    fn set_state(&self, state: State);

    /// What the process is doing now.
    fn state(&self) -> State;

    /// Notes a request in flight.
    ///
    /// A full table is no reason to fail: the request is counted, and the ticket is [`Ticket::NONE`].
    fn begin(&self, request: RequestHead<'_>) -> Ticket;

    /// Notes the end of the exchange that [`begin`](Self::begin) gave `ticket` for; called exactly once
    /// for each, by the thread that drops the response.
    fn end(&self, ticket: Ticket, end: &End);
}

/// What a process is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Not yet ready for traffic. Exits: [`Ready`](Self::Ready), [`Draining`](Self::Draining).
    #[default]
    Booting,
    /// Serves. Exit: [`Draining`](Self::Draining).
    Ready,
    /// Finishes what is in flight and takes nothing new. Exit: the end of the process.
    Draining,
}

/// A pulse's own name for a request in flight, handed back at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(Option<u32>);

/// What a pulse may note of a request: borrowed from it, nothing copied.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
}

impl State {
    /// The state as a number that stays the same in every later version, for shared memory.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Booting => 0,
            Self::Ready => 1,
            Self::Draining => 2,
        }
    }

    /// The state of this [`code`](Self::code); `None` if there is none.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Booting),
            1 => Some(Self::Ready),
            2 => Some(Self::Draining),
            _ => None,
        }
    }

    /// The state's name: `booting`, `ready` or `draining`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Ticket {
    /// The ticket of a request that is counted but has no entry.
    pub const NONE: Self = Self(None);

    /// The ticket of the entry with this index.
    #[must_use]
    pub const fn entry(index: u32) -> Self {
        Self(Some(index))
    }

    /// The entry's index; `None` for [`Ticket::NONE`].
    #[must_use]
    pub const fn index(self) -> Option<u32> {
        self.0
    }
}

impl<'a> RequestHead<'a> {
    /// The head of a request.
    #[inline]
    #[must_use]
    pub fn of(request: &'a Parts) -> Self {
        Self { method: &request.method, uri: &request.uri, headers: &request.headers }
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The path without the query, which may hold secrets.
    #[must_use]
    pub fn path(&self) -> &'a str {
        self.uri.path()
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
}

/// Method and path only: headers and query may hold secrets.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", self.method)
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
