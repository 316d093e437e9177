//! The pool by itself: age, checks, bounds, outages, cancellation, shut-down.

use std::collections::BTreeSet;
use std::error::Error;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use farrier_connection::fake::{Behaviour, Event, Fake};
use farrier_connection::{AcquireError, CloseReason, ErrorClass, Policy};
use tokio::time::{Instant, sleep, timeout};

use crate::{SECOND, acquire, assert_balanced, fill, pass, policy, poll_times, pool, settle};

/// connections.md 5, behaviours 2 and 5.
#[tokio::test(start_paused = true)]
async fn a_connection_is_reused_until_its_age_and_then_closed_without_traffic() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_age(60 * SECOND).max_age_jitter(0.0));
    drop(acquire(&pool).await);
    pass(Duration::from_millis(59_900)).await;
    assert_eq!(acquire(&pool).await.session(), 1);
    pass(Duration::from_millis(99)).await;
    assert_eq!(fake.sessions(), [1]);
    pass(Duration::from_millis(1)).await;
    assert_eq!(fake.sessions(), [0_u64; 0]);
    assert_eq!(pool.status().closed_for(CloseReason::Age), 1);
    assert_balanced(&pool);
}

/// connections.md 5, behaviours 6 and 7.
#[tokio::test(start_paused = true)]
async fn a_use_that_outlives_the_age_is_not_interrupted_and_does_not_extend_it() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_age(60 * SECOND).max_age_jitter(0.0));
    let mut loan = acquire(&pool).await;
    for _ in 0..3 {
        pass(30 * SECOND).await;
        loan.query().await.unwrap();
    }
    assert_eq!(fake.sessions(), [1]);
    drop(loan);
    settle().await;
    assert_eq!(fake.sessions(), [0_u64; 0]);
    // A new connection has an age of its own.
    drop(acquire(&pool).await);
    pass(59 * SECOND).await;
    assert_eq!(fake.sessions(), [2]);
}

/// connections.md 5, behaviour 1.
#[tokio::test(start_paused = true)]
async fn with_an_age_of_zero_each_use_has_a_connection_of_its_own() {
    let fake = Fake::new();
    let pool = pool(&fake, Policy::django());
    for session in 1..=3 {
        let mut loan = acquire(&pool).await;
        for _ in 0..3 {
            assert_eq!(loan.query().await, Ok(session));
        }
        drop(loan);
        settle().await;
        assert_eq!(fake.sessions(), [0_u64; 0]);
    }
    assert_balanced(&pool);
}

/// connections.md 5, behaviour 8.
#[tokio::test(start_paused = true)]
async fn without_an_age_and_an_idle_limit_a_connection_stays_for_ever() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    drop(acquire(&pool).await);
    pass(1_000_000 * SECOND).await;
    assert_eq!(acquire(&pool).await.session(), 1);
}

/// connections.md 5, behaviour 9.
#[tokio::test(start_paused = true)]
async fn connections_opened_together_expire_apart_and_each_at_its_own_time() {
    let fake = Fake::new();
    let policy = policy().max_age(1_000 * SECOND).max_age_jitter(0.2).max_connections(100);
    let pool = pool(&fake, policy);
    fill(&pool, 100).await;
    let mut gone = Vec::new();
    let mut living = fake.sessions().len();
    pass(799 * SECOND).await;
    assert_eq!(fake.sessions().len(), 100, "none goes more than a fifth too early");
    for second in 799..=1_000 {
        // Looking at the status must not roll again.
        let _ = pool.status();
        pass(SECOND).await;
        gone.extend((fake.sessions().len()..living).map(|_| second));
        living = fake.sessions().len();
    }
    assert_eq!(living, 0, "none outlives its age");
    let distinct: BTreeSet<_> = gone.iter().collect();
    assert!(distinct.len() > 50, "{distinct:?}");
    assert!(gone[99] - gone[0] > 100, "{gone:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_one_in_use_is_not_idle() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().idle_timeout(10 * SECOND));
    let first = acquire(&pool).await;
    drop(acquire(&pool).await);
    pass(9 * SECOND).await;
    assert_eq!(fake.sessions(), [1, 2]);
    pass(SECOND).await;
    assert_eq!(fake.sessions(), [1]);
    drop(first);
    pass(10 * SECOND).await;
    assert_eq!(fake.sessions(), [0_u64; 0]);
    assert_eq!(pool.status().closed_for(CloseReason::Idle), 2);
}

/// The last one given back is the next given out, so that surplus can age out.
#[tokio::test(start_paused = true)]
async fn the_most_recently_used_connection_is_taken_first() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let (first, second) = (acquire(&pool).await, acquire(&pool).await);
    drop(second);
    drop(first);
    assert_eq!(acquire(&pool).await.session(), 1);
}

