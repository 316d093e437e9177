//! What a body may say of itself, and what a head may mean; no sockets.

use std::convert::Infallible;
use std::panic::{self, AssertUnwindSafe};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use farrier_exchange::{
    Answer, End, Exchange, Observer, Outcome, RequestLine, ResponseBody, ResponseFuture,
};
use http::{Method, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use tower_layer::Layer;
use tower_service::Service;

use crate::Record;

/// A body of so many chunks of 5 bytes.
#[derive(Debug)]
struct Chunks {
    left: u64,
    /// Says how long it is.
    sized: bool,
    /// Says so when the last chunk is gone.
    tells_end: bool,
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"12345")))))
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized { SizeHint::with_exact(self.left * 5) } else { SizeHint::new() }
    }
}

/// Polls `polls` frames of the response's body and drops it.
fn end(record: &Record, method: &Method, response: Response<Chunks>, polls: usize) -> End {
    end_of(record, (method, Version::HTTP_11), response, polls)
}

fn end_of(
    record: &Record,
    (method, version): (&Method, Version),
    response: Response<Chunks>,
    polls: usize,
) -> End {
    let exchange = Exchange::begin(method, version, record.clone());
    let mut body = pin!(exchange.respond(response).into_body());
    for _ in 0..polls {
        let frame = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(frame.is_ready());
    }
    assert_eq!(record.ended(), 0, "not before it is dropped");
    body.set(Default::default());
    record.take().remove(0)
}

impl Default for Chunks {
    fn default() -> Self {
        Self { left: 0, sized: true, tells_end: true }
    }
}

/// Servers stop polling when a body has said that it is over, in whatever way it says so.
#[test]
fn ways_to_say_the_end() {
    let record = Record::default();
    let outcome = |sized, tells_end, polls| {
        let response = Response::new(Chunks { left: 2, sized, tells_end });
        end(&record, &Method::GET, response, polls).outcome
    };
    assert_eq!(outcome(false, false, 3), Outcome::Finished, "by None");
    assert_eq!(outcome(false, true, 2), Outcome::Finished, "by is_end_stream");
    assert_eq!(outcome(true, false, 2), Outcome::Finished, "by its length");
    assert_eq!(outcome(false, false, 2), Outcome::Aborted, "not at all");
    assert_eq!(outcome(true, true, 1), Outcome::Aborted, "half of it");
    assert_eq!(outcome(true, true, 0), Outcome::Aborted, "unpolled");
}

/// A body that is over at the head needs no poll. Whatever length a header claims then, hyper mends it over HTTP/1,
/// and does not look at it over HTTP/2: the client waits for bytes that never come.
#[test]
fn over_at_the_head() {
    let record = Record::default();
    for (version, outcome) in
        [(Version::HTTP_11, Outcome::Finished), (Version::HTTP_2, Outcome::BodyFailed)]
    {
        for sized in [true, false] {
            let body = || Chunks { left: 0, sized, tells_end: true };
            let claims = Response::builder().header(header::CONTENT_LENGTH, 5).body(body());
            let claims = claims.expect("a response");
            let end = end_of(&record, (&Method::GET, version), claims, 0);
            assert_eq!(end.outcome, outcome, "{version:?}");
            let end = end_of(&record, (&Method::GET, version), Response::new(body()), 0);
            assert_eq!(end.outcome, Outcome::Finished, "{version:?}");
        }
    }
}

/// Over HTTP/2 a body that says that it is empty, and is not, is more than the client was told.
#[test]
fn not_as_empty_as_it_says() {
    struct Liar;
    impl Body for Liar {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"12345")))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(0)
        }
    }

    let record = Record::default();
    let exchange = Exchange::begin(&Method::GET, Version::HTTP_2, record.clone());
    let mut body = Box::pin(exchange.respond(Response::new(Liar)).into_body());
    assert!(body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop())).is_ready());
    drop(body);
    assert_eq!(record.take()[0].outcome, Outcome::BodyFailed);
}

