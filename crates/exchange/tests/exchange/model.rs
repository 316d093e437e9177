//! 100,000 random exchanges against a model.

use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use farrier_exchange::{End, Exchange, Outcome, ResponseBody, ResponseFuture};
use http::{HeaderMap, Method, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use proptest::prelude::*;

/// How one exchange goes: it waits, answers or not, its body waits and ends; or it is dropped first.
#[derive(Clone, Debug)]
struct Script {
    head: bool,
    polls_to_head: u8,
    service: Service,
    frames: u8,
    announced: Announced,
    finish: Finish,
    /// Dropped before the poll of this number, if it comes that far.
    drop_at: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Service {
    Answers,
    Fails,
    Panics,
}

/// What the head says of the length of the body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Announced {
    Nothing,
    /// In the size hint.
    ByBody,
    /// In the Content-Length.
    ByHeader,
    /// In the Content-Length, but there is one byte less.
    TooMuch,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Finish {
    None,
    Trailers,
    Error,
    Panic,
    Never,
}

/// What the service's future and then its body play.
struct Actor {
    script: Script,
    polls: u8,
    frames: u8,
    done: bool,
}

type Ends = Arc<Mutex<HashMap<usize, Vec<End>>>>;
type Observe = Box<dyn FnOnce(End) + Send>;

enum Stage {
    Future(Pin<Box<ResponseFuture<Actor, Observe>>>),
    Body(Pin<Box<ResponseBody<Actor, Observe>>>),
}

struct Live {
    id: usize,
    script: Script,
    polls: u8,
    stage: Stage,
    /// What the model says should it be dropped now.
    expect: Outcome,
    bytes: u64,
}

impl Future for Actor {
    type Output = Result<Response<Self>, &'static str>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls < self.script.polls_to_head {
            self.polls += 1;
            return Poll::Pending;
        }
        match self.script.service {
            Service::Fails => Poll::Ready(Err("failed")),
            Service::Panics => panic::resume_unwind(Box::new("service")),
            Service::Answers => {
                let script = self.script.clone();
                let length = u64::from(script.frames) * 5;
                let announced = match script.announced {
                    Announced::ByHeader => Some(length),
                    Announced::TooMuch => Some(length + 1),
                    Announced::Nothing | Announced::ByBody => None,
                };
                let mut response = Response::new(Self { script, polls: 0, frames: 0, done: false });
                if let Some(length) = announced {
                    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
                }
                Poll::Ready(Ok(response))
            }
        }
    }
}

impl Body for Actor {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        assert!(!self.done, "polled again after its end");
        if self.frames < self.script.frames {
            self.frames += 1;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"12345")))));
        }
        match self.script.finish {
            Finish::Never => return Poll::Pending,
            Finish::Panic => panic::resume_unwind(Box::new("body")),
            Finish::Trailers if self.polls == 0 => {
                self.polls = 1;
                return Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new()))));
            }
            Finish::Error => {
                self.done = true;
                return Poll::Ready(Some(Err("broken")));
            }
            Finish::None | Finish::Trailers => self.done = true,
        }
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        match self.script.announced {
            Announced::ByBody => {
                SizeHint::with_exact(u64::from(self.script.frames - self.frames) * 5)
            }
            _ => SizeHint::new(),
        }
    }
}

impl Live {
    fn start(id: usize, script: Script, ends: &Ends) -> Self {
        let method = if script.head { Method::HEAD } else { Method::GET };
        let ends = Arc::clone(ends);
        let observe: Observe = Box::new(move |end| {
            ends.lock().expect("not poisoned").entry(id).or_default().push(end);
        });
        let exchange = Exchange::begin(&method, Version::HTTP_11, observe);
        let actor = Actor { script: script.clone(), polls: 0, frames: 0, done: false };
        let future = Box::pin(ResponseFuture::new(actor, exchange));
        Self {
            id,
            script,
            polls: 0,
            stage: Stage::Future(future),
            expect: Outcome::Aborted,
            bytes: 0,
        }
    }

    /// One poll; false when there is nothing more to come.
    fn step(&mut self) -> bool {
        if self.script.drop_at == Some(self.polls) {
            return false;
        }
        self.polls = self.polls.saturating_add(1);
        let mut cx = Context::from_waker(Waker::noop());
        match &mut self.stage {
            Stage::Future(future) => {
                match panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx))) {
                    Err(_) => self.over(Outcome::Panicked),
                    Ok(Poll::Pending) => true,
                    Ok(Poll::Ready(Err(_))) => self.over(Outcome::ServiceFailed),
                    Ok(Poll::Ready(Ok(response))) => {
                        self.expect = self.if_dropped(false);
                        self.stage = Stage::Body(Box::pin(response.into_body()));
                        true
                    }
                }
            }
            Stage::Body(body) => {
                match panic::catch_unwind(AssertUnwindSafe(|| body.as_mut().poll_frame(&mut cx))) {
                    Err(_) => self.over(Outcome::Panicked),
                    Ok(Poll::Pending) => false,
                    Ok(Poll::Ready(Some(Err(_)))) => {
                        assert!(matches!(body.as_mut().poll_frame(&mut cx), Poll::Ready(None)));
                        self.over(Outcome::BodyFailed)
                    }
                    Ok(Poll::Ready(Some(Ok(frame)))) => {
                        self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                        self.expect = self.if_dropped(frame.is_trailers());
                        true
                    }
                    Ok(Poll::Ready(None)) => {
                        assert!(matches!(body.as_mut().poll_frame(&mut cx), Poll::Ready(None)));
                        let outcome = self.if_dropped(true);
                        self.over(outcome)
                    }
                }
            }
        }
    }

    /// The outcome if the body is dropped now; `over` if it has said that nothing follows.
    fn if_dropped(&self, over: bool) -> Outcome {
        let length = u64::from(self.script.frames) * 5;
        let expected = match self.script.announced {
            _ if self.script.head => Some(0),
            Announced::Nothing => None,
            Announced::ByBody | Announced::ByHeader => Some(length),
            Announced::TooMuch => Some(length + 1),
        };
        match (expected, over) {
            (Some(expected), _) if self.bytes >= expected => Outcome::Finished,
            (Some(_), true) => Outcome::BodyFailed,
            (None, true) => Outcome::Finished,
            (_, false) => Outcome::Aborted,
        }
    }

    fn over(&mut self, outcome: Outcome) -> bool {
        self.expect = outcome;
        false
    }
}