/// connections.md 5, behaviours 11, 12, 15 and 17.
#[tokio::test(start_paused = true)]
async fn only_a_connection_that_survived_a_while_is_checked_and_once() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true));
    drop(acquire(&pool).await);
    // Within the bypass window.
    drop(acquire(&pool).await);
    pass(Duration::from_millis(499)).await;
    drop(acquire(&pool).await);
    assert_eq!(fake.take_events(), [Event::Connect(1)]);
    pass(Duration::from_millis(500)).await;
    let mut loan = acquire(&pool).await;
    loan.begin().await.unwrap();
    for _ in 0..2 {
        loan.query().await.unwrap();
    }
    loan.commit().await.unwrap();
    let expected =
        [Event::Check(1), Event::Begin(1), Event::Query(1), Event::Query(1), Event::Commit(1)];
    assert_eq!(fake.take_events(), expected);
}

/// connections.md 5, behaviour 11, also with no window in which a check would be skipped.
#[tokio::test(start_paused = true)]
async fn a_fresh_connection_is_not_checked() {
    let fake = Fake::new();
    let policy = policy().health_checks(true).health_check_bypass(Duration::ZERO);
    let pool = pool(&fake, policy);
    drop(acquire(&pool).await);
    assert_eq!(fake.take_events(), [Event::Connect(1)]);
    drop(acquire(&pool).await);
    assert_eq!(fake.take_events(), [Event::Check(1)]);
}

/// connections.md 5, behaviour 14: who had a connection does not queue again behind others.
#[tokio::test(start_paused = true)]
async fn a_replacement_keeps_its_place_before_those_who_wait() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true).max_connections(1));
    drop(acquire(&pool).await);
    pass(SECOND).await;
    fake.on_check(Behaviour::Hang);
    let order = Arc::new(Mutex::new(Vec::new()));
    let requests = ["checks", "waits", "waits"].map(|name| {
        let (pool, order) = (pool.clone(), Arc::clone(&order));
        tokio::spawn(async move {
            let _loan = acquire(&pool).await;
            order.lock().unwrap().push(name);
        })
    });
    for request in requests {
        request.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), ["checks", "waits", "waits"]);
}

/// connections.md 5, behaviour 14.
#[tokio::test(start_paused = true)]
async fn a_failed_check_is_replaced_within_the_same_acquire() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true));
    drop(acquire(&pool).await);
    pass(SECOND).await;
    fake.kill_all();
    assert_eq!(acquire(&pool).await.query().await, Ok(2));
    assert_eq!(pool.status().checks, 1, "the replacement is not checked");
    assert_eq!(pool.status().closed_for(CloseReason::Unusable), 1);
    assert_balanced(&pool);
}

/// connections.md 5, behaviour 18.
#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_counts_as_failed() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true).check_timeout(SECOND));
    drop(acquire(&pool).await);
    pass(SECOND).await;
    fake.on_check(Behaviour::Hang);
    let start = Instant::now();
    assert_eq!(acquire(&pool).await.session(), 2);
    assert_eq!(start.elapsed(), SECOND);
}

