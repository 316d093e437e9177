//! The half of a hook that runs after the service.

use std::fmt;
use std::sync::Arc;

use farrier_exchange::{End, Observer, call_caught};
use http::{HeaderMap, StatusCode};

use crate::hook::{RequestHook, RequestInfo, Seen};

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
pub struct PostRequest<H: PostHook> {
    pub(crate) hook: Arc<H>,
    pub(crate) seen: Seen,
    pub(crate) context: H::Context,
}

/// The response future of a service under a hook.
pub type ResponseFuture<F, H> = farrier_exchange::ResponseFuture<F, PostRequest<H>>;

/// The response body of a service under a hook.
pub type ResponseBody<B, H> = farrier_exchange::ResponseBody<B, PostRequest<H>>;

impl<H: RequestHook> PostHook for H {
    type Context = H::Context;

    fn head(&self, context: &mut H::Context, status: StatusCode, headers: &HeaderMap) {
        self.on_response(context, status, headers);
    }

    fn post(&self, context: H::Context, request: &RequestInfo<'_>, end: &End) {
        self.post_request(context, request, end);
    }
}

impl<H: PostHook> Observer for PostRequest<H> {
    fn on_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let Self { hook, seen, context } = self;
        if call_caught(|| hook.head(context, status, headers)).is_none() {
            seen.log("on_response panicked");
        }
    }

    fn on_end(self, end: End) {
        let Self { hook, seen, context } = self;
        if call_caught(|| hook.post(context, &seen.info(), &end)).is_none() {
            seen.log("post_request panicked");
        }
    }
}

impl<H: PostHook> fmt::Debug for PostRequest<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostRequest").field("request", &self.seen).finish_non_exhaustive()
    }
}
