//! The heartbeat as an app and a prober see it.
#![expect(clippy::unwrap_used, reason = "in a test it is an assertion")]

use std::convert::Infallible;
use std::future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use farrier_exchange::{Answer, End, Outcome};
use farrier_heartbeat::{
    HeartbeatLayer, Livez, LocalPulse, Pulse, Readyz, RequestHead, State, Ticket, keep_beating,
};
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use tower::{Layer, Service, ServiceExt, service_fn};

const SOON: Duration = Duration::from_secs(20);

/// A pulse that writes down what it is told.
#[derive(Default)]
struct Notes(Mutex<Vec<Note>>);

#[derive(Debug, PartialEq)]
enum Note {
    Began(String),
    Ended(Ticket, Outcome, Option<StatusCode>),
}

impl Notes {
    fn take(&self) -> Vec<Note> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Pulse for Notes {
    fn beat(&self) {}

    fn beat_age(&self) -> Duration {
        Duration::ZERO
    }

    fn set_state(&self, _: State) {}

    fn state(&self) -> State {
        State::Ready
    }

    fn begin(&self, request: RequestHead<'_>) -> Ticket {
        let mut notes = self.0.lock().unwrap();
        notes.push(Note::Began(format!("{} {}", request.method(), request.path())));
        Ticket::entry(u32::try_from(notes.len()).unwrap())
    }

    fn end(&self, ticket: Ticket, end: &End) {
        self.0.lock().unwrap().push(Note::Ended(ticket, end.outcome, end.status));
    }
}

fn request(path: &str) -> Request<Empty<&'static [u8]>> {
    Request::get(path).body(Empty::new()).unwrap()
}

async fn answer(_: Request<Empty<&'static [u8]>>) -> Result<Response<Answer>, Infallible> {
    Ok(Response::new(Answer::from("four")))
}

#[test]
fn the_types_can_be_shared_and_the_pulse_can_be_any() {
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let pulse: Arc<dyn Pulse> = Arc::new(LocalPulse::new());
    let layer = HeartbeatLayer::new(Arc::clone(&pulse));
    shared(&layer);
    shared(&layer.layer(()));
    shared(&Livez::new(Arc::clone(&pulse)));
    shared(&Readyz::new(pulse).check("any", || true));
}

#[test]
fn a_state_keeps_its_code() {
    for (state, code) in [(State::Booting, 0), (State::Ready, 1), (State::Draining, 2)] {
        assert_eq!(state.code(), code);
        assert_eq!(State::from_code(code), Some(state));
    }
    assert_eq!(State::from_code(3), None);
}

#[tokio::test]
async fn an_exchange_is_in_flight_until_its_body_was_produced() {
    let notes = Arc::new(Notes::default());
    let service = HeartbeatLayer::new(Arc::clone(&notes)).layer(service_fn(answer));
    let response = service.oneshot(request("/path?secret=1")).await.unwrap();
    assert_eq!(notes.take(), [Note::Began("GET /path".to_owned())]);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "four");
    let ended = Note::Ended(Ticket::entry(1), Outcome::Finished, Some(StatusCode::OK));
    assert_eq!(notes.take(), [ended]);
}

#[tokio::test]
async fn every_other_end_is_noted_once_too() {
    let notes = Arc::new(Notes::default());
    let layer = HeartbeatLayer::new(Arc::clone(&notes));
    let ended = |outcome, status| {
        let noted = notes.take();
        assert_eq!(noted.len(), 2, "{noted:?}");
        assert_eq!(noted[1], Note::Ended(Ticket::entry(1), outcome, status));
    };

    // The client leaves before the head, and before the body.
    let mut never =
        layer.layer(service_fn(|_| future::pending::<Result<Response<Answer>, Infallible>>()));
    drop(never.call(request("/")));
    ended(Outcome::Aborted, None);
    drop(layer.layer(service_fn(answer)).oneshot(request("/")).await.unwrap());
    ended(Outcome::Aborted, Some(StatusCode::OK));

    let failing = layer.layer(service_fn(async |_| Err::<Response<Answer>, _>("failed")));
    failing.oneshot(request("/")).await.unwrap_err();
    ended(Outcome::ServiceFailed, None);

    let mut panicking =
        layer.layer(service_fn(|_| -> future::Ready<Result<Response<Answer>, Infallible>> {
            panic!("expected in this test")
        }));
    std::panic::catch_unwind(AssertUnwindSafe(|| drop(panicking.call(request("/"))))).unwrap_err();
    ended(Outcome::Panicked, None);
}

#[test]
fn a_request_costs_no_allocation() {
    let ready = |_: Request<Empty<&'static [u8]>>| {
        future::ready(Ok::<_, Infallible>(Response::new(Answer::from("four"))))
    };
    let pulse = Arc::new(LocalPulse::new());
    let mut service = HeartbeatLayer::new(Arc::clone(&pulse)).layer(service_fn(ready));
    let request = request("/");
    let allocations = allocation_counter::measure(|| {
        let mut cx = Context::from_waker(Waker::noop());
        let future = std::pin::pin!(service.call(request));
        let Poll::Ready(Ok(response)) = future.poll(&mut cx) else { panic!("not ready") };
        let mut body = std::pin::pin!(response.into_body());
        assert!(body.as_mut().poll_frame(&mut cx).is_ready());
    });
    assert_eq!(allocations.count_total, 0);
    assert_eq!((pulse.started(), pulse.in_flight()), (1, 0));
}

