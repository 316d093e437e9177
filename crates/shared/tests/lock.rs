//! Locks, within one process; the suite has those between processes.

use std::time::Duration;

use farrier_shared::{Counter, Mutex, OnceError, VariableError, once_per_reload, once_per_server};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_has_it_at_a_time() {
    let (mutex, inside) = (Mutex::named("one").unwrap(), Counter::named("inside").unwrap());
    let other = Mutex::named("another").unwrap();
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
    let mutex = Mutex::named("tried").unwrap();
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
    let done = Counter::named("times").unwrap();
    let fail = once_per_server("once", async || Err("no table")).await;
    assert!(matches!(fail, Err(OnceError::Failed("no table"))));
    // Who is cut in the midst of it leaves it to the next.
    let never = once_per_server("once", std::future::pending::<Result<(), ()>>);
    assert!(timeout(Duration::from_millis(20), never).await.is_err());
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        tasks.spawn(async move {
            let work = async || {
                sleep(Duration::from_millis(20)).await;
                done.add(1);
                Ok::<_, ()>(())
            };
            let here = once_per_server("once", work).await.unwrap();
            assert_eq!(done.get(), 1, "nobody goes on before it is done");
            here
        });
    }
    let here = timeout(SOON, tasks.join_all()).await.unwrap();
    assert_eq!(here.iter().filter(|&&here| here).count(), 1);

    let mut did = Vec::new();
    for generation in [1, 1, 2, 1, 2, 4, 3] {
        let work = async || Ok::<_, ()>(());
        did.push(once_per_reload("once per reload", generation, work).await.unwrap());
    }
    assert_eq!(did, [true, false, true, false, false, true, false]);
    let other = once_per_server("once per reload", async || Ok::<_, ()>(())).await;
    assert!(matches!(other, Err(OnceError::Lock(VariableError::Differs(_)))));
}

#[tokio::test]
async fn however_many_wait_one_thread_does() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let mutex = Mutex::named("waited for").unwrap();
    let guard = mutex.lock().await.unwrap();
    let before = threads();
    let mut tasks = JoinSet::new();
    for number in 0..1_000 {
        tasks.spawn(async move {
            let _guard = mutex.lock().await.unwrap();
            number
        });
    }
    sleep(Duration::from_millis(50)).await;
    assert!(threads() <= before + 8, "{before} before, {} now", threads());
    drop(guard);
    let order = timeout(SOON, async {
        let mut order = Vec::new();
        while let Some(number) = tasks.join_next().await {
            order.push(number.unwrap());
        }
        order
    });
    assert!(order.await.unwrap().is_sorted(), "in their order");
}