/// connections.md 5, behaviour 18: the deadline is one for all of it.
#[tokio::test(start_paused = true)]
async fn check_and_connect_share_the_deadline() {
    let fake = Fake::new();
    let policy = policy().health_checks(true).check_timeout(2 * SECOND).acquire_timeout(3 * SECOND);
    let pool = pool(&fake, policy.connect_timeout(2 * SECOND));
    drop(acquire(&pool).await);
    pass(SECOND).await;
    fake.on_check(Behaviour::Hang);
    fake.on_connect(Behaviour::Hang);
    let start = Instant::now();
    let error = pool.acquire().await.unwrap_err();
    assert!(matches!(error, AcquireError::TimedOut), "{error:?}");
    assert_eq!(start.elapsed(), 3 * SECOND);
}

/// connections.md 5, behaviours 19 and 20.
#[tokio::test(start_paused = true)]
async fn one_detected_disconnect_retires_every_older_connection() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true));
    let in_use = acquire(&pool).await;
    fill(&pool, 5).await;
    pass(SECOND).await;
    fake.kill_all();
    let start = Instant::now();
    let mut loan = acquire(&pool).await;
    assert_eq!(loan.query().await, Ok(7));
    assert_eq!(start.elapsed(), Duration::ZERO);
    let status = pool.status();
    assert_eq!((status.checks, status.closed_for(CloseReason::Generation)), (1, 4));
    drop(in_use);
    settle().await;
    assert_eq!(pool.status().closed_for(CloseReason::Generation), 5);
    drop(loan);
    assert_eq!(fake.sessions(), [7]);
    assert_balanced(&pool);
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_seen_by_its_user_retires_the_older_ones_too() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut loan = acquire(&pool).await;
    fill(&pool, 3).await;
    fake.kill_all();
    loan.query().await.unwrap_err();
    drop(loan);
    assert_eq!(acquire(&pool).await.query().await, Ok(5));
    let status = pool.status();
    assert_eq!(status.closed_for(CloseReason::Dead), 1);
    assert_eq!(status.closed_for(CloseReason::Generation), 3);
}

/// connections.md 5, behaviours 39 and 40.
#[tokio::test(start_paused = true)]
async fn a_connection_is_cleaned_as_far_as_it_is_dirty() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1));
    acquire(&pool).await.query().await.unwrap();
    assert_eq!(fake.take_events(), [Event::Connect(1), Event::Query(1)]);
    acquire(&pool).await.begin().await.unwrap();
    drop(acquire(&pool).await);
    assert_eq!(fake.take_events(), [Event::Begin(1), Event::Rollback(1)]);
    acquire(&pool).await.alter().await.unwrap();
    drop(acquire(&pool).await);
    assert_eq!(fake.take_events(), [Event::Query(1), Event::Reset(1)]);
    assert_eq!((pool.status().rollbacks, pool.status().resets), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_cannot_be_cleaned_is_closed() {
    for behaviour in [Behaviour::Hang, Behaviour::Fail(ErrorClass::Suspect)] {
        let fake = Fake::new();
        let pool = pool(&fake, policy().max_connections(1));
        fake.on_reset(behaviour);
        acquire(&pool).await.alter().await.unwrap();
        assert_eq!(acquire(&pool).await.session(), 2);
        assert_eq!(pool.status().closed_for(CloseReason::ResetFailed), 1);
        assert_eq!(fake.sessions(), [2]);
    }
}

/// connections.md 5, behaviour 50.
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

/// connections.md 5, behaviour 51.
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
                let loan = pool.acquire().await;
                sleep(SECOND).await;
                loan.map(drop)
            })
        })
        .collect();
    for task in burst {
        task.await.unwrap().unwrap();
    }
    assert_eq!(fake.opened(), 8);
}

