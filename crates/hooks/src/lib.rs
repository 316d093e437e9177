//! Request hooks: gunicorn's `pre_request` and `post_request` as a tower layer.
//!
//! `pre_request` sees the head of each request before the service does; it may change it, add
//! extensions, or answer at once. `post_request` is called exactly once for each request that was let
//! in, on every path: the response was produced, cut off, failed, panicked, or the client left. It is
//! given the context that its `pre_request` made, the request as it was, and an [`End`]: outcome,
//! status, bytes and times.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use axum::routing::get;
//! use farrier_hooks::post_request;
//!
//! let slow_requests = post_request(|request, end| {
//!     if end.total > Duration::from_secs(1) {
//!         println!("{} took {:?}, {:?}", request.uri, end.total, end.outcome);
//!     }
//! });
//!
//! let app = axum::Router::<()>::new().route("/", get("hello")).layer(slow_requests);
//! # let _ = app;
//! ```
//!
//! # Order
//!
//! Hooks nest as layers do. `ServiceBuilder::new().layer(a).layer(b)` reads from top to bottom: `pre`
//! of a, `pre` of b, the service, `post` of b, `post` of a. (Chained `Router::layer` reads from bottom
//! to top.)
//!
//! | `pre_request` | the client gets | hooks outside it | its own `post_request` | hooks inside, service |
//! |---|---|---|---|---|
//! | `Ok(Pre::Continue(context))` | the service's response | run | runs | run |
//! | `Ok(Pre::Answer(context, response))` | that response | run | runs | are skipped |
//! | `Err(error)`, or a panic | 500 | run, and see the 500 | does not run | are skipped |
//!
//! A `post_request` that panics is caught and logged; the client's response and the other hooks are
//! not touched.
//!
//! # Ready-made
//!
//! [`AccessLog`] with gunicorn's format atoms or as JSON; Django's three [`signals`]; and `Tasks` (with
//! the feature `tokio`, on by default) for slow work after the response.
//!
//! # Where it sees what
//!
//! Under `Router::layer` a hook sees every request that reached the router, 404s included, and the
//! route that matched; `route_layer` only covers requests that matched a route; around the whole
//! router it sees the raw URI and no route. HEAD counts no body bytes. A WebSocket (or any upgrade) is
//! over at its 101: the socket's life is not part of the request. A panic in the handler that a
//! `CatchPanicLayer` inside the hook turns into a 500 is a 500; one outside the hook leaves the outcome
//! as [`Panicked`](Outcome::Panicked).
//!
//! # What it cannot see
//!
//! Requests that the server itself refuses (a malformed head, one that is too large) never reach a
//! layer. Answers of layers outside the hook are not its own; it only sees that its request was
//! dropped. And `post_request` runs when the last bytes were handed to the server, not when they were
//! flushed. Times begin after the hook's own `pre_request`, as gunicorn's do; in
//! a stack of joined layers after that of the last.
//!
//! # Cost
//!
//! No boxed future and no allocation per request: the request's method and URI are kept by reference
//! count. [`from_async_fn`] and [`from_async_hook`] clone the inner service for each request, which
//! under axum allocates.
#![forbid(unsafe_code)]

mod access_log;
mod arrival;
mod async_layer;
mod from_async_fn;
mod from_fn;
mod hook;
mod layer;
mod post;
pub mod signals;
#[cfg(feature = "tokio")]
mod tasks;

pub use access_log::{AccessLog, AccessRecord, FormatError};
pub use async_layer::{
    AsyncHook, AsyncPre, AsyncRequestHookLayer, AsyncRequestHookService, AsyncResponseFuture,
    from_async_hook,
};
pub use farrier_exchange::{Answer, End, Outcome};
pub use from_async_fn::{FnPost, from_async_fn};
pub use from_fn::{FnHook, from_fn, post_request, pre_request};
pub use hook::{AsyncRequestHook, BoxError, Pre, RequestHook, RequestInfo};
pub use layer::RequestHookLayer;
pub use post::{PostHook, PostRequest, ResponseBody, ResponseFuture};
#[cfg(feature = "tokio")]
pub use tasks::Tasks;
