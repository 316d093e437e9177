//! What a handler fails with: the client gets the status, and nobody but the log the words.
#![cfg(feature = "axum")]

use std::error::Error as StdError;
use std::time::Duration;
use std::{fmt, io};

use axum::body::to_bytes;
use axum::http::header::RETRY_AFTER;
use axum::response::IntoResponse;
use farrier::Error;
use farrier::connection::{AcquireError, StatementTimedOut};

/// An app's own error, which another one is the source of.
#[derive(Debug)]
struct Shop(Box<dyn StdError + Send + Sync>);

impl fmt::Display for Shop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the secret of the shop")
    }
}

impl StdError for Shop {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

fn shop(source: impl StdError + Send + Sync + 'static) -> Shop {
    Shop(Box::new(source))
}

async fn answered(error: impl Into<Error>) -> (u16, bool, String) {
    let response = error.into().into_response();
    let (status, retry) =
        (response.status().as_u16(), response.headers().contains_key(RETRY_AFTER));
    let body = to_bytes(response.into_body(), 1_000).await.expect("a body");
    (status, retry, String::from_utf8(body.to_vec()).expect("a text"))
}

#[tokio::test]
async fn each_error_has_its_status() {
    let timed_out = || StatementTimedOut::new(Duration::from_secs(1));
    let internal = (500, false, "Internal Server Error".to_owned());
    let unavailable = (503, true, "Service Unavailable".to_owned());
    let timeout = (504, false, "Gateway Timeout".to_owned());
    assert_eq!(answered(AcquireError::Exhausted).await, unavailable);
    assert_eq!(answered(shop(AcquireError::QueueFull)).await, unavailable);
    assert_eq!(answered(shop(shop(AcquireError::TimedOut))).await, timeout);
    assert_eq!(answered(AcquireError::NoScope).await, internal);
    assert_eq!(answered(timed_out()).await, timeout);
    assert_eq!(answered(shop(timed_out())).await, timeout);
    assert_eq!(answered(io::Error::other("a password")).await, internal);
    assert_eq!(answered(shop(io::Error::other("a password"))).await, internal);
}

#[test]
fn it_says_what_it_was_made_of() {
    let error = Error::from(shop(io::Error::other("a password")));
    assert_eq!(error.to_string(), "the secret of the shop");
    assert!(format!("{error:?}").contains("a password"));
}
