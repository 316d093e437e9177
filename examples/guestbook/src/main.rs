//! farrier's example service: a guestbook on a SQLite file, or on MySQL and MariaDB.
//!
//! `guestbook --help` lists its settings; they are the launcher's, and the database.

use std::future;
use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use clap::Parser;
use farrier::heartbeat::{Livez, Readyz};
use farrier::hooks;
use farrier::mysql::MySql;
use farrier::prefork;
use farrier::prelude::*;
use farrier::sqlx::Sqlite;
use tower_http::catch_panic::CatchPanicLayer;

mod entry;
mod store;
mod web;

use store::Store;

#[derive(Debug, Parser)]
#[command(version, about = "A guestbook on SQLite, MySQL or MariaDB")]
struct Args {
    /// sqlite:FILE, created if it is missing, or mysql://USER:PASSWORD@HOST:PORT/DATABASE
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite:guestbook.db",
        hide_env_values = true
    )]
    database_url: String,
    #[command(flatten)]
    launcher: prefork::Args,
}

fn main() -> ExitCode {
    let args: Args = match prefork::parse_args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    let url = args.database_url.as_str();
    let ran = match url.split(':').next() {
        Some("sqlite") => {
            Sqlite::new(url).map(|sqlite| serve(sqlite, args.launcher)).map_err(BoxError::from)
        }
        Some("mysql") => {
            MySql::new(url).map(|mysql| serve(mysql, args.launcher)).map_err(BoxError::from)
        }
        _ => Err("sqlite:FILE and mysql://USER:PASSWORD@HOST:PORT/DATABASE are allowed".into()),
    };
    ran.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
}

fn serve<S: Store>(database: S, launcher: prefork::Args) -> ExitCode {
    // It opens nothing before its first use, so each process that the master forks has a pool of its own.
    let pool = Pool::new(database, Policy::default());
    let before = pool.clone();
    Launcher::with_args(launcher)
        .prepare(move || create_schema(before))
        .run(move |worker| future::ready(app(&worker, pool.clone())))
}

/// Runs once, in a process of its own, before there are workers that could race for it.
async fn create_schema<S: Store>(pool: Pool<S>) -> Result<(), BoxError> {
    S::create_schema(&mut *pool.acquire().await?).await?;
    pool.close().await;
    Ok(())
}

/// Runs once in every worker.
fn app<S: Store>(worker: &Worker, pool: Pool<S>) -> Result<Router, BoxError> {
    let pulse = worker.pulse();
    // From outside to inside.
    let layers = (
        // A request counts until its response is over, whatever becomes of it.
        HeartbeatLayer::new(pulse.clone()),
        hooks::from_fn(
            |_request| Ok(Pre::Continue(())),
            |(), request, end| {
                tracing::debug!(method = %request.method, uri = %request.uri, ?end, "request");
            },
        ),
        // Inside of the hooks, so that they see the 500; outside of the database, so that it sees the panic.
        CatchPanicLayer::new(),
        ConnectionLayer::new(pool),
    );
    Ok(Router::new()
        .route("/", get(web::index::<S>))
        .route("/entries", get(web::entries::<S>).post(web::sign::<S>))
        .layer(layers)
        // Not below the layers: probes are not counted as requests.
        .route_service("/livez", Livez::new(pulse.clone()))
        .route_service("/readyz", Readyz::new(pulse))
        // Handlers become routes now, and not at each request: axum does that where it serves itself.
        .with_state(()))
}

#[expect(clippy::print_stderr, reason = "there is no log before the launcher runs")]
fn complain(error: &BoxError) {
    eprintln!("guestbook: DATABASE_URL: {error}");
}
