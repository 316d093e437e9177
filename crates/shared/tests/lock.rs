//! Locks, within one process; the suite has those between processes.

use std::time::Duration;

use farrier_shared::{Counter, Mutex, Once, OnceError};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_has_it_at_a_time() {
    let (mutex, inside) = (Mutex::new("one").unwrap(), Counter::new("inside").unwrap());
    let other = Mutex::new("another").unwrap();
    let _held = other.try_lock().unwrap().expect("nobody has it");
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        tasks.spawn(async move {
            for _ in 0..20 {
                let guard = mutex.lock().await.unwrap();
                assert!(!guard.holder_died());
                let before = inside.get();
                tokio::task::yield_now().await;
                assert_eq!(inside.add(1), before + 1, "somebody else was inside");
            }
        });
    }
    timeout(SOON, async { while tasks.join_next().await.transpose().unwrap().is_some() {} })
        .await
        .unwrap();
    assert_eq!(inside.get(), 400);
}

#[tokio::test]
async fn it_is_given_back_and_tried_without_waiting() {
    let mutex = Mutex::new("tried").unwrap();
    let guard = mutex.lock().await.unwrap();
    assert!(mutex.try_lock().unwrap().is_none());
    let waiting = tokio::spawn(async move { mutex.lock().await.map(|guard| guard.holder_died()) });
    sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    drop(guard);
    assert!(!timeout(SOON, waiting).await.unwrap().unwrap().unwrap());
    // Who gives up waiting does not keep it.
    let guard = mutex.lock().await.unwrap();
    assert!(timeout(Duration::from_millis(20), mutex.lock()).await.is_err());
    drop(guard);
    let again = timeout(SOON, mutex.lock()).await.unwrap().unwrap();
    assert!(!again.holder_died());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_done_once_and_waited_for() {
    let (once, done) = (Once::new("once").unwrap(), Counter::new("times").unwrap());
    let fail = once.per_server(async || Err("no table")).await;
    assert!(matches!(fail, Err(OnceError::Failed("no table"))));
    // Who is cut in the midst of it leaves it to the next.
    let never = once.per_server(std::future::pending::<Result<(), ()>>);
    assert!(timeout(Duration::from_millis(20), never).await.is_err());
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        tasks.spawn(async move {
            let work = async || {
                sleep(Duration::from_millis(20)).await;
                done.add(1);
                Ok::<_, ()>(())
            };
            let here = once.per_server(work).await.unwrap();
            assert_eq!(done.get(), 1, "nobody goes on before it is done");
            here
        });
    }
    let here = timeout(SOON, tasks.join_all()).await.unwrap();
    assert_eq!(here.iter().filter(|&&here| here).count(), 1);

    let once = Once::new("once per reload").unwrap();
    let mut did = Vec::new();
    for generation in [1, 1, 2, 1, 2, 4, 3] {
        did.push(once.per_reload(generation, async || Ok::<_, ()>(())).await.unwrap());
    }
    assert_eq!(did, [true, false, true, false, false, true, false]);
}
