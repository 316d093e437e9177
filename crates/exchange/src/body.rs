//! The response body that carries an exchange to its end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::exchange::Watch;
use crate::{Answer, Exchange, Observer};

/// The service's body (or a middleware's own [`Answer`]) with the [`Exchange`] that ends with it.
///
/// On the wire it is what the inner body is: size hint, end of stream and trailers pass through. It is
/// fused: after the end or an error it yields `None` for ever, because compression layers poll again.
///
/// It is a [`Body`] if `B` is one whose data can be made from [`Bytes`], as for axum, hyper and tonic.
#[pin_project]
pub struct ResponseBody<B, O: Observer> {
    #[pin]
    inner: Inner<B>,
    // After `inner`: what the body holds is dropped before the exchange ends.
    exchange: Option<Exchange<O>>,
}

#[pin_project(project = InnerProjection)]
enum Inner<B> {
    /// Leaves to `Ended` at its end or error.
    Service(#[pin] B),
    /// Leaves to `Ended` at its end.
    Answer(#[pin] Answer),
    /// No exit.
    Ended,
}

// === impl ResponseBody ===

impl<B, O: Observer> ResponseBody<B, O> {
    /// The service's body; `exchange` is `None` if it is over already.
    #[inline]
    pub fn new(body: B, exchange: Option<Exchange<O>>) -> Self {
        Self { inner: Inner::Service(body), exchange }
    }

    /// A middleware's own answer in place of the service's.
    pub fn answer(answer: impl Into<Answer>, exchange: Option<Exchange<O>>) -> Self {
        Self { inner: Inner::Answer(answer.into()), exchange }
    }

    /// The exchange, if it is not over yet.
    pub fn exchange_mut(&mut self) -> Option<&mut Exchange<O>> {
        self.exchange.as_mut()
    }
}

impl<B, O: Observer> Body for ResponseBody<B, O>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let mut inner = this.inner;
        let mut watch = Watch::new(this.exchange);
        let polled = inner.as_mut().poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            if let Some(exchange) = watch.exchange() {
                exchange.frame(frame.as_ref(), || inner.is_end_stream());
            }
            if matches!(frame, None | Some(Err(_))) {
                inner.set(Inner::Ended);
            }
        }
        watch.passed();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An empty body of no exchange, for layers outside that must invent a response (`TimeoutLayer`).
impl<B: Default, O: Observer> Default for ResponseBody<B, O> {
    fn default() -> Self {
        Self::new(B::default(), None)
    }
}

impl<B, O: Observer> fmt::Debug for ResponseBody<B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

// === impl Inner ===

impl<B> Body for Inner<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project() {
            InnerProjection::Service(body) => body.poll_frame(cx),
            InnerProjection::Answer(answer) => answer.poll_frame(cx).map(|frame| {
                frame.map(|frame| match frame {
                    Ok(frame) => Ok(frame.map_data(B::Data::from)),
                    Err(never) => match never {},
                })
            }),
            InnerProjection::Ended => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Service(body) => body.is_end_stream(),
            Self::Answer(answer) => answer.is_end_stream(),
            Self::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Service(body) => body.size_hint(),
            Self::Answer(answer) => answer.size_hint(),
            Self::Ended => SizeHint::with_exact(0),
        }
    }
}
