//! What a request hook is: the two traits, and what they are given.

use farrier_exchange::{Answer, End};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};

/// Why a hook could not do its work.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A pair of calls around each request: gunicorn's `pre_request` and `post_request`.
///
/// For every request `pre_request` runs once; if it returned a [`Pre`], `post_request` runs once, on
/// every path: the response was produced, cut off, failed or panicked, or the client left.
///
/// # Example
///
/// ```
/// use farrier_hooks::{BoxError, End, Pre, RequestHook, RequestInfo};
/// use http::request::Parts;
///
/// /// Logs requests that are slow, with the customer who made them.
/// struct SlowLog;
///
/// impl RequestHook for SlowLog {
///     type Context = Option<http::HeaderValue>;
///
///     fn pre_request(&self, request: &mut Parts) -> Result<Pre<Self::Context>, BoxError> {
///         Ok(Pre::Continue(request.headers.get("x-customer").cloned()))
///     }
///
///     fn post_request(&self, customer: Self::Context, request: &RequestInfo<'_>, end: &End) {
///         if end.total.as_secs() >= 1 {
///             println!("{} {}: {:?} for {customer:?}", request.method, request.uri, end.total);
///         }
///     }
/// }
/// ```
pub trait RequestHook: Send + Sync + 'static {
    /// What one request's `pre_request` hands to its `post_request`.
    type Context: Send + 'static;

    /// Called before the service; it may change the request's head and add extensions.
    ///
    /// It must not block: it runs on the connection's task.
    ///
    /// # Errors
    ///
    /// An error (or a panic) is logged and answered with 500. The hook's own `post_request` does not
    /// run then, because there is no context for it; hooks outside this one see the 500. (gunicorn
    /// calls `post_request` there, with an empty environ.)
    fn pre_request(&self, request: &mut Parts) -> Result<Pre<Self::Context>, BoxError>;

    /// Called with the head of the response, unless there is none.
    fn on_response(&self, context: &mut Self::Context, status: StatusCode, headers: &HeaderMap) {
        let _ = (context, status, headers);
    }

    /// Called once the response is over, after everything that handler and body held is dropped.
    ///
    /// It runs on the connection's task before the last bytes are flushed, so it must be short: slow
    /// work goes to `Tasks`. A panic is caught and logged.
    fn post_request(&self, context: Self::Context, request: &RequestInfo<'_>, end: &End) {
        let _ = (context, request, end);
    }
}

/// A [`RequestHook`] whose `pre_request` waits for something.
///
/// Its layer comes from [`from_async_hook`](crate::from_async_hook).
pub trait AsyncRequestHook: Send + Sync + 'static {
    /// What one request's `pre_request` hands to its `post_request`.
    type Context: Send + 'static;

    /// Called before the service, as [`RequestHook::pre_request`].
    ///
    /// # Errors
    ///
    /// As [`RequestHook::pre_request`].
    ///
    /// # Cancel safety
    ///
    /// It is dropped where it waits if the client leaves; `post_request` does not run then.
    fn pre_request(
        &self,
        request: &mut Parts,
    ) -> impl Future<Output = Result<Pre<Self::Context>, BoxError>> + Send;

    /// As [`RequestHook::on_response`].
    fn on_response(&self, context: &mut Self::Context, status: StatusCode, headers: &HeaderMap) {
        let _ = (context, status, headers);
    }

    /// As [`RequestHook::post_request`]; still not async, as it may run where nothing can wait.
    fn post_request(&self, context: Self::Context, request: &RequestInfo<'_>, end: &End) {
        let _ = (context, request, end);
    }
}

/// What a `pre_request` decides.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pre<C> {
    /// On to the next hook and the service.
    Continue(C),
    /// Answer at once: hooks inside this one and the service are skipped, `post_request` still runs.
    Answer(C, Response<Answer>),
}

/// A request as it was when it reached the hook's layer, whatever was made of it later.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RequestInfo<'a> {
    /// The method.
    pub method: &'a Method,
    /// The URI.
    pub uri: &'a Uri,
    /// The version of HTTP.
    pub version: Version,
}

/// The method and URI that are kept from `pre_request` to `post_request`: reference counts, no copies.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    uri: Uri,
    pub(crate) version: Version,
}

impl Seen {
    #[inline]
    pub(crate) fn of(request: &Parts) -> Self {
        let Parts { method, uri, version, .. } = request;
        Self { method: method.clone(), uri: uri.clone(), version: *version }
    }

    /// Logs what went wrong with a hook of this request; without the query, which may hold what no log
    /// should.
    pub(crate) fn log(&self, message: &'static str) {
        tracing::error!(method = %self.method, path = self.uri.path(), "{message}");
    }

    /// As [`log`](Self::log), with the hook's own words.
    #[expect(clippy::needless_pass_by_value, reason = "a drop that panics does so here")]
    pub(crate) fn log_error(&self, message: &'static str, error: BoxError) {
        tracing::error!(method = %self.method, path = self.uri.path(), %error, "{message}");
    }

    pub(crate) fn info(&self) -> RequestInfo<'_> {
        RequestInfo { method: &self.method, uri: &self.uri, version: self.version }
    }
}
