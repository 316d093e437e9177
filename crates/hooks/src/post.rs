//! The half of a hook that runs after the service, and what carries it there.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;

use farrier_exchange::{Answer, End, Exchange, Observer};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::hook::{AsStr, BoxError, Pre, RequestHook, RequestInfo, Seen};

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

/// A request that came to the hook's layer.
pub(crate) struct Arrival<H, P> {
    hook: Arc<H>,
    seen: Seen<P>,
}

/// What follows from a `pre_request`.
pub(crate) enum Verdict<H: PostHook, P> {
    /// The service is called.
    Call(Parts, Exchange<PostRequest<H, P>>),
    /// The hook has answered; without an exchange if it failed.
    Answer(Response<Answer>, Option<Exchange<PostRequest<H, P>>>),
}

// === impl PostHook ===

impl<H: RequestHook> PostHook for H {
    type Context = H::Context;

    fn head(&self, context: &mut H::Context, status: StatusCode, headers: &HeaderMap) {
        self.on_response(context, status, headers);
    }

    fn post(&self, context: H::Context, request: &RequestInfo<'_>, end: &End) {
        self.post_request(context, request, end);
    }
}

// === impl Arrival ===

impl<H: PostHook, P: Clone + Send + Sync + 'static> Arrival<H, P> {
    pub(crate) fn new(hook: &Arc<H>, request: &Parts, as_str: AsStr<P>) -> Self {
        Self { hook: Arc::clone(hook), seen: Seen::of(request, as_str) }
    }

    /// Takes the result of `pre_request`, caught if it panicked.
    pub(crate) fn settle(
        self,
        pre: thread::Result<Result<(Parts, Pre<H::Context>), BoxError>>,
    ) -> Verdict<H, P> {
        match pre {
            Ok(Ok((parts, Pre::Continue(context)))) => Verdict::Call(parts, self.begin(context)),
            Ok(Ok((_, Pre::Answer(context, response)))) => {
                Verdict::Answer(response, Some(self.begin(context)))
            }
            Ok(Err(error)) => {
                tracing::error!(
                    method = %self.seen.method, path = self.seen.path(), error = %error,
                    "pre_request failed"
                );
                Verdict::Answer(internal_server_error(), None)
            }
            Err(_) => {
                self.seen.log("pre_request panicked");
                Verdict::Answer(internal_server_error(), None)
            }
        }
    }

    /// The method is the one that came in: it, and not what a hook made of it, decides whether the
    /// client is sent a body.
    fn begin(self, context: H::Context) -> Exchange<PostRequest<H, P>> {
        let method = self.seen.method.clone();
        Exchange::begin(&method, PostRequest { arrival: self, context })
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

// === impl PostRequest ===

impl<H: PostHook, P> Observer for PostRequest<H, P> {
    fn on_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let Arrival { hook, seen } = &self.arrival;
        if caught(|| hook.head(&mut self.context, status, headers)).is_err() {
            seen.log("on_response panicked");
        }
    }

    fn on_end(self, end: End) {
        let Arrival { hook, seen } = self.arrival;
        if caught(|| hook.post(self.context, &seen.info(), &end)).is_err() {
            seen.log("post_request panicked");
        }
    }
}

impl<H: PostHook, P> fmt::Debug for PostRequest<H, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostRequest").field("request", &self.arrival.seen.info()).finish()
    }
}
