//! The half of a hook that runs before the service: what its `pre_request` makes of a request.

use std::ops::ControlFlow;
use std::sync::Arc;

use farrier_exchange::{Answer, RequestLine, call_caught};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};

use crate::hook::{BoxError, Pre, Seen};
use crate::post::{PostHook, PostRequest};

/// A request that came to the hook's layer.
pub(crate) struct Arrival<H> {
    hook: Arc<H>,
    seen: Seen,
}

impl<H: PostHook> Arrival<H> {
    #[inline]
    pub(crate) fn new(hook: &Arc<H>, request: &Parts) -> Self {
        Self { hook: Arc::clone(hook), seen: Seen::of(request) }
    }

    /// As it came in: that, and not what a hook made of it, decides whether the client is sent a body.
    pub(crate) fn line(&self) -> RequestLine {
        RequestLine::new(&self.seen.method, self.seen.version)
    }

    /// Goes on or answers, as `pre_request` has decided, and leaves in `observer` what its `post_request` needs, if that is to
    /// run. `None` is a panic of it.
    #[inline]
    pub(crate) fn decided(
        self,
        pre: Option<Result<Pre<H::Context>, BoxError>>,
        observer: &mut Option<PostRequest<H>>,
    ) -> ControlFlow<Response<Answer>> {
        let Self { hook, seen } = self;
        match pre {
            Some(Ok(Pre::Continue(context))) => {
                *observer = Some(PostRequest { hook, seen, context });
                ControlFlow::Continue(())
            }
            Some(Ok(Pre::Answer(context, response))) => {
                *observer = Some(PostRequest { hook, seen, context });
                ControlFlow::Break(response)
            }
            Some(Err(error)) => {
                // Its words, and its drop, are the hook's own code.
                if call_caught(|| seen.log_error("pre_request failed", error)).is_none() {
                    seen.log("pre_request failed, and its error panicked");
                }
                ControlFlow::Break(internal_server_error())
            }
            None => {
                seen.log("pre_request panicked");
                ControlFlow::Break(internal_server_error())
            }
        }
    }
}

#[cold]
fn internal_server_error() -> Response<Answer> {
    let mut response = Response::new(Answer::from("Internal Server Error"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
