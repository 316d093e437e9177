//! The handle as an axum extractor, and its errors as responses.

use std::convert::Infallible;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::header::{HeaderValue, RETRY_AFTER};
use http::request::Parts;

use crate::{AcquireError, Backend, Db};

impl<B: Backend, S: Send + Sync> FromRequestParts<S> for Db<B> {
    type Rejection = AcquireError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, AcquireError> {
        Self::of(&parts.extensions)
    }
}

/// `None` where no connection layer for this backend is around the handler.
impl<B: Backend, S: Send + Sync> OptionalFromRequestParts<S> for Db<B> {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(Self::of(&parts.extensions).ok())
    }
}

/// Logs the error, and tells the client only what its status means. What is around, such as a log, finds the error itself in the
/// response's extensions.
///
/// What the server is to blame for is logged by the pool, with its cause and at most once a second.
impl IntoResponse for AcquireError {
    fn into_response(self) -> Response {
        let status = self.status();
        match &self {
            Self::Unavailable(_) | Self::TimedOut | Self::Denied(_) => {
                tracing::debug!(error = %self, "no database connection");
            }
            _ if status.as_u16() == 500 => {
                tracing::error!(error = %self, "no database connection");
            }
            _ => tracing::warn!(error = %self, "no database connection"),
        }
        let body = status.canonical_reason().unwrap_or_default();
        let mut response = (status, body).into_response();
        if let Some(after) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response.extensions_mut().insert(self);
        response
    }
}
