//! Several hooks: order, answers at once, failures and panics.

use std::ops::ControlFlow;

use axum::http::Version;
use farrier_hooks::{
    Answer, BoxError, FnHook, Outcome, Pre, RequestHookLayer, from_fn, post_request, pre_request,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use tower::ServiceBuilder;

use crate::{Diary, support};

/// What a hook's pre does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Continue,
    Answer,
    Fail,
    Panic,
}

type Closures<F, G> = RequestHookLayer<FnHook<F, G, &'static str>>;

fn hook(
    diary: &Diary,
    name: &'static str,
    act: Act,
) -> Closures<
    impl Fn(&mut Parts) -> Result<Pre<&'static str>, BoxError> + use<>,
    impl Fn(&'static str, &farrier_hooks::RequestInfo<'_>, &farrier_hooks::End) + use<>,
> {
    let (before, after) = (diary.clone(), diary.clone());
    from_fn(
        move |_| {
            before.note(format!("pre {name}"));
            match act {
                Act::Continue => Ok(Pre::Continue(name)),
                Act::Answer => {
                    let mut response = Response::new(Answer::from("at once"));
                    *response.status_mut() = StatusCode::IM_A_TEAPOT;
                    Ok(Pre::Answer(name, response))
                }
                Act::Fail => Err("no".into()),
                Act::Panic => std::panic::resume_unwind(Box::new("in pre")),
            }
        },
        move |context, _, end| {
            let status = end.status.map_or(0, |status| status.as_u16());
            after.note(format!("post {context} {status} {:?}", end.outcome));
        },
    )
}

async fn run(diary: &Diary, second: Act, lines: usize) -> (String, Vec<String>) {
    let app = support::app().layer(
        ServiceBuilder::new()
            .layer(hook(diary, "a", Act::Continue))
            .layer(hook(diary, "b", second))
            .layer(hook(diary, "c", Act::Continue)),
    );
    let address = support::serve(app).await;
    let request = support::request("GET", "/full", Version::HTTP_11);
    let wire = support::raw(address, &request).await;
    (wire, diary.lines(lines).await)
}

/// Pre in order, post in reverse.
#[tokio::test]
async fn order() {
    let (wire, lines) = run(&Diary::default(), Act::Continue, 6).await;
    assert!(wire.ends_with("hello"), "{wire}");
    let posts = ["post c 200 Finished", "post b 200 Finished", "post a 200 Finished"];
    assert_eq!(lines, [["pre a", "pre b", "pre c"], posts].concat());
}

/// A pre that answers at once skips what is inside; its own post runs, and those outside.
#[tokio::test]
async fn answers_at_once() {
    let (wire, lines) = run(&Diary::default(), Act::Answer, 4).await;
    assert!(wire.starts_with("HTTP/1.1 418"), "{wire}");
    assert!(wire.contains("content-length: 7\r\n") && wire.ends_with("at once"), "{wire}");
    assert_eq!(lines, ["pre a", "pre b", "post b 418 Finished", "post a 418 Finished"]);
}

/// A pre that fails or panics: 500, no post of its own. (gunicorn calls it all the same.)
#[tokio::test]
async fn fails_or_panics() {
    for act in [Act::Fail, Act::Panic] {
        let (wire, lines) = run(&Diary::default(), act, 3).await;
        assert!(wire.starts_with("HTTP/1.1 500"), "{act:?}: {wire}");
        assert!(wire.ends_with("Internal Server Error"), "{act:?}: {wire}");
        assert_eq!(lines, ["pre a", "pre b", "post a 500 Finished"], "{act:?}");
    }
}

/// A HEAD that is answered at once expects no bytes.
#[tokio::test]
async fn answers_head_at_once() {
    let diary = Diary::default();
    let address = support::serve(support::app().layer(hook(&diary, "a", Act::Answer))).await;
    let request = support::request("HEAD", "/full", Version::HTTP_11);
    let wire = support::raw(address, &request).await;
    assert!(wire.ends_with("\r\n\r\n"), "{wire}");
    assert_eq!(diary.lines(2).await, ["pre a", "post a 418 Finished"]);
}

