//! What is logged when a hook goes wrong: once each.

use std::convert::Infallible;
use std::fmt::Debug;

use farrier_hooks::{BoxError, Pre, Tasks, from_fn};
use http::{Request, Response};
use tower::{Service, ServiceBuilder, service_fn};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::Diary;

/// Keeps the message of each event of this thread.
struct Messages(Diary);

/// The message, once all fields are written.
#[derive(Default)]
struct Message(String);

impl Subscriber for Messages {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        self.0.note(message.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.0 = text;
        }
    }
}

/// One request through a hook of which `pre` and `post` are given; what was logged.
async fn logged(pre: fn() -> Result<Pre<()>, BoxError>, post: fn()) -> Vec<String> {
    let diary = Diary::default();
    let _guard = tracing::subscriber::set_default(Messages(diary.clone()));
    let inner = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(axum::body::Body::empty()))
    });
    let mut service =
        ServiceBuilder::new().layer(from_fn(move |_| pre(), move |(), _, _| post())).service(inner);
    let response = service.call(Request::new(())).await;
    drop(response);
    diary.take()
}

#[tokio::test]
async fn once_each() {
    let fine = || Ok(Pre::Continue(()));
    assert_eq!(logged(fine, || {}).await, [""; 0]);
    assert_eq!(logged(|| Err("no".into()), || {}).await, ["pre_request failed"]);
    let panics = || std::panic::resume_unwind(Box::new("in pre"));
    assert_eq!(logged(panics, || {}).await, ["pre_request panicked"]);
    let panics = || std::panic::resume_unwind(Box::new("in post"));
    assert_eq!(logged(fine, panics).await, ["post_request panicked"]);
}

#[tokio::test]
async fn tasks() {
    let diary = Diary::default();
    let _guard = tracing::subscriber::set_default(Messages(diary.clone()));
    let tasks = Tasks::new();
    tasks.spawn(async {});
    tasks.wait().await;
    assert_eq!(diary.take(), [""; 0]);
    tasks.spawn(async { std::panic::resume_unwind(Box::new("in a task")) });
    tasks.wait().await;
    assert_eq!(diary.take(), ["work after a request panicked"]);
}

/// Work that never ran to its end, in each way.
#[test]
fn lost_tasks() {
    struct SpawnsWhenDropped(Tasks);
    impl Drop for SpawnsWhenDropped {
        fn drop(&mut self) {
            self.0.spawn(std::future::pending());
        }
    }

    let diary = Diary::default();
    let _guard = tracing::subscriber::set_default(Messages(diary.clone()));
    let tasks = Tasks::new();
    tasks.spawn(std::future::pending());
    assert_eq!(diary.take(), ["work after a request is lost: no runtime"]);

    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        tasks.spawn(std::future::pending());
        let last = SpawnsWhenDropped(tasks.clone());
        tokio::spawn(async move {
            let _last = last;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
    });
    drop(runtime);
    assert_eq!(diary.take(), ["work after a request is lost: its runtime ended"; 2]);
    assert!(tasks.is_empty());
}

/// The words of an error are the hook's own code, which may panic too: the request gets its 500.
#[tokio::test]
async fn an_error_that_panics() {
    #[derive(Debug)]
    struct Speechless;
    impl std::fmt::Display for Speechless {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            std::panic::resume_unwind(Box::new("in Display"))
        }
    }
    impl std::error::Error for Speechless {}

    let lines = logged(|| Err(Box::new(Speechless)), || {}).await;
    assert_eq!(lines, ["pre_request failed, and its error panicked"]);
}