#[tokio::test]
async fn a_local_pulse_counts() {
    let pulse = Arc::new(LocalPulse::new());
    let mut service = HeartbeatLayer::new(Arc::clone(&pulse)).layer(service_fn(answer));
    let first = service.call(request("/")).await.unwrap();
    let second = service.call(request("/"));
    assert_eq!((pulse.started(), pulse.finished(), pulse.in_flight()), (2, 0, 2));
    drop(second);
    first.into_body().collect().await.unwrap();
    assert_eq!((pulse.started(), pulse.finished(), pulse.in_flight()), (2, 2, 0));
}

/// The runtime is blocked from within: its beat stops. It turns again: the beat comes back.
#[test]
fn a_blocked_runtime_does_not_beat() {
    let pulse = Arc::new(LocalPulse::new());
    let (block, blocked) = mpsc::channel::<()>();
    let runtime = thread::spawn({
        let pulse = Arc::clone(&pulse);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.unwrap().block_on(async {
                let beat = tokio::spawn(keep_beating(pulse, Duration::from_millis(5)));
                tokio::task::yield_now().await;
                // A call that blocks the loop until the test has seen enough.
                blocked.recv().unwrap();
                tokio::task::yield_now().await;
                while blocked.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                beat.abort();
            });
        }
    });
    until(|| pulse.beat_age() > Duration::from_millis(200));
    block.send(()).unwrap();
    until(|| pulse.beat_age() < Duration::from_millis(100));
    block.send(()).unwrap();
    runtime.join().unwrap();
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never held");
        thread::yield_now();
    }
}

#[tokio::test]
async fn probes_are_routes_of_an_axum_app() {
    let pulse = Arc::new(LocalPulse::new());
    let warm = Arc::new(AtomicBool::new(false));
    let readyz = Readyz::new(Arc::clone(&pulse)).late_after(SOON).check("cache", {
        let warm = Arc::clone(&warm);
        move || warm.load(Ordering::Relaxed)
    });
    let app: Router = Router::new()
        .route("/", get(|| async { "hello" }))
        .layer(HeartbeatLayer::new(Arc::clone(&pulse)))
        .route_service("/livez", Livez::new(Arc::clone(&pulse)))
        .route_service("/readyz", readyz);
    let probe = async |path| {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let says = |status: u16, text: &str| (status, format!("{text}\n"));

    assert_eq!(probe("/livez").await, says(200, "alive"));
    assert_eq!(probe("/readyz").await, says(503, "booting"));
    pulse.set_state(State::Ready);
    assert_eq!(probe("/readyz").await, says(503, "the check cache failed"));
    warm.store(true, Ordering::Relaxed);
    assert_eq!(probe("/readyz").await, says(200, "ready"));
    pulse.set_state(State::Draining);
    assert_eq!(probe("/readyz").await, says(503, "draining"));
    assert_eq!(probe("/livez").await, says(200, "alive"));
    assert_eq!(pulse.started(), 0, "probes below the layer are not counted");
    assert_eq!(probe("/").await.0, 200);
    assert_eq!(pulse.finished(), 1);
}

#[tokio::test]
async fn a_late_beat_fails_both_probes_until_the_next_one() {
    let pulse = Arc::new(LocalPulse::new());
    pulse.set_state(State::Ready);
    let late_after = Duration::from_millis(300);
    let livez = Livez::new(Arc::clone(&pulse)).late_after(late_after);
    let readyz = Readyz::new(Arc::clone(&pulse)).late_after(late_after);
    until(|| pulse.beat_age() > late_after);
    assert_eq!(livez.clone().oneshot(request("/")).await.unwrap().status(), 503);
    let response = readyz.clone().oneshot(request("/")).await.unwrap();
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"no heartbeat for 0."), "{text:?}");

    // A beat and both answers within the limit, at the latest when the machine has a moment.
    let deadline = Instant::now() + SOON;
    loop {
        pulse.beat();
        let live = livez.clone().oneshot(request("/")).await.unwrap().status();
        let ready = readyz.clone().oneshot(request("/")).await.unwrap().status();
        if (live, ready) == (StatusCode::OK, StatusCode::OK) {
            break;
        }
        assert!(Instant::now() < deadline, "{live} {ready}");
    }
}

#[tokio::test]
async fn a_check_that_panics_has_failed() {
    let pulse = Arc::new(LocalPulse::new());
    pulse.set_state(State::Ready);
    let readyz =
        Readyz::new(pulse).late_after(SOON).check("bad", || panic!("expected in this test"));
    let response = readyz.oneshot(request("/")).await.unwrap();
    assert_eq!(response.status(), 503);
}
