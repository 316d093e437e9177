//! The response future that carries an exchange to the response body.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body;
use pin_project::pin_project;

use crate::answer::Answer;
use crate::body::ResponseBody;
use crate::exchange::{Exchange, Observer, Watch};

/// Carries an [`Exchange`] through the service's future and hands it to the [`ResponseBody`].
///
/// Dropped before the head, it drops the inner future first and then ends the exchange as aborted. A
/// middleware that does not ask the service gives its own [`Answer`] by the same type.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, O: Observer> {
    #[pin]
    inner: Inner<F>,
    // After `inner`: what the handler holds is dropped before the exchange ends.
    exchange: Option<Exchange<O>>,
}

#[pin_project(project = InnerProjection)]
enum Inner<F> {
    /// No exit.
    Service(#[pin] F),
    /// `None` once it was returned; no exit.
    Answer(Option<Response<Answer>>),
}

impl<F, O: Observer> ResponseFuture<F, O> {
    /// Carries `exchange` through the service's future.
    #[inline]
    pub fn new(future: F, exchange: Exchange<O>) -> Self {
        Self { inner: Inner::Service(future), exchange: Some(exchange) }
    }

    /// A middleware's own answer, without asking the service.
    pub fn answer(response: Response<Answer>, exchange: Exchange<O>) -> Self {
        Self { inner: Inner::Answer(Some(response)), exchange: Some(exchange) }
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
        let future = match this.inner.project() {
            InnerProjection::Service(future) => future,
            InnerProjection::Answer(answer) => {
                // As any future that is polled after its end: nothing will ever come.
                let (Some(response), Some(exchange)) = (answer.take(), this.exchange.take()) else {
                    return Poll::Pending;
                };
                return Poll::Ready(Ok(exchange.answer(response)));
            }
        };
        let mut watch = Watch::new(this.exchange);
        let polled = match watch.exchange() {
            Some(exchange) => exchange.enter(|| future.poll(cx)),
            None => future.poll(cx),
        };
        let response = match polled {
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
        // Moved once, from here into the body: an exchange can be large.
        Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, this.exchange.take()))))
    }
}

impl<F, O: Observer> fmt::Debug for ResponseFuture<F, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
