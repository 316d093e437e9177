//! `pre_request` and `post_request`: once each, in order, on every path, over real sockets.

mod access_log;
mod allocations;
mod asynchronous;
mod grpc;
mod logged;
mod nesting;
mod signals;
mod table;
mod tasks;

use std::sync::{Arc, Mutex};

use axum::extract::MatchedPath;
use farrier_hooks::{
    AsyncRequestHook, BoxError, End, Pre, RequestHook, RequestHookLayer, RequestInfo,
};
use farrier_test_ends as support;
use http::request::Parts;
use http::{HeaderMap, StatusCode};

/// What hooks did, in order.
#[derive(Clone, Debug, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

/// What a `post_request` was given.
#[derive(Debug)]
struct Post {
    context: u32,
    request: String,
    matched_path: Option<String>,
    /// What `on_response` saw.
    head: Option<StatusCode>,
    end: End,
}

/// What a `pre_request` hands on.
#[derive(Debug)]
struct Begun {
    number: u32,
    matched_path: Option<String>,
    head: Option<StatusCode>,
}

/// A hook that keeps all that it is given.
#[derive(Clone, Debug, Default)]
struct Record {
    pres: Arc<Mutex<u32>>,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl Diary {
    fn note(&self, line: impl Into<String>) {
        self.0.lock().expect("not poisoned").push(line.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("not poisoned"))
    }

    /// Waits for so many lines: a response may be read before its post has run.
    async fn lines(&self, count: usize) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + support::DEADLINE;
        while self.0.lock().expect("not poisoned").len() < count {
            assert!(tokio::time::Instant::now() < deadline, "never came: {self:?}");
            tokio::task::yield_now().await;
        }
        self.take()
    }
}

impl Record {
    fn layer(&self) -> RequestHookLayer<Self> {
        RequestHookLayer::new(self.clone())
    }

    fn pres(&self) -> u32 {
        *self.pres.lock().expect("not poisoned")
    }

    /// Waits until `count` posts ran; no more pres may have run than they.
    async fn posts(&self, count: usize) -> Vec<Post> {
        let deadline = tokio::time::Instant::now() + support::DEADLINE;
        while self.posts.lock().expect("not poisoned").len() < count {
            assert!(tokio::time::Instant::now() < deadline, "never came: {self:?}");
            tokio::task::yield_now().await;
        }
        let posts = std::mem::take(&mut *self.posts.lock().expect("not poisoned"));
        assert_eq!(posts.len(), count, "{posts:?}");
        let pres = std::mem::take(&mut *self.pres.lock().expect("not poisoned"));
        assert_eq!(pres as usize, count, "one pre for each post");
        posts
    }

    async fn only_post(&self) -> Post {
        self.posts(1).await.remove(0)
    }

    fn begin(&self, request: &Parts) -> Begun {
        let mut pres = self.pres.lock().expect("not poisoned");
        *pres += 1;
        let matched_path = request.extensions.get::<MatchedPath>();
        let matched_path = matched_path.map(|path| path.as_str().to_owned());
        Begun { number: *pres, matched_path, head: None }
    }

    fn finish(
        &self,
        Begun { number, matched_path, head }: Begun,
        request: &RequestInfo<'_>,
        end: &End,
    ) {
        self.posts.lock().expect("not poisoned").push(Post {
            context: number,
            request: format!("{} {}", request.method, request.uri.path()),
            matched_path,
            head,
            end: *end,
        });
    }
}

impl RequestHook for Record {
    type Context = Begun;

    fn pre_request(&self, request: &mut Parts) -> Result<Pre<Self::Context>, BoxError> {
        Ok(Pre::Continue(self.begin(request)))
    }

    fn on_response(&self, context: &mut Self::Context, status: StatusCode, _: &HeaderMap) {
        assert_eq!(context.head.replace(status), None, "once");
    }

    fn post_request(&self, context: Self::Context, request: &RequestInfo<'_>, end: &End) {
        self.finish(context, request, end);
    }
}

impl AsyncRequestHook for Record {
    type Context = Begun;

    async fn pre_request(&self, request: &mut Parts) -> Result<Pre<Self::Context>, BoxError> {
        tokio::task::yield_now().await;
        Ok(Pre::Continue(self.begin(request)))
    }

    fn on_response(&self, context: &mut Self::Context, status: StatusCode, _: &HeaderMap) {
        assert_eq!(context.head.replace(status), None, "once");
    }

    fn post_request(&self, context: Self::Context, request: &RequestInfo<'_>, end: &End) {
        self.finish(context, request, end);
    }
}

/// What axum asks of a layer.
#[test]
fn layers_are_send_sync_clone() {
    fn assert<T: Send + Sync + Clone + 'static>(_: &T) {}
    let record = Record::default();
    assert(&record.layer());
    assert(&tower::Layer::layer(&record.layer(), axum::Router::<()>::new()));
    let layer = farrier_hooks::from_async_hook(record);
    assert(&layer);
    assert(&tower::Layer::layer(&layer, axum::Router::<()>::new()));
}
