//! What a shared counter costs, beside an atomic number of the process's own.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use farrier::shared::Counter;
use serde::Serialize;

use crate::report::{self, Error, Row};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Additions in each of the rounds.
    #[arg(long, default_value_t = 20_000_000)]
    additions: u32,
    /// Also write the figures to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Measured {
    what: &'static str,
    /// Of the fastest round.
    nanoseconds: f64,
    above_atomic: f64,
}

/// In turns, so that whatever slows the machine down slows both.
const ROUNDS: u32 = 9;

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    static ATOMIC: AtomicU64 = AtomicU64::new(0);
    let counter = Counter::named("counted")?;
    let (mut atomic, mut shared) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        atomic = atomic.min(time(args.additions, || ATOMIC.fetch_add(1, Ordering::Relaxed)));
        shared = shared.min(time(args.additions, || counter.add(1)));
    }
    let row =
        |what, nanoseconds| Measured { what, nanoseconds, above_atomic: nanoseconds / atomic };
    let rows = [row("an atomic of the process's own", atomic), row("a shared counter", shared)];
    report::print(&rows, args.json.as_deref())
}

/// Nanoseconds for each.
fn time(additions: u32, mut add: impl FnMut() -> u64) -> f64 {
    let began = Instant::now();
    for _ in 0..additions {
        black_box(add());
    }
    began.elapsed().as_secs_f64() / f64::from(additions) * 1e9
}

impl Row for Measured {
    const HEADS: &'static [&'static str] = &["adding one to", "ns", "ratio"];

    fn cells(&self) -> Vec<String> {
        let cell = |number: f64| format!("{number:.2}");
        vec![self.what.to_owned(), cell(self.nanoseconds), cell(self.above_atomic)]
    }
}
