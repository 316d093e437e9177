//! Chance for spreading things in time; no secret depends on it.
//!
//! Not a crate for random numbers: such keep their state in the thread or the process, and a fork copies it, so that
//! all workers would do the same at the same time.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

/// A number from 0 up to 1.
pub(super) fn unit() -> f64 {
    // Forked processes may share a thread's hash keys; the process id and the time tell them apart.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(process::id());
    hasher.write_u32(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.subsec_nanos()));
    let bits = u32::try_from(hasher.finish() >> 32).unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}
