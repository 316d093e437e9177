//! This program once more, as another process that has the same variables.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use farrier_shared::{adopt, share};

/// What says to this program that it is the other process, and what that does.
const OTHER: &str = "FARRIER_TEST_OTHER";

/// Starts it; `test` begins with [`told`].
pub(crate) fn start(test: &str, what: &str) -> Child {
    let memory = share().unwrap().try_clone_to_owned().unwrap();
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(OTHER, what)
        .stdin(memory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// In the other process: what it does, now that it has the variables.
pub(crate) fn told() -> Option<String> {
    let what = env::var(OTHER).ok()?;
    adopt(io::stdin().as_fd().try_clone_to_owned().unwrap()).unwrap();
    Some(what)
}
