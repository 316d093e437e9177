//! A small value that all processes have together.

use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::{CheckedBitPattern, NoUninit};

use crate::memory::layout;
use crate::variables::{Kind, Slot, VariableError, WORDS};

/// A value of at most eight bytes that all processes have together: a limit, a switch, a time.
///
/// It is known by its name, as a [`Counter`](crate::Counter) is, and each process that reads it gets all of what some process
/// has written last, never parts of two. It may be whatever means the same in each process: numbers and arrays of them, `bool`,
/// `char`, and enums and structs that derive bytemuck's [`NoUninit`] and [`CheckedBitPattern`]; no references, which the compiler
/// refuses, as it does what is too large. A type is known by its name and size. A clone is the same value.
///
/// ```
/// use farrier_shared::Value;
///
/// # fn main() -> Result<(), farrier_shared::VariableError> {
/// let limit = Value::named("limit", 0.5_f32)?;
/// // In any process:
/// limit.set(0.25);
/// assert_eq!(limit.get(), 0.25);
/// assert_eq!(limit.update(|limit| limit * 2.0), 0.5);
/// let is_read_only = Value::named("is read-only", false)?;
/// is_read_only.set(true);
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail
/// # use farrier_shared::Value;
/// let pointer = Value::named("pointer", "a text of one process");
/// ```
pub struct Value<T> {
    slot: &'static Slot,
    _value: PhantomData<fn(T) -> T>,
}

impl<T: NoUninit + CheckedBitPattern> Value<T> {
    /// The value of this name, which is `value` if nobody has named it before.
    ///
    /// # Errors
    ///
    /// The name is another variable's or none, or that of a value of another type; there are too many; or the kernel's.
    pub fn named(name: &str, value: T) -> Result<Self, VariableError> {
        let word = Self::to_word(value);
        let shape = layout(size_of::<T>() as u64, type_name::<T>());
        let fill = |words: &[AtomicU64; WORDS]| words[0].store(word, Ordering::Relaxed);
        let (_, slot) = Slot::named(name, Kind::Value, shape, fill)?;
        Ok(Self { slot, _value: PhantomData })
    }

    /// What some process has written last.
    ///
    /// # Panics
    ///
    /// What was written is no value of this type: another image of the program has, or another type of the same name.
    #[must_use]
    pub fn get(&self) -> T {
        Self::from_word(self.slot.words[0].load(Ordering::Acquire))
    }

    /// Whatever it was, it is this now.
    pub fn set(&self, value: T) {
        self.slot.words[0].store(Self::to_word(value), Ordering::Release);
    }

    /// Makes a new value of the old one, and returns it; `change` is called again if another process was faster.
    ///
    /// # Panics
    ///
    /// As [`get`](Self::get) does, or if `change` does; the value is then as it was.
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
        bytemuck::checked::pod_read_unaligned(&word.to_ne_bytes()[..size_of::<T>()])
    }
}

impl<T> Clone for Value<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Value<T> {}

impl<T: NoUninit + CheckedBitPattern + fmt::Debug> fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, value) = (self.slot.name(), self.get());
        f.debug_struct("Value").field("name", &name).field("value", &value).finish()
    }
}
