//! The tower layer that gives each request its connection.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use farrier_exchange::{End, Exchange, Observer, ResponseBody};
use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::current::ScopeGuard;
use crate::scope::Scope;
use crate::{Backend, Database, Pool};

/// A layer that gives each request its [`Database`](crate::Database) handle; clones share the pool.
///
/// A request that does not use the database costs it nothing, and no allocation either. Put the
/// layer inside of compression, timeouts and panic catching, around the handlers: `Router::layer`.
///
/// By default the connection goes back when the response head is ready, unless the body holds a
/// clone of the handle.
///
/// Layers of several databases may be around one request. A layer that is called within another of
/// the same pool is part of that one's request, and changes nothing.
pub struct ConnectionLayer<B: Backend> {
    pool: Pool<B>,
    options: Options,
}

/// The service that [`ConnectionLayer`] makes.
pub struct ConnectionService<S, B: Backend> {
    inner: S,
    pool: Pool<B>,
    options: Options,
}

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    hold_until_body_end: bool,
    in_extensions: bool,
}

/// The response future of [`ConnectionService`].
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, B: Backend> {
    #[pin]
    inner: farrier_exchange::ResponseFuture<F, ScopeEnd<B>>,
    // After `inner`: the handler lets go of the connection before the request's use ends.
    guard: ScopeGuard<B>,
    hold_until_body_end: bool,
}

/// Ends the request's use of the pool with the exchange.
pub struct ScopeEnd<B: Backend>(Ending<B>);

enum Ending<B: Backend> {
    /// Nothing to end: no head yet, or the connection went back at the head.
    Nothing,
    /// Something beyond the head holds the handle. Weak: its last clone gives the connection back.
    Clones(Weak<Scope<B>>),
    /// Held to the end of the body.
    Held(Arc<Scope<B>>),
}

impl<B: Backend> ConnectionLayer<B> {
    /// A layer whose requests use `pool`.
    #[must_use]
    pub fn new(pool: Pool<B>) -> Self {
        Self { pool, options: Options::default() }
    }

    /// Keeps a connection that was taken until the end of the response body.
    ///
    /// This is Django's way, whose `request_finished` comes after the last chunk. A slow client
    /// then occupies a connection. Off by default.
    #[must_use]
    pub fn hold_until_body_end(mut self) -> Self {
        self.options.hold_until_body_end = true;
        self
    }

    /// Also puts the handle into the extensions of each request.
    ///
    /// For a service that handles requests on another task than the one that polls the layer, where
    /// [`Database::current`] finds nothing. It costs each request two
    /// allocations. Off by default.
    #[must_use]
    pub fn in_extensions(mut self) -> Self {
        self.options.in_extensions = true;
        self
    }
}

impl<S, B: Backend> Layer<S> for ConnectionLayer<B> {
    type Service = ConnectionService<S, B>;

    fn layer(&self, inner: S) -> Self::Service {
        ConnectionService { inner, pool: self.pool.clone(), options: self.options }
    }
}

impl<B: Backend> Clone for ConnectionLayer<B> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), options: self.options }
    }
}

impl<B: Backend> fmt::Debug for ConnectionLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionLayer")
            .field("pool", &self.pool)
            .field("options", &self.options)
            .finish()
    }
}

impl<S, B, Q, R> Service<Request<Q>> for ConnectionService<S, B>
where
    S: Service<Request<Q>, Response = Response<R>>,
    B: Backend,
    R: Body,
    R::Data: From<bytes::Bytes>,
{
    type Response = Response<ResponseBody<R, ScopeEnd<B>>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let exchange =
            Exchange::begin(request.method(), request.version(), ScopeEnd(Ending::Nothing));
        let mut guard = ScopeGuard::new(self.pool.clone());
        if self.options.in_extensions {
            request.extensions_mut().insert(Database(guard.scope()));
        }
        let future = guard.enter(|| self.inner.call(request));
        ResponseFuture {
            inner: farrier_exchange::ResponseFuture::new(future, exchange),
            guard,
            hold_until_body_end: self.options.hold_until_body_end,
        }
    }
}

impl<S: Clone, B: Backend> Clone for ConnectionService<S, B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), pool: self.pool.clone(), options: self.options }
    }
}

impl<S, B: Backend> fmt::Debug for ConnectionService<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionService").finish_non_exhaustive()
    }
}

impl<F, B, R, E> Future for ResponseFuture<F, B>
where
    F: Future<Output = Result<Response<R>, E>>,
    B: Backend,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R, ScopeEnd<B>>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let inner = this.inner;
        let mut polled = ready!(this.guard.enter(|| inner.poll(cx)));
        // No exchange left means an upgrade: the request is over, the socket is not part of it.
        let exchange = polled.as_mut().ok().and_then(|head| head.body_mut().exchange_mut());
        match exchange {
            Some(exchange) => {
                if let Some(scope) = this.guard.take() {
                    exchange.observer_mut().0 = Ending::at_head(scope, *this.hold_until_body_end);
                }
            }
            None => this.guard.end(),
        }
        Poll::Ready(polled)
    }
}

impl<F, B: Backend> fmt::Debug for ResponseFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<B: Backend> Observer for ScopeEnd<B> {
    fn on_end(self, _: End) {
        let scope = match self.0 {
            Ending::Nothing => None,
            Ending::Clones(scope) => scope.upgrade(),
            Ending::Held(scope) => Some(scope),
        };
        if let Some(scope) = scope {
            scope.end();
        }
    }
}

impl<B: Backend> fmt::Debug for ScopeEnd<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopeEnd").finish_non_exhaustive()
    }
}

impl<B: Backend> Ending<B> {
    fn at_head(scope: Arc<Scope<B>>, hold: bool) -> Self {
        if hold {
            Self::Held(scope)
        } else {
            // If this is the last reference, the connection goes back here.
            Self::Clones(Arc::downgrade(&scope))
        }
    }
}
