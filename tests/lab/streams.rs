//! Routes whose response outlives the handler.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use farrier::prefork::Worker;
use farrier::serve::Drain;
use futures_util::stream::{self, Stream, StreamExt};
use serde::Deserialize;

pub(crate) fn routes(worker: &Worker) -> Router {
    let (ends_events, ends_echo) = (worker.drain(), worker.drain());
    Router::new()
        .route("/stream", get(chunks))
        .route(
            "/sse",
            get(move |Query(pace)| {
                let drain = ends_events.clone();
                async move { events(pace, drain) }
            }),
        )
        .route(
            "/ws",
            get(move |upgrade: WebSocketUpgrade| {
                let drain = ends_echo.clone();
                async move { upgrade.on_upgrade(|socket| echo(socket, drain)) }
            }),
        )
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

/// An event every `ms`, until the worker drains.
fn events(
    Pace { ms, .. }: Pace,
    drain: Drain,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = ticks(ms, None, |n| Ok(Event::default().data(n.to_string())));
    Sse::new(events.take_until(async move { drain.started().await }))
}

/// Sends back what comes, until the worker drains: then it says so (1012, service restart), and waits for the
/// client's own close.
async fn echo(mut socket: WebSocket, drain: Drain) {
    let mut told = false;
    loop {
        let message = tokio::select! {
            message = socket.recv() => message,
            () = drain.started(), if !told => {
                told = true;
                let restart = CloseFrame { code: close_code::RESTART, reason: "".into() };
                if socket.send(Message::Close(Some(restart))).await.is_err() {
                    return;
                }
                continue;
            }
        };
        match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) if !told => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            // axum answers pings and the client's close.
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
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
