//! Requests that the server refuses before a service sees them.

use std::fmt;

use http::StatusCode;

use crate::error::BoxError;
use crate::hook::Hook;
use crate::listener::Peer;

/// A request that the server itself refused; no service has seen it.
///
/// See [`Server::request_refused`](crate::Server::request_refused).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused {
    /// Who sent it.
    pub peer: Peer,
    /// Why it was refused.
    pub reason: RefusedReason,
    /// The status that the client was answered with; `None` if it was disconnected without an answer.
    pub status: Option<StatusCode>,
    /// Words for people to read; those of hyper may change with any version of it.
    pub detail: String,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedReason {
    /// The head is not HTTP/1.0 or HTTP/1.1: a wrong method, target, header, length, or version.
    Malformed,
    /// The head has too many fields, or too many bytes.
    HeadTooLarge,
    /// The target is too long.
    UriTooLong,
    /// The head did not come within [`header_read_timeout`](crate::Server::header_read_timeout).
    HeaderReadTimeout,
    /// The target does not fit the method, or names a user (RFC 9112 section 3.2, RFC 9110 section 4.2.4).
    InvalidTarget,
    /// Host is missing, comes twice, is malformed or contradicts HTTP/2's `:authority` (RFC 9112 section 3.2,
    /// RFC 9113 section 8.3.1).
    InvalidHost,
    /// How long the body is can be read in two ways, or by a coding that nobody here knows (RFC 9112
    /// section 6.1).
    InvalidFraming,
}

impl Refused {
    /// A request whose connection ended with `error` after hyper wrote `status`, if it was refused.
    pub(crate) fn from_end(
        peer: Peer,
        error: &BoxError,
        status: Option<StatusCode>,
    ) -> Option<Self> {
        let error = error.downcast_ref::<hyper::Error>()?;
        // hyper answers 400 to what it cannot parse, and 414 or 431 to what is too large, which its errors
        // do not tell apart. Any other status was the one of an earlier request.
        let expected = |status: &StatusCode| match *status {
            StatusCode::BAD_REQUEST => !error.is_parse_too_large(),
            StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                error.is_parse_too_large()
            }
            _ => false,
        };
        let status = status.filter(expected);
        let reason = match status {
            Some(StatusCode::URI_TOO_LONG) => RefusedReason::UriTooLong,
            _ if error.is_parse_too_large() => RefusedReason::HeadTooLarge,
            _ if error.is_parse() => RefusedReason::Malformed,
            _ => return None,
        };
        Some(Self { peer, reason, status, detail: error.to_string() })
    }

    pub(crate) fn tell(&self, hook: &Hook<Self>) {
        tracing::debug!(peer = %self.peer, reason = %self.reason, "a request was refused");
        hook.call(self);
    }

    pub(crate) fn timeout(peer: Peer) -> Self {
        let reason = RefusedReason::HeaderReadTimeout;
        Self { peer, reason, status: None, detail: reason.to_string() }
    }
}

/// `malformed request from 192.0.2.1:4711 (400): invalid HTTP header parsed`
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.reason, self.peer)?;
        if let Some(status) = self.status {
            write!(f, " ({})", status.as_u16())?;
        }
        if self.reason == RefusedReason::HeaderReadTimeout {
            return Ok(());
        }
        write!(f, ": {}", self.detail)
    }
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Malformed => "malformed request",
            Self::HeadTooLarge => "too large request head",
            Self::UriTooLong => "too long request target",
            Self::HeaderReadTimeout => "too slow request head",
            Self::InvalidTarget => "invalid request target",
            Self::InvalidHost => "invalid Host",
            Self::InvalidFraming => "invalid Transfer-Encoding",
        })
    }
}
