//! Routes that hold, hang, crash or bloat the worker.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/plaintext", get(async || "Hello, World!"))
        .route("/pid", get(async || std::process::id().to_string()))
        .route("/sleep", get(sleep))
        .route("/block", get(block))
        .route("/spin", get(spin))
        .route("/panic", get(panic))
        .route("/exit", get(exit))
        .route("/abort", get(abort))
        .route("/leak", get(leak))
        .route("/spawn", get(spawn))
        .route("/usr1", get(usr1))
}

/// Starts another program and leaves it running; gives its pid.
async fn spawn() -> String {
    let child = tokio::process::Command::new("sleep").arg("60").spawn();
    child.ok().and_then(|child| child.id()).map_or_else(String::new, |id| id.to_string())
}

/// Waits for SIGUSR1, which the app takes for itself.
async fn usr1() -> &'static str {
    let Ok(mut usr1) = signal(SignalKind::user_defined1()) else { return "no signal" };
    usr1.recv().await;
    "USR1"
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
struct Millis {
    ms: u64,
}

impl Default for Millis {
    fn default() -> Self {
        Self { ms: 1_000 }
    }
}

/// Waits as a good handler does: the runtime goes on.
async fn sleep(Query(Millis { ms }): Query<Millis>) -> String {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("slept {ms} ms")
}

/// Blocks the thread: on a current-thread runtime, the whole worker.
#[expect(clippy::disallowed_methods, reason = "a handler that blocks is what this route provokes")]
async fn block(Query(Millis { ms }): Query<Millis>) -> String {
    std::thread::sleep(Duration::from_millis(ms));
    format!("blocked {ms} ms")
}

/// Keeps the thread busy without ever yielding.
async fn spin(Query(Millis { ms }): Query<Millis>) -> String {
    let end = Instant::now() + Duration::from_millis(ms);
    let mut turns = 0_u64;
    while Instant::now() < end {
        turns = black_box(turns + 1);
    }
    format!("spun {ms} ms")
}

async fn panic() -> &'static str {
    panic!("provoked by /panic")
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Exit {
    code: i32,
}

async fn exit(Query(Exit { code }): Query<Exit>) -> &'static str {
    end(code)
}

/// Ends the process as a program does that knows nothing of the launcher.
#[expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "a worker that ends by itself is what this provokes"
)]
pub(crate) fn end(code: i32) -> ! {
    std::process::exit(code)
}

async fn abort() -> &'static str {
    std::process::abort()
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Leak {
    mb: usize,
}

impl Default for Leak {
    fn default() -> Self {
        Self { mb: 1 }
    }
}

/// Keeps `mb` mebibytes for ever, every page of them touched.
async fn leak(Query(Leak { mb }): Query<Leak>) -> String {
    static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    kept.push(vec![1; mb << 20]);
    format!("keeping {} blocks", kept.len())
}
