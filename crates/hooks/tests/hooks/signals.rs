//! Django's three signals.

use axum::http::Version;
use farrier_hooks::signals::{got_request_exception, request_finished, request_started};
use tower::ServiceBuilder;

use crate::{Diary, support};

#[tokio::test]
async fn in_order() {
    let diary = Diary::default();
    let (started, finished, exception) = (diary.clone(), diary.clone(), diary.clone());
    let layers = ServiceBuilder::new()
        .layer(request_started(move |request| started.note(format!("started {}", request.uri))))
        .layer(request_started(|_| std::panic::resume_unwind(Box::new("in a receiver"))))
        .layer(request_finished(move |_, end| finished.note(format!("finished {:?}", end.outcome))))
        .layer(got_request_exception(move |_, end| {
            exception.note(format!("exception {:?}", end.outcome));
        }));
    let address = support::serve(support::app().layer(layers)).await;
    for (path, lines) in [
        ("/full", vec!["started /full", "finished Finished"]),
        ("/missing", vec!["started /missing", "finished Finished"]),
        ("/panic", vec!["started /panic", "exception Panicked", "finished Panicked"]),
        ("/error", vec!["started /error", "exception BodyFailed", "finished BodyFailed"]),
    ] {
        support::raw(address, &support::request("GET", path, Version::HTTP_11)).await;
        assert_eq!(diary.lines(lines.len()).await, lines, "{path}");
    }
    drop(support::begin(address, "/endless", "tick").await);
    assert_eq!(diary.lines(2).await, ["started /endless", "finished Aborted"]);
}
