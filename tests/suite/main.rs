//! The workspace's behaviour tests: real binaries, seen from outside.
#![forbid(unsafe_code)]

mod audit;
mod bad_input;
mod behaviours;
mod companions;
mod connection;
mod control;
mod directions;
mod guestbook;
mod lab;
mod launcher;
mod orphans;
mod pipes;
mod preload;
mod readme;
mod recycling;
mod rooms;
mod server_hooks;
mod variables;
