//! farrier's own layers, joined: what a request sees is what it sees with each in the other.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use farrier::connection::fake::Fake;
use farrier::connection::{ConnectionLayer, Db, Policy, Pool};
use farrier::exchange::{ExchangeLayer, ExchangeService};
use farrier::heartbeat::{HeartbeatLayer, LocalPulse};
use farrier::hooks::{BoxError, Pre, RequestHook, RequestHookLayer, RequestInfo};
use farrier::layers;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tower::ServiceExt;

type Seen = Arc<Mutex<Vec<String>>>;

/// What a hook sees of the request's connection.
struct Looks(Seen, Pool<Fake>);

impl Looks {
    fn look(&self, when: &str) {
        let line =
            format!("{when}: {} {}", Db::<Fake>::current().is_some(), self.1.status().in_use);
        self.0.lock().expect("not poisoned").push(line);
    }
}

impl RequestHook for Looks {
    type Context = ();

    fn pre_request(&self, _: &mut Parts) -> Result<Pre<()>, BoxError> {
        self.look("pre");
        Ok(Pre::Continue(()))
    }

    fn on_response(&self, (): &mut (), _: StatusCode, _: &HeaderMap) {
        self.look("head");
    }

    fn post_request(&self, (): (), _: &RequestInfo<'_>, _: &farrier::prelude::End) {
        self.look("post");
    }
}

fn pool() -> Pool<Fake> {
    Pool::new(Fake::new(), Policy::default())
}

fn looks(pool: &Pool<Fake>) -> (Seen, RequestHookLayer<Looks>) {
    let seen = Seen::default();
    (Arc::clone(&seen), RequestHookLayer::new(Looks(seen, pool.clone())))
}

fn routes() -> Router {
    Router::new().route(
        "/",
        get(async |db: Db<Fake>| {
            // The same one, whoever is asked for it.
            let one = db.get().await.expect("a connection").query().await.expect("a query");
            let db = Db::<Fake>::current().expect("it is there");
            let other = db.get().await.expect("a connection").query().await.expect("a query");
            assert_eq!(one, other);
        }),
    )
}

async fn ask(app: Router) {
    let response = app.oneshot(Request::new(Body::empty())).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn hooks_see_the_same_of_the_connection() {
    for hook_is_outside in [true, false] {
        let (nested_pool, joined_pool) = (pool(), pool());
        let (nested, hook) = looks(&nested_pool);
        let connection = ConnectionLayer::new(nested_pool);
        let app = if hook_is_outside {
            routes().layer((hook, connection))
        } else {
            routes().layer((connection, hook))
        };
        ask(app).await;
        let (joined, hook) = looks(&joined_pool);
        let connection = ConnectionLayer::new(joined_pool);
        let app = if hook_is_outside {
            routes().layer(layers((hook, connection)))
        } else {
            routes().layer(layers((connection, hook)))
        };
        ask(app).await;
        let joined = joined.lock().expect("not poisoned").clone();
        assert_eq!(*nested.lock().expect("not poisoned"), joined);
        let expected = if hook_is_outside {
            ["pre: false 0", "head: false 0", "post: false 0"]
        } else {
            ["pre: true 0", "head: true 1", "post: false 0"]
        };
        assert_eq!(joined, expected);
    }
}

#[tokio::test]
async fn two_layers_of_one_pool_are_one() {
    for is_held in [false, true] {
        let pool = pool();
        let inner = ConnectionLayer::new(pool.clone());
        let outer = inner.clone().in_extensions();
        let outer = if is_held { outer.hold_until_body_end() } else { outer };
        let app = routes().layer(layers((outer, inner)));
        let response = app.oneshot(Request::new(Body::empty())).await.expect("infallible");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(pool.status().in_use, usize::from(is_held), "at the head");
        drop(response);
        assert_eq!(pool.status().in_use, 0);
    }
}

#[test]
fn the_stack_is_what_routers_need() {
    type Stack = (HeartbeatLayer<LocalPulse>, RequestHookLayer<Looks>, ConnectionLayer<Fake>);
    fn all<T: Clone + Send + Sync + 'static>() {}
    fn sends<T: Send + 'static>(_: impl Fn(ExchangeService<Router, Stack>, Request) -> T) {}
    all::<ExchangeLayer<Stack>>();
    all::<ExchangeService<Router, Stack>>();
    sends(|mut service, request| tower::Service::call(&mut service, request));
}
