//! Server hooks: functions of the program's that the launcher calls, by gunicorn's names.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farrier_serve::{BoxError, Refused};

use crate::settings::Settings;
use crate::unwind::caught;
use crate::worker::Worker;

/// A hook that takes longer than this is named in the log: its process has waited for it.
const SLOW: Duration = Duration::from_millis(100);

/// What a program does at the turns of a server's life; each does nothing unless it is written.
///
/// Those of the master run in the master and hold it up: signals, deaths, the control socket and beats wait meanwhile, and
/// workers go on. The log names one that took longer than 100 ms. A panic is caught and logged, and ends neither the
/// master nor a worker, but for those that can refuse. A hook must leave no thread, runtime or connection behind in the
/// master: the next fork would be refused.
///
/// | hook | process and thread | when | an error or a panic |
/// |---|---|---|---|
/// | [`nworkers_changed`](Self::nworkers_changed) | master | first of all, and when the number of workers changes | logged |
/// | [`on_starting`](Self::on_starting) | master | the pidfile is written, nothing is bound | refuses the start: exit code 1 |
/// | [`when_ready`](Self::when_ready) | master | the sockets listen, there is no worker | refuses the start: exit code 1 |
/// | [`pre_fork`](Self::pre_fork) | master | before each worker's fork | logged |
/// | [`post_fork`](Self::post_fork) | worker, before its threads | first of all in it | the worker does not start |
/// | [`post_worker_init`](Self::post_worker_init) | worker, in its runtime | the app is made, nothing is served | the worker does not start |
/// | [`worker_ready`](Self::worker_ready) | master | the worker serves | logged |
/// | [`request_refused`](Self::request_refused) | worker, on a connection's task | the server refuses a request | logged |
/// | [`worker_int`](Self::worker_int) | worker, the thread that hears signals | it is told to leave at once | logged |
/// | [`worker_abort`](Self::worker_abort) | the same | the master has found it hung, and it dies next | logged |
/// | [`worker_exit`](Self::worker_exit) | worker, on its runtime's thread if it has served | last of all, however it was told to leave | logged |
/// | [`child_exit`](Self::child_exit) | master | a worker is gone: once for each that was ever forked | logged |
/// | [`on_reload`](Self::on_reload) | master | the settings are read again and what there is to preload is loaded; no worker is forked for it | logged |
/// | [`on_exit`](Self::on_exit) | master | every process is gone, the pidfile is not | logged |
///
/// `pre_request` and `post_request` are a layer: farrier-hooks. Work that is to be awaited before a worker leaves is
/// [`Worker::before_exit`]'s, and what is done once before there are workers [`Launcher::prepare`](crate::Launcher::prepare)'s. gunicorn's order is the same, but that `worker_exit`
/// runs there in the master at times, and `child_exit` not for workers that are killed while it stops.
///
/// ```
/// use farrier_prefork::{BoxError, Launcher, ServerHooks, Settings, WorkerExit};
///
/// struct Notes;
///
/// impl ServerHooks for Notes {
///     fn on_starting(&self, settings: &Settings) -> Result<(), BoxError> {
///         println!("{} workers are to come", settings.workers);
///         Ok(())
///     }
///
///     fn child_exit(&self, exit: &WorkerExit) {
///         println!("{} served {} requests and is gone: {}", exit.pid, exit.requests, exit.reason);
///     }
/// }
///
/// let launcher = Launcher::from_args("app").server_hooks(Notes);
/// # drop(launcher);
/// ```
#[expect(unused_variables, reason = "the names are the documentation")]
pub trait ServerHooks: Send + Sync + 'static {
    /// The number of workers that there should be is another one; `old` is `None` at the start.
    fn nworkers_changed(&self, new: usize, old: Option<usize>) {}

    /// The server starts.
    ///
    /// # Errors
    ///
    /// Why it must not.
    fn on_starting(&self, settings: &Settings) -> Result<(), BoxError> {
        Ok(())
    }

    /// The server listens on `addresses`, and nobody accepts yet.
    ///
    /// # Errors
    ///
    /// Why it must not.
    fn when_ready(&self, addresses: &[String]) -> Result<(), BoxError> {
        Ok(())
    }

    /// A worker is about to be forked; its `pid` is not known. If the fork is refused nothing follows.
    fn pre_fork(&self, worker: &WorkerProcess) {}

    /// A worker was forked, and this is it.
    ///
    /// # Errors
    ///
    /// Why it must not start.
    fn post_fork(&self, worker: &WorkerProcess) -> Result<(), BoxError> {
        Ok(())
    }

    /// The worker's app is made.
    ///
    /// # Errors
    ///
    /// Why it must not serve.
    fn post_worker_init(&self, worker: &Worker) -> Result<(), BoxError> {
        Ok(())
    }

    /// A worker serves, or has begun to: it may have been told to leave since.
    fn worker_ready(&self, worker: &WorkerProcess) {}

    /// The server itself has refused a request, and no layer has seen it: a head that cannot be parsed, is too large or
    /// does not come in time, or what a proxy in front may read otherwise; see [`Refused`].
    fn request_refused(&self, refused: &Refused) {}

    /// The worker was told to leave at once: INT or QUIT.
    fn worker_int(&self, worker: &Worker) {}

    /// The worker was sent SIGABRT, by the master because its heartbeat is late: it dies when this returns, or after a
    /// second. Its runtime may be blocked, and whatever lock it holds stays held.
    fn worker_abort(&self, worker: &Worker) {}

    /// The worker leaves: told to, recycled, replaced, or because its app has refused to start. It has what is left of the
    /// worker's time to leave.
    ///
    /// Not in one that crashes, hangs, is killed, whose app panics at its start, or that `post_fork` has refused. In one that is told to leave before it is ready it runs on the thread
    /// that hears signals, while the app may still be in the making.
    fn worker_exit(&self, worker: &Worker) {}

    /// A worker is gone.
    fn child_exit(&self, exit: &WorkerExit) {}

    /// The settings were read again, and workers are about to be replaced.
    fn on_reload(&self, settings: &Settings) {}

    /// The server has stopped; not if it never started.
    fn on_exit(&self) {}
}

