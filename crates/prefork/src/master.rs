//! The master: it carries out what the arbiter decides and tells it what happened.
//!
//! One thread, no runtime, and one place where it waits, in `run`.

mod fork;
mod orders;
mod recycling;
mod reload;
mod run;
mod state;
mod status;
mod words;
mod workers;

pub(crate) use self::state::Master;
