//! farrier's example service: a guestbook on a SQLite file, or on MySQL and MariaDB.
//!
//! `guestbook --help` lists its settings; they are the launcher's, and the database.

use std::future;
use std::process::ExitCode;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Extension, Router};
use clap::Parser;
use farrier::hooks;
use farrier::prefork;
use farrier::prelude::*;
use tower_http::catch_panic::CatchPanicLayer;

mod database;
mod entry;
mod store;
mod web;
mod writers;

use database::Database;
use store::Store;
use writers::Writers;

#[derive(Debug, Parser)]
#[command(version, about = "A guestbook on SQLite, MySQL or MariaDB")]
struct Args {
    /// sqlite:FILE, created if it is missing, or mysql://USER:PASSWORD@HOST:PORT/DATABASE [default: sqlite:guestbook.db]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    #[command(flatten)]
    launcher: prefork::Args,
}

fn main() -> ExitCode {
    let args: Args = match prefork::parse_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    // An empty variable is an unset one, as for the launcher's own settings.
    let url = args.database_url.filter(|url| !url.is_empty());
    let url = url.unwrap_or_else(|| "sqlite:guestbook.db".to_owned());
    match Database::at(&url) {
        Ok(Database::Sqlite(pool)) => serve(pool, url, args.launcher),
        Ok(Database::MySql(pool)) => serve(pool, url, args.launcher),
        Err(unusable) => {
            complain(&unusable);
            ExitCode::FAILURE
        }
    }
}

fn serve<S: Store>(pool: Pool<S>, url: String, launcher: prefork::Args) -> ExitCode {
    // The pool has opened nothing, so each process that the master forks has one of its own.
    let before = pool.clone();
    Launcher::with_args(launcher)
        .prepare(move || database::prepare(before, url))
        .run(move |worker| future::ready(app(&worker, pool.clone())))
}

/// Runs once in every worker.
fn app<S: Store>(worker: &Worker, pool: Pool<S>) -> Result<Router, BoxError> {
    let pulse = worker.pulse();
    let closing = pool.clone();
    worker.before_exit(async move { closing.close().await });
    // From outside to inside.
    let layers = (
        layers((
            // A request counts until its response is over, whatever becomes of it.
            HeartbeatLayer::new(pulse.clone()),
            hooks::post_request(|request, end| {
                tracing::debug!(method = %request.method, path = request.uri.path(), ?end, "request");
            }),
        )),
        // Inside of the hooks, so that they see the 500; outside of the database, so that it sees the panic.
        CatchPanicLayer::new(),
        ConnectionLayer::new(pool),
    );
    Ok(Router::new()
        .route("/", get(web::index::<S>))
        .route("/entries", get(web::entries::<S>).post(web::sign::<S>))
        .fallback(web::not_found)
        .layer(DefaultBodyLimit::max(web::MAX_BODY))
        .layer(Extension(Writers::new::<S>()))
        .layer(layers)
        // Not below the layers: probes are not counted as requests.
        .route_service("/livez", Livez::new(pulse.clone()))
        .route_service("/readyz", Readyz::new(pulse))
        // Handlers become routes now, and not at each request: axum does that where it serves itself.
        .with_state(()))
}

#[expect(clippy::print_stderr, reason = "there is no log before the launcher runs")]
fn complain(unusable: &database::Unusable) {
    eprintln!("guestbook: error: {unusable}");
}