/// An upgrade is over while its body still lives: 101, and a tunnel's 2xx to CONNECT.
#[test]
fn upgrades_end_at_the_head() {
    for (method, status, upgraded) in [
        (Method::GET, StatusCode::SWITCHING_PROTOCOLS, true),
        (Method::CONNECT, StatusCode::OK, true),
        (Method::CONNECT, StatusCode::FORBIDDEN, false),
        (Method::GET, StatusCode::OK, false),
    ] {
        let record = Record::default();
        let exchange = Exchange::begin(&method, Version::HTTP_11, record.clone());
        let tunnel = Chunks { left: 2, sized: false, tells_end: false };
        let mut response = Response::new(tunnel);
        *response.status_mut() = status;
        let response = exchange.respond(response);
        assert_eq!(record.ended(), usize::from(upgraded), "{method} {status}");
        drop(response);
        let outcome = if upgraded { Outcome::Finished } else { Outcome::Aborted };
        assert_eq!(record.take()[0].outcome, outcome, "{method} {status}");
    }
}

/// The service panics in `call` itself, before there is a future.
#[test]
fn panics_in_call() {
    struct Panics;
    impl Service<http::Request<()>> for Panics {
        type Response = Response<Chunks>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Chunks>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<()>) -> Self::Future {
            panic::resume_unwind(Box::new("in call"))
        }
    }

    let record = Record::default();
    let mut service = record.layer(Panics);
    let call = AssertUnwindSafe(|| drop(service.call(http::Request::new(()))));
    assert!(panic::catch_unwind(call).is_err(), "the panic goes on");
    let end = record.take()[0];
    assert_eq!((end.outcome, end.status), (Outcome::Panicked, None));
}

/// A middleware's own answer: its bytes and status count like the service's.
#[test]
fn own_answer() {
    let record = Record::default();
    let exchange = Exchange::begin(&Method::GET, Version::HTTP_11, record.clone());
    let response = exchange.answer::<Chunks>(Response::new(Answer::from("sorry")));
    assert_eq!(response.body().size_hint().exact(), Some(5));
    let mut body = pin!(response.into_body());
    let frame = body.as_mut().poll_frame(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(frame, Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some()));
    assert!(body.is_end_stream());
    body.set(Default::default());
    let end = record.take()[0];
    assert_eq!((end.outcome, end.bytes), (Outcome::Finished, 5));
    assert_eq!(end.status, Some(StatusCode::OK));
}

/// A body whose own code panics beside its frames: in its drop, which is never inside `poll_frame`, and in what
/// it says of itself. The panic goes on, and the end is a panic, once.
#[test]
fn panics_beside_poll_frame() {
    /// Ends at once.
    struct Broken {
        in_drop: bool,
    }
    impl Drop for Broken {
        fn drop(&mut self) {
            if self.in_drop && !std::thread::panicking() {
                panic::resume_unwind(Box::new("in drop"));
            }
        }
    }
    impl Body for Broken {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.in_drop {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"12345")))))
        }

        fn is_end_stream(&self) -> bool {
            panic::resume_unwind(Box::new("in is_end_stream"))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::new()
        }
    }

    for in_drop in [true, false] {
        let record = Record::default();
        let exchange = Exchange::begin(&Method::GET, Version::HTTP_11, record.clone());
        let mut body = Box::pin(ResponseBody::new(Broken { in_drop }, Some(exchange)));
        let mut cx = Context::from_waker(Waker::noop());
        let poll = AssertUnwindSafe(|| body.as_mut().poll_frame(&mut cx).is_ready());
        assert_eq!(panic::catch_unwind(poll).is_err(), !in_drop, "the panic goes on");
        let drop = AssertUnwindSafe(|| drop(body));
        assert_eq!(panic::catch_unwind(drop).is_err(), in_drop, "the panic goes on");
        let ends = record.take();
        assert_eq!(ends.len(), 1);
        assert_eq!(ends[0].outcome, Outcome::Panicked, "in_drop: {in_drop}");
    }
}

/// Dropped unpolled, a body or a future may panic too: the exchange still ends, once.
#[test]
fn panics_in_drop() {
    struct Breaks;
    impl Drop for Breaks {
        fn drop(&mut self) {
            panic::resume_unwind(Box::new("in drop"));
        }
    }

    let record = Record::default();
    let exchange = Exchange::begin(&Method::GET, Version::HTTP_11, record.clone());
    let body = AssertUnwindSafe(ResponseBody::new(Breaks, Some(exchange)));
    assert!(panic::catch_unwind(|| drop(body)).is_err());
    assert_eq!(record.take()[0].outcome, Outcome::Panicked);

    let exchange = Exchange::begin(&Method::GET, Version::HTTP_11, record.clone());
    let future = AssertUnwindSafe(ResponseFuture::new(Breaks, exchange));
    assert!(panic::catch_unwind(|| drop(future)).is_err());
    assert_eq!(record.take()[0].outcome, Outcome::Panicked);
}

