//! The layer that notes each request in flight.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use farrier_exchange::{Answer, End, ExchangeService, Interceptor, Observer};
use http::Response;
use http::request::Parts;
use tower_layer::Layer;

use crate::pulse::{Pulse, RequestHead, Ticket};

/// A layer that notes each exchange in a [`Pulse`], from its request to the true end of its response.
///
/// An exchange is over when its body was produced, when it was cut off, when the service failed or
/// panicked, or, for an upgrade, at its head.
#[must_use = "a layer does nothing until it is around a service"]
pub struct HeartbeatLayer<P: ?Sized> {
    pulse: Arc<P>,
}

/// A request that the pulse counts as in flight, until it ends.
pub struct InFlight<P: Pulse + ?Sized> {
    pulse: Arc<P>,
    ticket: Ticket,
}

impl<P: Pulse + ?Sized> HeartbeatLayer<P> {
    /// A layer that writes to `pulse`.
    pub fn new(pulse: Arc<P>) -> Self {
        Self { pulse }
    }
}

impl<S, P: Pulse + ?Sized> Layer<S> for HeartbeatLayer<P> {
    type Service = ExchangeService<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        ExchangeService::new(inner, self.clone())
    }
}

impl<P: Pulse + ?Sized> Interceptor for HeartbeatLayer<P> {
    type Observer = InFlight<P>;

    #[inline]
    fn intercept(
        &self,
        request: &mut Parts,
        observer: &mut Option<InFlight<P>>,
    ) -> ControlFlow<Response<Answer>> {
        let ticket = self.pulse.begin(RequestHead::of(request));
        *observer = Some(InFlight { pulse: Arc::clone(&self.pulse), ticket });
        ControlFlow::Continue(())
    }
}

impl<P: Pulse + ?Sized> Observer for InFlight<P> {
    fn on_end(self, end: End) {
        self.pulse.end(self.ticket, &end);
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

impl<P: Pulse + ?Sized> fmt::Debug for InFlight<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
