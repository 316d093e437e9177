//! The handle to a request's connection, as extractors and handlers have it.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use http::Extensions;

use crate::scope::{Borrowed, Scope};
use crate::{AcquireError, Backend, Pool, current};

/// A request's handle to its one database connection; clones mean the same connection.
///
/// It is an axum extractor, also as `Option<Db<_>>`, and [`Db::current`] finds it elsewhere in a request. Having one
/// costs nothing at the database: the first [`get`](Self::get) takes a connection from the pool,
/// and every later one in the same request, in a middleware or in the handler, gets the same. The
/// connection goes back when the response head is ready, or with the last clone if the response
/// body or a task holds one, and at the end of the response in any case. After that `get` fails
/// with [`AcquireError::Ended`].
///
/// # Example
///
/// ```
/// use axum::{Router, routing::get};
/// use farrier_connection::fake::Fake;
/// use farrier_connection::{AcquireError, ConnectionLayer, Db, Policy, Pool};
///
/// async fn session(db: Db<Fake>) -> Result<String, AcquireError> {
///     let mut connection = db.get().await?;
///     Ok(connection.query().await.expect("a fake query").to_string())
/// }
///
/// let pool = Pool::new(Fake::new(), Policy::default());
/// let app: Router = Router::new().route("/", get(session)).layer(ConnectionLayer::new(pool));
/// ```
pub struct Db<B: Backend>(pub(crate) Arc<Scope<B>>);

impl<B: Backend> Db<B> {
    /// The handle of the request that is being served here, if a [`ConnectionLayer`] is around it.
    ///
    /// It is found while the layer's service is called and its response future polled; not in a
    /// spawned task and not in a response body, which are to be given a clone.
    ///
    /// [`ConnectionLayer`]: crate::ConnectionLayer
    #[must_use]
    pub fn current() -> Option<Self> {
        current::innermost().map(Self)
    }

    /// The handle in a request's extensions, or else the [`current`](Self::current) one.
    ///
    /// # Errors
    ///
    /// [`AcquireError::NoScope`] when there is neither.
    pub fn of(extensions: &Extensions) -> Result<Self, AcquireError> {
        extensions.get().cloned().or_else(Self::current).ok_or(AcquireError::NoScope)
    }

    /// Borrows the request's connection; the first time, takes it from the pool.
    ///
    /// While another part of the request has it borrowed, this waits; if that takes longer than a
    /// moment, both places in the code are logged. They may be the same task, which would wait for
    /// itself: drop the first borrow, or pass it on.
    ///
    /// # Errors
    ///
    /// After the pool's `acquire_timeout` at the latest; see [`AcquireError`] for each.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing for the request.
    #[track_caller]
    pub fn get(&self) -> impl Future<Output = Result<Borrowed<'_, B>, AcquireError>> + Send {
        self.0.get(Location::caller())
    }

    /// Gives the connection back before the end of the request; the next [`get`](Self::get) takes
    /// another.
    ///
    /// For a handler that goes on for long without the database.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Borrowed`] when another part of the request keeps the connection borrowed
    /// for the whole `acquire_timeout`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    #[track_caller]
    pub fn release(&self) -> impl Future<Output = Result<(), AcquireError>> + Send {
        self.0.release(Location::caller())
    }

    /// The pool that the connection comes from.
    #[must_use]
    pub fn pool(&self) -> &Pool<B> {
        self.0.pool()
    }
}

impl<B: Backend> Clone for Db<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> fmt::Debug for Db<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").finish_non_exhaustive()
    }
}