/// A response that is lost in somebody else's panic was not handed to anybody, not even if it has no body.
#[test]
fn panics_around_it() {
    for left in [0, 2] {
        let record = Record::default();
        let exchange = Exchange::begin(&Method::GET, Version::HTTP_11, record.clone());
        let response =
            exchange.respond(Response::new(Chunks { left, sized: true, tells_end: true }));
        let lost = AssertUnwindSafe(|| {
            let _response = response;
            panic::resume_unwind(Box::new("a layer outside"))
        });
        panic::catch_unwind(lost).expect_err("the panic goes on");
        assert_eq!(record.take()[0].outcome, Outcome::Panicked, "{left} chunks");
    }
}

/// What an observer holds may panic when it is dropped, even while the thread unwinds already.
#[test]
fn observers_that_panic_in_drop() {
    struct Breaks;
    impl Drop for Breaks {
        fn drop(&mut self) {
            panic::resume_unwind(Box::new("in drop"));
        }
    }
    impl Observer for Breaks {
        fn on_end(self, _: End) {}
    }

    drop(Exchange::begin(&Method::GET, Version::HTTP_11, Breaks));
    let caught = panic::catch_unwind(|| {
        let _exchange = Exchange::begin(&Method::GET, Version::HTTP_11, Breaks);
        panic::resume_unwind(Box::new("the service"));
    });
    let payload = caught.expect_err("the service's panic goes on");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"the service"));
}

/// A middleware's own answer by the future: as the service's, whether somebody sees it or not.
#[test]
fn own_answer_by_the_future() {
    type Service = std::future::Ready<Result<Response<Chunks>, Infallible>>;

    let record = Record::default();
    for is_seen in [true, false] {
        let mut exchange = Exchange::open(RequestLine::new(&Method::HEAD, Version::HTTP_11));
        *exchange.observer_mut() = is_seen.then(|| record.clone());
        let response = Response::new(Answer::from("sorry"));
        let mut future = pin!(ResponseFuture::<Service, _>::answer(response, exchange));
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
            panic!("ready at once");
        };
        assert_eq!(response.body().size_hint().exact(), Some(5));
        assert!(future.as_mut().poll(&mut cx).is_pending(), "and never again");
        assert_eq!(record.ended(), 0);
        drop(response);
        let outcomes: Vec<_> = record.take().into_iter().map(|end| end.outcome).collect();
        assert_eq!(outcomes, vec![Outcome::Finished; usize::from(is_seen)]);
    }
}

/// What the client is told counts, and over HTTP/1 it is told and given two things if header and body disagree.
#[test]
fn header_and_body_disagree() {
    let record = Record::default();
    let (http1, http2) = (Version::HTTP_11, Version::HTTP_2);
    for (version, length, sized, polls, outcome) in [
        (http1, 11, false, 2, Outcome::Aborted),
        (http1, 11, false, 3, Outcome::BodyFailed),
        (http1, 10, false, 2, Outcome::Finished),
        (http1, 9, false, 2, Outcome::BodyFailed),
        (http1, 11, true, 2, Outcome::BodyFailed),
        (http1, 9, true, 2, Outcome::BodyFailed),
        (http1, 10, true, 2, Outcome::Finished),
        (http2, 11, true, 2, Outcome::Aborted),
        (http2, 11, true, 3, Outcome::BodyFailed),
        (http2, 10, true, 2, Outcome::Finished),
        (http2, 9, true, 2, Outcome::BodyFailed),
        (http2, 0, true, 2, Outcome::BodyFailed),
    ] {
        let body = Chunks { left: 2, sized, tells_end: false };
        let response = Response::builder().header(header::CONTENT_LENGTH, length).body(body);
        let end = end_of(&record, (&Method::GET, version), response.expect("a response"), polls);
        assert_eq!((end.outcome, end.bytes), (outcome, 10), "{version:?}, {length}, {sized}");
    }
}
