//! Routes whose response outlives the handler.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::{self, Stream};
use serde::Deserialize;

pub(crate) fn routes() -> Router {
    Router::new()
        .route("/stream", get(chunks))
        .route("/sse", get(events))
        .route("/ws", get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo)))
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
struct Pace {
    chunks: u64,
    ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { chunks: 10, ms: 100 }
    }
}

/// `chunks` lines, `ms` apart.
async fn chunks(Query(Pace { chunks, ms }): Query<Pace>) -> Response {
    let lines = ticks(ms, Some(chunks), |n| Ok::<_, Infallible>(format!("chunk {n}\n")));
    Body::from_stream(lines).into_response()
}

/// An event every `ms`, for ever.
async fn events(
    Query(Pace { ms, .. }): Query<Pace>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(ticks(ms, None, |n| Ok(Event::default().data(n.to_string()))))
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

/// An item at once, and then one every `ms`.
fn ticks<T>(ms: u64, count: Option<u64>, item: impl Fn(u64) -> T) -> impl Stream<Item = T> {
    stream::unfold((0, item), move |(n, item)| async move {
        if count.is_some_and(|count| n >= count) {
            return None;
        }
        if n > 0 {
            tokio::time::sleep(Duration::from_millis(ms)).await;
        }
        Some((item(n), (n + 1, item)))
    })
}
