//! How many, how long, and what becomes of it: waiting, outages, shut-down, runtimes, the counters.

use std::error::Error;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use farrier_connection::fake::{Behaviour, Fake};
use farrier_connection::{AcquireError, CloseReason, ErrorClass, Policy};
use tokio::time::{Instant, sleep, timeout};

use crate::{SECOND, acquire, assert_balanced, fill, pass, policy, pool, settle};

/// Behaviour C50.
#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_order_and_give_up_at_the_deadline() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(2).acquire_timeout(3 * SECOND));
    let held = [acquire(&pool).await, acquire(&pool).await];
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    for number in 0..4 {
        let (pool, order) = (pool.clone(), Arc::clone(&order));
        waiting.push(tokio::spawn(async move {
            let start = Instant::now();
            let result = pool.acquire().await;
            order.lock().unwrap().push(number);
            if result.is_ok() {
                sleep(SECOND).await;
            }
            (result.map(drop).map_err(|error| error.status().as_u16()), start.elapsed())
        }));
        settle().await;
    }
    assert_eq!(pool.status().waiting, 4);
    sleep(Duration::from_millis(2_500)).await;
    drop(held);
    let mut results = Vec::new();
    for task in waiting {
        results.push(task.await.unwrap());
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
    assert_eq!((results[0].0, results[1].0), (Ok(()), Ok(())));
    assert_eq!(results[2], (Err(503), 3 * SECOND));
    assert_eq!(results[3], (Err(503), 3 * SECOND));
    assert_eq!(fake.opened(), 2);
    assert_eq!(pool.status().timeouts, 2);
}

/// Behaviour C51.
#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1).max_waiting(1));
    let _held = acquire(&pool).await;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await.map(drop) }
    });
    settle().await;
    let start = Instant::now();
    let error = pool.acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::QueueFull), "{error:?}");
    assert_eq!(error.retry_after(), Some(SECOND));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(pool.status().rejected, 1);
    waiting.abort();
}

/// Who has a slot coming does not wait for one: a burst on a cold pool is not refused.
#[tokio::test(start_paused = true)]
async fn a_burst_on_a_cold_pool_is_not_refused() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Slow(Duration::from_millis(10)));
    let pool = pool(&fake, policy().max_connections(8).max_waiting(0));
    let burst: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let pooled = pool.acquire().await;
                sleep(SECOND).await;
                pooled.map(drop)
            })
        })
        .collect();
    for task in burst {
        task.await.unwrap().unwrap();
    }
    assert_eq!(fake.opened(), 8);
}

/// Behaviour C55.
#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_deadline_costs_no_request() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Fail(ErrorClass::Fatal));
    let pool = pool(&fake, policy().max_waiting(1_000).max_connecting(2));
    let start = Instant::now();
    let requests: Vec<_> = (0..1_000)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.acquire().await.map(drop) })
        })
        .collect();
    pass(2 * SECOND).await;
    assert!(pool.status().connecting <= 2);
    let attempts = pool.status().connect_failures;
    assert!((2..50).contains(&attempts), "{attempts}");
    fake.on_connect(Behaviour::Answer);
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_longer_outage_is_a_503_with_the_reason_for_the_log_only() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Fail(ErrorClass::Busy));
    let pool = pool(&fake, policy());
    let error = pool.acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable(_)), "{error:?}");
    assert_eq!(error.status(), 503);
    assert!(!error.to_string().contains("Busy"));
    assert!(error.source().unwrap().to_string().contains("Busy"));
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_fail_at_once() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Fail(ErrorClass::Denied));
    let pool = pool(&fake, policy());
    let start = Instant::now();
    let error = pool.acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::Denied(_)), "{error:?}");
    assert_eq!((error.status().as_u16(), start.elapsed()), (500, Duration::ZERO));
    assert_balanced(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_program_that_starts_does_not_wait_for_its_database() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Fail(ErrorClass::Fatal));
    let pool = pool(&fake, policy());
    let start = Instant::now();
    let error = pool.acquire_once().await.unwrap_err();
    assert!(matches!(error, AcquireError::Unavailable(_)), "{error:?}");
    assert_eq!(start.elapsed(), Duration::ZERO);
    pass(SECOND).await;
    assert_balanced(&pool);
}

