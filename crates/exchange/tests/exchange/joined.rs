//! Interceptors: a tuple of them does what layers of each do one in the other, on every path.

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
    entered: bool,
}

impl Note {
    fn write(&self, line: &str) {
        self.diary.lock().expect("not poisoned").push(format!("{} {line}", self.name));
    }
}

impl Interceptor for Note {
    type Observer = Noted;

    fn intercept(
        &self,
        request: &mut Parts,
        observer: &mut Option<Noted>,
    ) -> ControlFlow<Response<Answer>> {
        self.write("intercepts");
        // What one leaves in the request the next ones see, and the service.
        let before = request.extensions.get::<String>().cloned().unwrap_or_default();
        request.extensions.insert(format!("{before}{}", self.name));
        *observer = Some(Noted { note: self.clone(), entered: false });
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
        if !std::mem::replace(&mut self.entered, true) {
            self.note.write("enters");
        }
        poll()
    }

    fn on_head(&mut self, status: StatusCode, _: &HeaderMap) {
        self.note.write(&format!("sees {status}"));
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

/// Waits until the exchange has ended for all that saw it, and takes what they wrote: what each has entered, and the rest,
/// which is in one order for nested and joined alike.
async fn take(diary: &Diary) -> (Vec<String>, Vec<String>) {
    let deadline = tokio::time::Instant::now() + support::DEADLINE;
    loop {
        let lines = diary.lock().expect("not poisoned").clone();
        // `a` is outermost, and the last to end.
        if lines.last().is_some_and(|line| line.starts_with("a ends")) {
            diary.lock().expect("not poisoned").clear();
            return lines.into_iter().partition(|line| line.ends_with("enters"));
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
            assert_eq!(nested.1, joined.1, "{context}");
            match does {
                Does::Nothing | Does::PanicsAtHead | Does::PanicsAtEnd => {
                    assert_eq!(joined.0, ["a enters", "b enters", "c enters"], "{context}");
                    assert_eq!(nested.0, joined.0, "{context}");
                    assert_eq!(joined.1[..3], ["a intercepts", "b intercepts", "c intercepts"]);
                    let ends = joined.1[joined.1.len() - 3..].iter();
                    let names: String = ends.filter_map(|line| line.chars().next()).collect();
                    assert_eq!(names, "cba", "{context}: {joined:?}");
                    let (outcome, bytes) = case.ending(version);
                    let end = joined.1.last().expect("three of them");
                    assert!(end.starts_with(&format!("a ends {outcome:?} ")), "{context}: {end}");
                    assert!(end.ends_with(&format!(" {bytes}")), "{context}: {end}");
                }
                Does::Answers | Does::AnswersUnseen | Does::Panics => {
                    assert!(!joined.1.iter().any(|line| line.starts_with('c')), "{joined:?}");
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
                "a intercepts",
                "b intercepts",
                "b sees 200 OK",
                "a sees 200 OK",
                "b ends Finished Some(200) 1",
                "a ends Finished Some(200) 1",
            ][..],
        ),
        (
            Does::AnswersUnseen,
            &["a intercepts", "b intercepts", "a sees 200 OK", "a ends Finished Some(200) 6"],
        ),
        (
            Does::Panics,
            // It has left its observer before.
            &["a intercepts", "b intercepts", "b ends Panicked None 0", "a ends Panicked None 0"],
        ),
    ] {
        let (diary, [a, b, c]) = notes(does);
        let app = support::app().layer(ExchangeLayer::new((a, b, c)));
        let address = support::serve(app).await;
        support::raw(address, &support::request("GET", "/full", Version::HTTP_11)).await;
        assert_eq!(take(&diary).await.1, expected, "{does:?}");
    }
}

/// A client that leaves, before the head and in mid-stream, and an upgrade.
#[tokio::test]
async fn who_leaves_is_seen_by_all() {
    let (diary, [a, b, c]) = notes(Does::Nothing);
    // A tuple within a tuple is as a longer one.
    let app = support::app().layer(ExchangeLayer::new(((a, b), c)));
    let address = support::serve(app).await;
    let never = support::begin(address, "/never", "");
    let never = never.await;
    let waited = async {
        while diary.lock().expect("not poisoned").len() < 6 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(support::DEADLINE, waited).await.expect("it is entered");
    drop(never);
    let (_, seen) = take(&diary).await;
    let ends = ["c ends Aborted None 0", "b ends Aborted None 0", "a ends Aborted None 0"];
    assert_eq!(seen[3..], ends);
    drop(support::begin(address, "/stalls", "abc").await);
    let (_, seen) = take(&diary).await;
    assert_eq!(seen[6], "c ends Aborted Some(200) 3", "{seen:?}");
}

/// What axum asks of a layer and its service.
#[test]
fn layer_and_service_are_what_routers_need() {
    fn assert_all<T: Clone + Send + Sync + 'static>() {}
    assert_all::<ExchangeLayer<(Note, Note)>>();
    assert_all::<ExchangeService<axum::Router, (Note, Note)>>();
}
