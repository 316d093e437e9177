//! The names of this process's queues, and the descriptors behind them.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

static TAKEN: Mutex<BTreeMap<String, Vec<RawFd>>> = Mutex::new(BTreeMap::new());

/// A name that is taken for as long as this lives.
#[derive(Debug)]
pub(crate) struct Name(String);

impl Name {
    /// `None` if it is taken already.
    pub(crate) fn take(name: &str) -> Option<Self> {
        let mut taken = taken();
        if taken.contains_key(name) {
            return None;
        }
        taken.insert(name.to_owned(), Vec::new());
        Some(Self(name.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A descriptor was opened that stands behind it.
    pub(crate) fn opened(&self, descriptor: RawFd) {
        taken().entry(self.0.clone()).or_default().push(descriptor);
    }

    /// It is about to be closed.
    pub(crate) fn closes(&self, descriptor: RawFd) {
        if let Some(open) = taken().get_mut(&self.0) {
            open.retain(|open| *open != descriptor);
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        taken().remove(&self.0);
    }
}

/// What this process shares, by name: the numbers of the descriptors that stand behind it.
///
/// For launchers, which refuse to fork with descriptors that no two processes can use side by side.
#[must_use]
pub fn descriptors() -> BTreeMap<String, Vec<RawFd>> {
    taken().clone()
}

fn taken() -> MutexGuard<'static, BTreeMap<String, Vec<RawFd>>> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}
