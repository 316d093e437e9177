//! The layer of a [`RequestHook`], its service and its response future.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::hook::{AsStr, Pre, RequestHook, Unmatched};
use crate::post::{Arrival, LayerState, ResponseBody, ResponseFuture, caught};

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
    state: Arc<LayerState<H, P>>,
}

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
        let state = LayerState { hook: Arc::clone(&self.hook), as_str: self.as_str };
        RequestHookService { inner, state: Arc::new(state) }
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
        let arrival = Arrival::new(&self.state, &parts);
        // The hook borrows the head: a head that is moved in and out costs more than the hook.
        let context = match caught(|| self.state.hook.pre_request(&mut parts)) {
            Ok(Ok(Pre::Continue(context))) => context,
            Ok(Ok(Pre::Answer(context, response))) => return arrival.answer(context, response),
            Ok(Err(error)) => return arrival.failed(error),
            Err(_) => return arrival.panicked(),
        };
        // Begun before the call: should that panic, the exchange ends all the same.
        let exchange = arrival.begin(context);
        ResponseFuture::new(self.inner.call(Request::from_parts(parts, body)), exchange)
    }
}

impl<S: Clone, H, P> Clone for RequestHookService<S, H, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), state: Arc::clone(&self.state) }
    }
}

impl<S: fmt::Debug, H, P> fmt::Debug for RequestHookService<S, H, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHookService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
