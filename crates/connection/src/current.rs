//! The scopes of the requests that are being polled on this thread.

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::ptr;
use std::sync::Arc;

use crate::pool::Shared;
use crate::scope::Scope;
use crate::{Backend, Pool};

/// What a layer keeps for a request: its scope, once something asked for it.
///
/// Dropping it ends the request's use of the pool.
pub(crate) struct ScopeGuard<B: Backend> {
    pool: Pool<B>,
    scope: Option<Arc<Scope<B>>>,
    /// The scope belongs to a layer around this one, which also ends it.
    is_outer: bool,
}

/// A [`ScopeGuard`] of whatever backend, while its request is being polled on this thread.
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
    pub(crate) fn new(pool: Pool<B>) -> Self {
        let scope = around(&pool);
        Self { pool, is_outer: scope.is_some(), scope }
    }

    /// The scope, made now if nothing asked for it before.
    pub(crate) fn scope(&mut self) -> Arc<Scope<B>> {
        let scope = self.scope.get_or_insert_with(|| Arc::new(Scope::new(self.pool.clone())));
        Arc::clone(scope)
    }

    /// Takes the scope out, if there is one and it is this request's own; the guard's end no
    /// longer ends it.
    pub(crate) fn take(&mut self) -> Option<Arc<Scope<B>>> {
        self.scope.take().filter(|_| !self.is_outer)
    }

    /// Ends the request's use of the pool now.
    pub(crate) fn end(&mut self) {
        if let Some(scope) = self.take() {
            scope.end();
        }
    }

    /// Runs `f` so that [`innermost`] finds this request's scope.
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

impl<B: Backend> Drop for ScopeGuard<B> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Takes the scope back out of the thread, also when what ran in it panicked.
struct Leave<'a, B: Backend>(&'a mut ScopeGuard<B>);

impl<B: Backend> Drop for Leave<'_, B> {
    fn drop(&mut self) {
        let entry = CURRENT.with_borrow_mut(Vec::pop);
        let scope = entry.and_then(|mut entry| mem::take(&mut entry.scope));
        self.0.scope = scope.and_then(|scope| scope.downcast().ok());
    }
}
