//! The request scope: one lazy connection per request, shared, and given back at the right moment.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use farrier_connection::fake::{Behaviour, Event, Fake, FakeError};
use farrier_connection::{AcquireError, CloseReason, ConnectionLayer, ErrorClass, Pool};
use farrier_exchange::ExchangeService;
use futures_util::{FutureExt, stream};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt, service_fn};

use crate::log::Log;
use crate::{SECOND, assert_balanced, pass, policy, pool, settle};

type Db = farrier_connection::Db<Fake>;

async fn send(app: &Router, path: &str) -> Response {
    send_method(app, Method::GET, path).await
}

async fn send_method(app: &Router, method: Method, path: &str) -> Response {
    let request = Request::builder().method(method).uri(path).body(Body::empty());
    app.clone().oneshot(request.expect("a request")).await.expect("no error but a response")
}

async fn text(response: Response) -> String {
    let bytes = response.into_body().collect().await.expect("a whole body").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("text")
}

async fn session(db: Db) -> Result<String, Failure> {
    Ok(db.get().await?.query().await?.to_string())
}

/// An app's own error type.
#[derive(Debug)]
enum Failure {
    Acquire(AcquireError),
    Query,
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Self {
        Self::Acquire(error)
    }
}

impl From<FakeError> for Failure {
    fn from(_: FakeError) -> Self {
        Self::Query
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Acquire(error) => error.into_response(),
            Self::Query => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

fn app(pool: &Pool<Fake>, router: Router) -> Router {
    router.layer(ConnectionLayer::new(pool.clone()))
}

/// Behaviours C1, C2 and C12.
#[tokio::test(start_paused = true)]
async fn requests_use_one_connection_after_the_other() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true));
    let app = app(&pool, Router::new().route("/", get(session)));
    for _ in 0..6 {
        pass(SECOND).await;
        assert_eq!(text(send(&app, "/").await).await, "1");
    }
    assert_eq!((fake.opened(), pool.status().checks), (1, 5));
    assert_balanced(&pool);
}

/// Behaviours C3 and C4.
#[tokio::test(start_paused = true)]
async fn a_request_without_database_does_not_touch_it() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Fail(ErrorClass::Fatal));
    let pool = pool(&fake, policy());
    let routes = Router::new().route("/", get(async |_: Db| "no database"));
    let app = app(&pool, routes);
    assert_eq!(text(send(&app, "/").await).await, "no database");
    assert_eq!((pool.status().acquired, fake.events()), (0, Vec::new()));

    // Nor one that is open.
    fake.on_connect(Behaviour::Answer);
    drop(pool.acquire().await.expect("a connection"));
    let _ = fake.take_events();
    assert_eq!(text(send(&app, "/").await).await, "no database");
    assert_eq!((pool.status().acquired, fake.events()), (1, Vec::new()));
}

#[tokio::test]
async fn a_handler_may_do_without_a_layer() {
    let is_there =
        || Router::new().route("/", get(async |db: Option<Db>| db.is_some().to_string()));
    assert_eq!(text(send(&is_there(), "/").await).await, "false");
    assert_eq!(
        text(send(&app(&pool(&Fake::new(), policy()), is_there()), "/").await).await,
        "true"
    );
}

