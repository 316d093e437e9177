//! The worker: a forked process that runs the app until it is told to leave; and the companion, which runs work of its own.
//!
//! Two threads at the start. The forked one keeps the signals to itself and waits, so that it is there
//! even when the runtime is not; a fresh one runs the runtime and the app. Fresh, because the forked
//! thread's thread-locals are copies of the master's: every worker would draw the same "random" numbers.

mod companion;
mod dry_run;
mod handle;
mod prepare;
mod process;
mod run;
mod supervised;
mod watch;

pub use self::companion::Companion;
pub(crate) use self::companion::CompanionWork;
pub(crate) use self::dry_run::dry_run;
pub use self::handle::Worker;
pub(crate) use self::prepare::{Prepare, prepare};
pub(crate) use self::process::{chain, end_with, status};
pub(crate) use self::run::{WorkerSeed, live};
pub(crate) use self::supervised::Seed;
