//! lab: the service that tests and benchmarks provoke.
//!
//! Each route does one thing to the worker that serves it: hold it, spin it, crash it, leak in it, stream
//! from it, or use the database of `LAB_DATABASE_URL`. Never expose it to anybody.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use axum::Router;
use clap::{Parser, ValueEnum};
use farrier::mysql::MySql;
use farrier::prefork;
use farrier::prelude::*;
use farrier::sqlite::Sqlite;
use tower_http::catch_panic::CatchPanicLayer;

mod before;
mod companion;
mod db;
mod later;
mod policy;
mod preload;
mod provoke;
mod shared;
mod streams;
mod trace;

use before::Before;
use companion::Queue;
use db::Store;
use preload::{Preload, Table};
use shared::Shared;
use trace::Trace;

#[derive(Debug, Parser)]
#[command(name = "lab", about = "The service that farrier's tests and benchmarks provoke")]
struct Args {
    /// mysql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:FILE; without it the database routes answer 404.
    #[arg(long, env = "LAB_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// What a worker does instead of becoming ready.
    #[arg(long, env = "LAB_BOOT")]
    boot: Option<Boot>,
    /// A file that says the same to the workers that start while it is there.
    #[arg(long, env = "LAB_BOOT_FILE")]
    boot_file: Option<PathBuf>,
    /// What `main` has open when the launcher comes.
    #[arg(long, env = "LAB_BEFORE")]
    before: Option<Before>,
    /// A file to which a line is appended for each call of a server hook.
    #[arg(long, env = "LAB_TRACE_HOOKS")]
    trace_hooks: Option<PathBuf>,
    /// What one of them does: HOOK=fail, HOOK=panic or HOOK=slow.
    #[arg(long, env = "LAB_HOOK")]
    hook: Option<String>,
    /// MiB of a table that is loaded before the workers are forked; without it nothing is.
    #[arg(long, env = "LAB_PRELOAD_MB")]
    preload_mb: Option<usize>,
    /// A file that says what goes wrong when it is loaded.
    #[arg(long, env = "LAB_PRELOAD_FILE")]
    preload_file: Option<PathBuf>,
    /// A file to which a companion appends a line every 50 ms; may be given several times.
    #[arg(long, env = "LAB_COMPANION")]
    companion: Vec<PathBuf>,
    #[command(flatten)]
    policy: policy::PolicyArgs,
    #[command(flatten)]
    launcher: prefork::Args,
}

/// What the workers do instead of becoming ready: always, or as a file says.
#[derive(Clone, Debug)]
struct Boots(Option<Boot>, Option<PathBuf>);

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Boot {
    /// It returns an error.
    Fail,
    /// It ends with status 0.
    Exit,
    /// It never returns.
    Hang,
    Panic,
}

fn main() -> ExitCode {
    let args: Args = match prefork::parse_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let _open = match args.before.map(before::open).transpose() {
        Ok(open) => open,
        Err(error) => {
            complain(&format!("LAB_BEFORE: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (boots, policy) = (Boots(args.boot, args.boot_file), args.policy.policy());
    let launcher = Launcher::with_args(args.launcher)
        .server_hooks(Trace { file: args.trace_hooks, provoked: args.hook });
    let preload = args.preload_mb.map(|mb| Preload {
        mb,
        file: args.preload_file,
        master: std::process::id(),
    });
    let (launcher, queue) = match companion::add(launcher, args.companion) {
        Ok(added) => added,
        Err(error) => {
            complain(&format!("LAB_COMPANION: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let shared = match Shared::new() {
        Ok(shared) => shared,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let more = Additions { preload, queue, shared };
    // An empty variable is an unset one, as for the launcher's own settings.
    let Some(url) = args.database_url.filter(|url| !url.is_empty()) else {
        return run(launcher, more, move |worker, more| app(worker, boots.now(), more));
    };
    let ran = match url.split_once(':') {
        Some(("mysql", _)) => MySql::new(&url)
            .map(|mysql| serve(launcher, boots, more, Pool::new(mysql, policy), &url))
            .map_err(BoxError::from),
        Some(("sqlite", _)) => Sqlite::new(&url)
            .map(|sqlite| serve(launcher, boots, more, Pool::new(sqlite, policy), &url))
            .map_err(BoxError::from),
        _ => Err("allowed is mysql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:FILE".into()),
    };
    ran.unwrap_or_else(|error| {
        complain(&format!("database_url = {url:?} (--database-url or LAB_DATABASE_URL): {error}"));
        ExitCode::FAILURE
    })
}

fn serve<S: Store>(
    launcher: Launcher,
    boots: Boots,
    additions: Additions,
    pool: Pool<S>,
    url: &str,
) -> ExitCode {
    let (before, url) = (pool.clone(), url.to_owned());
    let launcher = launcher.prepare(move || create_schema(before, url));
    run(launcher, additions, move |worker, more| {
        let closing = pool.clone();
        worker.before_exit(async move { closing.close().await });
        let database = db::routes::<S>().layer(ConnectionLayer::new(pool.clone()));
        app(worker, boots.now(), more.merge(database))
    })
}

/// What there is beside the workers, if there is.
struct Additions {
    preload: Option<Preload>,
    queue: Option<Queue>,
    shared: Shared,
}

/// With the routes of these.
fn run<F>(
    launcher: Launcher,
    Additions { preload, queue, shared }: Additions,
    app: impl Fn(Worker, Router) -> F + Sync,
) -> ExitCode
where
    F: Future<Output = Result<Router, BoxError>>,
{
    let more = || match queue.clone() {
        Some(queue) => shared.routes().merge(companion::routes(queue)),
        None => shared.routes(),
    };
    let Some(preload) = preload else {
        return launcher.run(|worker| app(worker, more()));
    };
    let launcher = launcher.preload(move || preload.load());
    launcher.run(|worker, table: &'static Table| app(worker, more().merge(preload::routes(table))))
}

async fn create_schema<S: Store>(pool: Pool<S>, url: String) -> Result<(), BoxError> {
    let connected = pool.acquire_once().await;
    let mut connection = connected.map_err(|error| format!("database_url = {url:?}: {error}"))?;
    S::create_schema(&mut connection).await?;
    drop(connection);
    pool.close().await;
    Ok(())
}

async fn app(worker: Worker, boot: Option<Boot>, more: Router) -> Result<Router, BoxError> {
    match boot {
        None => {}
        Some(Boot::Fail) => return Err("LAB_BOOT said so".into()),
        Some(Boot::Exit) => provoke::end(0),
        Some(Boot::Hang) => std::future::pending().await,
        Some(Boot::Panic) => panic!("LAB_BOOT said so"),
    }
    let layers = (HeartbeatLayer::new(worker.pulse()), CatchPanicLayer::new());
    let routes = provoke::routes()
        .merge(streams::routes(&worker))
        .merge(later::routes(&worker))
        .merge(more)
        .layer(layers);
    // Handlers become routes now, and not at each request: axum does that where it serves itself.
    Ok(routes.with_state(()))
}

impl Boots {
    fn now(&self) -> Option<Boot> {
        let Self(always, file) = self;
        let said = || fs::read_to_string(file.as_ref()?).ok();
        always.or_else(|| Boot::from_str(said()?.trim(), true).ok())
    }
}

#[expect(clippy::print_stderr, reason = "there is no log before the launcher runs")]
fn complain(what: &str) {
    eprintln!("lab: error: {what}");
}