/// Behaviour C52.
#[tokio::test(start_paused = true)]
async fn middleware_and_handler_share_the_connection() {
    async fn middleware(db: Db, request: Request, next: Next) -> Result<Response, Failure> {
        let before = db.get().await?.query().await?;
        let response = next.run(request).await;
        let after = db.get().await?.query().await?;
        assert_eq!(before, after);
        Ok(response)
    }
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1));
    let routes = Router::new().route("/", get(session)).layer(from_fn(middleware));
    let app = app(&pool, routes);
    assert_eq!(text(send(&app, "/").await).await, "1");
    assert_eq!(fake.events().len(), 4);
    assert_balanced(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_second_borrow_waits_for_the_first_and_not_for_ever() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let routes = Router::new()
        .route(
            "/both",
            get(async |db: Db| {
                let one = async {
                    db.get().await.unwrap().query_for(SECOND).await.unwrap();
                };
                tokio::join!(one, async { db.get().await.unwrap().query().await.unwrap() });
            }),
        )
        .route(
            "/self",
            get(async |db: Db| {
                let _held = db.get().await.unwrap();
                db.get().await.map(drop)
            }),
        );
    let app = app(&pool, routes);
    assert_eq!(send(&app, "/both").await.status(), 200);
    let start = Instant::now();
    assert_eq!(send(&app, "/self").await.status(), 500);
    assert_eq!(start.elapsed(), pool.policy().acquire_timeout);
    assert_balanced(&pool);
}

/// Behaviour C36.
#[tokio::test(start_paused = true)]
async fn the_connection_is_back_with_the_head_whatever_becomes_of_the_body() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1));
    let routes = Router::new()
        .route("/full", get(session))
        .route(
            "/stream",
            get(async |db: Db| {
                session(db).await.unwrap();
                Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())
            }),
        )
        .route(
            "/204",
            get(async |db: Db| {
                session(db).await.unwrap();
                StatusCode::NO_CONTENT
            }),
        );
    let app = app(&pool, routes);
    for (method, path) in [
        (Method::GET, "/full"),
        (Method::HEAD, "/full"),
        (Method::GET, "/stream"),
        (Method::GET, "/204"),
    ] {
        let response = send_method(&app, method, path).await;
        assert_eq!((pool.status().idle, pool.status().in_use), (1, 0), "{path}");
        drop(response);
    }
    assert_eq!(fake.opened(), 1);
    assert_balanced(&pool);
}

/// Behaviour C36, with a body that reads from the database.
#[tokio::test(start_paused = true)]
async fn a_body_that_holds_the_handle_holds_the_connection_to_its_end() {
    async fn stream_rows(db: Db) -> Body {
        Body::from_stream(stream::unfold((db, 0), |(db, row)| async move {
            if row == 3 {
                return None;
            }
            let session = db.get().await.unwrap().query().await.unwrap();
            Some((Ok::<_, Infallible>(format!("{row}:{session} ")), (db, row + 1)))
        }))
    }
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let app = app(&pool, Router::new().route("/", get(stream_rows)));
    let mut body = send(&app, "/").await.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(pool.status().in_use, 1);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "1:1 2:1 ");
    assert_balanced(&pool);
    // And dropped halfway.
    let mut body = send(&app, "/").await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_balanced(&pool);
}

#[tokio::test(start_paused = true)]
async fn hold_until_body_end_keeps_it_as_django_does() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let layer = ConnectionLayer::new(pool.clone()).hold_until_body_end();
    let app = Router::new().route("/", get(session)).layer(layer);
    let response = send(&app, "/").await;
    assert_eq!(pool.status().in_use, 1);
    assert_eq!(text(response).await, "1");
    assert_balanced(&pool);
    drop(send(&app, "/").await);
    assert_balanced(&pool);
}

/// Behaviours C37 and C60.
#[tokio::test(start_paused = true)]
async fn a_handle_that_outlives_its_request_is_refused() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let kept = Arc::new(Mutex::new(None));
    let (finish, finished) = oneshot::channel::<()>();
    let finished = Arc::new(Mutex::new(Some(finished)));
    let routes = Router::new().route(
        "/",
        get({
            let (kept, finished) = (Arc::clone(&kept), Arc::clone(&finished));
            async move |db: Db| {
                session(db.clone()).await.unwrap();
                *kept.lock().unwrap() = Some(db.clone());
                let finished = finished.lock().unwrap().take();
                tokio::spawn(async move {
                    let mut borrowed = db.get().await.unwrap();
                    finished.unwrap().await.unwrap();
                    borrowed.query().await.unwrap();
                });
                settle().await;
            }
        }),
    );
    let app = app(&pool, routes);
    drop(send(&app, "/").await);
    let kept = kept.lock().unwrap().take().unwrap();
    assert_eq!(pool.status().in_use, 1, "the task has it borrowed");
    let late = tokio::spawn({
        let kept = kept.clone();
        async move { kept.get().await.map(drop) }
    });
    settle().await;
    finish.send(()).unwrap();
    settle().await;
    assert!(matches!(late.await.unwrap(), Err(AcquireError::Ended)));
    assert!(matches!(kept.get().await.map(drop), Err(AcquireError::Ended)));
    assert_balanced(&pool);
    assert_eq!(pool.status().idle, 1);
}

