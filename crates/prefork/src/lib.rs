//! A pre-fork launcher for tokio services: a master that holds the sockets, and workers that it forks,
//! watches and replaces.
//!
//! It is gunicorn's process model for any service that hyper can serve, an axum `Router` for example. Each
//! worker is a process with a runtime of its own: a handler that blocks stalls one worker and not the
//! server, a crash costs one worker's requests, and a worker that hangs is seen by its heartbeat, named
//! with its requests in the log, and replaced.
//!
//! # Example
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use axum::{Router, routing::get};
//! use farrier_prefork::{BoxError, Launcher, Worker};
//!
//! fn main() -> ExitCode {
//!     Launcher::from_args("hello").run(app)
//! }
//!
//! /// Called in every worker process, on its own runtime.
//! async fn app(worker: Worker) -> Result<Router, BoxError> {
//!     let greeting = format!("hello from worker {}\n", worker.slot());
//!     Ok(Router::new().route("/", get(move || async move { greeting })))
//! }
//! ```
//!
//! `hello --workers 4 --bind 0.0.0.0:8000`, or `FARRIER_WORKERS=4 hello`, or `workers = 4` in
//! `farrier.toml`: see [`Settings`] for all of them.
//!
//! # What `main` must not do before
//!
//! The launcher forks, so it must be the only thread and must come before any runtime: a plain `fn main`,
//! not `#[tokio::main]`, and no pool, client or logger that starts a thread. And every worker has what is
//! open before the fork, the same one: of two workers that use one connection to a database, each gets some
//! of the other's answers. So the launcher looks at its own process before each fork and judges every thread
//! and every descriptor:
//!
//! - shared, for processes share them without harm: files, folders, devices, pipes, memory, listening
//!   sockets, datagram sockets (a log's), and standard input, output and error, whatever they are;
//! - shared as well: what farrier-shared has made for that;
//! - refused, by name: other threads; connections and other sockets; what a runtime is made of, such as an
//!   epoll, eventfd, timerfd, io_uring or inotify;
//! - closed in the workers, with a warning: such a descriptor without close-on-exec, which is what this
//!   program's parent has left open.
//!
//! What is refused belongs into the app's own function, which each worker calls, or, for work that is done
//! once, into [`Launcher::prepare`], or, for work that goes on, into a [companion](Launcher::companion).
//!
//! What every worker reads, such as a large table, is loaded once by [`Launcher::preload`], under the same rules, and is
//! there once in memory.
//!
//! Which code runs where, and how often: [`where_does_this_code_run`].
//!
//! # Signals
//!
//! To the master: TERM drains and stops, INT and QUIT stop at once, HUP reads the settings again and
//! replaces the workers one by one, each only when its successor is ready, TTIN and TTOU make one worker
//! more or fewer. Other signals of gunicorn's (USR1, USR2, WINCH) are logged and ignored, as is every other
//! one that would end master or worker, such as ALRM or a real-time one.
//!
//! Workers ignore all but TERM, INT and QUIT, as does the preparing process, so a signal to the whole process
//! group does no harm. A TERM
//! that somebody else than the master sends to a worker is obeyed a second later: by then the master has
//! given its own order, if the whole group was meant. The launcher's handlers in a worker leave room for the
//! app's own, such as `tokio::signal`, also for those three; nothing is blocked, so programs that a handler
//! starts have the signals that a shell would give them.
//!
//! When the server drains, the connections that wait in a listener's queue are served, and who comes later
//! is refused. What a worker has to do after its last request it registers with [`Worker::before_exit`].
//!
//! If the master is killed, the workers let nobody new in, serve who waits in a queue, finish what is in
//! flight and leave. Within a second the listeners are closed, also when a worker is blocked, so that the next
//! master can bind their addresses; who still waits in a queue is disconnected then. Only if every worker is
//! stopped (SIGSTOP) or is kept from running do the addresses stay taken.
//!
//! # Recycling
//!
//! With `max_requests`, `max_lifetime` or `max_rss` a worker that has served, lived or grown so much is replaced: against
//! memory that only a new process gives back. One worker at a time, the one that is due for longest first, and as in
//! a reload its successor is ready before it is told to leave. So none is missing meanwhile, also when all are due at
//! once or a successor cannot start; a worker has its `max_requests`, and what comes until it is told. (gunicorn ends
//! it first.) `max_requests_jitter` and up to a tenth of `max_lifetime` are drawn for each, so that workers which were
//! started together do not go together. `max_rss` counts what `ps` shows as RSS, what a worker shares with the master, such
//! as a preloaded table, included; it is looked at once a second. A worker keeps the limits that it was started with.
//!
//! # Exit codes
//!
//! 0: stopped. 1: a wrong setting, a failed preload, an address that cannot be bound, a failed preparation. 3: no worker of
//! the first generation became ready, or a required companion did not start.

#[doc = include_str!("../docs/where-does-this-code-run.md")]
pub mod where_does_this_code_run {}

mod arbiter;
mod audit;
mod board;
mod complain;
mod control;
mod ends;
mod exit_work;
mod hooks;
mod launcher;
mod log;
mod master;
mod pidfile;
mod poll;
mod preload;
mod report;
mod settings;
mod signals;
mod sockets;
mod stdout;
mod sys;
mod unwind;
mod worker;

pub use board::BoardPulse;
pub use farrier_serve::{BoxError, Refused};
pub use hooks::{ServerHooks, WorkerExit, WorkerProcess};
pub use launcher::Launcher;
pub use preload::Preload;
pub use settings::{Args, Bind, LogFile, LogLevel, Origin, Settings, SettingsError, parse_args};
pub use worker::{Companion, Worker};
