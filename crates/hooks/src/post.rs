//! The half of a hook that runs after the service, and what carries it there.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;

use farrier_exchange::{Answer, End, Exchange, Observer};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::hook::{AsStr, BoxError, RequestHook, RequestInfo, Seen, Unmatched};

/// What hooks of every kind do after the service.
///
/// It names what a layer's types have in common; to write a hook, implement [`RequestHook`] or
/// [`AsyncRequestHook`](crate::AsyncRequestHook).
pub trait PostHook: Send + Sync + 'static {
    /// What one request's pre hands to its post.
    type Context: Send + 'static;

    /// [`RequestHook::on_response`].
    fn head(&self, context: &mut Self::Context, status: StatusCode, headers: &HeaderMap);

    /// [`RequestHook::post_request`].
    fn post(&self, context: Self::Context, request: &RequestInfo<'_>, end: &End);
}

/// A request that a hook has let in; its end is the hook's `post_request`.
pub struct PostRequest<H: PostHook, P> {
    arrival: Arrival<H, P>,
    context: H::Context,
}

/// The response future of a service under a hook.
pub type ResponseFuture<F, H, P = Unmatched> =
    farrier_exchange::ResponseFuture<F, PostRequest<H, P>>;

/// The response body of a service under a hook.
pub type ResponseBody<B, H, P = Unmatched> = farrier_exchange::ResponseBody<B, PostRequest<H, P>>;

/// A request that came to the hook's layer.
pub(crate) struct Arrival<H, P> {
    state: Arc<LayerState<H, P>>,
    seen: Seen<P>,
}

/// What the services of one layer and their requests have in common.
pub(crate) struct LayerState<H, P> {
    pub(crate) hook: Arc<H>,
    /// `None` where no matched path is asked for.
    pub(crate) as_str: Option<AsStr<P>>,
}

impl<H: RequestHook> PostHook for H {
    type Context = H::Context;

    fn head(&self, context: &mut H::Context, status: StatusCode, headers: &HeaderMap) {
        self.on_response(context, status, headers);
    }

    fn post(&self, context: H::Context, request: &RequestInfo<'_>, end: &End) {
        self.post_request(context, request, end);
    }
}

impl<H: PostHook, P: Clone + Send + Sync + 'static> Arrival<H, P> {
    #[inline]
    pub(crate) fn new(state: &Arc<LayerState<H, P>>, request: &Parts) -> Self {
        Self { state: Arc::clone(state), seen: Seen::of(request, state.as_str) }
    }
}

impl<H: PostHook, P> Arrival<H, P> {
    /// The hook has let the request in: its `post_request` will run.
    ///
    /// The method is the one that came in: it, and not what a hook made of it, decides whether the
    /// client is sent a body.
    #[inline]
    pub(crate) fn begin(self, context: H::Context) -> Exchange<PostRequest<H, P>> {
        let (method, version) = (self.seen.method.clone(), self.seen.version);
        Exchange::begin(&method, version, PostRequest { arrival: self, context })
    }

    /// The hook has answered, and its `post_request` will run.
    #[cold]
    pub(crate) fn answer<F>(
        self,
        context: H::Context,
        response: Response<Answer>,
    ) -> ResponseFuture<F, H, P> {
        ResponseFuture::answer(response, Some(self.begin(context)))
    }

    /// Its `pre_request` failed.
    #[cold]
    pub(crate) fn failed<F>(self, error: BoxError) -> ResponseFuture<F, H, P> {
        // Its words, and its drop, are the hook's own code.
        if caught(|| self.seen.log_error("pre_request failed", error)).is_err() {
            self.seen.log("pre_request failed, and its error panicked");
        }
        ResponseFuture::answer(internal_server_error(), None)
    }

    /// Its `pre_request` panicked.
    #[cold]
    pub(crate) fn panicked<F>(self) -> ResponseFuture<F, H, P> {
        self.seen.log("pre_request panicked");
        ResponseFuture::answer(internal_server_error(), None)
    }
}

/// Calls a hook: a panic in it is its own, not the service's.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> thread::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(call))
}

fn internal_server_error() -> Response<Answer> {
    let mut response = Response::new(Answer::from("Internal Server Error"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl<H: PostHook, P> Observer for PostRequest<H, P> {
    fn on_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let Arrival { state, seen } = &self.arrival;
        if caught(|| state.hook.head(&mut self.context, status, headers)).is_err() {
            seen.log("on_response panicked");
        }
    }

    fn on_end(self, end: End) {
        let Arrival { state, seen } = &self.arrival;
        let request = || seen.info(state.as_str);
        if caught(|| state.hook.post(self.context, &request(), &end)).is_err() {
            seen.log("post_request panicked");
        }
    }
}

impl<H: PostHook, P: fmt::Debug> fmt::Debug for PostRequest<H, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostRequest").field("request", &self.arrival.seen).finish_non_exhaustive()
    }
}
