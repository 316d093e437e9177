//! The guard that ends an exchange, and what it knows at the end.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Buf;
use http::{HeaderMap, Method, StatusCode, Version, header};
use http_body::{Body, Frame};

/// What a middleware does with one exchange.
///
/// A closure `FnOnce(End)` is an observer that only wants the end.
pub trait Observer {
    /// Called around each call and poll of the service: `poll` is to be called, once.
    ///
    /// Not around the response body's polls.
    #[inline]
    fn enter<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        poll()
    }

    /// The service answered; called at most once, before the head goes on.
    ///
    /// A panic in it is caught and logged.
    fn on_head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let _ = (status, headers);
    }

    /// The exchange is over; called exactly once, on every path.
    ///
    /// It runs where the last owner is dropped: on the connection's task, and before the last bytes
    /// are flushed. A slow observer delays the client, so it must be short. A panic in it is caught and
    /// logged and changes nothing for the client.
    fn on_end(self, end: End);
}

impl<F: FnOnce(End)> Observer for F {
    fn on_end(self, end: End) {
        self(end);
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The whole response was handed to the server.
    ///
    /// HEAD, 1xx, 204 and 304 have no body to hand over. It says "produced", not "received": a client that
    /// leaves after the last bytes were buffered counts as finished.
    Finished,
    /// The response body yielded an error, or is shorter or longer than the length that the head announced.
    BodyFailed,
    /// The service returned an error in place of a response.
    ServiceFailed,
    /// The service or its response body panicked, or what is around them did while it held them.
    ///
    /// Never seen under `panic = "abort"`, where nothing runs.
    Panicked,
    /// The response was dropped before its end: the client left, or a layer outside let go of it
    /// (a timeout, or one that puts another body in its place).
    Aborted,
}

/// What is known about an exchange when it is over.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct End {
    /// How it ended.
    pub outcome: Outcome,
    /// The status of the response head; `None` if there never was one.
    pub status: Option<StatusCode>,
    /// Bytes of the body that were handed to the server; no header, no framing.
    pub bytes: u64,
    /// From the beginning to the response head; `None` if there never was one.
    pub time_to_head: Option<Duration>,
    /// From the beginning to the end.
    pub total: Duration,
}

/// The guard of one exchange: dropping it ends the exchange.
///
/// [`ResponseFuture`](crate::ResponseFuture) and [`ResponseBody`](crate::ResponseBody) carry it and note
/// the facts. A middleware that needs a future of its own calls [`enter`](Self::enter) around the service, [`respond`](Self::respond)
/// or [`answer`](Self::answer), [`service_failed`](Self::service_failed) and [`panicked`](Self::panicked) itself; and
/// [`start`](Self::start), if it did not [`begin`](Self::begin) but [`open`](Self::open).
pub struct Exchange<O: Observer> {
    /// `None` if nobody wants to see it.
    observer: Option<O>,
    facts: Facts,
}

#[derive(Debug)]
struct Facts {
    /// `None` while interceptors see the request.
    began: Option<Instant>,
    head_at: Option<Instant>,
    status: Option<StatusCode>,
    line: RequestLine,
    sent: u64,
    /// Known after the head.
    expected: Expected,
    /// The body said so itself: `None`, trailers, or `is_end_stream` after a frame.
    complete: bool,
    failure: Option<Outcome>,
}

/// Notes a panic that passes by, without catching it.
pub(crate) struct Watch<'a, O: Observer> {
    exchange: &'a mut Option<Exchange<O>>,
    passed: bool,
}

/// How many bytes the body has to have, once the head is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It says itself when it is over.
    Unknown,
    /// None, and whether the server asks for one all the same is no matter.
    Nothing,
    /// As many as the client was told.
    Exactly(u64),
}

/// What of a request decides whether its response has a body: method and version, as they came in.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine {
    method: MethodKind,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MethodKind {
    Head,
    Connect,
    Other,
}