fn script() -> impl Strategy<Value = Script> {
    let service = prop_oneof![
        8 => Just(Service::Answers), 1 => Just(Service::Fails), 1 => Just(Service::Panics)
    ];
    let finish = prop_oneof![
        Just(Finish::None),
        Just(Finish::Trailers),
        Just(Finish::Error),
        Just(Finish::Panic),
        Just(Finish::Never)
    ];
    let announced = prop_oneof![
        Just(Announced::Nothing),
        Just(Announced::ByBody),
        Just(Announced::ByHeader),
        Just(Announced::TooMuch)
    ];
    let times = (0..4_u8, 0..4_u8, prop::option::of(0..10_u8));
    (any::<bool>(), times, service, announced, finish).prop_map(
        |(head, (polls_to_head, frames, drop_at), service, announced, finish)| Script {
            head,
            polls_to_head,
            service,
            frames,
            announced,
            finish,
            drop_at,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// 1000 × 100 exchanges, up to 100 in flight, polled in random order: at every moment started =
    /// ended + in flight, and each ends once, as the model says.
    #[test]
    fn started_is_ended_plus_in_flight(
        scripts in prop::collection::vec((script(), any::<prop::sample::Index>()), 100),
    ) {
        let ends = Ends::default();
        let count = || ends.lock().expect("not poisoned").values().map(Vec::len).sum::<usize>();
        let mut live = Vec::new();
        let mut started = 0;
        let mut next = scripts.iter().enumerate();
        loop {
            let turn = match next.next() {
                Some((id, (script, turn))) => {
                    live.push(Live::start(id, script.clone(), &ends));
                    started += 1;
                    turn.index(live.len())
                }
                None if live.is_empty() => break,
                None => live.len() - 1,
            };
            prop_assert_eq!(started, count() + live.len());
            if live[turn].step() {
                continue;
            }
            let Live { id, script, stage, expect, bytes, .. } = live.swap_remove(turn);
            prop_assert!(!ends.lock().expect("not poisoned").contains_key(&id)
                || expect == Outcome::ServiceFailed);
            drop(stage);
            let mut ends = ends.lock().expect("not poisoned");
            let ended = ends.remove(&id).unwrap_or_default();
            prop_assert_eq!(ended.len(), 1, "{:?}", script);
            prop_assert_eq!(ended[0].outcome, expect, "{:?}", script);
            prop_assert_eq!(ended[0].bytes, bytes, "{:?}", script);
            started -= 1;
        }
        prop_assert_eq!(started, 0);
    }
}

/// The observer's own panic goes nowhere, not even while the thread unwinds already.
#[test]
fn observer_panics() {
    let method = Method::GET;
    let panics = |_: End| panic::resume_unwind(Box::new("observer"));
    drop(Exchange::begin(&method, Version::HTTP_11, panics));
    let caught = panic::catch_unwind(|| {
        let _exchange = Exchange::begin(&method, Version::HTTP_11, panics);
        panic::resume_unwind(Box::new("the service"));
    });
    let payload = caught.expect_err("the service's panic goes on");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"the service"));
}

/// What handler and body hold is dropped before the end.
#[test]
fn ends_after_what_it_carried() {
    struct Lease(Arc<Mutex<Vec<&'static str>>>);
    impl Drop for Lease {
        fn drop(&mut self) {
            self.0.lock().expect("not poisoned").push("lease");
        }
    }
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |order: &Arc<Mutex<Vec<&'static str>>>| {
        let order = Arc::clone(order);
        move |_: End| order.lock().expect("not poisoned").push("end")
    };

    let lease = Lease(Arc::clone(&order));
    let handler = async move {
        let _lease = lease;
        std::future::pending::<Result<Response<axum::body::Body>, Infallible>>().await
    };
    drop(ResponseFuture::new(
        handler,
        Exchange::begin(&Method::GET, Version::HTTP_11, note(&order)),
    ));
    assert_eq!(std::mem::take(&mut *order.lock().expect("not poisoned")), ["lease", "end"]);

    let body = (Lease(Arc::clone(&order)), axum::body::Body::empty());
    drop(ResponseBody::new(
        body,
        Some(Exchange::begin(&Method::GET, Version::HTTP_11, note(&order))),
    ));
    assert_eq!(*order.lock().expect("not poisoned"), ["lease", "end"]);
}
