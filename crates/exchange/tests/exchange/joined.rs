//! Interceptors: a tuple of them does what layers of each do one in the other, on every path.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use axum::http::Version;
use farrier_exchange::{Answer, End, ExchangeLayer, ExchangeService, Interceptor, Observer};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use tower::ServiceBuilder;

use crate::support::{self, CASES, Place};

/// What the interceptors of a stack saw, in order.
type Diary = Arc<Mutex<Vec<String>>>;

thread_local! {
    /// The names of those that are entered.
    static ENTERED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What an interceptor does besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Nothing,
    Answers,
    AnswersUnseen,
    Panics,
    PanicsAtHead,
    PanicsAtEnd,
}

#[derive(Clone, Debug)]
struct Note {
    name: char,
    does: Does,
    diary: Diary,
}

#[derive(Debug)]
struct Noted {
    note: Note,
}

impl Note {
    fn write(&self, line: &str) {
        self.diary.lock().expect("not poisoned").push(format!("{} {line}", self.name));
    }

    /// As [`write`](Self::write), with those around it that are entered.
    fn write_within(&self, line: &str) {
        let within = ENTERED.with_borrow(Clone::clone);
        self.write(&format!("{line} within {within:?}"));
    }
}

impl Interceptor for Note {
    type Observer = Noted;

