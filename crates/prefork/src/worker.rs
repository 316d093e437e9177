//! The worker: a forked process that runs the app until it is told to leave.
//!
//! Two threads at the start. The forked one keeps the signals to itself and waits, so that it is there
//! even when the runtime is not; a fresh one runs the runtime and the app. Fresh, because the forked
//! thread's thread-locals are copies of the master's: every worker would draw the same "random" numbers.

mod watch;

use std::any::Any;
use std::cell::Cell;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{self, AssertUnwindSafe};
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use farrier_heartbeat::{Pulse, State, keep_beating};
use farrier_serve::{BoxError, Drain, Level, Listener, Refused, Server};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid, pipe2};
use tokio::runtime::{Builder, Runtime};
use tokio::time;
use tower_service::Service;

use self::watch::Watch;
use crate::board::{Board, BoardPulse, InFlight, Seat};
use crate::exit_work::ExitWork;
use crate::report::Report;
use crate::settings::Settings;
use crate::signals::{self, WorkerSignals};
use crate::sockets::{MasterListener, WorkerListener};
use crate::{log, stdout, sys};

/// The exit statuses of a worker; the master judges by the board and by how a worker was ended, never by
/// these.
pub(crate) mod status {
    /// It left as it was told.
    pub(crate) const LEFT: i32 = 0;
    /// The app could not be started.
    pub(crate) const NOT_STARTED: i32 = 3;
    /// The thread of the runtime panicked.
    pub(crate) const PANICKED: i32 = 70;
}

/// What the work before the exit has at least, also when the requests took all of `graceful_timeout`.
const LEAST_EXIT: Duration = Duration::from_millis(250);

/// What it has when the worker is told to leave at once.
const QUICK_EXIT: Duration = Duration::from_millis(200);

/// What a worker process knows of itself; the app gets one.
#[derive(Clone, Debug)]
pub struct Worker {
    slot: usize,
    generation: u64,
    pulse: Arc<BoardPulse>,
    drain: Drain,
    settings: Arc<Settings>,
    exit_work: Arc<ExitWork>,
}

/// What a worker process is made of.
#[derive(Debug)]
pub(crate) struct Seed {
    pub(crate) slot: usize,
    pub(crate) generation: u64,
    pub(crate) master: Pid,
    pub(crate) board: Arc<Board>,
    pub(crate) seat: Seat,
    pub(crate) settings: Arc<Settings>,
    /// As the master has them, and by the fork this process too.
    pub(crate) listeners: Vec<MasterListener>,
    /// Where the worker says that it is ready.
    pub(crate) report: OwnedFd,
    /// A pipe whose other end only the master holds: its end is the master's death.
    pub(crate) alive: OwnedFd,
}

/// Is told of each request that the server refuses.
pub(crate) type RefusedHook = Arc<dyn Fn(&Refused) + Send + Sync>;

/// Runs once before the first worker, on a runtime of a process of its own.
pub(crate) type Prepare = Box<dyn FnOnce(&Runtime) -> Result<(), BoxError> + Send>;

// === impl Worker ===

impl Worker {
    /// The worker's place, from 0 to `workers` - 1; a replacement has its predecessor's.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// 1 for the workers of the start, and one more with each reload.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The worker's heartbeat: what the heartbeat layer and the probes take.
    #[must_use]
    pub fn pulse(&self) -> Arc<BoardPulse> {
        Arc::clone(&self.pulse)
    }

