//! The layer of an interceptor, and its service.

use std::ops::ControlFlow;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::answer::Answer;
use crate::body::ResponseBody;
use crate::exchange::{Exchange, RequestLine};
use crate::future::ResponseFuture;
use crate::interceptor::Interceptor;

/// A layer that lets an [`Interceptor`], or a tuple of them, see each exchange.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing until it is around a service"]
pub struct ExchangeLayer<I>(I);

/// The service of an [`ExchangeLayer`], and of each layer that is an [`Interceptor`] itself.
#[derive(Clone, Debug)]
pub struct ExchangeService<S, I> {
    inner: S,
    interceptor: I,
}

impl<I: Interceptor> ExchangeLayer<I> {
    /// A layer of this interceptor.
    pub const fn new(interceptor: I) -> Self {
        Self(interceptor)
    }
}

impl<S, I: Interceptor + Clone> Layer<S> for ExchangeLayer<I> {
    type Service = ExchangeService<S, I>;

    fn layer(&self, inner: S) -> Self::Service {
        ExchangeService::new(inner, self.0.clone())
    }
}

/// It may stand in a tuple as well.
impl<I: Interceptor> Interceptor for ExchangeLayer<I> {
    type Observer = I::Observer;

    #[inline]
    fn intercept(
        &self,
        request: &mut Parts,
        observer: &mut Option<I::Observer>,
    ) -> ControlFlow<Response<Answer>> {
        self.0.intercept(request, observer)
    }
}

impl<S, I: Interceptor> ExchangeService<S, I> {
    /// `inner`, whose exchanges `interceptor` sees.
    pub const fn new(inner: S, interceptor: I) -> Self {
        Self { inner, interceptor }
    }
}

impl<S, I, B, R> Service<Request<B>> for ExchangeService<S, I>
where
    S: Service<Request<B>, Response = Response<R>>,
    I: Interceptor,
    R: Body,
{
    type Response = Response<ResponseBody<R, I::Observer>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, I::Observer>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Before what it is of, so that it is dropped after that, should an interceptor panic.
        let mut exchange = Exchange::open(RequestLine::new(request.method(), request.version()));
        let (mut parts, body) = request.into_parts();
        let decided = self.interceptor.intercept(&mut parts, exchange.observer_mut());
        exchange.start();
        if let ControlFlow::Break(response) = decided {
            return ResponseFuture::answer(response, exchange);
        }
        let request = Request::from_parts(parts, body);
        // Should the call panic, the exchange ends all the same.
        let future = exchange.enter(|| self.inner.call(request));
        ResponseFuture::new(future, exchange)
    }
}
