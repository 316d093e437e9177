//! Django's request signals as layers: `request_started`, `request_finished`, `got_request_exception`.
//!
//! Each receiver is a layer of its own. A receiver that panics is logged and disturbs nobody. In
//! Django's order, seen from outside: gunicorn's `pre_request`, `request_started`, the view,
//! `request_finished`, gunicorn's `post_request`; so put them inside other hooks.
//!
//! # Example
//!
//! ```
//! use farrier_hooks::signals::{got_request_exception, request_finished, request_started};
//! use tower::ServiceBuilder;
//!
//! let layers = ServiceBuilder::new()
//!     .layer(request_started(|request| println!("{} starts", request.uri)))
//!     .layer(request_finished(|request, end| println!("{}: {:?}", request.uri, end.total)))
//!     .layer(got_request_exception(|request, end| {
//!         println!("{}: {:?}", request.uri, end.outcome);
//!     }));
//!
//! let app = axum::Router::<()>::new()
//!     .route("/", axum::routing::get(|| async { "hello" }))
//!     .layer(layers);
//! # let _ = app;
//! ```

use std::ops::ControlFlow;

use farrier_exchange::{End, Outcome, call_caught};
use http::request::Parts;

use crate::from_fn::{post_request, pre_request};
use crate::hook::{RequestHook, RequestInfo};
use crate::layer::RequestHookLayer;

/// A layer that calls `receiver` when a request comes in.
///
/// Unlike a failing `pre_request`, a receiver that panics does not fail the request: it is logged and
/// the request goes on.
pub fn request_started<R>(receiver: R) -> RequestHookLayer<impl RequestHook<Context = ()>>
where
    R: Fn(&Parts) + Send + Sync + 'static,
{
    pre_request(move |request| {
        if call_caught(|| receiver(request)).is_none() {
            tracing::error!(path = request.uri.path(), "a receiver of request_started panicked");
        }
        ControlFlow::Continue(())
    })
}

/// A layer that calls `receiver` when a response is over, however it ended.
pub fn request_finished<R>(receiver: R) -> RequestHookLayer<impl RequestHook<Context = ()>>
where
    R: Fn(&RequestInfo<'_>, &End) + Send + Sync + 'static,
{
    post_request(receiver)
}

/// A layer that calls `receiver` when the service or the response body failed or panicked.
///
/// As in Django, a 500 that the handler returns is no exception; nor is one that a `CatchPanicLayer`
/// inside this layer makes of a panic: put that outside.
pub fn got_request_exception<R>(receiver: R) -> RequestHookLayer<impl RequestHook<Context = ()>>
where
    R: Fn(&RequestInfo<'_>, &End) + Send + Sync + 'static,
{
    post_request(move |request, end| match end.outcome {
        Outcome::ServiceFailed | Outcome::BodyFailed | Outcome::Panicked => receiver(request, end),
        _ => {}
    })
}