impl<O: Observer> Exchange<O> {
    /// Begins an exchange; call it before the inner service is called.
    ///
    /// Method and version are the request's: they decide what becomes of a response's body.
    #[inline]
    #[must_use = "an exchange that is dropped has ended"]
    pub fn begin(method: &Method, version: Version, observer: O) -> Self {
        let mut exchange = Self::open(RequestLine::new(method, version));
        exchange.observer = Some(observer);
        exchange.start();
        exchange
    }

    /// An exchange that nobody sees yet, and whose time has not begun: for an [`Interceptor`](crate::Interceptor), which comes
    /// before both.
    #[inline]
    #[must_use = "an exchange that is dropped has ended"]
    pub fn open(line: RequestLine) -> Self {
        Self {
            observer: None,
            facts: Facts {
                began: None,
                head_at: None,
                status: None,
                line,
                sent: 0,
                expected: Expected::Unknown,
                complete: false,
                failure: None,
            },
        }
    }

    /// Its time begins, and with it the service's work.
    #[inline]
    pub fn start(&mut self) {
        self.facts.began = Some(Instant::now());
    }

    /// The observer, if there is one.
    #[inline]
    pub fn observer_mut(&mut self) -> &mut Option<O> {
        &mut self.observer
    }

    /// Calls or polls the service as the observer wants it.
    #[inline]
    pub fn enter<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        match &mut self.observer {
            Some(observer) => observer.enter(poll),
            None => poll(),
        }
    }

    /// Notes the response head, and how many bytes its body is expected to have.
    pub fn head<B: Body>(&mut self, status: StatusCode, headers: &HeaderMap, body: &B) {
        let facts = &mut self.facts;
        facts.head_at = Some(Instant::now());
        facts.status = Some(status);
        let bodiless = facts.line.method == MethodKind::Head
            || facts.upgraded()
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        if bodiless {
            facts.expected = Expected::Nothing;
        } else {
            facts.expect(headers, body);
        }
        if let Some(observer) = &mut self.observer {
            caught("head", || observer.on_head(status, headers));
        }
    }

    /// Whether the socket now belongs to another protocol: the exchange is over at its head.
    ///
    /// 101 (RFC 9110 section 15.2.2), or a 2xx answer to CONNECT (section 9.3.6).
    #[must_use]
    pub fn upgraded(&self) -> bool {
        self.facts.upgraded()
    }

    /// Notes that the service returned an error instead of a response.
    pub fn service_failed(&mut self) {
        self.fail(Outcome::ServiceFailed);
    }

    /// Notes a panic of what is carried, while it passes by.
    ///
    /// Without this note an exchange under an outer `CatchPanicLayer` looks aborted: by the time the
    /// future is dropped, the thread no longer unwinds.
    pub fn panicked(&mut self) {
        self.fail(Outcome::Panicked);
    }

    /// Notes what the response body yielded; `over` asks it whether anything follows.
    #[inline]
    pub(crate) fn frame<D: Buf, E>(
        &mut self,
        frame: Option<&Result<Frame<D>, E>>,
        over: impl FnOnce() -> bool,
    ) {
        match frame {
            Some(Ok(frame)) => {
                self.facts.sent += frame.data_ref().map_or(0, Buf::remaining) as u64;
                if !self.facts.produced() {
                    self.facts.complete |= frame.is_trailers() || over();
                }
            }
            Some(Err(_)) => self.fail(Outcome::BodyFailed),
            None => self.facts.complete = true,
        }
    }

    /// The first failure counts: what follows it is its consequence.
    fn fail(&mut self, failure: Outcome) {
        self.facts.failure.get_or_insert(failure);
    }
}

impl<O: Observer> Drop for Exchange<O> {
    fn drop(&mut self) {
        let end = self.facts.end();
        caught("end", || {
            if let Some(observer) = self.observer.take() {
                observer.on_end(end);
            }
        });
    }
}

impl<O: Observer + fmt::Debug> fmt::Debug for Exchange<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("observer", &self.observer)
            .field("facts", &self.facts)
            .finish()
    }
}

