//! The server over real sockets.
#![expect(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod drain;
mod full;
mod invalid;
mod limits;
mod refused;
mod replace;
mod serving;
mod slow;
mod support;
