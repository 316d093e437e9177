//! What can be served.

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tower_service::Service;

use crate::error::BoxError;

/// A service that can be served: any tower service of HTTP requests, such as an axum `Router`.
///
/// It is an alias for the bounds: whatever meets them is one.
pub trait HttpService:
    Service<
        Request<Incoming>,
        Response = Response<<Self as HttpService>::ResponseBody>,
        Error = <Self as HttpService>::ServiceError,
        Future = <Self as HttpService>::ResponseFuture,
    > + Clone
    + Send
    + 'static
{
    /// What its responses carry.
    type ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;

    /// What it fails with instead of answering.
    type ServiceError: Into<BoxError>;

    /// What answers a request.
    type ResponseFuture: Future<Output = Result<Response<Self::ResponseBody>, Self::ServiceError>>
        + Send
        + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = B;
    type ServiceError = S::Error;
    type ResponseFuture = S::Future;
}
