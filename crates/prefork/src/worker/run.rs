//! A worker's whole life: its two threads, the runtime, the app, the server.

use std::cell::Cell;
use std::future::{self, Future};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use farrier_heartbeat::keep_beating;
use farrier_serve::{BoxError, ConnectionEvent, Drain, Level, Listener, Server};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use tokio::runtime::{Builder, Runtime};
use tokio::time;
use tower_service::Service;

use super::handle::Worker;
use super::process::{self, chain, panicked, status};
use super::watch::Watch;
use crate::board::{Board, BoardPulse, InFlightList, RowId};
use crate::ends;
use crate::hooks::{Hooks, WorkerProcess};
use crate::report::Report;
use crate::settings::Settings;
use crate::signals::WorkerSignals;
use crate::sockets::{MasterListener, WorkerListener};
use crate::unwind::said_by;

/// What a worker process is made of.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) slot: usize,
    pub(crate) generation: u64,
    pub(crate) master: Pid,
    pub(crate) board: Arc<Board>,
    pub(crate) row: RowId,
    pub(crate) settings: Arc<Settings>,
    /// As the master has them, and by the fork this process too.
    pub(crate) listeners: Vec<MasterListener>,
    /// Where the worker says that it is ready, and later that it is due.
    pub(crate) report: OwnedFd,
    /// How many requests it begins before it is due.
    pub(crate) max_requests: Option<u64>,
    pub(crate) hooks: Hooks,
    /// A pipe whose other end only the master holds: its end is the master's death.
    pub(crate) alive: OwnedFd,
}

/// What the worker has served, and the pipe by which its master hears of it.
struct Served {
    report: OwnedFd,
    requests: AtomicU64,
    due_at: Option<u64>,
}

/// A worker's whole life, in the forked process; the exit status comes back.
pub(crate) fn live<A, F, S, E, B>(seed: Seed, app: &A) -> i32
where
    A: Fn(Worker) -> F + Sync,
    F: Future<Output = Result<S, E>>,
    E: Into<BoxError>,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let served = Arc::new(Served {
        report: seed.report,
        requests: AtomicU64::new(0),
        due_at: seed.max_requests,
    });
    let (slot, generation) = (seed.slot, seed.generation);
    let process = WorkerProcess { pid: Some(std::process::id()), slot, generation };
    if let Err(error) = seed.hooks.ask("post_fork", |hooks| hooks.post_fork(&process)) {
        tracing::error!(slot, "{error}");
        served.say(&Report::Failure(error.to_string()));
        return status::NOT_STARTED;
    }
    let prepared = settle_in(seed.master, slot).and_then(|signals| {
        let listeners = seed.listeners.iter().map(MasterListener::share);
        Ok((signals, listeners.collect::<io::Result<Vec<_>>>()?, pipe2(OFlag::O_CLOEXEC)?))
    });
    let (signals, listeners, (done, not_done)) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!(%error, slot, "a worker could not set itself up");
            return status::NOT_STARTED;
        }
    };
    let worker = Worker {
        slot: seed.slot,
        generation: seed.generation,
        pulse: Arc::new(BoardPulse::new(seed.board, seed.row)),
        drain: Drain::new(),
        settings: seed.settings,
        exit_work: Arc::default(),
    };
    let hooks = seed.hooks;
    let watch =
        Watch::new(signals, seed.alive, seed.listeners, done, worker.clone(), hooks.clone());
    thread::scope(|scope| {
        let fresh = thread::Builder::new().name("worker".into()).spawn_scoped(scope, move || {
            let _not_done = not_done;
            run(&worker, app, listeners, &served, &hooks)
        });
        match fresh {
            Ok(fresh) => {
                watch.until_done();
                fresh.join().unwrap_or_else(|panic| panicked(&said_by(panic)))
            }
            Err(error) => {
                tracing::error!(%error, "a worker could not start its thread");
                status::NOT_STARTED
            }
        }
    })
}

/// What a process does first after the fork.
fn settle_in(master: Pid, slot: usize) -> io::Result<WorkerSignals> {
    let signals = WorkerSignals::take()?;
    process::follow(master)?;
    process::name(&format!("farrier:{slot}"));
    Ok(signals)
}