impl<'a, O: Observer> Watch<'a, O> {
    #[inline]
    pub(crate) fn new(exchange: &'a mut Option<Exchange<O>>) -> Self {
        Self { exchange, passed: false }
    }

    #[inline]
    pub(crate) fn exchange(&mut self) -> Option<&mut Exchange<O>> {
        self.exchange.as_mut()
    }

    /// What could panic is over.
    #[inline]
    pub(crate) fn passed(mut self) {
        self.passed = true;
    }
}

impl<O: Observer> Drop for Watch<'_, O> {
    #[inline]
    fn drop(&mut self) {
        if let (false, Some(exchange)) = (self.passed, &mut *self.exchange) {
            exchange.panicked();
        }
    }
}

impl RequestLine {
    /// That of a request with this method and version.
    #[inline]
    #[must_use]
    pub fn new(method: &Method, version: Version) -> Self {
        let method = match *method {
            Method::HEAD => MethodKind::Head,
            Method::CONNECT => MethodKind::Connect,
            _ => MethodKind::Other,
        };
        Self { method, version }
    }
}

impl Facts {
    #[inline]
    fn end(&self) -> End {
        let began = self.began;
        End {
            outcome: self.outcome(),
            status: self.status,
            bytes: self.sent,
            time_to_head: began.zip(self.head_at).map(|(began, at)| at - began),
            total: began.map_or(Duration::ZERO, |began| began.elapsed()),
        }
    }

    fn outcome(&self) -> Outcome {
        if let Some(failure) = self.failure {
            return failure;
        }
        // Before the bytes: what was handed over and not yet sent is lost with the server's task.
        if thread::panicking() {
            return Outcome::Panicked;
        }
        match self.expected {
            _ if self.produced() => Outcome::Finished,
            Expected::Exactly(length) if self.complete || self.sent > length => Outcome::BodyFailed,
            Expected::Unknown if self.complete => Outcome::Finished,
            _ => Outcome::Aborted,
        }
    }

    /// Notes what is known at the head of the length of a body that the server asks for: what the client is told
    /// counts, which is the header's word unless hyper mends it.
    #[inline]
    fn expect<B: Body>(&mut self, headers: &HeaderMap, body: &B) {
        let (declared, exact) = (content_length(headers), body.size_hint().exact());
        let is_http1 = self.line.version < Version::HTTP_2;
        // Nobody asks it for more.
        self.complete = body.is_end_stream();
        self.expected = match (declared, exact) {
            // HTTP/1: the client is told that there is none. HTTP/2: it is told what the header says.
            (declared, _) if self.complete && (is_http1 || declared.is_none()) => Expected::Nothing,
            (Some(declared), Some(exact)) if is_http1 && declared != exact => {
                // The client is told the one, and given the other.
                self.failure.get_or_insert(Outcome::BodyFailed);
                Expected::Exactly(declared)
            }
            (told, exact) => told.or(exact).map_or(Expected::Unknown, Expected::Exactly),
        };
    }

    /// Whether as many bytes were sent as were expected.
    fn produced(&self) -> bool {
        match self.expected {
            Expected::Unknown => false,
            Expected::Nothing => true,
            Expected::Exactly(length) => self.sent == length,
        }
    }

    #[inline]
    fn upgraded(&self) -> bool {
        self.status.is_some_and(|status| {
            status == StatusCode::SWITCHING_PROTOCOLS
                || (self.line.method == MethodKind::Connect && status.is_success())
        })
    }
}

/// Calls what belongs to an observer: a panic of its own may neither reach the client nor, as it may come while the thread unwinds
/// already, abort the process. `None` if it panicked.
#[doc(hidden)]
pub fn call_caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(call))
        .map_err(|payload| {
            // Its drop may panic as well.
            Box::leak(payload);
        })
        .ok()
}

/// As [`call_caught`]; the log says so.
pub(crate) fn caught(moment: &'static str, call: impl FnOnce()) {
    if call_caught(call).is_none() {
        tracing::error!(moment, "the observer of an exchange panicked");
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