/// Behaviour C60: also for who asked before the end and is served after it.
#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_after_the_end_is_not_handed_out() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    fake.on_connect(Behaviour::Slow(SECOND));
    let (sender, receiver) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let routes = Router::new().route(
        "/",
        get(async move |db: Db| {
            let late = tokio::spawn(async move { db.get().await.map(drop) });
            sender.lock().unwrap().take().unwrap().send(late).unwrap();
            settle().await;
        }),
    );
    drop(send(&app(&pool, routes), "/").await);
    let late = receiver.await.unwrap().await.unwrap();
    assert!(matches!(late, Err(AcquireError::Ended)), "{late:?}");
    assert_balanced(&pool);
    assert_eq!(pool.status().idle, 1);
}

/// Behaviour C32: a waiting borrower that leaves in its turn.
#[tokio::test(start_paused = true)]
async fn a_borrower_that_gives_up_after_the_end_keeps_nothing() {
    for releases in [false, true] {
        let fake = Fake::new();
        let pool = pool(&fake, policy());
        let (sender, receiver) = oneshot::channel();
        let sender = Arc::new(Mutex::new(Some(sender)));
        let routes = Router::new().route(
            "/",
            get(async move |db: Db| {
                sender.lock().unwrap().take().unwrap().send(db).unwrap();
                settle().await;
            }),
        );
        let app = app(&pool, routes);
        let request = tokio::spawn(async move { drop(send(&app, "/").await) });
        let db = receiver.await.unwrap();
        let borrowed = db.get().await.unwrap();
        let mut waits: std::pin::Pin<Box<dyn Future<Output = ()>>> = if releases {
            Box::pin(async { drop(db.release().await) })
        } else {
            Box::pin(async { drop(db.get().await) })
        };
        assert!(poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx).is_pending())).await);
        request.await.unwrap();
        drop(borrowed);
        drop(waits);
        assert_eq!((pool.status().idle, pool.status().in_use), (1, 0), "releases: {releases}");
    }
}

/// A part of the request that holds on to the connection must not stop another for ever.
#[tokio::test(start_paused = true)]
async fn a_release_waits_for_the_borrower_and_not_for_ever() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let routes = Router::new().route(
        "/",
        get(async |db: Db| {
            let held = db.get().await.unwrap();
            let error = db.release().await.unwrap_err();
            assert!(matches!(error, AcquireError::Borrowed(_)), "{error:?}");
            drop(held);
            db.release().await
        }),
    );
    let response = timeout(10 * SECOND, send(&app(&pool, routes), "/")).await;
    assert_eq!(response.expect("an answer").status(), 200);
    assert_balanced(&pool);
}

/// Both places are said in the log, long before the request fails.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_itself_is_told_where() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().acquire_timeout(3 * SECOND));
    let routes = Router::new().route(
        "/",
        get(async |db: Db| {
            let held = db.get().await.unwrap();
            let begun = Instant::now();
            let error = db.get().await.map(drop).unwrap_err();
            assert_eq!(begun.elapsed(), 3 * SECOND);
            drop(held);
            error
        }),
    );
    let log = Log::here();
    let app = app(&pool, routes);
    let request = tokio::spawn(async move { send(&app, "/").await });
    sleep(SECOND / 2).await;
    let lines = log.lines();
    let here = |line: &String| line.matches("request.rs:").count() == 2;
    assert!(lines.len() == 1 && lines.iter().all(here), "{lines:#?}");
    assert_eq!(request.await.unwrap().status(), 500);
    let lines = log.lines();
    assert!(lines.len() == 2 && lines[1].contains("borrowed, since "), "{lines:#?}");
}