/// The fresh thread: runtime, app, server.
fn run<A, F, S, E, B>(
    worker: &Worker,
    app: &A,
    listeners: Vec<WorkerListener>,
    served: &Arc<Served>,
    hooks: &Hooks,
) -> i32
where
    A: Fn(Worker) -> F,
    F: Future<Output = Result<S, E>>,
    E: Into<BoxError>,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let runtime = match runtime(worker.settings.threads) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "a worker could not build its runtime");
            return status::NOT_STARTED;
        }
    };
    let code = runtime.block_on(async {
        tokio::spawn(keep_beating(worker.pulse(), worker.settings.beat_interval()));
        match start(worker, app, listeners, served, hooks).await {
            Ok(server) => {
                if !worker.pulse.begin_to_serve() {
                    // It was told to leave, and the forked thread does.
                    future::pending::<()>().await;
                }
                served.say(&Report::Ready);
                let told = Cell::new(None);
                let mut serving = pin!(server.serve(worker.drain()));
                tokio::select! {
                    // First: what the server cuts is in flight no more.
                    biased;
                    why = worker.time_is_over(&told) => {
                        let cut = worker.pulse.in_flight();
                        let connections = serving.await.cut;
                        if connections > 0 {
                            tracing::warn!(connections, "cut {why}: {}", InFlightList(&cut));
                        }
                    }
                    _ = serving.as_mut() => {}
                }
                let told = told.get().unwrap_or_else(time::Instant::now);
                worker.exit_work.finish(worker.grace_over(told)).await;
                status::LEFT
            }
            Err(error) => {
                let error = chain(&*error);
                tracing::error!(slot = worker.slot, error, "the app failed to start");
                served.say(&Report::Failure(error));
                worker.exit_work.finish(time::sleep(ends::QUICK_EXIT_WORK)).await;
                status::NOT_STARTED
            }
        }
    });
    hooks.call("worker_exit", |hooks| hooks.worker_exit(worker));
    // What blocks in a thread of its own is not waited for: the process ends with it.
    runtime.shutdown_background();
    code
}

fn runtime(threads: usize) -> io::Result<Runtime> {
    match threads {
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

async fn start<A, F, S, E>(
    worker: &Worker,
    app: &A,
    listeners: Vec<WorkerListener>,
    served: &Arc<Served>,
    hooks: &Hooks,
) -> Result<Server<S>, BoxError>
where
    A: Fn(Worker) -> F,
    F: Future<Output = Result<S, E>>,
    E: Into<BoxError>,
{
    let service = app(worker.clone()).await.map_err(Into::into)?;
    hooks.ask("post_worker_init", |hooks| hooks.post_worker_init(worker))?;
    let listeners: Vec<Listener> = listeners
        .into_iter()
        .map(|listener| match listener {
            WorkerListener::Tcp(listener) => listener.try_into(),
            WorkerListener::Unix(listener) => listener.try_into(),
        })
        .collect::<io::Result<_>>()?;
    let settings = worker.settings();
    let server = Server::new(listeners, service)
        .keepalive(settings.keepalive)
        .header_read_timeout(settings.header_read_timeout)
        .half_close_timeout(settings.half_close_timeout)
        .tolerate_invalid_requests(settings.tolerate_invalid_requests)
        .max_connections(settings.worker_connections)
        .drain_idle(settings.drain_idle)
        .graceful_timeout(settings.graceful_timeout)
        .on_connection({
            let (pulse, served) = (worker.pulse(), Arc::clone(served));
            move |event| match event {
                ConnectionEvent::Request => served.note_request(),
                event => pulse.note(*event),
            }
        });
    let hooks = hooks.clone();
    Ok(server.request_refused(move |refused| {
        hooks.call("request_refused", |hooks| hooks.request_refused(refused));
    }))
}

impl Served {
    fn note_request(&self) {
        let begun = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if self.due_at == Some(begun) {
            self.say(&Report::Due);
        }
    }

    fn say(&self, report: &Report) {
        // If nobody reads it the master is dead, and the forked thread knows.
        let _ = nix::unistd::write(&self.report, &report.to_bytes());
    }
}

impl Worker {
    /// Waits for the end of the grace, or for the order to stop at once, and says which; `told` becomes when
    /// the worker was told to leave.
    async fn time_is_over(&self, told: &Cell<Option<time::Instant>>) -> &'static str {
        self.drain.started().await;
        let now = time::Instant::now();
        told.set(Some(now));
        tokio::select! {
            biased;
            () = self.drain.reached(Level::Quick) => "by the order to stop at once",
            () = time::sleep_until(now + self.settings.graceful_timeout) => "at the end of graceful_timeout",
        }
    }

    /// Ends when the work before the exit has to.
    async fn grace_over(&self, told: time::Instant) {
        let least = time::Instant::now() + ends::LEAST_EXIT_WORK;
        let quick = async {
            self.drain.reached(Level::Quick).await;
            time::sleep(ends::QUICK_EXIT_WORK).await;
        };
        tokio::select! {
            () = time::sleep_until(least.max(told + self.settings.graceful_timeout)) => {}
            () = quick => {}
        }
    }
}
