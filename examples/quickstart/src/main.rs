//! The README's forty lines.

use std::process::ExitCode;

use axum::Router;
use axum::routing::get;
use farrier::hooks;
use farrier::prelude::*;
use farrier::sqlite::Sqlite;
use farrier::sqlx;

fn main() -> ExitCode {
    // Settings come from defaults, farrier.toml, FARRIER_* and the command line.
    Launcher::from_args("quickstart").run(app)
}

/// Runs once in every worker, after the fork.
async fn app(worker: Worker) -> Result<Router, BoxError> {
    let database = Pool::new(Sqlite::new("sqlite:quickstart.db")?, Policy::default());
    // From outside to inside.
    let layers = layers((
        HeartbeatLayer::new(worker.pulse()),
        hooks::post_request(|request, end| {
            tracing::info!(path = request.uri.path(), ?end.outcome, ?end.total);
        }),
        ConnectionLayer::new(database),
    ));
    // Last: handlers become routes now, and not at each request.
    Ok(Router::new().route("/", get(hello)).layer(layers).with_state(()))
}

/// The connection is opened at the first `get`, and given back with the response.
async fn hello(db: Db<Sqlite>) -> Result<String, farrier::Error> {
    let mut connection = db.get().await?;
    let answer: i64 = sqlx::query_scalar("SELECT 6 * 7").fetch_one(&mut *connection).await?;
    Ok(format!("The database says {answer}.\n"))
}
