//! What a worker process knows of itself.

use std::future::Future;
use std::sync::Arc;

use farrier_serve::{BoxError, Drain};

use super::supervised::Supervised;
use crate::board::{Board, BoardPulse};
use crate::settings::Settings;

/// What a worker process knows of itself; the app gets one.
#[derive(Clone, Debug)]
pub struct Worker {
    pub(super) slot: usize,
    pub(super) supervised: Supervised,
}

impl Worker {
    /// A worker of no server, so that a test can call the app's function: slot 0 of generation 1, with the default settings.
    ///
    /// ```
    /// # use axum::{Router, routing::get};
    /// # use farrier_prefork::{BoxError, Worker};
    /// # async fn app(_: Worker) -> Result<Router, BoxError> {
    /// #     Ok(Router::new().route("/", get("hello")))
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// use axum::body::Body;
    /// use axum::http::Request;
    /// use tower::ServiceExt;
    ///
    /// let app = app(Worker::for_tests()?).await?;
    /// let response = app.oneshot(Request::get("/").body(Body::empty())?).await?;
    /// assert_eq!(response.status(), 200);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Nobody reads its pulse, nobody tells it to leave, and what is registered by [`before_exit`](Self::before_exit) is not
    /// done.
    ///
    /// # Errors
    ///
    /// The kernel's: no memory, no descriptor.
    pub fn for_tests() -> Result<Self, BoxError> {
        let board = Arc::new(Board::new()?);
        let row = board.take().ok_or("a new board has no free row")?;
        Ok(Self { slot: 0, supervised: Supervised::of(1, board, row, Arc::default()) })
    }

    /// The worker's place, from 0 to `workers` - 1; a replacement has its predecessor's.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// 1 for the workers of the start, and one more with each reload.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.supervised.generation
    }

    /// The worker's heartbeat: what the heartbeat layer and the probes take.
    #[must_use]
    pub fn pulse(&self) -> Arc<BoardPulse> {
        Arc::clone(&self.supervised.pulse)
    }

    /// Tells when the worker is told to leave: for background tasks and long-lived connections.
    ///
    /// A WebSocket or a stream of events ends with the process, at the end of `graceful_timeout`, unless its
    /// handler ends it before. This one closes with 1012, "service restart":
    ///
    /// ```
    /// use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
    /// # use farrier_serve::Drain;
    ///
    /// async fn talk(mut socket: WebSocket, drain: Drain) {
    ///     loop {
    ///         tokio::select! {
    ///             message = socket.recv() => match message {
    ///                 Some(Ok(message)) => println!("{message:?}"),
    ///                 _ => return,
    ///             },
    ///             () = drain.started() => {
    ///                 let restart = CloseFrame { code: close_code::RESTART, reason: "".into() };
    ///                 // It may have left already.
    ///                 let _ = socket.send(Message::Close(Some(restart))).await;
    ///                 return;
    ///             }
    ///         }
    ///     }
    /// }
    /// # let _ = talk;
    /// ```
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.supervised.drain.clone()
    }

    /// The settings that this worker was started with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.supervised.settings
    }

    /// Registers work that the worker does when its last request is over, and waits for before it exits:
    /// to finish tasks that requests left behind, to close connections.
    ///
    /// All that is registered runs at once, on the worker's runtime. It has what is left of
    /// [`graceful_timeout`](Settings::graceful_timeout), and 250 ms if the requests left less; 200 ms when
    /// the worker is told to leave at once (INT, QUIT), or if its app fails to start. What is not
    /// done by then is dropped; that and a panic are logged with the place of the registration, and keep
    /// nobody from leaving. It runs once; what is registered while it runs runs too. A worker that
    /// crashes, hangs, is killed, or is told to leave before it is ready does none of it.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use farrier_prefork::{BoxError, Worker};
    /// # #[derive(Clone)]
    /// # struct Pool;
    /// # impl Pool {
    /// #     async fn connect() -> Result<Self, BoxError> { Ok(Self) }
    /// #     async fn close(&self) {}
    /// # }
    ///
    /// async fn app(worker: Worker) -> Result<Router, BoxError> {
    ///     let pool = Pool::connect().await?;
    ///     let closing = pool.clone();
    ///     worker.before_exit(async move { closing.close().await });
    ///     Ok(Router::new().route("/", get(|| async { "hello" })).with_state(pool))
    /// }
    /// # let _ = app;
    /// ```
    ///
    /// It stands for gunicorn's `worker_exit`, which its ASGI worker does not reach when the requests take
    /// all of the grace.
    #[track_caller]
    pub fn before_exit(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.supervised.exit_work.register(work);
    }
}
