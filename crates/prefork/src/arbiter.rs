//! What the master decides, apart from how it is done: a state machine without I/O and without a clock.
//!
//! The master feeds it [`Event`]s with the time at which they happened and carries out the [`Action`]s
//! that come back. Everything that waits is a state with a deadline, and [`Arbiter::deadline`] is the
//! earliest of them, so no wait ever keeps the master from the next event.

mod companions;
mod hang;
mod machine;
mod member;
mod orders;
mod roll;

pub(crate) use self::machine::{Arbiter, Phase, Verdict};
pub(crate) use self::member::Stage;
pub(crate) use self::orders::{Action, Due, Event, Limits, Order, Pid, Place, Why, WorkerSignal};

#[cfg(test)]
mod tests;
