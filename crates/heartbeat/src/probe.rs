//! Liveness and readiness, answered from a pulse.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::future::{self, Ready};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use farrier_exchange::Answer;
use http::{HeaderValue, Request, Response, StatusCode, header};
use tower_service::Service;

use crate::{Pulse, State};

/// A service that answers whether the process lives: 200, or 503 when its beat is late.
///
/// Restart the process when this fails; it stays 200 while booting and draining. The beat is late after
/// 30 seconds unless [`late_after`](Self::late_after) says otherwise (gunicorn's `timeout`). A runtime
/// that does not turn at all does not answer: the prober's own time limit is the other half of the check.
pub struct Livez<P: ?Sized> {
    pulse: Arc<P>,
    late_after: Duration,
}

/// A service that answers whether the process wants traffic: 200, or 503 with the reason.
///
/// It is 503 unless the state is [`State::Ready`], when the beat is late (after 5 seconds, unless
/// [`late_after`](Self::late_after) says otherwise), and when a [`check`](Self::check) fails.
///
/// # Example
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use farrier_heartbeat::{LocalPulse, Readyz};
///
/// let cache_is_warm = Arc::new(AtomicBool::new(false));
/// let readyz = Readyz::new(Arc::new(LocalPulse::new()))
///     .check("cache", move || cache_is_warm.load(Ordering::Relaxed));
/// ```
pub struct Readyz<P: ?Sized> {
    pulse: Arc<P>,
    late_after: Duration,
    checks: Arc<Vec<Check>>,
}

#[derive(Clone)]
struct Check {
    name: Cow<'static, str>,
    passes: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl<P: Pulse + ?Sized> Livez<P> {
    /// The liveness of the process that writes `pulse`.
    #[must_use]
    pub fn new(pulse: Arc<P>) -> Self {
        Self { pulse, late_after: Duration::from_secs(30) }
    }

    /// How old a beat may become; 30 seconds unless set.
    #[must_use]
    pub fn late_after(mut self, age: Duration) -> Self {
        self.late_after = age;
        self
    }
}

impl<B, P: Pulse + ?Sized> Service<Request<B>> for Livez<P> {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let age = self.pulse.beat_age();
        answer(if age > self.late_after { Err(late(age)) } else { Ok("alive") })
    }
}

impl<P: ?Sized> Clone for Livez<P> {
    fn clone(&self) -> Self {
        Self { pulse: Arc::clone(&self.pulse), late_after: self.late_after }
    }
}

impl<P: ?Sized> fmt::Debug for Livez<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Livez").field("late_after", &self.late_after).finish_non_exhaustive()
    }
}

impl<P: Pulse + ?Sized> Readyz<P> {
    /// The readiness of the process that writes `pulse`.
    #[must_use]
    pub fn new(pulse: Arc<P>) -> Self {
        Self { pulse, late_after: Duration::from_secs(5), checks: Arc::default() }
    }

    /// How old a beat may become; 5 seconds unless set.
    #[must_use]
    pub fn late_after(mut self, age: Duration) -> Self {
        self.late_after = age;
        self
    }

    /// Adds a check of the app's own; the answer is 503 and names it while it returns `false`.
    ///
    /// It runs in every probe on the runtime, so it must be short: look at a flag, do no I/O. A check
    /// that panics has failed.
    #[must_use]
    pub fn check(
        mut self,
        name: impl Into<Cow<'static, str>>,
        passes: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        let check = Check { name: name.into(), passes: Arc::new(passes) };
        Arc::make_mut(&mut self.checks).push(check);
        self
    }

    fn verdict(&self) -> Result<&'static str, String> {
        let state = self.pulse.state();
        if state != State::Ready {
            return Err(state.to_string());
        }
        let age = self.pulse.beat_age();
        if age > self.late_after {
            return Err(late(age));
        }
        match self.checks.iter().find(|check| !check.passes()) {
            Some(check) => Err(format!("the check {} failed", check.name)),
            None => Ok("ready"),
        }
    }
}

impl<B, P: Pulse + ?Sized> Service<Request<B>> for Readyz<P> {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        answer(self.verdict())
    }
}

impl<P: ?Sized> Clone for Readyz<P> {
    fn clone(&self) -> Self {
        Self {
            pulse: Arc::clone(&self.pulse),
            late_after: self.late_after,
            checks: Arc::clone(&self.checks),
        }
    }
}

impl<P: ?Sized> fmt::Debug for Readyz<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readyz")
            .field("late_after", &self.late_after)
            .field("checks", &self.checks.iter().map(|check| &check.name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Check {
    fn passes(&self) -> bool {
        panic::catch_unwind(AssertUnwindSafe(|| (self.passes)())).unwrap_or_else(|_| {
            tracing::error!(check = %self.name, "a readiness check panicked");
            false
        })
    }
}

fn late(age: Duration) -> String {
    format!("no heartbeat for {:.1} s", age.as_secs_f64())
}

fn answer(verdict: Result<&'static str, String>) -> Ready<Result<Response<Answer>, Infallible>> {
    let (status, text) = match verdict {
        Ok(text) => (StatusCode::OK, Cow::Borrowed(text)),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, Cow::Owned(reason)),
    };
    let mut response = Response::new(Answer::from(format!("{text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    future::ready(Ok(response))
}