/// connections.md 5, behaviour 32.
#[tokio::test(start_paused = true)]
async fn cancelled_waiters_leave_the_queue_and_cost_nothing() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1));
    let mut held = Some(acquire(&pool).await);
    for round in 0..1_000 {
        let cancelled = timeout(Duration::from_millis(1), pool.acquire());
        if round % 2 == 0 {
            assert!(cancelled.await.is_err());
        } else {
            // Given back at the very moment at which the waiter gives up.
            let mut cancelled = Box::pin(pool.acquire());
            assert!(poll_fn(|cx| Poll::Ready(cancelled.as_mut().poll(cx).is_pending())).await);
            held = None;
            drop(cancelled);
        }
        assert_eq!(pool.status().waiting, 0);
        if held.is_none() {
            held = Some(acquire(&pool).await);
        }
    }
    drop(held);
    assert_eq!(fake.opened(), 1);
    assert_balanced(&pool);
}

/// connections.md 5, behaviour 33: what was begun is kept for the next.
#[tokio::test(start_paused = true)]
async fn a_cancelled_connect_frees_its_slot() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Slow(SECOND));
    let pool = pool(&fake, policy().max_connections(1));
    for _ in 0..10 {
        assert!(timeout(Duration::from_millis(10), pool.acquire()).await.is_err());
    }
    assert_eq!(acquire(&pool).await.session(), 1);
    pass(SECOND).await;
    assert_eq!(fake.opened(), 1);
    assert_balanced(&pool);
}

/// connections.md 5, behaviour 33, with a connect that never ends.
#[tokio::test(start_paused = true)]
async fn a_hanging_connect_frees_its_slot_at_its_limit() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Hang);
    let pool = pool(&fake, policy().max_connections(1).connect_timeout(2 * SECOND));
    assert!(timeout(SECOND, pool.acquire()).await.is_err());
    fake.on_connect(Behaviour::Answer);
    let start = Instant::now();
    drop(acquire(&pool).await);
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
    assert_balanced(&pool);
}

/// connections.md 5, behaviour 34.
#[tokio::test(start_paused = true)]
async fn a_transaction_statement_cancelled_at_any_poll_never_comes_back() {
    for polls in 0..4 {
        for statement in ["begin", "commit", "alter"] {
            let fake = Fake::new();
            let pool = pool(&fake, policy());
            let mut loan = acquire(&pool).await;
            fake.on_statement(Behaviour::Slow(Duration::from_millis(1)));
            let finished = match statement {
                "begin" => poll_times(loan.begin(), polls).await,
                "commit" => poll_times(loan.commit(), polls).await,
                _ => poll_times(loan.alter(), polls).await,
            };
            drop(loan);
            pass(SECOND).await;
            let kept = acquire(&pool).await.session() == 1;
            let started = fake.events().iter().any(|event| !matches!(event, Event::Connect(_)));
            assert_eq!(kept, finished.is_some() || !started, "{statement}, {polls} polls");
        }
    }
}

/// connections.md 5, behaviours 29 and 31.
#[tokio::test(start_paused = true)]
async fn a_cancelled_statement_is_ended_at_the_server() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut loan = acquire(&pool).await;
    assert!(timeout(SECOND, loan.query_for(60 * SECOND)).await.is_err());
    drop(loan);
    settle().await;
    assert_eq!(fake.sessions(), [0_u64; 0]);
    assert!(fake.events().contains(&Event::Kill(1)));
    assert_eq!((pool.status().kills, pool.status().closed_for(CloseReason::Poisoned)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_kill_a_cancelled_statement_is_abandoned() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().kill_cancelled(false));
    let mut loan = acquire(&pool).await;
    assert!(timeout(SECOND, loan.query_for(60 * SECOND)).await.is_err());
    drop(loan);
    settle().await;
    assert_eq!(fake.sessions(), [1], "the server works on");
    assert_eq!(pool.status().kills, 0);
    assert_ne!(acquire(&pool).await.session(), 1);
}

