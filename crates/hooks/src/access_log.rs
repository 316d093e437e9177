//! A ready-made hook that logs each request, in gunicorn's format or as JSON.

mod date;
mod format;
mod json;
mod line;
mod text;

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use farrier_exchange::End;
use http::header::{self, HeaderName};
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderValue, StatusCode};
use tracing::Level;

use crate::hook::{BoxError, Pre, RequestHook, RequestInfo};
pub use format::FormatError;
pub use line::AccessRecord;

use format::Format;
use line::Line;

/// A hook that writes one line for each request, once its response is over.
///
/// Unlike gunicorn's it also logs requests that were cut off, failed or panicked, and its durations
/// are whole. Give it to a [`RequestHookLayer`](crate::RequestHookLayer), outside of all that it is to
/// measure.
///
/// Lines go to `tracing` at level info with target `farrier::access`, or to
/// [`write_to`](Self::write_to). No client can forge a line, or leave the quotes that the format has
/// around a value: `"` and `\` are escaped with a backslash and all but printable ASCII as `\xNN` (in
/// JSON by its own rules).
///
/// # Example
///
/// ```
/// use axum::extract::ConnectInfo;
/// use farrier_hooks::{AccessLog, RequestHookLayer};
///
/// # fn main() -> Result<(), farrier_hooks::FormatError> {
/// let log = AccessLog::format(r#"%(h)s "%(r)s" %(s)s %(b)s %(L)s "%({x-request-id}i)s""#)?
///     .remote_addr(|extensions| {
///         let peer = extensions.get::<ConnectInfo<std::net::SocketAddr>>()?;
///         Some(peer.0.ip())
///     });
/// let layer = RequestHookLayer::new(log);
/// # let _ = layer;
/// # Ok(())
/// # }
/// ```
pub struct AccessLog {
    style: Style,
    remote_addr: fn(&Extensions) -> Option<IpAddr>,
    route: fn(&Extensions) -> Option<&str>,
    sink: Option<Box<dyn Fn(&str) + Send + Sync>>,
}

enum Style {
    Text(Format),
    Json,
}

impl AccessLog {
    /// gunicorn's default: the combined log format.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Style::Text(Format::combined()))
    }

    /// A format of gunicorn's atoms: `%(atom)s`, and `%%` for a percent sign.
    ///
    /// | atom | is |
    /// |---|---|
    /// | `h` | remote address |
    /// | `l` | `-` |
    /// | `u` | user of basic authentication |
    /// | `t` | time of the end in UTC, as `[01/Feb/2026:13:14:15 +0000]` |
    /// | `r` | request line |
    /// | `m`, `U`, `q`, `H` | method, path (as it was sent; gunicorn decodes it), query, protocol |
    /// | `s` | status |
    /// | `B`, `b` | bytes of the body; `b` is `-` if there was no response |
    /// | `f`, `a` | referer, user agent |
    /// | `T`, `M`, `D`, `L` | duration in seconds, milliseconds, microseconds, seconds with six decimals |
    /// | `p` | process id, as `<123>` |
    /// | `{name}i`, `{name}o` | request header, response header; the last of several |
    /// | `{NAME}e` | what WSGI calls environ: `REQUEST_METHOD`, `PATH_INFO`, `QUERY_STRING`, `RAW_URI`, `SERVER_PROTOCOL`, `REMOTE_ADDR`, `CONTENT_TYPE`, `CONTENT_LENGTH`, `HTTP_*` |
    /// | `outcome` | farrier's own: `finished`, `aborted`, ... |
    /// | `route` | farrier's own: the route that matched, see [`route`](Self::route) |
    ///
    /// What is unknown or absent is `-`, as in gunicorn. Put quotes around values that a client chooses,
    /// as the default format does: a header may contain spaces, and only quotes are escaped for it.
    ///
    /// # Errors
    ///
    /// [`FormatError`] says where the format is not of this form.
    pub fn format(format: &str) -> Result<Self, FormatError> {
        format.parse().map(Style::Text).map(Self::with)
    }

    /// One JSON object for each request.
    ///
    /// Its keys: `time` (RFC 3339), `remote_addr`, `method`, `path`, `query`, `route`, `protocol`,
    /// `status`, `bytes`, `outcome`, `time_to_head` and `duration` (seconds), `referer`,
    /// `user_agent`, `pid`. What is absent is `null`.
    #[must_use]
    pub fn json() -> Self {
        Self::with(Style::Json)
    }

    /// How the client's address is read from what the server left in the request's extensions.
    ///
    /// By default it is unknown, because each server leaves a type of its own.
    #[must_use]
    pub fn remote_addr(mut self, remote_addr: fn(&Extensions) -> Option<IpAddr>) -> Self {
        self.remote_addr = remote_addr;
        self
    }

    /// How the route that matched is read from what the router left in the request's extensions, for the atom `route`.
    ///
    /// By default it is unknown, because each router leaves a type of its own; under axum:
    /// `|extensions| extensions.get().map(axum::extract::MatchedPath::as_str)`. It is unknown outside of the router and in
    /// fallbacks as well.
    #[must_use]
    pub fn route(mut self, route: fn(&Extensions) -> Option<&str>) -> Self {
        self.route = route;
        self
    }

    /// Writes lines to `sink`, without a line feed, instead of to `tracing`.
    ///
    /// It is called on the connection's task, so it must not block for long.
    #[must_use]
    pub fn write_to(mut self, sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.sink = Some(Box::new(sink));
        self
    }

    fn with(style: Style) -> Self {
        Self { style, remote_addr: |_| None, route: |_| None, sink: None }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestHook for AccessLog {
    type Context = AccessRecord;

    fn pre_request(&self, request: &mut Parts) -> Result<Pre<AccessRecord>, BoxError> {
        Ok(Pre::Continue(AccessRecord {
            remote_addr: (self.remote_addr)(&request.extensions),
            route: if self.style.has_route() {
                (self.route)(&request.extensions).map(Box::from)
            } else {
                None
            },
            request: pick(&request.headers, self.style.request_headers()),
            response: Vec::new(),
        }))
    }

    fn on_response(&self, record: &mut AccessRecord, _: StatusCode, headers: &HeaderMap) {
        record.response = pick(headers, self.style.response_headers());
    }

    fn post_request(&self, record: AccessRecord, request: &RequestInfo<'_>, end: &End) {
        if self.sink.is_none() && !tracing::enabled!(target: "farrier::access", Level::INFO) {
            return;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let line = Line { now, record: &record, request, end };
        let mut text = String::with_capacity(256);
        match &self.style {
            Style::Text(format) => format.write(&line, &mut text),
            Style::Json => json::write(&line, &mut text),
        }
        match &self.sink {
            Some(sink) => sink(&text),
            None => tracing::info!(target: "farrier::access", "{text}"),
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

fn pick(headers: &HeaderMap, names: &[HeaderName]) -> Vec<Option<HeaderValue>> {
    let last = |name| headers.get_all(name).iter().next_back().cloned();
    names.iter().map(last).collect()
}

impl Style {
    fn has_route(&self) -> bool {
        match self {
            Self::Text(format) => format.has_route(),
            Self::Json => true,
        }
    }

    fn request_headers(&self) -> &[HeaderName] {
        match self {
            Self::Text(format) => format.request_headers(),
            Self::Json => &[header::REFERER, header::USER_AGENT],
        }
    }

    fn response_headers(&self) -> &[HeaderName] {
        match self {
            Self::Text(format) => format.response_headers(),
            Self::Json => &[],
        }
    }
}
