//! The service as hyper calls it: it notes each request and marks a connection's last response.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project::pin_project;

use crate::activity::{Activity, Pending};
use crate::hook::Hook;
use crate::listener::Peer;
use crate::open::ConnectionEvent;
use crate::refused::Refused;
use crate::validate::{adopt_authority, validate};

#[derive(Debug)]
pub(crate) struct Handler<S> {
    service: TowerToHyperService<S>,
    peer: Peer,
    activity: Arc<Activity>,
    /// Who is told of invalid requests; `None` if they are served.
    invalid: Option<Hook<Refused>>,
    events: Hook<ConnectionEvent>,
}

#[pin_project]
pub(crate) struct ResponseFuture<F> {
    #[pin]
    inner: Inner<F>,
    pending: Option<Pending>,
    version: Version,
    connect: bool,
}

#[pin_project(project = InnerProjection)]
enum Inner<F> {
    Service(#[pin] F),
    /// The request is invalid, and no service has seen it.
    Refused(StatusCode),
}

/// The service's body, or none if it was not asked; the request is in flight as long as it or a chunk of it lives.
#[pin_project]
pub(crate) struct ResponseBody<B> {
    #[pin]
    inner: Option<B>,
    pending: Option<Pending>,
}

/// Bytes of a body, which hyper drops when they are written. On HTTP/2 that can be long after the end of the
/// body, since flow control lets no more bytes pass than the client asks for.
#[derive(Debug)]
pub(crate) struct Chunk<D> {
    data: D,
    _in_flight: Option<Pending>,
}

impl<S> Handler<S> {
    pub(crate) fn new(
        service: S,
        peer: Peer,
        activity: Arc<Activity>,
        invalid: Option<Hook<Refused>>,
        events: Hook<ConnectionEvent>,
    ) -> Self {
        Self { service: TowerToHyperService::new(service), peer, activity, invalid, events }
    }
}

impl<S, B> Service<Request<Incoming>> for Handler<S>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone,
    B: Body,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<TowerToHyperServiceFuture<S, Request<Incoming>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let version = request.version();
        let pending = Some(self.activity.begin(!request.body().is_end_stream()));
        let connect = *request.method() == Method::CONNECT;
        if let Some(hook) = &self.invalid {
            if let Err(invalid) = validate(&request, self.activity.is_ambiguous()) {
                invalid.refused(self.peer).tell(hook);
                let inner = Inner::Refused(invalid.status);
                return ResponseFuture { inner, pending, version, connect };
            }
        }
        self.events.call(&ConnectionEvent::Request);
        adopt_authority(&mut request);
        request.extensions_mut().insert(self.peer);
        let inner = Inner::Service(self.service.call(request));
        ResponseFuture { inner, pending, version, connect }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let http1 = *this.version < Version::HTTP_2;
        let inner = match this.inner.project() {
            InnerProjection::Service(inner) => inner,
            InnerProjection::Refused(status) => {
                let mut response = without_body(*status, this.pending.take());
                if http1 {
                    close_after(&mut response, *this.version);
                }
                return Poll::Ready(Ok(response));
            }
        };
        let mut response = ready!(inner.poll(cx))?;
        let mut pending = this.pending.take();
        let status = response.status();
        let switches = http1 && status == StatusCode::SWITCHING_PROTOCOLS;
        if status.is_informational() && !switches {
            tracing::error!(%status, "a service answered with an interim status: the client gets 500");
            let response = without_body(StatusCode::INTERNAL_SERVER_ERROR, pending);
            return Poll::Ready(Ok(response));
        }
        if let Some(activity) = pending.as_ref().map(Pending::activity) {
            // RFC 9110 section 15.2.2, and section 9.3.6 for CONNECT.
            let upgrades = switches || (*this.connect && status.is_success());
            let ends_by_close = || {
                *this.version < Version::HTTP_11
                    && !response.headers().contains_key(header::CONTENT_LENGTH)
                    && response.body().size_hint().exact().is_none()
            };
            if http1 && upgrades {
                activity.note_upgrade();
                pending = None;
            } else if http1 && (activity.is_draining() || ends_by_close()) {
                close_after(&mut response, *this.version);
            }
        }
        Poll::Ready(Ok(response.map(|inner| ResponseBody { inner: Some(inner), pending })))
    }
}

/// The response to a request of this version is the connection's last one.
fn close_after<B>(response: &mut Response<B>, version: Version) {
    if version < Version::HTTP_11 {
        // Else hyper adds keep-alive, which the request asked for.
        *response.version_mut() = version;
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

fn without_body<B>(status: StatusCode, pending: Option<Pending>) -> Response<ResponseBody<B>> {
    let mut response = Response::new(ResponseBody { inner: None, pending });
    *response.status_mut() = status;
    response
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = Chunk<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(inner.poll_frame(cx));
        let chunk = |data| Chunk { data, _in_flight: this.pending.clone() };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<D: Buf> Buf for Chunk<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(dst)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.data.copy_to_bytes(len)
    }
}