/// A worker's process as the hooks of the master see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerProcess {
    /// `None` before the fork.
    pub pid: Option<u32>,
    /// Its place, from 0 to `workers` - 1.
    pub slot: usize,
    /// 1 for the workers of the start, and one more with each reload.
    pub generation: u64,
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerExit {
    /// Its process id, which may be another process's soon.
    pub pid: u32,
    /// Its place, from 0 to `workers` - 1.
    pub slot: usize,
    /// 1 for the workers of the start, and one more with each reload.
    pub generation: u64,
    /// From its fork to its end.
    pub age: Duration,
    /// How many requests it has finished, as its heartbeat layer counts them.
    pub requests: u64,
    /// For people to read: an exit status or a signal.
    pub reason: String,
    /// The requests that ended with it, oldest first; method and path, cut to fit.
    pub in_flight: Vec<String>,
}

/// The program's hooks, as the launcher calls them.
#[derive(Clone)]
pub(crate) struct Hooks(Arc<dyn ServerHooks>);

struct NoHooks;

impl ServerHooks for NoHooks {}

impl Hooks {
    pub(crate) fn new(hooks: impl ServerHooks) -> Self {
        Self(Arc::new(hooks))
    }

    /// Calls one of them.
    pub(crate) fn call(&self, name: &'static str, call: impl FnOnce(&dyn ServerHooks)) {
        let called = self.ask(name, |hooks| {
            call(hooks);
            Ok(())
        });
        if let Err(error) = called {
            tracing::error!("{error}");
        }
    }

    /// Calls one that can refuse.
    ///
    /// # Errors
    ///
    /// Its error or its panic, with its name.
    pub(crate) fn ask(
        &self,
        name: &'static str,
        call: impl FnOnce(&dyn ServerHooks) -> Result<(), BoxError>,
    ) -> Result<(), BoxError> {
        let began = Instant::now();
        let called = caught(|| call(&*self.0));
        let took = began.elapsed();
        if took > SLOW {
            tracing::warn!("the hook {name} took {:.1} s", took.as_secs_f64());
        }
        let why = match called {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("failed: {error}"),
            Err(panic) => format!("panicked: {panic}"),
        };
        // It becomes a part of lines.
        Err(format!("the hook {name} {why}").replace(char::is_control, " ").into())
    }
}

impl Default for Hooks {
    fn default() -> Self {
        Self::new(NoHooks)
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}
