//! What a layer adds to a request, counted and not timed: instructions by callgrind, allocations by the
//! allocator. Both are exact, so the machine may be as busy as it likes.
//!
//! A request is a `GET /` to an axum router with one route, answered and its body read, in process: no
//! socket, no HTTP bytes. Each variant runs with two numbers of requests; the difference leaves out start-up.

use std::hint::black_box;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use clap::ValueEnum;
use farrier::connection::{ConnectionLayer, Policy, Pool};
use farrier::heartbeat::{HeartbeatLayer, LocalPulse};
use farrier::hooks::{self, RequestHook, RequestHookLayer};
use farrier::layers;
use farrier::sqlite::Sqlite;
use http_body_util::BodyExt;
use serde::Serialize;
use stats_alloc::Region;
use tower::layer::util::Identity;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::trace::TraceLayer;
use tracing::Span;

use crate::ALLOCATOR;
use crate::callgrind::{self, Args, ServeArgs, name};
use crate::report::{self, Error, Row};

/// What stands around the route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Variant {
    /// Nothing: the router alone.
    Bare,
    /// A tower layer that does nothing: what axum itself charges for any `Router::layer`.
    Identity,
    Hooks,
    Heartbeat,
    Connection,
    /// One in the other.
    All,
    /// The same three as one.
    Joined,
    /// The heartbeat as the launcher brings it, and the other two as one within it.
    Launcher,
    Trace,
    FromFn,
    FromFnThree,
}

#[derive(Debug, Serialize)]
struct Cost {
    variant: Variant,
    instructions: f64,
    instructions_above_bare: f64,
    allocations: f64,
    allocations_above_bare: f64,
}

/// Counts every variant and prints the table.
pub(crate) fn run(args: &Args) -> Result<(), Error> {
    let count = |variant| callgrind::count("serve", &variant);
    let bare = count(Variant::Bare)?;
    let mut rows = Vec::new();
    for &variant in Variant::value_variants() {
        let (instructions, allocations) = count(variant)?;
        rows.push(Cost {
            variant,
            instructions,
            instructions_above_bare: instructions - bare.0,
            allocations,
            allocations_above_bare: allocations - bare.1,
        });
    }
    report::print(&rows, args.json.as_deref())
}

/// Serves requests through one variant and prints how often it allocated.
pub(crate) fn serve(args: &ServeArgs<Variant>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let allocations = runtime.block_on(async {
        // As axum's own `serve` does: it turns handlers into routes now, and not at each request.
        let mut router = args.variant.router()?.with_state(());
        let counted = Region::new(ALLOCATOR);
        for _ in 0..args.requests {
            let request = Request::get("/").body(Body::empty())?;
            let response = ServiceExt::<Request>::ready(&mut router).await?.call(request).await?;
            black_box(response.into_body().collect().await?.to_bytes());
        }
        Ok::<_, Error>(counted.change().allocations)
    })?;
    report::say(&allocations.to_string());
    Ok(())
}

impl Variant {
    fn router(self) -> Result<Router, Error> {
        let router = Router::new().route("/", get(async || "Hello, World!"));
        Ok(match self {
            Self::Bare => router,
            Self::Identity => router.layer(Identity::new()),
            Self::Hooks => router.layer(hooks()),
            Self::Heartbeat => router.layer(heartbeat()),
            Self::Connection => router.layer(connection()?),
            Self::All => {
                let layers = ServiceBuilder::new().layer(heartbeat()).layer(hooks());
                router.layer(layers.layer(connection()?))
            }
            Self::Joined => router.layer(layers((heartbeat(), hooks(), connection()?))),
            Self::Launcher => {
                let joined = layers((hooks(), connection()?));
                router.layer(ServiceBuilder::new().layer(heartbeat()).layer(joined))
            }
            // Callbacks that do nothing, as hooks' do here.
            Self::Trace => router.layer(
                TraceLayer::new_for_http()
                    .make_span_with(|_: &Request| Span::none())
                    .on_request(())
                    .on_response(())
                    .on_body_chunk(())
                    .on_eos(())
                    .on_failure(()),
            ),
            Self::FromFn => router.layer(middleware::from_fn(pass)),
            Self::FromFnThree => router
                .layer(middleware::from_fn(pass))
                .layer(middleware::from_fn(pass))
                .layer(middleware::from_fn(pass)),
        })
    }
}

fn hooks() -> RequestHookLayer<impl RequestHook> {
    hooks::post_request(|_request, _end| {})
}

/// A request that does not use the database; the pool never opens a connection.
fn connection() -> Result<ConnectionLayer<Sqlite>, Error> {
    Ok(ConnectionLayer::new(Pool::new(Sqlite::new("sqlite::memory:")?, Policy::default())))
}

fn heartbeat() -> HeartbeatLayer<LocalPulse> {
    HeartbeatLayer::new(Arc::new(LocalPulse::new()))
}

async fn pass(request: Request, next: Next) -> Response {
    next.run(request).await
}

impl Row for Cost {
    const HEADS: &'static [&'static str] =
        &["around the route", "instructions", "above bare", "allocations", "above bare"];

    fn cells(&self) -> Vec<String> {
        vec![
            name(&self.variant),
            report::thousands(self.instructions),
            report::thousands(self.instructions_above_bare),
            format!("{:.2}", self.allocations),
            format!("{:.2}", self.allocations_above_bare),
        ]
    }
}
