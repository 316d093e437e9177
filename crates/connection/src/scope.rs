//! The request's connection: taken at first use, shared within the request, given back at its end.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{self, Arc, PoisonError};
use std::time::Duration;

use http::Extensions;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::pool::{Lease, Patience, Shared};
use crate::{AcquireError, Backend, Inspection, Pool};

/// A request's handle to its one database connection; clones mean the same connection.
///
/// It is an axum extractor, and [`Database::current`] finds it elsewhere in a request. Having one
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
/// use farrier_connection::{AcquireError, ConnectionLayer, Database, Policy, Pool};
///
/// async fn session(db: Database<Fake>) -> Result<String, AcquireError> {
///     let mut connection = db.get().await?;
///     Ok(connection.query().await.expect("a fake query").to_string())
/// }
///
/// let pool = Pool::new(Fake::new(), Policy::default());
/// let app: Router = Router::new().route("/", get(session)).layer(ConnectionLayer::new(pool));
/// ```
pub struct Database<B: Backend>(Arc<Scope<B>>);

/// The request's connection, borrowed; other parts of the request wait until it is dropped.
pub struct Borrowed<'a, B: Backend> {
    scope: &'a Scope<B>,
    /// `None` while it waits for its turn, and while `drop` runs.
    seat: Option<MutexGuard<'a, Option<Lease<B>>>>,
}

/// One request's use of one pool.
pub(crate) struct Scope<B: Backend> {
    pool: Pool<B>,
    /// Empty until the first use, and again after the end.
    seat: Mutex<Option<Lease<B>>>,
    /// Where the seat was last taken.
    taken_at: sync::Mutex<Place>,
    ended: AtomicBool,
}

type Place = &'static Location<'static>;

/// A wait for another part of the same request is worth a word in the log after this.
const NOTICE: Duration = Duration::from_millis(100);

/// What a layer keeps for a request: its scope, once something asked for it.
///
/// Dropping it ends the request's use of the pool.
pub(crate) struct Anchor<B: Backend> {
    pool: Pool<B>,
    scope: Option<Arc<Scope<B>>>,
    /// The scope belongs to a layer around this one, which also ends it.
    is_guest: bool,
}

/// An [`Anchor`] of whatever backend, while its request is being polled on this thread.
struct Entry {
    pool: Arc<dyn Any + Send + Sync>,
    scope: Option<Arc<dyn Any + Send + Sync>>,
}

thread_local! {
    /// The scopes around what runs now, the innermost last.
    static CURRENT: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

// === impl Database ===

impl<B: Backend> Database<B> {
    /// The handle of the request that is being served here, if a [`ConnectionLayer`] is around it.
    ///
    /// It is found while the layer's service is called and its response future polled; not in a
    /// spawned task and not in a response body, which are to be given a clone.
    ///
    /// [`ConnectionLayer`]: crate::ConnectionLayer
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow_mut(|entries| {
            let entry = entries.iter_mut().rev().find(|entry| entry.pool.is::<Shared<B>>())?;
            entry.scope().map(Self)
        })
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
        self.get_at(Location::caller())
    }

    async fn get_at(&self, caller: Place) -> Result<Borrowed<'_, B>, AcquireError> {
        let scope = &*self.0;
        let deadline = scope.pool.deadline();
        let mut borrowed = scope.sit_down(deadline, caller).await?;
        if scope.ended.load(Ordering::SeqCst) {
            return Err(AcquireError::Ended);
        }
        match borrowed.lease() {
            Some(lease) => match scope.pool.backend().inspect(lease) {
                Inspection::Poisoned | Inspection::Dead | Inspection::FailedOver => {
                    return Err(AcquireError::Lost);
                }
                Inspection::Clean | Inspection::InTransaction | Inspection::Unknown => {}
            },
            vacant @ None => {
                *vacant = Some(scope.pool.checkout(deadline, Patience::UntilDeadline).await?);
                // The request may have ended during the wait.
                if scope.ended.load(Ordering::SeqCst) {
                    return Err(AcquireError::Ended);
                }
            }
        }
        Ok(borrowed)
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
        self.release_at(Location::caller())
    }

    async fn release_at(&self, caller: Place) -> Result<(), AcquireError> {
        let scope = &*self.0;
        let lease = scope.sit_down(scope.pool.deadline(), caller).await?.lease().take();
        drop(lease);
        Ok(())
    }

    /// The pool that the connection comes from.
    #[must_use]
    pub fn pool(&self) -> &Pool<B> {
        &self.0.pool
    }
}

impl<B: Backend> Clone for Database<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> fmt::Debug for Database<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

// === impl Borrowed ===

impl<'a, B: Backend> Borrowed<'a, B> {
    fn lease(&mut self) -> &mut Option<Lease<B>> {
        self.seat.as_mut().expect("who waits has no borrow yet, and only drop takes the seat")
    }
}

impl<B: Backend> Deref for Borrowed<'_, B> {
    type Target = B::Connection;

    fn deref(&self) -> &B::Connection {
        let seat =
            self.seat.as_ref().expect("who waits has no borrow yet, and only drop takes the seat");
        seat.as_ref().expect("`get` fills the seat, and only the end of the borrow empties it")
    }
}

impl<B: Backend> DerefMut for Borrowed<'_, B> {
    fn deref_mut(&mut self) -> &mut B::Connection {
        self.lease()
            .as_mut()
            .expect("`get` fills the seat, and only the end of the borrow empties it")
    }
}

