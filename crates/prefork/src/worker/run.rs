//! A worker's whole life: its two threads, the runtime, the app, the server.

use std::cell::Cell;
use std::future::{self, Future};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use farrier_heartbeat::keep_beating;
use farrier_serve::{BoxError, ConnectionEvent, HttpService, Listener, Server};

use super::handle::Worker;
use super::process::{chain, status};
use super::supervised::{Pipes, Seed, Supervised, not_set_up, say, settle_in};
use super::watch::{Watch, run_watched};
use crate::board::InFlightList;
use crate::hooks::{Hooks, WorkerProcess};
use crate::report::Report;
use crate::sockets::{MasterListener, WorkerListener};

/// What a worker process is made of.
#[derive(Debug)]
pub(crate) struct WorkerSeed {
    pub(crate) seed: Seed,
    pub(crate) slot: usize,
    /// As the master has them, and by the fork this process too.
    pub(crate) listeners: Vec<MasterListener>,
    /// How many requests it begins before it is due.
    pub(crate) max_requests: Option<u64>,
    pub(crate) hooks: Hooks,
}

/// What the worker has served, and the pipe by which its master hears of it.
struct Served {
    report: OwnedFd,
    requests: AtomicU64,
    due_at: Option<u64>,
}

/// A worker's whole life, in the forked process; the exit status comes back.
pub(crate) fn live<A, F, S, E>(seed: WorkerSeed, app: &A) -> i32
where
    A: Fn(Worker) -> F + Sync,
    F: Future<Output = Result<S, E>>,
    E: Into<BoxError>,
    S: HttpService,
{
    let WorkerSeed { seed, slot, listeners, max_requests, hooks } = seed;
    let (generation, master) = (seed.generation, seed.master);
    let (supervised, Pipes { report, alive }) = Supervised::new(seed);
    let process = WorkerProcess { pid: Some(std::process::id()), slot, generation };
    if let Err(error) = hooks.ask("post_fork", |hooks| hooks.post_fork(&process)) {
        tracing::error!(slot, "{error}");
        say(&report, &Report::Failure(error.to_string()));
        return status::NOT_STARTED;
    }
    let name = slot.to_string();
    let prepared = settle_in(master, &name).and_then(|signals| {
        let shared = listeners.iter().map(MasterListener::share);
        Ok((signals, shared.collect::<io::Result<Vec<_>>>()?))
    });
    let (signals, shared) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return not_set_up(&error, &name),
    };
    let served = Arc::new(Served { report, requests: AtomicU64::new(0), due_at: max_requests });
    let worker = Worker { slot, supervised };
    let watch =
        |done| Watch::of_worker(signals, alive, listeners, done, worker.clone(), hooks.clone());
    let work = || run(&worker, app, shared, &served, &hooks);
    run_watched(watch, "worker", "the app", work).unwrap_or_else(|error| not_set_up(&error, &name))
}

/// The fresh thread: runtime, app, server.
fn run<A, F, S, E>(
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
    S: HttpService,
{
    let supervised = &worker.supervised;
    let runtime = match supervised.runtime() {
        Ok(runtime) => runtime,
        Err(error) => return not_set_up(&error, &worker.slot.to_string()),
    };
    let code = runtime.block_on(async {
        tokio::spawn(keep_beating(worker.pulse(), supervised.settings.beat_interval()));
        match start(worker, app, listeners, served, hooks).await {
            Ok(server) => {
                if !supervised.pulse.begin_to_serve() {
                    // It was told to leave, and the forked thread does.
                    future::pending::<()>().await;
                }
                say(&served.report, &Report::Ready);
                let told = Cell::new(None);
                let mut serving = pin!(server.serve(worker.drain()));
                tokio::select! {
                    // First: what the server cuts is in flight no more.
                    biased;
                    why = supervised.time_is_over(&told) => {
                        let cut = supervised.pulse.in_flight();
                        let connections = serving.await.cut;
                        if connections > 0 {
                            tracing::warn!(connections, "cut {why}: {}", InFlightList(&cut));
                        }
                    }
                    _ = serving.as_mut() => {}
                }
                supervised.finish(&told).await;
                status::LEFT
            }
            Err(error) => {
                let error = chain(&*error);
                tracing::error!(slot = worker.slot, error, "the app failed to start");
                say(&served.report, &Report::Failure(error));
                supervised.finish_unstarted().await;
                status::NOT_STARTED
            }
        }
    });
    hooks.call("worker_exit", |hooks| hooks.worker_exit(worker));
    // What blocks in a thread of its own is not waited for: the process ends with it.
    runtime.shutdown_background();
    code
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
            say(&self.report, &Report::Due);
        }
    }
}