/// Behaviour C56.
#[tokio::test(start_paused = true)]
async fn with_a_hung_server_every_request_is_answered_by_its_deadline() {
    let fake = Fake::new();
    let policy = policy().health_checks(true).max_connections(3).acquire_timeout(3 * SECOND);
    let pool = pool(&fake, policy);
    fill(&pool, 3).await;
    pass(SECOND).await;
    for behave in [Fake::on_connect, Fake::on_check, Fake::on_reset, Fake::on_kill] {
        behave(&fake, Behaviour::Hang);
    }
    let requests: Vec<_> = (0..10)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let start = Instant::now();
                let error = pool.acquire().await.unwrap_err();
                (error.status().as_u16(), start.elapsed())
            })
        })
        .collect();
    for request in requests {
        let (status, time) = request.await.unwrap();
        assert_eq!(status, 504);
        assert!(time <= pool.policy().acquire_timeout, "{time:?}");
    }
    for behave in [Fake::on_connect, Fake::on_check, Fake::on_reset, Fake::on_kill] {
        behave(&fake, Behaviour::Answer);
    }
    pass(10 * SECOND).await;
    assert_balanced(&pool);
    drop(acquire(&pool).await);
}

/// Behaviour C57.
#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_in_use() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(2));
    let mut pooled = acquire(&pool).await;
    fill(&pool, 1).await;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move {
            let _second = pool.acquire().await;
            pool.acquire().await.map(drop)
        }
    });
    settle().await;
    let closing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.close().await }
    });
    settle().await;
    assert!(matches!(waiting.await.unwrap(), Err(AcquireError::Closed)));
    assert!(matches!(pool.acquire().await, Err(AcquireError::Closed)));
    assert!(!closing.is_finished());
    pooled.query().await.unwrap();
    drop(pooled);
    closing.await.unwrap();
    assert_eq!(fake.sessions(), [0_u64; 0]);
    assert_balanced(&pool);
}

/// Behaviour C58: the runtime's half.
#[test]
fn a_pool_belongs_to_the_runtime_of_its_connections() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let (first, second) = (runtime(), runtime());
    first.block_on(async { drop(acquire(&pool).await) });
    second.block_on(async {
        let error = pool.acquire().await.unwrap_err();
        assert!(matches!(error, AcquireError::ForeignRuntime), "{error:?}");
    });
    // With none open it moves on, as after migrations before a fork.
    first.block_on(async {
        for session in fake.sessions() {
            fake.kill(session);
        }
        acquire(&pool).await.query().await.unwrap_err();
        settle().await;
    });
    second.block_on(async { assert_eq!(acquire(&pool).await.query().await, Ok(2)) });
}

/// Its end drops a connect before those who wait for it.
#[test]
fn a_runtime_ends_while_a_connect_hangs_and_somebody_waits() {
    let (end, ended) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let fake = Fake::new();
        fake.on_connect(Behaviour::Hang);
        let pool = pool(&fake, policy());
        runtime.block_on(async {
            for _ in 0..5 {
                let pool = pool.clone();
                tokio::spawn(async move { drop(pool.acquire().await) });
            }
            settle().await;
        });
        assert_eq!(pool.status().waiting, 5);
        drop(runtime);
        end.send(pool.status()).unwrap();
    });
    let status = ended.recv_timeout(10 * SECOND).expect("it ends");
    assert_eq!((status.waiting, status.connecting), (0, 0), "{status:?}");
}