impl<B: Backend> Drop for Borrowed<'_, B> {
    fn drop(&mut self) {
        self.seat = None;
        // After the seat is free: an end that came during the borrow found it taken and left it to
        // us.
        if self.scope.ended.load(Ordering::SeqCst) {
            self.scope.vacate();
        }
    }
}

impl<B: Backend> fmt::Debug for Borrowed<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrowed").finish_non_exhaustive()
    }
}

// === impl Scope ===

impl<B: Backend> Scope<B> {
    fn new(pool: Pool<B>) -> Self {
        let taken_at = sync::Mutex::new(Location::caller());
        Self { pool, seat: Mutex::new(None), taken_at, ended: AtomicBool::new(false) }
    }

    /// Waits for the seat until the deadline.
    async fn sit_down(
        &self,
        deadline: Instant,
        caller: Place,
    ) -> Result<Borrowed<'_, B>, AcquireError> {
        // Made before the wait: a request that ended meanwhile leaves the connection to who has or
        // gets the seat, so also one that gives up with the seat in its hands gives it back.
        let mut borrowed = Borrowed { scope: self, seat: None };
        borrowed.seat = Some(match self.seat.try_lock() {
            Ok(seat) => seat,
            Err(_) => self.wait_for_seat(deadline, caller).await?,
        });
        *self.taken_at() = caller;
        Ok(borrowed)
    }

    async fn wait_for_seat(
        &self,
        deadline: Instant,
        caller: Place,
    ) -> Result<MutexGuard<'_, Option<Lease<B>>>, AcquireError> {
        let seat = self.seat.lock();
        tokio::pin!(seat);
        let notice = deadline.min(Instant::now() + NOTICE);
        if let Ok(seat) = timeout_at(notice, &mut seat).await {
            return Ok(seat);
        }
        let borrowed = *self.taken_at();
        let text = "a part of a request waits for the database connection that another part of \
            the same request has borrowed";
        tracing::warn!(%borrowed, waits = %caller, "{text}");
        timeout_at(deadline, seat).await.map_err(|_| AcquireError::Borrowed(*self.taken_at()))
    }

    fn taken_at(&self) -> sync::MutexGuard<'_, Place> {
        self.taken_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request is over: no further use; the connection goes back now, or when its borrower lets
    /// go.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.vacate();
    }

    fn vacate(&self) {
        if let Ok(mut seat) = self.seat.try_lock() {
            let lease = seat.take();
            drop(seat);
            drop(lease);
        }
    }
}

/// The scope of a layer of the same pool around what runs here.
fn around<B: Backend>(pool: &Pool<B>) -> Option<Arc<Scope<B>>> {
    CURRENT.with_borrow_mut(|entries| {
        let pool = Arc::as_ptr(pool.shared());
        let is_same = |entry: &&mut Entry| ptr::addr_eq(Arc::as_ptr(&entry.pool), pool);
        entries.iter_mut().rev().find(is_same)?.scope()
    })
}

// === impl Entry ===

impl Entry {
    /// The scope, made now if nothing asked for it before; `None` if it is another backend's.
    fn scope<B: Backend>(&mut self) -> Option<Arc<Scope<B>>> {
        if self.scope.is_none() {
            let shared = Arc::clone(&self.pool).downcast::<Shared<B>>().ok()?;
            self.scope = Some(Arc::new(Scope::new(Pool::from_shared(shared))));
        }
        Arc::clone(self.scope.as_ref()?).downcast().ok()
    }
}

// === impl Anchor ===

impl<B: Backend> Anchor<B> {
    /// For a request that begins; within another layer of the same pool it is that one's.
    pub(crate) fn new(pool: Pool<B>) -> Self {
        let scope = around(&pool);
        Self { pool, is_guest: scope.is_some(), scope }
    }

    /// Makes the scope now, for a request's extensions.
    pub(crate) fn database(&mut self) -> Database<B> {
        let scope = self.scope.get_or_insert_with(|| Arc::new(Scope::new(self.pool.clone())));
        Database(Arc::clone(scope))
    }

    /// Takes the scope out, if there is one and it is this request's own; the anchor's end no
    /// longer ends it.
    pub(crate) fn weigh(&mut self) -> Option<Arc<Scope<B>>> {
        self.scope.take().filter(|_| !self.is_guest)
    }

    /// Ends the request's use of the pool now.
    pub(crate) fn end(&mut self) {
        if let Some(scope) = self.weigh() {
            scope.end();
        }
    }

    /// Runs `f` so that [`Database::current`] finds this request's handle.
    pub(crate) fn enter<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let entry = Entry {
            pool: Arc::clone(self.pool.shared()) as _,
            scope: self.scope.take().map(|scope| scope as _),
        };
        CURRENT.with_borrow_mut(|entries| entries.push(entry));
        let _leave = Leave(self);
        f()
    }
}

impl<B: Backend> Drop for Anchor<B> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes the scope back out of the thread, also when what ran in it panicked.
struct Leave<'a, B: Backend>(&'a mut Anchor<B>);

impl<B: Backend> Drop for Leave<'_, B> {
    fn drop(&mut self) {
        let entry = CURRENT.with_borrow_mut(Vec::pop);
        let scope = entry.and_then(|mut entry| mem::take(&mut entry.scope));
        self.0.scope = scope.and_then(|scope| scope.downcast().ok());
    }
}