/// Behaviour C52: a layer on the router and once more on a part of it.
#[tokio::test(start_paused = true)]
async fn the_same_pool_in_two_layers_is_one_connection() {
    async fn middleware(db: Db, request: Request, next: Next) -> Result<Response, Failure> {
        let before = session(db.clone()).await?;
        let response = next.run(request).await;
        // The inner layer has not ended what is the outer one's.
        assert_eq!(session(db).await?, before);
        Ok(response)
    }
    for in_extensions in [false, true] {
        let fake = Fake::new();
        let pool = pool(&fake, policy().max_connections(1));
        let mut layer = ConnectionLayer::new(pool.clone());
        if in_extensions {
            layer = layer.in_extensions();
        }
        let handler = async |db: Db| {
            let first = session(Db::current().unwrap()).await?;
            assert_eq!(session(db).await?, first);
            Ok::<_, Failure>(first)
        };
        let routes = Router::new().route("/", get(handler)).layer(layer.clone());
        let app = routes.layer(from_fn(middleware)).layer(layer);
        assert_eq!(text(send(&app, "/").await).await, "1");
        assert_eq!((fake.opened(), pool.status().acquired), (1, 1));
        assert_balanced(&pool);
    }
}

/// A request that is polled within another one is still a request of its own.
#[tokio::test(start_paused = true)]
async fn a_request_polled_within_another_has_its_own_connection() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut service = ConnectionLayer::new(pool.clone()).layer_of(service_fn(|_: Request| async {
        sleep(SECOND).await;
        let text = session(Db::current().unwrap()).await.unwrap();
        Ok::<_, Infallible>(Response::new(Body::from(text)))
    }));
    // Called here, so not on behalf of the request that polls them.
    let [left, right] = [(); 2].map(|()| service.call(Request::default()));
    let others = Arc::new(Mutex::new(Some((left, right))));
    let routes = Router::new().route(
        "/",
        get(async move |db: Db| {
            let (left, right) = others.lock().unwrap().take().unwrap();
            let mut held = db.get().await.unwrap();
            let own = held.query().await.unwrap().to_string();
            // Polled, and dropped in the middle.
            assert!(timeout(SECOND / 2, left).await.is_err());
            let (other, again) = tokio::join!(right, async { held.query().await.unwrap() });
            assert_eq!(again.to_string(), own);
            assert_ne!(own, text(other.unwrap().map(Body::new)).await);
            drop(held);
            assert_eq!(session(Db::current().unwrap()).await.unwrap(), own);
        }),
    );
    assert_eq!(send(&app(&pool, routes), "/").await.status(), 200);
    assert_balanced(&pool);
}

/// Behaviour C23.
#[tokio::test(start_paused = true)]
async fn a_connection_lost_in_a_request_is_not_replaced_behind_its_back() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let routes = Router::new()
        .route(
            "/lose",
            get({
                let fake = fake.clone();
                async move |db: Db| {
                    db.get().await.unwrap().begin().await.unwrap();
                    fake.kill_all();
                    db.get().await.unwrap().query().await.unwrap_err();
                    assert!(matches!(db.get().await.map(drop), Err(AcquireError::Lost)));
                    // Unless it asks for that.
                    db.release().await.unwrap();
                    db.get().await.unwrap().query().await.unwrap().to_string()
                }
            }),
        )
        .route("/", get(session));
    let app = app(&pool, routes);
    assert_eq!(text(send(&app, "/lose").await).await, "2");
    assert_eq!(text(send(&app, "/").await).await, "2");
}

