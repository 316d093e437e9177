//! The layer of a hook whose `pre_request` waits: its service and its response future.

use std::fmt;
use std::mem;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use farrier_exchange::{End, Exchange, call_caught};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::arrival::Arrival;
use crate::hook::{AsyncRequestHook, BoxError, Pre, RequestInfo};
use crate::post::{PostHook, ResponseBody, ResponseFuture};

/// A layer that calls an async `pre_request` before each request and a `post_request` after it.
///
/// It comes from [`from_async_fn`](crate::from_async_fn) or [`from_async_hook`]. Where nothing has to be waited for,
/// [`RequestHookLayer`](crate::RequestHookLayer) is cheaper: this layer must clone the inner service
/// for each request, and under axum that allocates.
#[must_use = "a layer does nothing until it is around a service"]
pub struct AsyncRequestHookLayer<A, H> {
    pre: Arc<A>,
    hook: Arc<H>,
}

/// The service of [`AsyncRequestHookLayer`].
pub struct AsyncRequestHookService<S, A, H> {
    inner: S,
    pre: Arc<A>,
    hook: Arc<H>,
}

/// The response future of [`AsyncRequestHookService`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct AsyncResponseFuture<F, S: Service<Request<B>>, B, H: PostHook> {
    #[pin]
    state: State<F, S, B, H>,
}

#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
#[pin_project(project = StateProjection)]
enum State<F, S: Service<Request<B>>, B, H: PostHook> {
    /// `pre_request` waits; leaves to `Response` when it has decided.
    Pre {
        #[pin]
        pre: F,
        /// `None` only in the moment of leaving.
        rest: Option<(Arrival<H>, S, B)>,
    },
    /// The service is at work, or the hook has answered; no exit.
    Response(#[pin] ResponseFuture<S::Future, H>),
}

/// An async `pre_request`: any `Fn(Parts) -> impl Future`.
pub trait AsyncPre<C>: Send + Sync + 'static {
    /// Gives the request's head back, with what was decided.
    type Future: Future<Output = Result<(Parts, Pre<C>), BoxError>> + Send;

    /// Called before the service.
    fn start(&self, request: Parts) -> Self::Future;
}

/// The `post_request` of a hook from [`from_async_hook`].
pub struct AsyncHook<H>(Arc<H>);

/// A layer of an [`AsyncRequestHook`].
///
/// # Example
///
/// ```
/// use farrier_hooks::{AsyncRequestHook, BoxError, Pre, from_async_hook};
/// use http::request::Parts;
///
/// struct Tenants;
///
/// impl AsyncRequestHook for Tenants {
///     type Context = ();
///
///     async fn pre_request(&self, request: &mut Parts) -> Result<Pre<()>, BoxError> {
///         let name = request.uri.host().unwrap_or("default").to_owned();
///         tokio::task::yield_now().await; // a lookup
///         request.extensions.insert(name);
///         Ok(Pre::Continue(()))
///     }
/// }
///
/// let layer = from_async_hook(Tenants);
/// # let _ = layer;
/// ```
pub fn from_async_hook<H: AsyncRequestHook>(
    hook: H,
) -> AsyncRequestHookLayer<impl AsyncPre<H::Context>, AsyncHook<H>> {
    let hook = Arc::new(hook);
    let post = AsyncHook(Arc::clone(&hook));
    let pre = move |mut request: Parts| {
        let hook = Arc::clone(&hook);
        async move {
            let pre = hook.pre_request(&mut request).await?;
            Ok((request, pre))
        }
    };
    AsyncRequestHookLayer::new(pre, post)
}

impl<A, H> AsyncRequestHookLayer<A, H> {
    pub(crate) fn new(pre: A, hook: H) -> Self {
        Self { pre: Arc::new(pre), hook: Arc::new(hook) }
    }
}

impl<S, A, H> Layer<S> for AsyncRequestHookLayer<A, H> {
    type Service = AsyncRequestHookService<S, A, H>;

    fn layer(&self, inner: S) -> Self::Service {
        let (pre, hook) = (Arc::clone(&self.pre), Arc::clone(&self.hook));
        AsyncRequestHookService { inner, pre, hook }
    }
}