/// connections.md 5, behaviour 30.
#[tokio::test(start_paused = true)]
async fn two_hundred_disconnects_never_exceed_the_bound_at_the_server() {
    let fake = Fake::new();
    fake.on_kill(Behaviour::Slow(Duration::from_millis(5)));
    let pool =
        pool(&fake, policy().max_connections(2).max_waiting(1_000).acquire_timeout(60 * SECOND));
    let mut requests = Vec::new();
    for _ in 0..200 {
        let pool = pool.clone();
        requests.push(tokio::spawn(async move {
            let mut loan = pool.acquire().await.unwrap();
            let _ = timeout(Duration::from_millis(20), loan.query_for(60 * SECOND)).await;
        }));
    }
    while !requests.iter().all(tokio::task::JoinHandle::is_finished) {
        assert!(fake.sessions().len() <= 2, "{:?}", fake.sessions());
        sleep(Duration::from_millis(1)).await;
    }
    for request in requests {
        request.await.unwrap();
    }
    pass(SECOND).await;
    assert_eq!((fake.sessions().len(), pool.status().kills), (0, 200));
    assert_balanced(&pool);
}

/// connections.md 5, behaviour 30: a slot is not free before the server has confirmed the end.
#[tokio::test(start_paused = true)]
async fn a_slot_stays_taken_until_the_cancelled_session_is_known_to_be_gone() {
    for behaviour in
        [Behaviour::Hang, Behaviour::Fail(ErrorClass::Fatal), Behaviour::Fail(ErrorClass::Busy)]
    {
        let fake = Fake::new();
        fake.on_kill(behaviour);
        let pool = pool(&fake, policy().max_connections(1));
        let mut loan = acquire(&pool).await;
        assert!(timeout(SECOND, loan.query_for(600 * SECOND)).await.is_err());
        drop(loan);
        for _ in 0..10 {
            assert_eq!(pool.acquire().await.unwrap_err().status(), 503, "{behaviour:?}");
            assert_eq!(fake.sessions(), [1], "{behaviour:?}");
        }
        assert!(pool.status().kill_failures > 1);
        fake.on_kill(Behaviour::Answer);
        assert_eq!(acquire(&pool).await.session(), 2);
        assert_eq!((fake.sessions(), pool.status().kills), (vec![2], 1));
        assert_balanced(&pool);
    }
}

/// A server that refuses to end the session will refuse it again.
#[tokio::test(start_paused = true)]
async fn a_refused_kill_is_not_repeated() {
    let fake = Fake::new();
    fake.on_kill(Behaviour::Fail(ErrorClass::Suspect));
    let pool = pool(&fake, policy().max_connections(1));
    let mut loan = acquire(&pool).await;
    assert!(timeout(SECOND, loan.query_for(60 * SECOND)).await.is_err());
    drop(loan);
    assert_eq!(acquire(&pool).await.session(), 2);
    assert_eq!((pool.status().kills, pool.status().kill_failures), (0, 1));
}

/// connections.md 5, behaviour 57: nobody takes the slot of a pool that is closed.
#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_kill_that_never_succeeds() {
    let fake = Fake::new();
    fake.on_kill(Behaviour::Hang);
    let pool = pool(&fake, policy());
    let mut loan = acquire(&pool).await;
    assert!(timeout(SECOND, loan.query_for(60 * SECOND)).await.is_err());
    drop(loan);
    settle().await;
    let limit = pool.policy().close_timeout + SECOND;
    timeout(limit, pool.close()).await.expect("one attempt, and no other");
    assert_balanced(&pool);
}

/// The server may hold a session for hours whose client a firewall has cut off.
#[tokio::test(start_paused = true)]
async fn a_session_whose_check_hangs_is_ended_at_the_server() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true));
    drop(acquire(&pool).await);
    pass(SECOND).await;
    fake.on_check(Behaviour::Hang);
    assert_eq!(acquire(&pool).await.session(), 2);
    settle().await;
    assert!(fake.events().contains(&Event::Kill(1)), "{:?}", fake.events());
    assert_balanced(&pool);
}

