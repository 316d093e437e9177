//! A function of the user's that is told something.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What is to be called with each `T`, if anything.
pub(crate) struct Hook<T>(Option<Arc<dyn Fn(&T) + Send + Sync>>);

impl<T: fmt::Debug> Hook<T> {
    pub(crate) fn new(hook: impl Fn(&T) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// A panic in it is caught and logged.
    pub(crate) fn call(&self, with: &T) {
        let Some(hook) = &self.0 else { return };
        if catch_unwind(AssertUnwindSafe(|| hook(with))).is_err() {
            tracing::error!(?with, "a hook of the server panicked");
        }
    }
}

impl<T> Clone for Hook<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Hook<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> fmt::Debug for Hook<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hook").field(&self.0.is_some()).finish()
    }
}
