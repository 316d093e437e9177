//! One HTTP exchange: it begins in a middleware's `call` and ends exactly once, with an [`Outcome`].
//!
//! Whoever writes a tower middleware that must do something *after* a response meets the same
//! questions: when is a response over, was it finished or cut off, and who calls the end action when
//! the client leaves, the handler panics or an outer timeout drops the future? This crate answers
//! them once. An [`Exchange`] is a guard that is made in `call` and moved into the response future and
//! from there into the response body. Its `Drop` is the only thing that ends it, so "exactly once"
//! follows from ownership; what carries it only notes facts in it.
//!
//! # How a response really ends
//!
//! Nobody promises that a body is polled to its end. What hyper and axum do, and what it is here:
//!
//! | case | how the server ends it | outcome |
//! |---|---|---|
//! | full body | one data frame, then drop; `None` is never polled | finished |
//! | empty body (204, 404) | dropped unpolled | finished |
//! | HEAD on a route for GET | a body with content, dropped unpolled | finished |
//! | 204, 304 with a body | HTTP/1: dropped unpolled; HTTP/2: sent all the same | finished |
//! | stream | data, `None`, drop | finished |
//! | stream with Content-Length, HTTP/1 | data, drop after the last byte | finished |
//! | trailers | trailers frame, drop | finished |
//! | upgrade (101, or 2xx to CONNECT) | the socket lives on; the exchange ends at the head | finished |
//! | body shorter than its Content-Length | `None` too early, or over HTTP/2 nothing at all; the client gets an error | body failed |
//! | body longer than its Content-Length | HTTP/1: cut at the length; HTTP/2: the client refuses it | body failed |
//! | body yields an error | error, drop | body failed |
//! | service returns an error | the connection is closed | service failed |
//! | handler panics, caught outside or not | future dropped, unwinding or not | panicked |
//! | handler panics, caught inside | a 500 like any other | finished |
//! | body panics, be it in its drop after the last byte | body dropped | panicked |
//! | client leaves before the head | future dropped | aborted |
//! | client leaves in mid-stream | body dropped | aborted |
//! | timeout outside | future dropped, as if the client had left | aborted |
//!
//! A handler's 1xx other than 101 is "finished" here, though a server has to put a 500 in its place.
//!
//! What a middleware cannot see: requests that the server itself refuses, and whether the last bytes
//! were flushed. A client that leaves after they were buffered counts as finished: a body that is given in one
//! piece is handed over whole, so `bytes` says its length even if the client took none of it. Nor does it see
//! what a body would have yielded beyond its Content-Length where the server stops asking there (HTTP/1). A layer
//! outside that throws the body away (a 304 made of a 200) looks like a client that left.
//!
//! # Example
//!
//! A middleware that only looks on is an [`Interceptor`]: it sees the head of the request, may change it or answer at once, and
//! leaves an [`Observer`] for the rest. Several stand in one tuple; in `farrier::layers`, beside farrier's own.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use farrier_exchange::{Answer, End, ExchangeLayer, Interceptor, Observer};
//! use http::request::Parts;
//! use http::{Response, Uri};
//!
//! /// Logs how each exchange ended.
//! #[derive(Clone, Debug)]
//! struct LogEnds;
//!
//! struct Logged(Uri);
//!
//! impl Interceptor for LogEnds {
//!     type Observer = Logged;
//!
//!     fn intercept(
//!         &self,
//!         request: &mut Parts,
//!         observer: &mut Option<Logged>,
//!     ) -> ControlFlow<Response<Answer>> {
//!         *observer = Some(Logged(request.uri.clone()));
//!         ControlFlow::Continue(())
//!     }
//! }
//!
//! impl Observer for Logged {
//!     fn on_end(self, end: End) {
//!         println!("{} {:?} after {:?}", self.0, end.outcome, end.total);
//!     }
//! }
//!
//! let app: axum::Router = axum::Router::new().layer(ExchangeLayer::new((LogEnds, LogEnds)));
//! # drop(app);
//! ```
//!
//! A middleware that needs a service or a future of its own makes the [`Exchange`] itself:
//!
//! ```
//! use std::task::{Context, Poll};
//!
//! use farrier_exchange::{End, Exchange, ResponseBody, ResponseFuture};
//! use http::{Request, Response};
//! use http_body::Body;
//! use tower_service::Service;
//!
//! #[derive(Clone, Debug)]
//! struct LogEnds<S> {
//!     inner: S,
//! }
//!
//! impl<S, B, R> Service<Request<B>> for LogEnds<S>
//! where
//!     S: Service<Request<B>, Response = Response<R>>,
//!     R: Body,
//! {
//!     type Response = Response<ResponseBody<R, fn(End)>>;
//!     type Error = S::Error;
//!     type Future = ResponseFuture<S::Future, fn(End)>;
//!
//!     fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
//!         self.inner.poll_ready(cx)
//!     }
//!
//!     fn call(&mut self, request: Request<B>) -> Self::Future {
//!         let log: fn(End) = |end| println!("{:?} after {:?}", end.outcome, end.total);
//!         // Begun before the inner call: should that panic, the exchange ends all the same.
//!         let exchange = Exchange::begin(request.method(), request.version(), log);
//!         ResponseFuture::new(self.inner.call(request), exchange)
//!     }
//! }
//! ```
#![forbid(unsafe_code)]

mod answer;
mod body;
mod exchange;
mod future;
mod interceptor;
mod layer;

pub use answer::Answer;
pub use body::ResponseBody;
#[doc(hidden)]
pub use exchange::call_caught;
pub use exchange::{End, Exchange, Observer, Outcome, RequestLine};
pub use future::ResponseFuture;
pub use interceptor::{Interceptor, Joined};
pub use layer::{ExchangeLayer, ExchangeService};
