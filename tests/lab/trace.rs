//! Server hooks that write down when they are called, or do what the test wants of one.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use farrier::prefork::{Refused, ServerHooks, Settings, Worker, WorkerExit, WorkerProcess};
use farrier::serve::BoxError;

/// A line for each call is appended to a file: `hook pid role slot generation`, with `-` for what there is none of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace {
    pub(crate) file: Option<PathBuf>,
    /// `HOOK=fail`, `HOOK=panic` or `HOOK=slow`.
    pub(crate) provoked: Option<String>,
}

impl Trace {
    #[expect(clippy::disallowed_methods, reason = "a hook that holds its process up is provoked")]
    fn note(&self, hook: &str, role: &str, worker: Option<(usize, u64)>) -> Result<(), BoxError> {
        let pid = std::process::id();
        let line = match worker {
            Some((slot, generation)) => format!("{hook} {pid} {role} {slot} {generation}\n"),
            None => format!("{hook} {pid} {role} - -\n"),
        };
        if let Some(path) = &self.file {
            // Opened anew: no descriptor is there at a fork. One write is one line.
            File::options().append(true).create(true).open(path)?.write_all(line.as_bytes())?;
        }
        let (provoked, how) =
            self.provoked.as_deref().and_then(|text| text.split_once('=')).unzip();
        match how.filter(|_| provoked == Some(hook)) {
            Some("fail") => Err("LAB_HOOK said so".into()),
            Some("panic") => panic!("LAB_HOOK said so"),
            Some("slow") => {
                std::thread::sleep(Duration::from_millis(300));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn master(&self, hook: &str) {
        let _ = self.note(hook, "master", None);
    }
}

impl ServerHooks for Trace {
    fn nworkers_changed(&self, _: usize, _: Option<usize>) {
        self.master("nworkers_changed");
    }

    fn on_starting(&self, _: &Settings) -> Result<(), BoxError> {
        self.note("on_starting", "master", None)
    }

    fn when_ready(&self, _: &[String]) -> Result<(), BoxError> {
        self.note("when_ready", "master", None)
    }

    fn pre_fork(&self, worker: &WorkerProcess) {
        let _ = self.note("pre_fork", "master", Some((worker.slot, worker.generation)));
    }

    fn post_fork(&self, worker: &WorkerProcess) -> Result<(), BoxError> {
        self.note("post_fork", "worker", Some((worker.slot, worker.generation)))
    }

    fn post_worker_init(&self, worker: &Worker) -> Result<(), BoxError> {
        self.note("post_worker_init", "worker", Some((worker.slot(), worker.generation())))
    }

    fn worker_ready(&self, worker: &WorkerProcess) {
        let _ = self.note("worker_ready", "master", Some((worker.slot, worker.generation)));
    }

    fn request_refused(&self, refused: &Refused) {
        tracing::info!(%refused, "request refused");
        let _ = self.note("request_refused", "worker", None);
    }

    fn worker_int(&self, worker: &Worker) {
        let _ = self.note("worker_int", "worker", Some((worker.slot(), worker.generation())));
    }

    fn worker_abort(&self, worker: &Worker) {
        let _ = self.note("worker_abort", "worker", Some((worker.slot(), worker.generation())));
    }

    fn worker_exit(&self, worker: &Worker) {
        let _ = self.note("worker_exit", "worker", Some((worker.slot(), worker.generation())));
    }

    fn child_exit(&self, exit: &WorkerExit) {
        tracing::info!(?exit, "child_exit");
        let _ = self.note("child_exit", "master", Some((exit.slot, exit.generation)));
    }

    fn on_reload(&self, _: &Settings) {
        self.master("on_reload");
    }

    fn on_exit(&self) {
        self.master("on_exit");
    }
}
