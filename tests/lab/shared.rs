//! Routes for what all workers have together: a counter, and a lock.

use std::process;
use std::time::Duration;

use axum::extract::Query;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use farrier::shared::{Counter, Gauge, Mutex, Value, VariableError};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

/// They are made before the fork.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    counter: Counter,
    mutex: Mutex,
    inside: Gauge,
    holder: Value<u32>,
}

#[derive(Deserialize)]
struct Hold {
    ms: u64,
}

impl Shared {
    pub(crate) fn new() -> Result<Self, VariableError> {
        Ok(Self {
            counter: Counter::named("requests that were counted")?,
            mutex: Mutex::named("one at a time")?,
            inside: Gauge::named("how many have the lock")?,
            holder: Value::named("who has the lock", 0)?,
        })
    }

    /// `POST /counter` adds one to the counter and answers what it is then, `GET /counter` reads it. `POST /lock?ms=` holds the
    /// lock for so long, and answers whether who had it before has died with it; `GET /lock` answers who has it.
    pub(crate) fn routes(self) -> Router {
        let count = post(async move || self.counter.add(1).to_string());
        let count = count.get(async move || self.counter.get().to_string());
        let lock = post(async move |Query(Hold { ms }): Query<Hold>| self.hold(ms).await);
        let lock = lock.get(async move || self.holder.get().to_string());
        Router::new().route("/counter", count).route("/lock", lock)
    }

    async fn hold(self, ms: u64) -> Result<Json<serde_json::Value>, StatusCode> {
        let guard = self.mutex.lock().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let holder_died = guard.holder_died();
        if holder_died {
            self.inside.set(0);
        }
        self.holder.set(process::id());
        let inside = self.inside.add(1);
        sleep(Duration::from_millis(ms)).await;
        self.inside.add(-1);
        self.holder.set(0);
        if inside == 1 {
            Ok(Json(json!({ "worker": process::id(), "holder_died": holder_died })))
        } else {
            Err(StatusCode::CONFLICT)
        }
    }
}
