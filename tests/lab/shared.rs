//! Routes for what all workers have together: counters, a lock, and work that is done once.

use std::process;
use std::time::Duration;

use axum::extract::Query;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use farrier::shared::{
    Counter, Gauge, Mutex, Value, VariableError, once_per_reload, once_per_server,
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

/// Those that all workers name alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    counter: Counter,
    mutex: Mutex,
    inside: Gauge,
    holder: Value<u32>,
}

#[derive(Deserialize)]
struct Which {
    name: Option<String>,
}

#[derive(Deserialize)]
struct Hold {
    ms: u64,
}

#[derive(Deserialize)]
struct Work {
    name: String,
    ms: u64,
    generation: Option<u64>,
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

    /// `POST /counter` adds one to the counter and answers what it is then, `GET /counter` reads it; `?name=` is another one, which
    /// the worker names. `POST /lock?ms=` holds the lock for so long, and answers whether who had it before has died with it;
    /// `GET /lock` answers who has it. `POST /once?name=&ms=` is work that takes so long and is done once, and answers whether it
    /// was done here; with `&generation=` once for each.
    pub(crate) fn routes(self) -> Router {
        let count = post(async move |Query(which): Query<Which>| {
            self.counter(which).map(|counter| counter.add(1).to_string())
        });
        let count = count.get(async move |Query(which): Query<Which>| {
            self.counter(which).map(|counter| counter.get().to_string())
        });
        let lock = post(async move |Query(Hold { ms }): Query<Hold>| self.hold(ms).await);
        let lock = lock.get(async move || self.holder.get().to_string());
        let once = post(async |Query(work): Query<Work>| work.once().await);
        Router::new().route("/counter", count).route("/lock", lock).route("/once", once)
    }

    fn counter(self, which: Which) -> Result<Counter, (StatusCode, String)> {
        which.name.map_or(Ok(self.counter), |name| Counter::named(&name)).map_err(failed)
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

impl Work {
    async fn once(self) -> Result<Json<serde_json::Value>, (StatusCode, String)> {
        let Self { name, ms, generation } = self;
        let work = async || {
            Counter::named(&format!("{name} begun"))?.add(1);
            sleep(Duration::from_millis(ms)).await;
            Counter::named(&format!("{name} done"))?.add(1);
            Ok::<_, VariableError>(())
        };
        let here = match generation {
            None => once_per_server(&name, work).await,
            Some(generation) => once_per_reload(&name, generation, work).await,
        };
        let here = here.map_err(failed)?;
        Ok(Json(json!({ "worker": process::id(), "here": here })))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err gives")]
fn failed(error: impl ToString) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