    /// Tells when the worker is told to leave: for background tasks and long-lived connections.
    ///
    /// A WebSocket or a stream of events ends with the process, at the end of `graceful_timeout`, unless its
    /// handler ends it before. This one closes with 1012, "service restart":
    ///
    /// ```
    /// use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
    /// # use farrier_serve::Drain;
    ///
    /// async fn talk(mut socket: WebSocket, drain: Drain) {
    ///     loop {
    ///         tokio::select! {
    ///             message = socket.recv() => match message {
    ///                 Some(Ok(message)) => println!("{message:?}"),
    ///                 _ => return,
    ///             },
    ///             () = drain.started() => {
    ///                 let restart = CloseFrame { code: close_code::RESTART, reason: "".into() };
    ///                 // It may have left already.
    ///                 let _ = socket.send(Message::Close(Some(restart))).await;
    ///                 return;
    ///             }
    ///         }
    ///     }
    /// }
    /// # let _ = talk;
    /// ```
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// The settings that this worker was started with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Registers work that the worker does when its last request is over, and waits for before it exits:
    /// to finish tasks that requests left behind, to close connections.
    ///
    /// All that is registered runs at once, on the worker's runtime. It has what is left of
    /// [`graceful_timeout`](Settings::graceful_timeout), and 250 ms if the requests left less; 200 ms when
    /// the worker is told to leave at once (INT, QUIT), or if its app fails to start. What is not
    /// done by then is dropped; that and a panic are logged with the place of the registration, and keep
    /// nobody from leaving. It runs once; what is registered while it runs runs too. A worker that
    /// crashes, hangs, is killed, or is told to leave before it is ready does none of it.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use farrier_prefork::{BoxError, Worker};
    /// # #[derive(Clone)]
    /// # struct Pool;
    /// # impl Pool {
    /// #     async fn connect() -> Result<Self, BoxError> { Ok(Self) }
    /// #     async fn close(&self) {}
    /// # }
    ///
    /// async fn app(worker: Worker) -> Result<Router, BoxError> {
    ///     let pool = Pool::connect().await?;
    ///     let closing = pool.clone();
    ///     worker.before_exit(async move { closing.close().await });
    ///     Ok(Router::new().route("/", get(|| async { "hello" })).with_state(pool))
    /// }
    /// # let _ = app;
    /// ```
    ///
    /// It stands for gunicorn's `worker_exit`, which its ASGI worker does not reach when the requests take
    /// all of the grace.
    #[track_caller]
    pub fn before_exit(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.exit_work.register(work);
    }
}

/// A worker's whole life, in the forked process; the exit status comes back.
pub(crate) fn live<A, F, S, E, B>(seed: Seed, app: &A, refused: Option<RefusedHook>) -> i32
where
    A: Fn(Worker) -> F + Sync,
    F: Future<Output = Result<S, E>>,
    E: Into<BoxError>,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let prepared = settle_in(&seed).and_then(|signals| {
        let listeners = seed.listeners.iter().map(MasterListener::share);
        Ok((signals, listeners.collect::<io::Result<Vec<_>>>()?, pipe2(OFlag::O_CLOEXEC)?))
    });
    let (signals, listeners, (done, not_done)) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::error!(%error, slot = seed.slot, "a worker could not set itself up");
            return status::NOT_STARTED;
        }
    };
    let worker = Worker {
        slot: seed.slot,
        generation: seed.generation,
        pulse: Arc::new(BoardPulse::new(seed.board, seed.seat)),
        drain: Drain::new(),
        settings: seed.settings,
        exit_work: Arc::default(),
    };
    let watch = Watch::new(signals, seed.alive, seed.listeners, done, worker.clone());
    let report = seed.report;
    thread::scope(|scope| {
        let fresh = thread::Builder::new().name("worker".into()).spawn_scoped(scope, move || {
            let _not_done = not_done;
            run(&worker, app, listeners, refused, report)
        });
        match fresh {
            Ok(fresh) => {
                watch.until_done();
                fresh.join().unwrap_or_else(|panic| panicked(&*panic))
            }
            Err(error) => {
                tracing::error!(%error, "a worker could not start its thread");
                status::NOT_STARTED
            }
        }
    })
}