impl<A, H> Clone for AsyncRequestHookLayer<A, H> {
    fn clone(&self) -> Self {
        Self { pre: Arc::clone(&self.pre), hook: Arc::clone(&self.hook) }
    }
}

impl<A, H> fmt::Debug for AsyncRequestHookLayer<A, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncRequestHookLayer").finish_non_exhaustive()
    }
}

impl<S, A, H, B, R> Service<Request<B>> for AsyncRequestHookService<S, A, H>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    A: AsyncPre<H::Context>,
    H: PostHook,
    R: Body,
{
    type Response = Response<ResponseBody<R, H>>;
    type Error = S::Error;
    type Future = AsyncResponseFuture<A::Future, S, B, H>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let arrival = Arrival::new(&self.hook, &parts);
        // The service that was made ready goes with the request; its clone is not ready and stays.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        match call_caught(|| self.pre.start(parts)) {
            Some(pre) => AsyncResponseFuture {
                state: State::Pre { pre, rest: Some((arrival, ready, body)) },
            },
            None => {
                AsyncResponseFuture { state: State::Response(settle(arrival, None, ready, body)) }
            }
        }
    }
}

impl<S: Clone, A, H> Clone for AsyncRequestHookService<S, A, H> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), pre: Arc::clone(&self.pre), hook: Arc::clone(&self.hook) }
    }
}

impl<S: fmt::Debug, A, H> fmt::Debug for AsyncRequestHookService<S, A, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncRequestHookService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<F, S, B, R, H> Future for AsyncResponseFuture<F, S, B, H>
where
    F: Future<Output = Result<(Parts, Pre<H::Context>), BoxError>>,
    S: Service<Request<B>, Response = Response<R>>,
    H: PostHook,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R, H>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProjection::Pre { pre, rest } => {
                    let decided = match call_caught(|| pre.poll(cx)) {
                        Some(polled) => Some(ready!(polled)),
                        None => None,
                    };
                    let Some((arrival, ready, body)) = rest.take() else {
                        return Poll::Pending;
                    };
                    state.set(State::Response(settle(arrival, decided, ready, body)));
                }
                StateProjection::Response(response) => return response.poll(cx),
            }
        }
    }
}

impl<F, S: Service<Request<B>>, B, H: PostHook> fmt::Debug for AsyncResponseFuture<F, S, B, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResponseFuture").finish_non_exhaustive()
    }
}

fn settle<S, B, H>(
    arrival: Arrival<H>,
    pre: Option<Result<(Parts, Pre<H::Context>), BoxError>>,
    mut ready: S,
    body: B,
) -> ResponseFuture<S::Future, H>
where
    S: Service<Request<B>>,
    H: PostHook,
{
    let (mut exchange, mut head) = (Exchange::open(arrival.line()), None);
    let pre = pre.map(|decided| {
        decided.map(|(parts, pre)| {
            head = Some(parts);
            pre
        })
    });
    let decided = arrival.decided(pre, exchange.observer_mut());
    exchange.start();
    if let ControlFlow::Break(response) = decided {
        return ResponseFuture::answer(response, exchange);
    }
    let request = Request::from_parts(head.expect("what is let in has its head"), body);
    let future = exchange.enter(|| ready.call(request));
    ResponseFuture::new(future, exchange)
}

impl<F, Fut, C> AsyncPre<C> for F
where
    F: Fn(Parts) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(Parts, Pre<C>), BoxError>> + Send,
{
    type Future = Fut;

    fn start(&self, request: Parts) -> Fut {
        self(request)
    }
}

impl<H: AsyncRequestHook> PostHook for AsyncHook<H> {
    type Context = H::Context;

    fn head(&self, context: &mut H::Context, status: StatusCode, headers: &HeaderMap) {
        self.0.on_response(context, status, headers);
    }

    fn post(&self, context: H::Context, request: &RequestInfo<'_>, end: &End) {
        self.0.post_request(context, request, end);
    }
}

impl<H> fmt::Debug for AsyncHook<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncHook").finish_non_exhaustive()
    }
}
