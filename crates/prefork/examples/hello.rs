//! The smallest service with a heartbeat: `cargo run -p farrier-prefork --example hello -- --workers 4`.

use std::process::ExitCode;

use axum::{Router, routing::get};
use farrier_heartbeat::{HeartbeatLayer, Livez, Readyz};
use farrier_prefork::{BoxError, Launcher, Worker};

fn main() -> ExitCode {
    Launcher::from_args("hello").run(app)
}

/// Called in every worker process, on its own runtime.
async fn app(worker: Worker) -> Result<Router, BoxError> {
    let greeting = format!("hello from worker {}\n", worker.slot());
    Ok(Router::new()
        .route("/", get(move || async move { greeting }))
        .layer(HeartbeatLayer::new(worker.pulse()))
        .route_service("/livez", Livez::new(worker.pulse()))
        .route_service("/readyz", Readyz::new(worker.pulse())))
}
