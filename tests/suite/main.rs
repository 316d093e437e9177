//! The workspace's behaviour tests: real binaries, seen from outside.
#![forbid(unsafe_code)]

mod connection;
mod control;
mod guestbook;
mod lab;
mod launcher;
mod readme;
