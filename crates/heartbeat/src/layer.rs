//! The layer that notes each request in flight.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use farrier_exchange::{End, Exchange, Observer};
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::pulse::{Pulse, RequestHead, Ticket};

/// A layer that notes each exchange in a [`Pulse`], from its request to the true end of its response.
///
/// An exchange is over when its body was produced, when it was cut off, when the service failed or
/// panicked, or, for an upgrade, at its head.
pub struct HeartbeatLayer<P: ?Sized> {
    pulse: Arc<P>,
}

/// The service of [`HeartbeatLayer`].
pub struct Heartbeat<S, P: ?Sized> {
    inner: S,
    pulse: Arc<P>,
}

/// The future of a response as [`Heartbeat`] returns it.
pub type ResponseFuture<F, P> = farrier_exchange::ResponseFuture<F, InFlight<P>>;

/// The body of a response as [`Heartbeat`] returns it.
pub type ResponseBody<B, P> = farrier_exchange::ResponseBody<B, InFlight<P>>;

/// A request that the pulse counts as in flight, until it ends.
pub struct InFlight<P: Pulse + ?Sized> {
    pulse: Arc<P>,
    ticket: Ticket,
}

impl<P: Pulse + ?Sized> HeartbeatLayer<P> {
    /// A layer that writes to `pulse`.
    #[must_use]
    pub fn new(pulse: Arc<P>) -> Self {
        Self { pulse }
    }
}

impl<S, P: Pulse + ?Sized> Layer<S> for HeartbeatLayer<P> {
    type Service = Heartbeat<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Heartbeat { inner, pulse: Arc::clone(&self.pulse) }
    }
}

impl<P: ?Sized> Clone for HeartbeatLayer<P> {
    fn clone(&self) -> Self {
        Self { pulse: Arc::clone(&self.pulse) }
    }
}

impl<P: ?Sized> fmt::Debug for HeartbeatLayer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatLayer").finish_non_exhaustive()
    }
}

impl<S, P, B, R> Service<Request<B>> for Heartbeat<S, P>
where
    S: Service<Request<B>, Response = Response<R>>,
    P: Pulse + ?Sized,
    R: Body,
{
    type Response = Response<ResponseBody<R, P>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let ticket = self.pulse.begin(RequestHead::of(&request));
        let in_flight = InFlight { pulse: Arc::clone(&self.pulse), ticket };
        let exchange = Exchange::begin(request.method(), request.version(), in_flight);
        ResponseFuture::new(self.inner.call(request), exchange)
    }
}

impl<S: Clone, P: ?Sized> Clone for Heartbeat<S, P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), pulse: Arc::clone(&self.pulse) }
    }
}

impl<S: fmt::Debug, P: ?Sized> fmt::Debug for Heartbeat<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heartbeat").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<P: Pulse + ?Sized> Observer for InFlight<P> {
    fn on_end(self, end: End) {
        self.pulse.end(self.ticket, &end);
    }
}

impl<P: Pulse + ?Sized> fmt::Debug for InFlight<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
