//! A small value that all processes have together.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use bytemuck::Pod;

use crate::variables::{Kind, Slot, VariableError};

/// A value of at most eight bytes that all processes have together: a limit, a switch, a time.
///
/// It is made before the fork, as a [`Counter`](crate::Counter), and each process that reads it gets all of what some process
/// has written last, never parts of two. It may be whatever has a meaning in each process and in whichever bits
/// ([`Pod`]): numbers, arrays of numbers, and structs that derive `Pod`; no references, which the compiler
/// refuses, as it does what is too large. A clone is the same value.
///
/// ```
/// use farrier_shared::Value;
///
/// # fn main() -> Result<(), farrier_shared::VariableError> {
/// let limit = Value::new("limit", 0.5_f32)?;
/// // In any process:
/// limit.set(0.25);
/// assert_eq!(limit.get(), 0.25);
/// assert_eq!(limit.update(|limit| limit * 2.0), 0.5);
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail
/// # use farrier_shared::Value;
/// let pointer = Value::new("pointer", "a text of one process");
/// ```
pub struct Value<T> {
    slot: &'static Slot,
    _value: PhantomData<fn(T) -> T>,
}

impl<T: Pod> Value<T> {
    /// Makes a value.
    ///
    /// # Errors
    ///
    /// The name is taken or none; it is made too late; or the kernel's.
    pub fn new(name: &str, value: T) -> Result<Self, VariableError> {
        let word = Self::to_word(value);
        let slot = Slot::new(name, Kind::Value, |words| words[0].store(word, Ordering::Relaxed))?;
        Ok(Self { slot, _value: PhantomData })
    }

    /// What some process has written last.
    #[must_use]
    pub fn get(&self) -> T {
        Self::from_word(self.slot.words[0].load(Ordering::Acquire))
    }

    /// Whatever it was, it is this now.
    pub fn set(&self, value: T) {
        self.slot.words[0].store(Self::to_word(value), Ordering::Release);
    }

    /// Makes a new value of the old one, and returns it; `change` is called again if another process was faster.
    pub fn update(&self, mut change: impl FnMut(T) -> T) -> T {
        let word = &self.slot.words[0];
        let mut old = word.load(Ordering::Acquire);
        loop {
            let new = change(Self::from_word(old));
            let bits = Self::to_word(new);
            match word.compare_exchange_weak(old, bits, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return new,
                Err(other) => old = other,
            }
        }
    }

    fn to_word(value: T) -> u64 {
        const { assert!(size_of::<T>() <= size_of::<u64>(), "a shared value has at most eight bytes") };
        let mut bytes = [0; size_of::<u64>()];
        bytes[..size_of::<T>()].copy_from_slice(bytemuck::bytes_of(&value));
        u64::from_ne_bytes(bytes)
    }

    fn from_word(word: u64) -> T {
        bytemuck::pod_read_unaligned(&word.to_ne_bytes()[..size_of::<T>()])
    }
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Value<T> {}

impl<T: Pod + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, value) = (self.slot.name(), self.get());
        f.debug_struct("Value").field("name", &name).field("value", &value).finish()
    }
}
