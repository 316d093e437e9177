//! The tower layer that gives each request its connection.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Weak};

use farrier_exchange::{Answer, End, ExchangeService, Interceptor, Observer};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use tower_layer::Layer;

use crate::current::ScopeGuard;
use crate::scope::Scope;
use crate::{Backend, Db, Pool};

/// A layer that gives each request its [`Db`](crate::Db) handle; clones share the pool.
///
/// A request that does not use the database costs it nothing, and no allocation either. Put the
/// layer inside of compression, timeouts and panic catching, around the handlers: `Router::layer`.
///
/// By default the connection goes back when the response head is ready, unless the body holds a
/// clone of the handle.
///
/// Layers of several databases may be around one request. A layer that is called within another of
/// the same pool is part of that one's request, and changes nothing.
#[must_use = "a layer does nothing until it is around a service"]
pub struct ConnectionLayer<B: Backend> {
    pool: Pool<B>,
    options: Options,
}

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    hold_until_body_end: bool,
    in_extensions: bool,
}

/// A request's use of the pool, which ends with the exchange.
pub struct RequestScope<B: Backend>(Use<B>);

enum Use<B: Backend> {
    /// The service is at work; `is_held` is [`hold_until_body_end`](ConnectionLayer::hold_until_body_end). Leaves to one of the
    /// others at the head.
    Service { guard: ScopeGuard<B>, is_held: bool },
    /// The head is there, and whoever holds a clone of the handle gives the connection back with the last one, at the end of
    /// the exchange at the latest.
    Clones(Weak<Scope<B>>),
    /// The head is there, and the connection is held to the end of the exchange.
    Held(Arc<Scope<B>>),
    /// The head is there, and nobody has asked for a handle, or it is that of a layer around this one.
    Nothing,
}

impl<B: Backend> ConnectionLayer<B> {
    /// A layer whose requests use `pool`.
    pub fn new(pool: Pool<B>) -> Self {
        Self { pool, options: Options::default() }
    }

    /// Keeps a connection that was taken until the end of the response body.
    ///
    /// This is Django's way, whose `request_finished` comes after the last chunk. A slow client
    /// then occupies a connection. Off by default.
    pub fn hold_until_body_end(mut self) -> Self {
        self.options.hold_until_body_end = true;
        self
    }

    /// Also puts the handle into the extensions of each request.
    ///
    /// For a service that handles requests on another task than the one that polls the layer, where
    /// [`Db::current`] finds nothing. It costs each request two
    /// allocations. Off by default.
    pub fn in_extensions(mut self) -> Self {
        self.options.in_extensions = true;
        self
    }
}

impl<S, B: Backend> Layer<S> for ConnectionLayer<B> {
    type Service = ExchangeService<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        ExchangeService::new(inner, self.clone())
    }
}

impl<B: Backend> Interceptor for ConnectionLayer<B> {
    type Observer = RequestScope<B>;

    #[inline]
    fn intercept(
        &self,
        request: &mut Parts,
        observer: &mut Option<RequestScope<B>>,
    ) -> ControlFlow<Response<Answer>> {
        let mut guard = ScopeGuard::new(&self.pool);
        if self.options.in_extensions {
            if let Some(scope) = guard.scope() {
                request.extensions.insert(Db(scope));
            }
        }
        let is_held = self.options.hold_until_body_end;
        *observer = Some(RequestScope(Use::Service { guard, is_held }));
        ControlFlow::Continue(())
    }
}

impl<B: Backend> Observer for RequestScope<B> {
    #[inline]
    fn enter<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        match &mut self.0 {
            Use::Service { guard, .. } => guard.enter(poll),
            Use::Clones(_) | Use::Held(_) | Use::Nothing => poll(),
        }
    }

    #[inline]
    fn on_head(&mut self, _: StatusCode, _: &HeaderMap) {
        if let Use::Service { guard, is_held } = &mut self.0 {
            self.0 = match guard.take() {
                None => Use::Nothing,
                Some(scope) if *is_held => Use::Held(scope),
                // If this is the last reference, the connection goes back here.
                Some(scope) => Use::Clones(Arc::downgrade(&scope)),
            };
        }
    }

    #[inline]
    fn on_end(self, _: End) {
        match self.0 {
            // Its drop ends the use.
            Use::Service { .. } | Use::Nothing => {}
            Use::Clones(scope) => {
                if let Some(scope) = scope.upgrade() {
                    scope.end();
                }
            }
            Use::Held(scope) => scope.end(),
        }
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

impl<B: Backend> fmt::Debug for RequestScope<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestScope").finish_non_exhaustive()
    }
}
