//! A route whose work goes on after its response.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use farrier::hooks::{self, Pre, Tasks};
use farrier::prefork::Worker;

/// `/later?ms=` answers at once, works for `ms` after the response, and says so in the log.
pub(crate) fn routes(worker: &Worker) -> Router {
    let tasks = Tasks::new();
    let unfinished = tasks.clone();
    worker.before_exit(async move { unfinished.wait().await });
    let hook = hooks::from_fn(
        |request| {
            let ms = request.uri.query().and_then(|query| query.strip_prefix("ms=")?.parse().ok());
            Ok(Pre::Continue(ms.unwrap_or(1_000)))
        },
        move |ms, _, _| {
            tasks.spawn(async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                tracing::info!(ms, "the work after the response is done");
            });
        },
    );
    Router::new().route("/later", get(async || "later")).layer(hook)
}