/// The first one's reaper may never run again.
#[test]
fn on_a_second_runtime_connections_expire_as_on_the_first() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let fake = Fake::new();
    let pool = pool(&fake, policy().idle_timeout(Duration::from_millis(100)));
    let (first, second) = (runtime(), runtime());
    first.block_on(async {
        let mut pooled = acquire(&pool).await;
        drop(acquire(&pool).await);
        fake.kill_all();
        pooled.query().await.unwrap_err();
        drop(pooled);
        // What is left is found broken, too.
        drop(acquire(&pool).await);
        fake.kill_all();
        let mut pooled = acquire(&pool).await;
        pooled.query().await.unwrap_err();
        drop(pooled);
        settle().await;
    });
    assert_eq!(pool.status().opened, pool.status().closed, "{:?}", pool.status());
    second.block_on(async {
        drop(acquire(&pool).await);
        let expired = async {
            while pool.status().idle > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(10 * SECOND, expired).await.expect("it is closed");
    });
}

/// A runtime that is gone takes its connections with it, and their slots.
#[test]
fn a_loan_dropped_after_its_runtime_is_abandoned() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut pooled = runtime.block_on(acquire(&pool));
    runtime.block_on(pooled.alter()).unwrap();
    drop(runtime);
    drop(pooled);
    assert_eq!(pool.status().closed_for(CloseReason::Abandoned), 1);
    assert_balanced(&pool);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(acquire(&pool)).session(), 2);
}

/// Behaviour C61.
#[tokio::test(start_paused = true)]
async fn the_counters_balance_after_ten_thousand_mixed_requests() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Slow(Duration::from_millis(2)));
    let policy = Policy::default().max_connections(5).max_age(3 * SECOND).max_waiting(100_000);
    let pool = pool(&fake, policy.acquire_timeout(Duration::from_millis(300)));
    let mut requests = Vec::new();
    for number in 0..10_000_u64 {
        let (pool, server) = (pool.clone(), fake.clone());
        requests.push(tokio::spawn(async move {
            let Ok(mut pooled) = pool.acquire().await else {
                return;
            };
            let work = Duration::from_millis(number % 7);
            match number % 50 {
                0 => drop(timeout(work / 2, pooled.query_for(work)).await),
                1 => drop(pooled.begin().await),
                2 => drop(pooled.alter().await),
                3 if number % 1_000 == 3 => server.kill_all(),
                _ => drop(pooled.query_for(work).await),
            }
        }));
        if number % 3 == 0 {
            sleep(Duration::from_millis(2)).await;
        }
        if number % 100 == 0 {
            assert!(fake.sessions().len() <= 5);
        }
    }
    for request in requests {
        request.await.unwrap();
    }
    pass(3 * SECOND).await;
    let status = pool.status();
    assert_eq!(status.acquired + status.timeouts, 10_000, "{status:?}");
    for reason in [CloseReason::Age, CloseReason::Poisoned, CloseReason::Dead] {
        assert!(status.closed_for(reason) > 0, "{reason:?}: {status:?}");
    }
    assert_balanced(&pool);
}

/// Behaviours C30 and C61, with real threads and real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_many_threads_the_bound_holds_and_nothing_is_lost() {
    let fake = Fake::new();
    let policy = policy().max_connections(4).max_age(Duration::from_millis(20)).max_waiting(10_000);
    let pool = pool(&fake, policy.acquire_timeout(60 * SECOND));
    let requests: Vec<_> = (0..64_u64)
        .map(|client| {
            let (pool, fake) = (pool.clone(), fake.clone());
            tokio::spawn(async move {
                for number in 0..200 {
                    let mut pooled = acquire(&pool).await;
                    match (client + number) % 16 {
                        0 => {
                            drop(
                                timeout(Duration::from_micros(50), pooled.query_for(SECOND)).await,
                            );
                        }
                        1 => drop(pooled.begin().await),
                        2 => drop(pooled.alter().await),
                        3 => drop(timeout(Duration::from_micros(50), pool.acquire()).await),
                        4 if number == 100 => fake.kill_all(),
                        _ => drop(pooled.query().await),
                    }
                    assert!(fake.sessions().len() <= 4, "{:?}", fake.sessions());
                }
            })
        })
        .collect();
    for request in requests {
        timeout(60 * SECOND, request).await.expect("no request is left waiting").unwrap();
    }
    timeout(60 * SECOND, pool.close()).await.expect("every slot came back");
    assert_eq!(fake.sessions(), [0_u64; 0]);
    assert_balanced(&pool);
}
