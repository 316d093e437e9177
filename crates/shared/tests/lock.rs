//! Locks, within one process; the suite has those between processes.

use std::time::Duration;

use farrier_shared::{
    Counter, Mutex, OnceError, VariableError, held_locks, once_per_reload, once_per_server,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
    assert!(matches!(fail, Err(OnceError::Failed(error)) if error.to_string() == "no table"));
    // Who is cut in the midst of it leaves it to the next.
    let never = once_per_server("once", std::future::pending::<Result<(), BoxError>>);
    assert!(timeout(Duration::from_millis(20), never).await.is_err());
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        tasks.spawn(async move {
            let work = async || {
                sleep(Duration::from_millis(20)).await;
                done.add(1);
                Ok::<_, BoxError>(())
            };
            let here = once_per_server("once", work).await.unwrap();
            assert_eq!(done.get(), 1, "nobody goes on before it is done");
            here
        });
    }
    let here = timeout(SOON, tasks.join_all()).await.unwrap();
    assert_eq!(here.iter().filter(|&&here| here).count(), 1);

    let mut did = Vec::new();
    for generation in [0, 1, 1, 2, 1, 2, 4, 3] {
        let work = async || Ok::<_, BoxError>(());
        did.push(once_per_reload("once per reload", generation, work).await.unwrap());
    }
    assert_eq!(did, [true, true, false, true, false, false, true, false]);
    let other = once_per_server("once per reload", async || Ok::<_, BoxError>(())).await;
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

/// Behaviour V2: a panic leaves things half done, as a crash does.
#[tokio::test]
async fn a_panic_with_it_is_told() {
    let mutex = Mutex::named("panics").unwrap();
    let panics = tokio::spawn(async move {
        let _guard = mutex.lock().await.unwrap();
        std::panic::resume_unwind(Box::new("with the lock"));
    });
    assert!(panics.await.unwrap_err().is_panic());
    assert!(mutex.try_lock().unwrap().expect("nobody has it").holder_died());
    assert!(!mutex.try_lock().unwrap().expect("nobody has it").holder_died());
}

#[tokio::test]
async fn what_is_held_or_waited_for_is_known() {
    let mutex = Mutex::named("known").unwrap();
    let is_known = || held_locks().iter().any(|name| name == "known");
    assert!(!is_known());
    let guard = mutex.lock().await.unwrap();
    assert!(is_known());
    drop(guard);
    assert!(!is_known());
}