/// A check that the caller's own deadline cut off is no sign of a broken server.
#[tokio::test(start_paused = true)]
async fn a_check_cut_off_by_the_deadline_retires_nobody_else() {
    let fake = Fake::new();
    let policy = policy().health_checks(true).health_check_bypass(Duration::ZERO);
    let pool = pool(&fake, policy.max_connections(2).acquire_timeout(SECOND));
    let (first, second) = (acquire(&pool).await, acquire(&pool).await);
    fake.on_check(Behaviour::Slow(Duration::from_millis(10)));
    let late = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await.map(drop) }
    });
    sleep(Duration::from_millis(995)).await;
    drop(first);
    late.await.unwrap().unwrap_err();
    drop(second);
    settle().await;
    let status = pool.status();
    assert_eq!((status.closed_for(CloseReason::Generation), status.idle), (0, 1), "{status:?}");
    assert_eq!(acquire(&pool).await.session(), 2);
    assert_balanced(&pool);
}

/// connections.md 5, behaviour 19: found when the connection is cleaned.
#[tokio::test(start_paused = true)]
async fn a_disconnect_found_while_cleaning_retires_the_older_ones_too() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut loan = acquire(&pool).await;
    fill(&pool, 3).await;
    loan.alter().await.unwrap();
    fake.kill_all();
    drop(loan);
    settle().await;
    let status = pool.status();
    assert_eq!(status.closed_for(CloseReason::Dead), 1, "{status:?}");
    assert_eq!(status.closed_for(CloseReason::Generation), 3, "{status:?}");
    assert_eq!(acquire(&pool).await.query().await, Ok(5));
}

/// connections.md 5, behaviour 28.
#[tokio::test(start_paused = true)]
async fn a_poisoned_connection_does_nothing_more() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut loan = acquire(&pool).await;
    assert!(timeout(SECOND, loan.query_for(2 * SECOND)).await.is_err());
    sleep(10 * SECOND).await;
    loan.query().await.unwrap_err();
}

/// connections.md 5, behaviour 55.
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

/// connections.md 5, behaviour 56.
#[tokio::test(start_paused = true)]
async fn with_a_hung_server_every_request_is_answered_by_its_deadline() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true).max_connections(3));
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
        assert!(time <= 3 * SECOND, "{time:?}");
    }
    for behave in [Fake::on_connect, Fake::on_check, Fake::on_reset, Fake::on_kill] {
        behave(&fake, Behaviour::Answer);
    }
    pass(10 * SECOND).await;
    assert_balanced(&pool);
    drop(acquire(&pool).await);
}

/// connections.md 5, behaviour 57.
#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_in_use() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(2));
    let mut loan = acquire(&pool).await;
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
    loan.query().await.unwrap();
    drop(loan);
    closing.await.unwrap();
    assert_eq!(fake.sessions(), [0_u64; 0]);
    assert_balanced(&pool);
}

/// connections.md 5, behaviour 58: the runtime's half.
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

/// A runtime that is gone takes its connections with it, and their slots.
#[test]
fn a_loan_dropped_after_its_runtime_is_abandoned() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_connections(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut loan = runtime.block_on(acquire(&pool));
    runtime.block_on(loan.alter()).unwrap();
    drop(runtime);
    drop(loan);
    assert_eq!(pool.status().closed_for(CloseReason::Abandoned), 1);
    assert_balanced(&pool);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(acquire(&pool)).session(), 2);
}

/// connections.md 5, behaviour 61.
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
            let Ok(mut loan) = pool.acquire().await else {
                return;
            };
            let work = Duration::from_millis(number % 7);
            match number % 50 {
                0 => drop(timeout(work / 2, loan.query_for(work)).await),
                1 => drop(loan.begin().await),
                2 => drop(loan.alter().await),
                3 if number % 1_000 == 3 => server.kill_all(),
                _ => drop(loan.query_for(work).await),
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

/// connections.md 5, behaviours 30 and 61, with real threads and real time.
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
                    let mut loan = acquire(&pool).await;
                    match (client + number) % 16 {
                        0 => drop(timeout(Duration::from_micros(50), loan.query_for(SECOND)).await),
                        1 => drop(loan.begin().await),
                        2 => drop(loan.alter().await),
                        3 => drop(timeout(Duration::from_micros(50), pool.acquire()).await),
                        4 if number == 100 => fake.kill_all(),
                        _ => drop(loan.query().await),
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
