//! Exactly once, with the right outcome, and the same bytes on the wire: every way in which a response
//! ends, over real sockets.

mod allocations;
mod facts;
mod joined;
mod leaving;
mod model;
mod stacks;
mod table;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use farrier_exchange::{End, Exchange, Observer, ResponseBody, ResponseFuture};
use farrier_test_ends as support;
use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

/// A layer that keeps every [`End`].
#[derive(Clone, Debug, Default)]
struct Record {
    begun: Arc<AtomicUsize>,
    ends: Arc<Mutex<Vec<End>>>,
}

#[derive(Clone, Debug)]
struct Recorded<S> {
    inner: S,
    record: Record,
}

impl Record {
    /// Waits until `count` exchanges have ended, and takes them; none other may have begun.
    async fn ends(&self, count: usize) -> Vec<End> {
        let deadline = tokio::time::Instant::now() + support::DEADLINE;
        while self.ends.lock().expect("not poisoned").len() < count {
            let begun = self.begun.load(Ordering::SeqCst);
            assert!(tokio::time::Instant::now() < deadline, "{begun} began, {self:?} ended");
            tokio::task::yield_now().await;
        }
        let ends = std::mem::take(&mut *self.ends.lock().expect("not poisoned"));
        assert_eq!(self.begun.swap(0, Ordering::SeqCst), count, "each begins once");
        assert_eq!(ends.len(), count, "each ends once: {ends:?}");
        ends
    }

    async fn only_end(&self) -> End {
        self.ends(1).await[0]
    }

    fn take(&self) -> Vec<End> {
        self.begun.store(0, Ordering::SeqCst);
        std::mem::take(&mut *self.ends.lock().expect("not poisoned"))
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn ended(&self) -> usize {
        self.ends.lock().expect("not poisoned").len()
    }
}

impl Observer for Record {
    fn on_end(self, end: End) {
        self.ends.lock().expect("not poisoned").push(end);
    }
}

impl<S> Layer<S> for Record {
    type Service = Recorded<S>;

    fn layer(&self, inner: S) -> Recorded<S> {
        Recorded { inner, record: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Recorded<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<ResponseBody<R, Record>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, Record>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.record.begun.fetch_add(1, Ordering::SeqCst);
        let exchange = Exchange::begin(request.method(), request.version(), self.record.clone());
        ResponseFuture::new(self.inner.call(request), exchange)
    }
}

/// What axum, tonic and a test's `Arc` ask of a layer's types.
#[test]
fn carriers_are_send() {
    fn assert_send<T: Send>() {}
    assert_send::<ResponseFuture<std::future::Ready<()>, fn(End)>>();
    assert_send::<ResponseBody<axum::body::Body, fn(End)>>();
    assert_send::<Exchange<fn(End)>>();
}
