//! The layer of a [`RequestHook`].

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use farrier_exchange::{Answer, ExchangeService, Interceptor, call_caught};
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::arrival::Arrival;
use crate::hook::RequestHook;
use crate::post::PostRequest;

/// A layer that calls a [`RequestHook`] around each request.
///
/// Several nest as layers do: with `ServiceBuilder` pre in order, post in reverse.
#[must_use = "a layer does nothing until it is around a service"]
pub struct RequestHookLayer<H> {
    hook: Arc<H>,
}

impl<H: RequestHook> RequestHookLayer<H> {
    /// A layer that calls `hook`.
    pub fn new(hook: H) -> Self {
        Self { hook: Arc::new(hook) }
    }
}

impl<S, H: RequestHook> Layer<S> for RequestHookLayer<H> {
    type Service = ExchangeService<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        ExchangeService::new(inner, self.clone())
    }
}

impl<H: RequestHook> Interceptor for RequestHookLayer<H> {
    type Observer = PostRequest<H>;

    #[inline]
    fn intercept(
        &self,
        request: &mut Parts,
        observer: &mut Option<PostRequest<H>>,
    ) -> ControlFlow<Response<Answer>> {
        let arrival = Arrival::new(&self.hook, request);
        arrival.decided(call_caught(|| self.hook.pre_request(request)), observer)
    }
}

impl<H> Clone for RequestHookLayer<H> {
    fn clone(&self) -> Self {
        Self { hook: Arc::clone(&self.hook) }
    }
}

impl<H> fmt::Debug for RequestHookLayer<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHookLayer").finish_non_exhaustive()
    }
}
