//! Numbers that all processes count together: a counter, which only grows, and a gauge, which goes up and down.

use std::fmt;
use std::sync::atomic::Ordering;

use crate::variables::{Kind, Slot, VariableError};

/// A number that only grows, which all processes have together: requests, mails, errors.
///
/// Its name makes it the same one in each process of a server, whichever names it first, and in each after them: one that is
/// replaced or killed has counted what it has counted. A clone is the same counter.
///
/// A program has room for 1,024 variables, locks and works that are done once, and none is ever forgotten: names are the
/// program's own, not of what clients send. Finding one by its name takes longer the more there are, so keep what you named.
///
/// ```
/// use farrier_shared::Counter;
///
/// # fn main() -> Result<(), farrier_shared::VariableError> {
/// let mails = Counter::named("mails")?;
/// // In any process:
/// mails.add(1);
/// assert_eq!(mails.get(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Counter(&'static Slot);

/// A number that goes up and down, which all processes have together: who is logged in, what is in progress.
///
/// It is known by its name, as a [`Counter`] is. What a process adds and does not take away again, because it is killed, stays.
///
/// ```
/// use farrier_shared::Gauge;
///
/// # fn main() -> Result<(), farrier_shared::VariableError> {
/// let seats = Gauge::named("seats")?;
/// // In any process:
/// seats.set(10);
/// assert_eq!(seats.add(-1), 9);
/// assert_eq!(seats.get(), 9);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Gauge(&'static Slot);

impl Counter {
    /// The counter of this name, which is 0 if nobody has named it before.
    ///
    /// # Errors
    ///
    /// The name is another variable's, or none; there are too many; or the kernel's.
    pub fn named(name: &str) -> Result<Self, VariableError> {
        Slot::named(name, Kind::Counter, 0, |_| ()).map(|(_, slot)| Self(slot))
    }

    /// Adds to it; returns what it is then. Beyond [`u64::MAX`] it begins anew.
    #[expect(clippy::must_use_candidate, reason = "most only count")]
    pub fn add(&self, more: u64) -> u64 {
        self.0.words[0].fetch_add(more, Ordering::Relaxed).wrapping_add(more)
    }

    /// What all processes have counted.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.words[0].load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// The gauge of this name, which is 0 if nobody has named it before.
    ///
    /// # Errors
    ///
    /// The name is another variable's, or none; there are too many; or the kernel's.
    pub fn named(name: &str) -> Result<Self, VariableError> {
        Slot::named(name, Kind::Gauge, 0, |_| ()).map(|(_, slot)| Self(slot))
    }

    /// Adds to it, or takes away; returns what it is then.
    #[expect(clippy::must_use_candidate, reason = "most only count")]
    pub fn add(&self, more: i64) -> i64 {
        let more = u64::from_ne_bytes(more.to_ne_bytes());
        signed(self.0.words[0].fetch_add(more, Ordering::Relaxed).wrapping_add(more))
    }

    /// Whatever it was, it is this now.
    pub fn set(&self, value: i64) {
        self.0.words[0].store(u64::from_ne_bytes(value.to_ne_bytes()), Ordering::Relaxed);
    }

    /// What it is.
    #[must_use]
    pub fn get(&self) -> i64 {
        signed(self.0.words[0].load(Ordering::Relaxed))
    }
}

fn signed(value: u64) -> i64 {
    i64::from_ne_bytes(value.to_ne_bytes())
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counter").field("name", &self.0.name()).field("value", &self.get()).finish()
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauge").field("name", &self.0.name()).field("value", &self.get()).finish()
    }
}