    fn intercept(
        &self,
        request: &mut Parts,
        observer: &mut Option<Noted>,
    ) -> ControlFlow<Response<Answer>> {
        self.write_within("intercepts");
        // What one leaves in the request the next ones see, and the service.
        let before = request.extensions.get::<String>().cloned().unwrap_or_default();
        request.extensions.insert(format!("{before}{}", self.name));
        *observer = Some(Noted { note: self.clone() });
        match self.does {
            Does::Answers => ControlFlow::Break(Response::new(Answer::from(before))),
            Does::AnswersUnseen => {
                *observer = None;
                ControlFlow::Break(Response::new(Answer::from("unseen")))
            }
            Does::Panics => std::panic::resume_unwind(Box::new("an interceptor")),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Observer for Noted {
    fn enter<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        struct Leave;
        impl Drop for Leave {
            fn drop(&mut self) {
                ENTERED.with_borrow_mut(String::pop);
            }
        }
        ENTERED.with_borrow_mut(|entered| entered.push(self.note.name));
        let _leave = Leave;
        poll()
    }

    fn on_head(&mut self, status: StatusCode, _: &HeaderMap) {
        self.note.write_within(&format!("sees {status}"));
        assert_ne!(self.note.does, Does::PanicsAtHead);
    }

    fn on_end(self, end: End) {
        let End { outcome, status, bytes, .. } = end;
        self.note.write(&format!("ends {outcome:?} {status:?} {bytes}"));
        assert_ne!(self.note.does, Does::PanicsAtEnd);
    }
}

/// Three notes of one diary; `b`, in the middle, does more.
fn notes(does: Does) -> (Diary, [Note; 3]) {
    let diary = Diary::default();
    let note = |name, does| Note { name, does, diary: Arc::clone(&diary) };
    let notes = [note('a', Does::Nothing), note('b', does), note('c', Does::Nothing)];
    (diary, notes)
}

/// Waits until the exchange has ended for all that saw it, and takes what they wrote.
async fn take(diary: &Diary) -> Vec<String> {
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    loop {
        let lines = diary.lock().expect("not poisoned").clone();
        // `a` is outermost, and the last to end.
        if lines.last().is_some_and(|line| line.starts_with("a ends")) {
            diary.lock().expect("not poisoned").clear();
            return lines;
        }
        assert!(tokio::time::Instant::now() < deadline, "never ended: {lines:?}");
        tokio::task::yield_now().await;
    }
}

/// Every way in which a response ends, in every place, nested and joined: the same bytes, and all see the same in the same
/// order.
async fn as_nested(version: Version, does: Does) {
    for place in [Place::RouterLayer, Place::AroundRouter] {
        let (nested_diary, [a, b, c]) = notes(does);
        let nested = ServiceBuilder::new()
            .layer(ExchangeLayer::new(a))
            .layer(ExchangeLayer::new(b))
            .layer(ExchangeLayer::new(c))
            .into_inner();
        let nested = support::serve_placed(support::app(), nested, place).await;
        let (joined_diary, [a, b, c]) = notes(does);
        let joined = ExchangeLayer::new((a, b, c));
        let joined = support::serve_placed(support::app(), joined, place).await;
        for case in CASES {
            let context = format!("{version:?} {place:?} {does:?} {case:?}");
            let wire = if version == Version::HTTP_2 {
                let nested = support::over_h2(nested, case.method, case.path).await;
                (nested, support::over_h2(joined, case.method, case.path).await)
            } else {
                let request = support::request(case.method, case.path, version);
                (support::raw(nested, &request).await, support::raw(joined, &request).await)
            };
            assert_eq!(wire.0, wire.1, "{context}");
            let (nested, joined) = (take(&nested_diary).await, take(&joined_diary).await);
            assert_eq!(nested, joined, "{context}");
            match does {
                Does::Nothing | Does::PanicsAtHead | Does::PanicsAtEnd => {
                    let intercepts = [
                        r#"a intercepts within """#,
                        r#"b intercepts within "a""#,
                        r#"c intercepts within "ab""#,
                    ];
                    assert_eq!(joined[..3], intercepts, "{context}");
                    let ends = joined[joined.len() - 3..].iter();
                    let names: String = ends.filter_map(|line| line.chars().next()).collect();
                    assert_eq!(names, "cba", "{context}: {joined:?}");
                    let (outcome, bytes) = case.ending(version);
                    let end = joined.last().expect("three of them");
                    assert!(end.starts_with(&format!("a ends {outcome:?} ")), "{context}: {end}");
                    assert!(end.ends_with(&format!(" {bytes}")), "{context}: {end}");
                }
                Does::Answers | Does::AnswersUnseen | Does::Panics => {
                    assert!(!joined.iter().any(|line| line.starts_with('c')), "{joined:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn joined_is_as_nested_over_http_1() {
    for does in [
        Does::Nothing,
        Does::Answers,
        Does::AnswersUnseen,
        Does::Panics,
        Does::PanicsAtHead,
        Does::PanicsAtEnd,
    ] {
        as_nested(Version::HTTP_11, does).await;
    }
    as_nested(Version::HTTP_10, Does::Nothing).await;
}

#[tokio::test]
async fn joined_is_as_nested_over_http_2() {
    for does in [Does::Nothing, Does::Answers] {
        as_nested(Version::HTTP_2, does).await;
    }
}

/// What happens to those around one that answers, refuses or panics.
#[tokio::test]
async fn who_answers_is_seen_by_those_outside() {
    for (does, expected) in [
        (
            Does::Answers,
            &[
                r#"a intercepts within """#,
                r#"b intercepts within "a""#,
                r#"b sees 200 OK within "a""#,
                r#"a sees 200 OK within """#,
                "b ends Finished Some(200) 1",
                "a ends Finished Some(200) 1",
            ][..],
        ),
        (
            Does::AnswersUnseen,
            &[
                r#"a intercepts within """#,
                r#"b intercepts within "a""#,
                r#"a sees 200 OK within """#,
                "a ends Finished Some(200) 6",
            ],
        ),
        (
            Does::Panics,
            // It has left its observer before.
            &[
                r#"a intercepts within """#,
                r#"b intercepts within "a""#,
                "b ends Panicked None 0",
                "a ends Panicked None 0",
            ],
        ),
    ] {
        let (diary, [a, b, c]) = notes(does);
        let app = support::app().layer(ExchangeLayer::new((a, b, c)));
        let address = support::serve(app).await;
        support::raw(address, &support::request("GET", "/full", Version::HTTP_11)).await;
        assert_eq!(take(&diary).await, expected, "{does:?}");
    }
}

/// A client that leaves, before the head and in mid-stream.
#[tokio::test]
async fn who_leaves_is_seen_by_all() {
    let (diary, [a, b, c]) = notes(Does::Nothing);
    // A tuple within a tuple is as a longer one, and so is a layer; none is nothing.
    let joined = (ExchangeLayer::new((a, b)), None::<Note>, c);
    let address = support::serve(support::app().layer(ExchangeLayer::new(joined))).await;
    let never = support::begin(address, "/never", "").await;
    let begun = async {
        while diary.lock().expect("not poisoned").len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(support::DEADLINE, begun).await.expect("it begins");
    drop(never);
    let seen = take(&diary).await;
    let ends = ["c ends Aborted None 0", "b ends Aborted None 0", "a ends Aborted None 0"];
    assert_eq!(seen[3..], ends);
    drop(support::begin(address, "/stalls", "abc").await);
    let seen = take(&diary).await;
    assert_eq!(seen[6], "c ends Aborted Some(200) 3", "{seen:?}");
}

/// An upgrade ends at its head: for all once all have seen that.
#[tokio::test]
async fn an_upgrade_ends_when_all_have_seen_its_head() {
    let (diary, [a, b, c]) = notes(Does::Nothing);
    let address = support::serve(support::app().layer(ExchangeLayer::new((a, b, c)))).await;
    let request = "GET /websocket HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("the server listens");
    tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes()).await.expect("it reads");
    support::read_until(&mut socket, "\r\n\r\n").await;
    let seen = take(&diary).await;
    let names: String = seen[3..].iter().filter_map(|line| line.chars().next()).collect();
    assert_eq!(names, "cbacba", "{seen:?}");
    assert!(seen[3].starts_with("c sees 101"), "{seen:?}");
    assert!(seen[6].starts_with("c ends Finished"), "{seen:?}");
}

/// A panic whose payload panics when it is dropped is one panic.
#[tokio::test]
async fn a_payload_that_panics_keeps_nothing_from_the_others() {
    struct Worse;
    impl Drop for Worse {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new("in the payload's drop"));
        }
    }

    #[derive(Clone)]
    struct Panics;
    impl Interceptor for Panics {
        type Observer = fn(End);

        fn intercept(
            &self,
            _: &mut Parts,
            observer: &mut Option<fn(End)>,
        ) -> ControlFlow<Response<Answer>> {
            *observer = Some(|_| std::panic::resume_unwind(Box::new(Worse)));
            ControlFlow::Continue(())
        }
    }

    let (diary, [a, ..]) = notes(Does::Nothing);
    let address = support::serve(support::app().layer(ExchangeLayer::new((a, Panics)))).await;
    support::raw(address, &support::request("GET", "/full", Version::HTTP_11)).await;
    assert_eq!(take(&diary).await.last().expect("three lines"), "a ends Finished Some(200) 5");
}

/// What axum asks of a layer and its service.
#[test]
fn layer_and_service_are_what_routers_need() {
    fn assert_all<T: Clone + Send + Sync + 'static>() {}
    assert_all::<ExchangeLayer<(Note, Note)>>();
    assert_all::<ExchangeService<axum::Router, (Note, Note)>>();
}