/// Behaviour C28.
#[tokio::test(start_paused = true)]
async fn after_a_cancelled_query_the_request_has_no_connection() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let routes = Router::new().route(
        "/",
        get(async |db: Db| {
            let mut connection = db.get().await.unwrap();
            assert!(timeout(SECOND, connection.query_for(2 * SECOND)).await.is_err());
            assert_eq!(connection.query().await, Err(FakeError::Poisoned));
            drop(connection);
            db.get().await.map(drop)
        }),
    );
    let app = app(&pool, routes);
    assert_eq!(send(&app, "/").await.status(), 500);
    settle().await;
    assert_eq!(pool.status().closed_for(CloseReason::Poisoned), 1);
    assert_balanced(&pool);
}

/// Behaviour C29: a client that leaves drops the response future.
#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_ends_the_session() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1));
    let slow =
        async |db: Db| db.get().await.unwrap().query_for(60 * SECOND).await.unwrap().to_string();
    let app = app(&pool, Router::new().route("/", get(slow)));
    assert!(timeout(SECOND, send(&app, "/")).await.is_err());
    settle().await;
    assert_eq!(fake.sessions(), [0_u64; 0]);
    assert!(fake.events().contains(&Event::Kill(1)));
    assert_balanced(&pool);
}

/// Behaviour C35.
#[tokio::test(start_paused = true)]
async fn a_panic_frees_the_slot_and_leaves_nothing_behind() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1));
    let routes = Router::new()
        .route(
            "/panic",
            get(async |db: Db| {
                let mut connection = db.get().await.unwrap();
                connection.begin().await.unwrap();
                if connection.session() > 0 {
                    panic!("provoked");
                }
            }),
        )
        .route("/", get(session));
    let app = app(&pool, routes);
    let panicked = AssertUnwindSafe(send(&app, "/panic")).catch_unwind().await;
    assert!(panicked.is_err());
    assert_eq!(text(send(&app, "/").await).await, "1");
    assert!(fake.events().contains(&Event::Rollback(1)));
    assert!(Db::current().is_none(), "the panic left no scope on the thread");
    assert_balanced(&pool);
}

