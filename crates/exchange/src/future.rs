//! The response future that carries an exchange to the response body.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body;
use pin_project::pin_project;

use crate::exchange::Watch;
use crate::{Exchange, Observer, ResponseBody};

/// Carries an [`Exchange`] through the service's future and hands it to the [`ResponseBody`].
///
/// Dropped before the head, it drops the inner future first and then ends the exchange as aborted.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, O: Observer> {
    #[pin]
    inner: F,
    // After `inner`: what the handler holds is dropped before the exchange ends.
    exchange: Option<Exchange<O>>,
}

// === impl ResponseFuture ===

impl<F, O: Observer> ResponseFuture<F, O> {
    /// Carries `exchange` through `inner`.
    #[inline]
    pub fn new(inner: F, exchange: Exchange<O>) -> Self {
        Self { inner, exchange: Some(exchange) }
    }

    /// The exchange; `None` once the head was returned.
    #[must_use]
    pub fn exchange(self: Pin<&mut Self>) -> Option<&mut Exchange<O>> {
        self.project().exchange.as_mut()
    }
}

impl<F, O, B, E> Future for ResponseFuture<F, O>
where
    F: Future<Output = Result<Response<B>, E>>,
    O: Observer,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B, O>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut watch = Watch::new(this.exchange);
        let response = match this.inner.poll(cx) {
            Poll::Pending => {
                watch.passed();
                return Poll::Pending;
            }
            Poll::Ready(Ok(response)) => response,
            Poll::Ready(Err(error)) => {
                watch.passed();
                if let Some(mut exchange) = this.exchange.take() {
                    exchange.service_failed();
                }
                return Poll::Ready(Err(error));
            }
        };
        if let Some(exchange) = watch.exchange() {
            exchange.head(response.status(), response.headers(), response.body());
        }
        watch.passed();
        if this.exchange.as_ref().is_some_and(Exchange::upgraded) {
            *this.exchange = None;
        }
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, this.exchange.take()))))
    }
}

impl<F, O: Observer> fmt::Debug for ResponseFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
