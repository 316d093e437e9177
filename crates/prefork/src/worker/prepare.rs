//! The preparing process: work that is done once, before there are workers.

use std::thread;

use farrier_serve::BoxError;
use nix::unistd::Pid;
use tokio::runtime::{Builder, Runtime};

use super::process::{self, chain, panicked, status};
use crate::unwind::said_by;

/// Runs once before the first worker, on a runtime of a process of its own.
pub(crate) type Prepare = Box<dyn FnOnce(&Runtime) -> Result<(), BoxError> + Send>;

/// The preparing process's whole life; the exit status comes back.
pub(crate) fn prepare(master: Pid, work: Prepare) -> i32 {
    if let Err(error) = process::obey_the_master_only(master, "farrier:prepare") {
        tracing::error!(%error, "the preparing process could not set itself up");
        return status::NOT_STARTED;
    }
    let fresh = thread::Builder::new().name("prepare".into()).spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build();
        let done = runtime.map_err(BoxError::from).and_then(|runtime| {
            let done = work(&runtime);
            runtime.shutdown_background();
            done
        });
        match done {
            Ok(()) => status::LEFT,
            Err(error) => {
                tracing::error!(error = %chain(&*error), "the preparation failed");
                status::NOT_STARTED
            }
        }
    });
    match fresh {
        Ok(fresh) => {
            fresh.join().unwrap_or_else(|panic| panicked("the preparation", &said_by(panic)))
        }
        Err(error) => {
            tracing::error!(%error, "the preparing process could not start its thread");
            status::NOT_STARTED
        }
    }
}
