//! The dry run of a preload: a process in which it is tried, before the master calls it.

use std::os::fd::OwnedFd;

use nix::unistd::{self, Pid};

use super::process::{self, status};
use crate::report::Report;

/// The whole life of that process; the exit status comes back. The master believes the report, since a preload that
/// ends its process has loaded nothing.
pub(crate) fn dry_run(
    master: Pid,
    report: &OwnedFd,
    load: impl FnOnce() -> Result<(), String>,
) -> i32 {
    if let Err(error) = process::obey_the_master_only(master, "farrier:preload") {
        tracing::error!(%error, "the process of the preload could not set itself up");
        return status::NOT_STARTED;
    }
    let (said, code) = match load() {
        Ok(()) => (Report::Ready, status::LEFT),
        Err(error) => (Report::Failure(error), status::NOT_STARTED),
    };
    // If nobody reads it the master is dead.
    let _ = unistd::write(report, &said.to_bytes());
    code
}
