//! A pre that waits.

use std::sync::Arc;

use farrier_hooks::{Answer, BoxError, Pre, from_async_fn};
use http::{Response, StatusCode};
use tokio::sync::Notify;
use tower::ServiceBuilder;

use crate::{Diary, support};

/// A header decides what the async pre does, after it has waited.
#[tokio::test]
async fn decides() {
    let diary = Diary::default();
    let (before, after) = (diary.clone(), diary.clone());
    let layer = from_async_fn(
        move |mut request| {
            before.note("pre");
            if request.headers.contains_key("x-panic-at-once") {
                std::panic::resume_unwind(Box::new("before it waits"));
            }
            async move {
                tokio::task::yield_now().await;
                let act = request.headers.get("x-act").map(|act| act.as_bytes().to_vec());
                match act.as_deref() {
                    None => {
                        request.extensions.insert("waited");
                        Ok((request, Pre::Continue(7)))
                    }
                    Some(b"answer") => {
                        let mut response = Response::new(Answer::from("at once"));
                        *response.status_mut() = StatusCode::IM_A_TEAPOT;
                        Ok((request, Pre::Answer(8, response)))
                    }
                    Some(b"fail") => Err(BoxError::from("no")),
                    _ => std::panic::resume_unwind(Box::new("in pre")),
                }
            }
        },
        move |context: i32, request, end| {
            after.note(format!("post {context} {} {:?}", request.uri.path(), end.outcome));
        },
    );
    let app = axum::Router::new()
        .route(
            "/",
            axum::routing::get(async |axum::Extension(word): axum::Extension<&'static str>| word),
        )
        .layer(layer);
    let address = support::serve(app).await;
    let ask = async |header: &str| {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\n{header}connection: close\r\n\r\n");
        support::raw(address, &request).await
    };

    assert!(ask("").await.ends_with("waited"));
    assert_eq!(diary.lines(2).await, ["pre", "post 7 / Finished"]);

    assert!(ask("x-act: answer\r\n").await.starts_with("HTTP/1.1 418"));
    assert_eq!(diary.lines(2).await, ["pre", "post 8 / Finished"]);

    for header in ["x-act: fail\r\n", "x-act: panic\r\n", "x-panic-at-once: 1\r\n"] {
        assert!(ask(header).await.starts_with("HTTP/1.1 500"), "{header}");
        assert_eq!(diary.lines(1).await, ["pre"], "{header}: no post");
    }
    // None came late.
    assert!(ask("").await.ends_with("waited"));
    assert_eq!(diary.lines(2).await, ["pre", "post 7 / Finished"]);
}

/// A client that leaves while pre waits: no context, no post.
#[tokio::test]
async fn client_leaves_in_pre() {
    struct Dropped(Arc<Notify>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    let diary = Diary::default();
    let left = Arc::new(Notify::new());
    let (before, after, leaving) = (diary.clone(), diary.clone(), Arc::clone(&left));
    let stuck = from_async_fn(
        move |request| {
            before.note("pre");
            let dropped = Dropped(Arc::clone(&leaving));
            async move {
                let _dropped = dropped;
                std::future::pending::<()>().await;
                Ok((request, Pre::Continue(())))
            }
        },
        move |(), _, _| after.note("post"),
    );
    let address = support::serve(support::app().layer(stuck)).await;
    let socket = support::begin(address, "/full", "").await;
    assert_eq!(diary.lines(1).await, ["pre"]);
    drop(socket);
    tokio::time::timeout(support::DEADLINE, left.notified()).await.expect("pre is dropped");
    // It was dropped in one go, on this thread: a post would have run with it.
    assert_eq!(diary.take(), [""; 0], "no post");
}

/// The service that was made ready is the one that is called.
#[tokio::test]
async fn calls_the_ready_service() {
    /// Ready only after `poll_ready`, like a service that holds a permit; a clone has none.
    #[derive(Debug, Default)]
    struct Permit(bool);
    impl Clone for Permit {
        fn clone(&self) -> Self {
            Self(false)
        }
    }
    impl tower::Service<http::Request<()>> for Permit {
        type Response = Response<axum::body::Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            self.0 = true;
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<()>) -> Self::Future {
            assert!(std::mem::take(&mut self.0), "called without being ready");
            std::future::ready(Ok(Response::new(axum::body::Body::empty())))
        }
    }

    let waits = from_async_fn(
        async |request| {
            tokio::task::yield_now().await;
            Ok((request, Pre::Continue(())))
        },
        |(), _, _| {},
    );
    let mut service = ServiceBuilder::new().layer(waits).service(Permit::default());
    for _ in 0..3 {
        use tower::ServiceExt;
        let ready = service.ready().await.expect("ready");
        let response = tower::Service::call(ready, http::Request::new(())).await;
        assert_eq!(response.expect("infallible").status(), StatusCode::OK);
    }
}
