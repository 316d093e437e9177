//! All that a line of the access log can be made of.

use std::net::IpAddr;
use std::time::Duration;

use farrier_exchange::{End, Outcome};
use http::HeaderValue;

use crate::hook::RequestInfo;

/// What a line says of a request and its response that is gone by the time it is written.
#[derive(Debug)]
pub struct AccessRecord {
    pub(super) remote_addr: Option<IpAddr>,
    pub(super) route: Option<Box<str>>,
    /// In the order of the format's request headers.
    pub(super) request: Vec<Option<HeaderValue>>,
    /// In the order of the format's response headers.
    pub(super) response: Vec<Option<HeaderValue>>,
}

/// All that a line can be made of.
pub(super) struct Line<'a> {
    pub(super) now: Duration,
    pub(super) record: &'a AccessRecord,
    pub(super) request: &'a RequestInfo<'a>,
    pub(super) end: &'a End,
}

impl Line<'_> {
    /// The value of the format's request header of this index.
    pub(super) fn request_header(&self, index: usize) -> Option<&[u8]> {
        Some(self.record.request.get(index)?.as_ref()?.as_bytes())
    }

    /// The value of the format's response header of this index.
    pub(super) fn response_header(&self, index: usize) -> Option<&[u8]> {
        Some(self.record.response.get(index)?.as_ref()?.as_bytes())
    }

    /// The outcome in the log's words.
    pub(super) fn outcome(&self) -> &'static str {
        match self.end.outcome {
            Outcome::Finished => "finished",
            Outcome::BodyFailed => "body_failed",
            Outcome::ServiceFailed => "service_failed",
            Outcome::Panicked => "panicked",
            Outcome::Aborted => "aborted",
            _ => "unknown",
        }
    }
}