/// Behaviour C50: as responses.
#[tokio::test(start_paused = true)]
async fn errors_are_told_by_status_and_never_in_the_drivers_words() {
    for (behaviour, status) in [
        (Behaviour::Fail(ErrorClass::Fatal), 503),
        (Behaviour::Fail(ErrorClass::Busy), 503),
        (Behaviour::Fail(ErrorClass::Denied), 500),
        (Behaviour::Hang, 504),
    ] {
        let fake = Fake::new();
        fake.on_connect(behaviour);
        let pool = pool(&fake, policy());
        let app = app(&pool, Router::new().route("/", get(session)));
        let start = Instant::now();
        let response = send(&app, "/").await;
        assert_eq!(response.status(), status, "{behaviour:?}");
        assert!(start.elapsed() <= pool.policy().acquire_timeout);
        let why = response.extensions().get::<AcquireError>().map(AcquireError::status);
        assert_eq!(why, Some(response.status()), "who is outside can see why");
        let retry = response.headers().get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!(retry, (status == 503).then_some("1"));
        let body = text(response).await;
        assert!(!body.contains("class"), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_layer_the_extractor_says_so() {
    let app = Router::new().route("/", get(session));
    assert_eq!(send(&app, "/").await.status(), 500);
}

#[tokio::test(start_paused = true)]
async fn each_request_of_an_interleaved_pair_finds_its_own_handle() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let handler = async || {
        let mut sessions = Vec::new();
        for _ in 0..5 {
            sleep(Duration::from_millis(1)).await;
            let db = Db::current().unwrap();
            sessions.push(db.get().await.unwrap().query().await.unwrap());
        }
        assert!(sessions.iter().all(|session| *session == sessions[0]), "{sessions:?}");
        sessions[0].to_string()
    };
    let app = app(&pool, Router::new().route("/", get(handler)));
    let (first, second) = tokio::join!(send(&app, "/"), send(&app, "/"));
    assert_ne!(text(first).await, text(second).await);
    assert!(Db::current().is_none());
    assert_balanced(&pool);
}

#[tokio::test(start_paused = true)]
async fn nested_layers_of_one_database_give_the_innermost() {
    let (outer, inner) = (Fake::new(), Fake::new());
    let (outer_pool, inner_pool) = (pool(&outer, policy()), pool(&inner, policy()));
    let routes = Router::new().route("/", get(session)).layer(ConnectionLayer::new(inner_pool));
    let app = app(&outer_pool, routes);
    assert_eq!(send(&app, "/").await.status(), 200);
    assert_eq!((outer.opened(), inner.opened()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn in_extensions_reaches_services_on_other_tasks() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let elsewhere = service_fn(|request: Request| async move {
        let handled = tokio::spawn(async move {
            let db = Db::of(request.extensions()).unwrap();
            session(db).await.unwrap()
        });
        Ok::<_, Infallible>(Response::new(Body::from(handled.await.unwrap())))
    });
    let layer = ConnectionLayer::new(pool.clone()).in_extensions();
    let app = Router::new().route_service("/", elsewhere).layer(layer);
    assert_eq!(text(send(&app, "/").await).await, "1");
    let app = Router::new()
        .route("/", get(async |Extension(db): Extension<Db>| session(db).await.unwrap()))
        .layer(ConnectionLayer::new(pool.clone()).in_extensions());
    assert_eq!(text(send(&app, "/").await).await, "1");
    assert_balanced(&pool);
}

/// An upgraded socket is not part of the request.
#[tokio::test(start_paused = true)]
async fn an_upgrade_ends_the_request() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let (sender, receiver) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let routes = Router::new().route(
        "/",
        get(async move |db: Db| {
            session(db.clone()).await.unwrap();
            sender.lock().unwrap().take().unwrap().send(db).unwrap();
            StatusCode::SWITCHING_PROTOCOLS
        }),
    );
    let response = send(&app(&pool, routes), "/").await;
    let db = receiver.await.unwrap();
    assert!(matches!(db.get().await.map(drop), Err(AcquireError::Ended)));
    assert_balanced(&pool);
    drop(response);
}

/// A future that is dropped before its first poll, and one that is dropped while it waits.
#[tokio::test(start_paused = true)]
async fn a_request_dropped_early_leaves_nothing() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut service = ConnectionLayer::new(pool.clone()).layer_of(service_fn(|_: Request| async {
        session(Db::current().unwrap()).await.unwrap();
        pending::<Result<Response, Infallible>>().await
    }));
    drop(service.call(Request::default()));
    let mut future = Box::pin(service.call(Request::default()));
    for _ in 0..3 {
        assert!(poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await);
        settle().await;
    }
    assert_eq!(pool.status().in_use, 1);
    drop(future);
    assert_balanced(&pool);
}

trait LayerOf {
    fn layer_of<S>(&self, service: S) -> ExchangeService<S, ConnectionLayer<Fake>>;
}

impl LayerOf for ConnectionLayer<Fake> {
    fn layer_of<S>(&self, service: S) -> ExchangeService<S, ConnectionLayer<Fake>> {
        tower::Layer::layer(self, service)
    }
}

#[test]
fn layer_service_and_handle_are_what_routers_need() {
    fn all<T: Clone + Send + Sync + 'static>() {}
    fn send<T: Send + 'static>() {}
    all::<ConnectionLayer<Fake>>();
    all::<ExchangeService<Router, ConnectionLayer<Fake>>>();
    all::<Db>();
    all::<Pool<Fake>>();
    send::<farrier_connection::PooledConnection<Fake>>();
    send::<farrier_connection::RequestScope<Fake>>();
}
