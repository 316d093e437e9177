//! Work after a response, and the wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::Version;
use farrier_hooks::{Tasks, post_request};
use tokio::sync::Notify;

use crate::support;

/// Spawned from post: the response does not wait for it, `wait` does.
#[tokio::test]
async fn outlive_the_response() {
    let (tasks, gate, done) =
        (Tasks::new(), Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let layer = post_request({
        let (tasks, gate, done) = (tasks.clone(), Arc::clone(&gate), Arc::clone(&done));
        move |_, _| {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            tasks.spawn(async move {
                gate.notified().await;
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    let address = support::serve(support::app().layer(layer)).await;
    let request = support::request("GET", "/full", Version::HTTP_11);
    assert!(support::raw(address, &request).await.ends_with("hello"));

    assert_eq!(tasks.len(), 1);
    let waiting = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.wait().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished() && done.load(Ordering::SeqCst) == 0);
    gate.notify_one();
    tokio::time::timeout(support::DEADLINE, waiting).await.expect("in time").expect("no panic");
    assert_eq!(done.load(Ordering::SeqCst), 1);
    assert!(tasks.is_empty());
}

/// Nothing to wait for; a task that panics; a task that spawns another.
#[tokio::test]
async fn wait_ends() {
    let tasks = Tasks::new();
    tasks.wait().await;

    tasks.spawn(async { std::panic::resume_unwind(Box::new("in a task")) });
    let more = tasks.clone();
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    tasks.spawn(async move {
        tokio::task::yield_now().await;
        more.spawn(async move {
            tokio::task::yield_now().await;
            counted.fetch_add(1, Ordering::SeqCst);
        });
    });
    tokio::time::timeout(support::DEADLINE, tasks.wait()).await.expect("in time");
    assert_eq!(done.load(Ordering::SeqCst), 1);
}

/// Outside a runtime the work is dropped, and nothing waits for it.
#[test]
fn no_runtime() {
    let tasks = Tasks::new();
    tasks.spawn(async {});
    assert!(tasks.is_empty());
}

/// A runtime that goes away takes its tasks with it.
#[test]
fn runtime_ends() {
    let tasks = Tasks::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async { tasks.spawn(std::future::pending()) });
    assert_eq!(tasks.len(), 1);
    drop(runtime);
    assert!(tasks.is_empty());
}
