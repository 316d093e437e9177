//! The scopes of the requests that are being polled on this thread.

use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use crate::pool::Shared;
use crate::scope::Scope;
use crate::{Backend, Pool};

/// What a layer keeps for a request: its scope, once something asked for it.
///
/// Dropping it ends the request's use of the pool.
pub(crate) struct ScopeGuard<B: Backend> {
    /// `None` while the request is being polled: it is in [`CURRENT`] then.
    entry: Option<Entry>,
    /// The scope belongs to a layer around this one, which also ends it.
    is_outer: bool,
    _backend: PhantomData<fn() -> B>,
}

/// A request's use of a pool of whatever backend.
struct Entry {
    pool: Arc<dyn Any + Send + Sync>,
    scope: Option<Arc<dyn Any + Send + Sync>>,
}

thread_local! {
    /// The scopes around what runs now, the innermost last.
    static CURRENT: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

/// The scope of the innermost layer of this backend around what runs here.
pub(crate) fn innermost<B: Backend>() -> Option<Arc<Scope<B>>> {
    CURRENT.with_borrow_mut(|entries| {
        let is_one = |entry: &&mut Entry| entry.pool.is::<Shared<B>>();
        entries.iter_mut().rev().find(is_one)?.scope()
    })
}

/// The scope of a layer of the same pool around what runs here.
fn around<B: Backend>(pool: &Pool<B>) -> Option<Arc<Scope<B>>> {
    CURRENT.with_borrow_mut(|entries| {
        let pool = Arc::as_ptr(pool.shared());
        let is_same = |entry: &&mut Entry| ptr::addr_eq(Arc::as_ptr(&entry.pool), pool);
        entries.iter_mut().rev().find(is_same)?.scope()
    })
}

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

impl<B: Backend> ScopeGuard<B> {
    /// For a request that begins; within another layer of the same pool it is that one's.
    #[inline]
    pub(crate) fn new(pool: &Pool<B>) -> Self {
        let scope = around(pool);
        let is_outer = scope.is_some();
        let entry =
            Entry { pool: Arc::clone(pool.shared()) as _, scope: scope.map(|scope| scope as _) };
        Self { entry: Some(entry), is_outer, _backend: PhantomData }
    }

    /// The scope, made now if nothing asked for it before; `None` while the request is being polled.
    pub(crate) fn scope(&mut self) -> Option<Arc<Scope<B>>> {
        self.entry.as_mut()?.scope()
    }

    /// Takes the scope out, if there is one and it is this request's own; the guard's end no
    /// longer ends it.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Arc<Scope<B>>> {
        let scope = self.entry.as_mut()?.scope.take()?;
        scope.downcast().ok().filter(|_| !self.is_outer)
    }

    /// Runs `f` so that [`innermost`] finds this request's scope.
    #[inline]
    pub(crate) fn enter<T>(&mut self, f: impl FnOnce() -> T) -> T {
        let _leave = Leave::new(&mut self.entry);
        f()
    }
}

impl<B: Backend> Drop for ScopeGuard<B> {
    #[inline]
    fn drop(&mut self) {
        if let Some(scope) = self.take() {
            scope.end();
        }
    }
}

/// Takes the entry back out of the thread, also when what ran meanwhile panicked.
struct Leave<'a>(&'a mut Option<Entry>);

impl<'a> Leave<'a> {
    fn new(entry: &'a mut Option<Entry>) -> Self {
        if let Some(entry) = entry.take() {
            CURRENT.with_borrow_mut(|entries| entries.push(entry));
        }
        Self(entry)
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        *self.0 = CURRENT.with_borrow_mut(Vec::pop);
    }
}