/// The preparing process's whole life; the exit status comes back.
pub(crate) fn prepare(master: Pid, work: Prepare) -> i32 {
    let ready = signals::obey_only_stop().and_then(|()| Ok(follow(master)?));
    if let Err(error) = ready {
        tracing::error!(%error, "the preparing process could not set itself up");
        return status::NOT_STARTED;
    }
    name("farrier:prepare");
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
        Ok(fresh) => fresh.join().unwrap_or_else(|panic| panicked(&*panic)),
        Err(error) => {
            tracing::error!(%error, "the preparing process could not start its thread");
            status::NOT_STARTED
        }
    }
}

/// Does all that a forked process does, and ends it: nothing, not even a panic, leads back into the master.
pub(crate) fn end_with(life: impl FnOnce() -> i32) -> ! {
    let code = panic::catch_unwind(AssertUnwindSafe(life));
    leave(code.unwrap_or_else(|panic| panicked(&*panic)))
}

/// Ends a forked process: what it wrote is flushed, and no exit handler of the master's runs.
fn leave(code: i32) -> ! {
    stdout::flush_before_exit();
    sys::exit_now(code)
}

/// What a process does first after the fork.
fn settle_in(seed: &Seed) -> io::Result<WorkerSignals> {
    let signals = WorkerSignals::take()?;
    follow(seed.master)?;
    name(&format!("farrier:{}", seed.slot));
    Ok(signals)
}

/// Asks for SIGTERM when the master dies, which it may have done in the meantime.
fn follow(master: Pid) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    if getppid() == master { Ok(()) } else { Err(nix::errno::Errno::ESRCH) }
}

/// The name that `ps -o comm` and `top` show; the kernel cuts it to 15 bytes.
fn name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // A process without a name works as well.
        let _ = prctl::set_name(&name);
    }
}

/// The fresh thread: runtime, app, server.
fn run<A, F, S, E, B>(
    worker: &Worker,
    app: &A,
    listeners: Vec<WorkerListener>,
    refused: Option<RefusedHook>,
    report: OwnedFd,
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
        match start(worker, app, listeners, refused).await {
            Ok(server) => {
                worker.pulse.set_state(State::Ready);
                // If nobody reads it the master is dead, and the forked thread knows.
                let _ = nix::unistd::write(&report, &Report::Ready.to_bytes());
                drop(report);
                let told = Cell::new(None);
                let mut serving = pin!(server.serve(worker.drain()));
                tokio::select! {
                    // First: what the server cuts is in flight no more.
                    biased;
                    why = worker.time_is_over(&told) => {
                        let cut = worker.pulse.in_flight();
                        let connections = serving.await.cut;
                        if connections > 0 {
                            tracing::warn!(connections, "cut {why}: {}", InFlight(&cut));
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
                let _ = nix::unistd::write(&report, &Report::Failure(error).to_bytes());
                worker.exit_work.finish(time::sleep(QUICK_EXIT)).await;
                status::NOT_STARTED
            }
        }
    });
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
    refused: Option<RefusedHook>,
) -> Result<Server<S>, BoxError>
where
    A: Fn(Worker) -> F,
    F: Future<Output = Result<S, E>>,
    E: Into<BoxError>,
{
    let service = app(worker.clone()).await.map_err(Into::into)?;
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
        .worker_connections(settings.worker_connections)
        .drain_idle(settings.drain_idle)
        .graceful_timeout(settings.graceful_timeout)
        .on_connection({
            let pulse = worker.pulse();
            move |event| pulse.note(*event)
        });
    Ok(match refused {
        Some(hook) => server.request_refused(move |refused| hook(refused)),
        None => server,
    })
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
        let least = time::Instant::now() + LEAST_EXIT;
        let quick = async {
            self.drain.reached(Level::Quick).await;
            time::sleep(QUICK_EXIT).await;
        };
        tokio::select! {
            () = time::sleep_until(least.max(told + self.settings.graceful_timeout)) => {}
            () = quick => {}
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> i32 {
    let panic = log::panic_message(panic);
    tracing::error!(panic, "the app panicked");
    status::PANICKED
}

/// An error and what caused it, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Many errors repeat their source in their own text.
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
