//! The layer of a [`RequestHook`], its service and its response future.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use farrier_exchange::Exchange;
use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::hook::{AsStr, Pre, RequestHook, Unmatched};
use crate::post::{Answered, Arrival, PostHook, PostRequest, Shared, caught};

/// The response body of a service under a hook.
pub type ResponseBody<B, H, P = Unmatched> = farrier_exchange::ResponseBody<B, PostRequest<H, P>>;

/// A layer that calls a [`RequestHook`] around each request.
///
/// Several nest as layers do: with `ServiceBuilder` pre in order, post in reverse.
pub struct RequestHookLayer<H, P = Unmatched> {
    hook: Arc<H>,
    as_str: Option<AsStr<P>>,
}

/// The service of [`RequestHookLayer`].
pub struct RequestHookService<S, H, P = Unmatched> {
    inner: S,
    shared: Arc<Shared<H, P>>,
}

/// The response future of [`RequestHookService`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, H: PostHook, P = Unmatched> {
    #[pin]
    state: State<F, H, P>,
}

#[pin_project(project = StateProjection)]
enum State<F, H: PostHook, P> {
    /// The service is at work; no exit.
    Called(#[pin] farrier_exchange::ResponseFuture<F, PostRequest<H, P>>),
    /// The hook has answered or failed; `None` once that was returned.
    Answered(Option<Answered<H, P>>),
}

// === impl RequestHookLayer ===

impl<H: RequestHook> RequestHookLayer<H> {
    /// A layer that calls `hook`.
    #[must_use]
    pub fn new(hook: H) -> Self {
        Self { hook: Arc::new(hook), as_str: None }
    }
}

impl<H, P> RequestHookLayer<H, P> {
    /// Lets `post_request` see the route that matched.
    ///
    /// Which route that is only the router knows: axum leaves it in the request's extensions, in a type
    /// of the `axum` crate, which this crate does not name so that it fits any version of it. So say
    /// how it is read: `.matched_path(axum::extract::MatchedPath::as_str)`. It is `None` outside the
    /// router and in fallbacks.
    #[must_use]
    pub fn matched_path<Q>(self, as_str: fn(&Q) -> &str) -> RequestHookLayer<H, Q>
    where
        Q: Clone + Send + Sync + 'static,
    {
        RequestHookLayer { hook: self.hook, as_str: Some(as_str) }
    }
}

impl<S, H, P> Layer<S> for RequestHookLayer<H, P> {
    type Service = RequestHookService<S, H, P>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Shared { hook: Arc::clone(&self.hook), as_str: self.as_str };
        RequestHookService { inner, shared: Arc::new(shared) }
    }
}

impl<H, P> Clone for RequestHookLayer<H, P> {
    fn clone(&self) -> Self {
        Self { hook: Arc::clone(&self.hook), as_str: self.as_str }
    }
}

impl<H, P> fmt::Debug for RequestHookLayer<H, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHookLayer").finish_non_exhaustive()
    }
}

// === impl RequestHookService ===

impl<S, H, P, B, R> Service<Request<B>> for RequestHookService<S, H, P>
where
    S: Service<Request<B>, Response = Response<R>>,
    H: RequestHook,
    P: Clone + Send + Sync + 'static,
    R: Body,
{
    type Response = Response<ResponseBody<R, H, P>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, H, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let arrival = Arrival::new(&self.shared, &parts);
        // The hook borrows the head: a head that is moved in and out costs more than the hook.
        match caught(|| self.shared.hook.pre_request(&mut parts)) {
            Ok(Ok(Pre::Continue(context))) => {
                let exchange = arrival.begin(context);
                let request = Request::from_parts(parts, body);
                ResponseFuture::called(self.inner.call(request), exchange)
            }
            Ok(Ok(Pre::Answer(context, response))) => {
                ResponseFuture::answered(arrival.answered(context, response))
            }
            Ok(Err(error)) => ResponseFuture::answered(arrival.failed(error)),
            Err(_) => ResponseFuture::answered(arrival.panicked()),
        }
    }
}

impl<S: Clone, H, P> Clone for RequestHookService<S, H, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<S: fmt::Debug, H, P> fmt::Debug for RequestHookService<S, H, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHookService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

// === impl ResponseFuture ===

impl<F, H: PostHook, P> ResponseFuture<F, H, P> {
    /// The service was called; the exchange began before, or it would have no end if the call panicked.
    #[inline]
    pub(crate) fn called(future: F, exchange: Exchange<PostRequest<H, P>>) -> Self {
        Self { state: State::Called(farrier_exchange::ResponseFuture::new(future, exchange)) }
    }

    pub(crate) fn answered(answered: Answered<H, P>) -> Self {
        Self { state: State::Answered(Some(answered)) }
    }
}

impl<F, H, P, B, E> Future for ResponseFuture<F, H, P>
where
    F: Future<Output = Result<Response<B>, E>>,
    H: PostHook,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B, H, P>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Called(response) => response.poll(cx),
            StateProjection::Answered(answer) => match answer.take() {
                Some((response, Some(exchange))) => Poll::Ready(Ok(exchange.answer(response))),
                Some((response, None)) => {
                    Poll::Ready(Ok(response.map(|body| ResponseBody::answer(body, None))))
                }
                // As any future that is polled after its end: nothing will ever come.
                None => Poll::Pending,
            },
        }
    }
}

impl<F, H: PostHook, P> fmt::Debug for ResponseFuture<F, H, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
