//! What a handler fails with, as a response.

use std::error::Error as StdError;
use std::fmt;

use axum_core::response::{IntoResponse, Response};
use farrier_connection::{AcquireError, StatementTimedOut};
use http::StatusCode;

/// Whatever a handler fails with: the client gets a status, and the log gets the words.
///
/// It is made of any error by `?`. An [`AcquireError`] is answered with its own status, so 503 with `Retry-After` where no
/// connection was to be had; a [`StatementTimedOut`] with 504; everything else with 500. Both are found behind errors that they
/// are the source of. As with `anyhow::Error`, it is no [`std::error::Error`] itself.
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
///
/// async fn config() -> Result<String, farrier::Error> {
///     Ok(std::fs::read_to_string("/etc/shop.conf")?) // 500, and the log says which file is missing
/// }
///
/// let app: Router = Router::new().route("/config", get(config));
/// ```
pub struct Error(Box<dyn StdError + Send + Sync>);

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let error: &(dyn StdError + 'static) = &*self.0;
        if let Some(error) = AcquireError::find(error) {
            return error.clone().into_response();
        }
        let status = match StatementTimedOut::find(error) {
            Some(_) => StatusCode::GATEWAY_TIMEOUT,
            None => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::error!(error, "a handler failed");
        (status, status.canonical_reason().unwrap_or_default()).into_response()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
