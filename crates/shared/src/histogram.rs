//! How often something had which size, counted by all processes together.

use std::fmt;
use std::sync::atomic::Ordering;

use crate::memory::with_number;
use crate::variables::{Kind, MOST_BOUNDS, Slot, VariableError};

/// How often something had which size, in all processes together: how long requests took, how large bodies were.
///
/// It is known by its name, as a [`Counter`](crate::Counter) is. A clone is the same histogram.
///
/// ```
/// use farrier_shared::Histogram;
///
/// # fn main() -> Result<(), farrier_shared::VariableError> {
/// // Seconds: up to 10 ms, up to 100 ms, up to a second, and more.
/// let latency = Histogram::named("latency", &[0.01, 0.1, 1.0])?;
/// // In any process:
/// latency.record(0.02);
/// latency.record(7.0);
/// let read = latency.read();
/// assert_eq!(read.buckets, [0, 1, 0, 1]);
/// assert_eq!((read.count(), read.sum), (2, 7.02));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Histogram {
    slot: &'static Slot,
    bounds: Vec<f64>,
}

/// What a histogram has counted when it was read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HistogramReading {
    /// The largest size that each bucket counts; the last bucket has none.
    pub bounds: Vec<f64>,
    /// How often each was hit; one more than there are bounds.
    pub buckets: Vec<u64>,
    /// All sizes together, but for those that are no finite number. A process that is killed between counting and adding
    /// leaves its last one out.
    pub sum: f64,
}

impl Histogram {
    /// The histogram of this name, which has counted nothing if nobody has named it before; each of `bounds` is the largest
    /// size of its bucket.
    ///
    /// # Errors
    ///
    /// The name is another variable's or none, or that of a histogram with other bounds; the bounds are none or not in order;
    /// there are too many; or the kernel's.
    pub fn named(name: &str, bounds: &[f64]) -> Result<Self, VariableError> {
        let is_in_order = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if !(1..=MOST_BOUNDS).contains(&bounds.len())
            || !is_in_order
            || !bounds.iter().all(|bound| bound.is_finite())
        {
            return Err(VariableError::Bounds(name.to_owned()));
        }
        let shape = bounds.iter().fold(bounds.len() as u64, |shape, bound| {
            // 0.0 and -0.0 are the same bound.
            with_number(shape, (bound + 0.0).to_bits())
        });
        let (_, slot) = Slot::named(name, Kind::Histogram, shape, |_| ())?;
        Ok(Self { slot, bounds: bounds.to_vec() })
    }

    /// Counts a size. What is no number counts as larger than all.
    pub fn record(&self, size: f64) {
        let bucket = self.bounds.partition_point(|bound| size > *bound || size.is_nan());
        self.slot.words[1 + bucket].fetch_add(1, Ordering::Relaxed);
        if size.is_finite() {
            // The closure has always an answer.
            let _ = self.slot.words[0].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| {
                Some((f64::from_bits(sum) + size).to_bits())
            });
        }
    }

    /// What was counted until now.
    #[must_use]
    pub fn read(&self) -> HistogramReading {
        let buckets = self.slot.words[1..].iter().take(self.bounds.len() + 1);
        HistogramReading {
            bounds: self.bounds.clone(),
            buckets: buckets.map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum: f64::from_bits(self.slot.words[0].load(Ordering::Relaxed)),
        }
    }
}

impl HistogramReading {
    /// How often something was counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, read) = (self.slot.name(), self.read());
        f.debug_struct("Histogram").field("name", &name).field("read", &read).finish()
    }
}
