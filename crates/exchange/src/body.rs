//! The response body that carries an exchange to its end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::answer::Answer;
use crate::exchange::{Exchange, Observer, Watch};

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
    /// `None` or an error came. The inner body lives on until this one is dropped, as it would without this one: a
    /// panic of its drop must not come between the last frame and the server.
    ended: bool,
    // After `inner`: what the body holds is dropped before the exchange ends.
    exchange: Option<Exchange<O>>,
}

#[pin_project(project = InnerProjection)]
enum Inner<B> {
    /// No exit.
    Service(#[pin] B),
    /// No exit.
    Answer(#[pin] Answer),
}

impl<B, O: Observer> ResponseBody<B, O> {
    /// The service's body; `exchange` is `None` if it is over already.
    #[inline]
    pub fn new(body: B, exchange: Option<Exchange<O>>) -> Self {
        Self { inner: Inner::Service(body), ended: false, exchange }
    }

    /// A middleware's own answer in place of the service's.
    pub fn answer(answer: impl Into<Answer>, exchange: Option<Exchange<O>>) -> Self {
        Self { inner: Inner::Answer(answer.into()), ended: false, exchange }
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
        if *this.ended {
            return Poll::Ready(None);
        }
        let mut inner = this.inner;
        let mut watch = Watch::new(this.exchange);
        let polled = inner.as_mut().poll_frame(cx);
        if let Poll::Ready(frame) = &polled {
            if let Some(exchange) = watch.exchange() {
                exchange.frame(frame.as_ref(), || inner.is_end_stream());
            }
            *this.ended = matches!(frame, None | Some(Err(_)));
        }
        watch.passed();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended { SizeHint::with_exact(0) } else { self.inner.size_hint() }
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

impl<O: Observer> Exchange<O> {
    /// Notes the head of the service's response and hands the exchange on to its body.
    ///
    /// An upgrade ends here: the socket task that follows is no part of the exchange.
    pub fn respond<B: Body>(self, response: Response<B>) -> Response<ResponseBody<B, O>> {
        self.carry(response, ResponseBody::new)
    }

    /// Notes the head of a middleware's own answer and hands the exchange on to its body.
    pub fn answer<B>(self, response: Response<Answer>) -> Response<ResponseBody<B, O>> {
        self.carry(response, ResponseBody::answer)
    }

    fn carry<B: Body, R>(
        mut self,
        response: Response<B>,
        wrap: impl FnOnce(B, Option<Self>) -> R,
    ) -> Response<R> {
        self.head(response.status(), response.headers(), response.body());
        let exchange = Some(self).filter(|exchange| !exchange.upgraded());
        response.map(|body| wrap(body, exchange))
    }
}

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
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Service(body) => body.is_end_stream(),
            Self::Answer(answer) => answer.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Service(body) => body.size_hint(),
            Self::Answer(answer) => answer.size_hint(),
        }
    }
}