/// A post that panics changes nothing: not the response, not the other hooks, not the next request.
#[tokio::test]
async fn post_panics() {
    let diary = Diary::default();
    let broken = post_request(|_, _| std::panic::resume_unwind(Box::new("in post")));
    let app = support::app().layer(
        ServiceBuilder::new().layer(hook(&diary, "a", Act::Continue)).layer(broken).layer(hook(
            &diary,
            "c",
            Act::Continue,
        )),
    );
    let address = support::serve(app).await;
    let requests = "GET /full HTTP/1.1\r\nhost: test\r\n\r\n\
        GET /full HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    let wire = support::raw(address, requests).await;
    assert_eq!(wire.matches("hello").count(), 2, "{wire}");
    let once = ["pre a", "pre c", "post c 200 Finished", "post a 200 Finished"];
    assert_eq!(diary.lines(8).await, [once, once].concat());
}

/// Pre may change the head; the client's own method decides whether a body is sent.
#[tokio::test]
async fn pre_changes_the_head() {
    let diary = Diary::default();
    let after = diary.clone();
    let rewrite = from_fn(
        |request| {
            request.method = Method::GET;
            request.uri = http::Uri::from_static("/stream");
            request.extensions.insert("from the hook");
            Ok(Pre::Continue(()))
        },
        move |(), request, end| {
            after.note(format!("{} {} {:?}", request.method, request.uri, end.outcome));
        },
    );
    let inner = axum::Router::new().route(
        "/stream",
        axum::routing::get(async |axum::Extension(word): axum::Extension<&'static str>| word),
    );
    let service = ServiceBuilder::new().layer(rewrite).service(inner);
    let address = support::serve(service).await;

    let wire = support::raw(address, &support::request("GET", "/else", Version::HTTP_11)).await;
    assert!(wire.ends_with("from the hook"), "{wire}");
    assert_eq!(diary.lines(1).await, ["GET /else Finished"]);

    let wire = support::raw(address, &support::request("HEAD", "/else", Version::HTTP_11)).await;
    assert!(wire.ends_with("\r\n\r\n"), "{wire}");
    assert_eq!(diary.lines(1).await, ["HEAD /else Finished"]);
}

/// Dropped before it was polled: the answer never went out.
#[test]
fn answer_that_nobody_takes() {
    let diary = Diary::default();
    let inner = tower::service_fn(async |_: http::Request<()>| {
        Ok::<_, std::convert::Infallible>(Response::new(axum::body::Body::empty()))
    });
    let mut service = ServiceBuilder::new().layer(hook(&diary, "a", Act::Answer)).service(inner);
    drop(tower::Service::call(&mut service, http::Request::new(())));
    assert_eq!(diary.take(), ["pre a".to_owned(), format!("post a 0 {:?}", Outcome::Aborted)]);
}

/// Each half alone: one goes on with what it made of the head, or answers.
#[tokio::test]
async fn halves() {
    let diary = Diary::default();
    let before = pre_request(|request| {
        if request.uri.path() == "/empty" {
            let mut response = Response::new(Answer::from("nothing here"));
            *response.status_mut() = StatusCode::GONE;
            return ControlFlow::Break(response);
        }
        request.uri = "/full".parse().expect("a path");
        ControlFlow::Continue(())
    });
    let after = post_request({
        let diary = diary.clone();
        move |request, end| diary.note(format!("{} {:?}", request.uri, end.status))
    });
    // Around the router, so that the head decides the route.
    let service = ServiceBuilder::new().layer(after).layer(before).service(support::app());
    let address = support::serve(service).await;
    let get = |path| support::request("GET", path, Version::HTTP_11);
    assert!(support::raw(address, &get("/never")).await.ends_with("hello"));
    assert!(support::raw(address, &get("/empty")).await.starts_with("HTTP/1.1 410"));
    assert_eq!(diary.lines(2).await, ["/never Some(200)", "/empty Some(410)"]);
}
