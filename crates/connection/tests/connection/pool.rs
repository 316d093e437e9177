//! The life of a connection: age, idleness, checks, cleaning.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farrier_connection::fake::{Behaviour, Event, Fake};
use farrier_connection::{AcquireError, CloseReason, ErrorClass, Policy};
use tokio::time::{Instant, sleep};

use crate::{SECOND, acquire, assert_balanced, fill, pass, policy, pool, settle};

/// Behaviours C2 and C5.
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

/// Behaviours C6 and C7.
#[tokio::test(start_paused = true)]
async fn a_use_that_outlives_the_age_is_not_interrupted_and_does_not_extend_it() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().max_age(60 * SECOND).max_age_jitter(0.0));
    let mut pooled = acquire(&pool).await;
    for _ in 0..3 {
        pass(30 * SECOND).await;
        pooled.query().await.unwrap();
    }
    assert_eq!(fake.sessions(), [1]);
    drop(pooled);
    settle().await;
    assert_eq!(fake.sessions(), [0_u64; 0]);
    // A new connection has an age of its own.
    drop(acquire(&pool).await);
    pass(59 * SECOND).await;
    assert_eq!(fake.sessions(), [2]);
}

/// Behaviour C1.
#[tokio::test(start_paused = true)]
async fn with_an_age_of_zero_each_use_has_a_connection_of_its_own() {
    let fake = Fake::new();
    let pool = pool(&fake, Policy::django());
    for session in 1..=3 {
        let mut pooled = acquire(&pool).await;
        for _ in 0..3 {
            assert_eq!(pooled.query().await, Ok(session));
        }
        drop(pooled);
        settle().await;
        assert_eq!(fake.sessions(), [0_u64; 0]);
    }
    assert_balanced(&pool);
}

/// Behaviour C8. The clock is monotonic, so the wall clock changes nothing.
#[tokio::test(start_paused = true)]
async fn without_an_age_and_an_idle_limit_a_connection_stays_for_ever() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    drop(acquire(&pool).await);
    pass(1_000_000 * SECOND).await;
    assert_eq!(acquire(&pool).await.session(), 1);
}

/// Behaviour C9.
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

/// The pool closes what the server would.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_before_the_server_does_it() {
    for idle in [None, Some(600 * SECOND)] {
        let fake = Fake::new();
        fake.set_idle_limit(100 * SECOND);
        let pool = pool(&fake, policy().idle_timeout(idle));
        drop(acquire(&pool).await);
        pass(89 * SECOND).await;
        assert_eq!(acquire(&pool).await.session(), 1);
        pass(89 * SECOND).await;
        assert_eq!(fake.sessions(), [1]);
        pass(SECOND).await;
        assert_eq!(fake.sessions(), [0_u64; 0]);
        assert_eq!(pool.status().closed_for(CloseReason::Idle), 1);
    }
    // A shorter one of the policy's stays what it is.
    let fake = Fake::new();
    fake.set_idle_limit(100 * SECOND);
    let pool = pool(&fake, policy().idle_timeout(10 * SECOND));
    drop(acquire(&pool).await);
    pass(10 * SECOND).await;
    assert_eq!(pool.status().closed_for(CloseReason::Idle), 1);
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

/// Behaviours C11, C12, C15 and C17.
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
    let mut pooled = acquire(&pool).await;
    pooled.begin().await.unwrap();
    for _ in 0..2 {
        pooled.query().await.unwrap();
    }
    pooled.commit().await.unwrap();
    let expected =
        [Event::Check(1), Event::Begin(1), Event::Query(1), Event::Query(1), Event::Commit(1)];
    assert_eq!(fake.take_events(), expected);
}

/// Behaviour C11, also with no window in which a check would be skipped.
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

/// Behaviour C13: with checks a killed session costs nothing, without them exactly
/// one failure.
#[tokio::test(start_paused = true)]
async fn a_session_killed_while_idle_costs_at_most_one_failure() {
    for checks in [true, false] {
        let fake = Fake::new();
        let pool = pool(&fake, policy().health_checks(checks));
        drop(acquire(&pool).await);
        pass(SECOND).await;
        fake.kill(1);
        let mut failures = 0;
        for _ in 0..5 {
            failures += u32::from(acquire(&pool).await.query().await.is_err());
            pass(SECOND).await;
        }
        assert_eq!((failures, fake.opened()), (u32::from(!checks), 2), "checks: {checks}");
    }
}

/// Behaviour C16: what was asked when the connection was cleaned is not the next
/// request's check.
#[tokio::test(start_paused = true)]
async fn a_connection_that_was_cleaned_is_still_checked_once() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true));
    acquire(&pool).await.alter().await.unwrap();
    pass(SECOND).await;
    assert_eq!(fake.take_events(), [Event::Connect(1), Event::Query(1), Event::Reset(1)]);
    let mut pooled = acquire(&pool).await;
    for _ in 0..2 {
        pooled.query().await.unwrap();
    }
    assert_eq!(fake.take_events(), [Event::Check(1), Event::Query(1), Event::Query(1)]);
}

/// Behaviour C20.
#[tokio::test(start_paused = true)]
async fn a_restart_of_the_server_with_many_idle_costs_no_request() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true).max_connections(20));
    fill(&pool, 20).await;
    pass(SECOND).await;
    fake.kill_all();
    let requests: Vec<_> = (0..100)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { acquire(&pool).await.query_for(SECOND / 100).await })
        })
        .collect();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert!(fake.sessions().len() <= 20);
    assert_balanced(&pool);
}

/// Behaviour C14: who had a connection does not queue again behind others.
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

/// Behaviour C14.
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

/// Behaviour C18.
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

/// Behaviour C18: the deadline is one for all of it.
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

/// Behaviours C19 and C20: nobody meets a dead one.
#[tokio::test(start_paused = true)]
async fn after_a_detected_disconnect_every_older_connection_is_checked() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true));
    let in_use = acquire(&pool).await;
    fill(&pool, 5).await;
    pass(SECOND).await;
    fake.kill_all();
    let start = Instant::now();
    let mut pooled = acquire(&pool).await;
    assert_eq!(pooled.query().await, Ok(7));
    assert_eq!(start.elapsed(), Duration::ZERO);
    drop(in_use);
    // It came back a moment ago, and nothing is known of it.
    assert_eq!(acquire(&pool).await.session(), 8);
    let status = pool.status();
    assert_eq!((status.checks, status.closed_for(CloseReason::Unusable)), (6, 6), "{status:?}");
    drop(pooled);
    assert_eq!(fake.sessions(), [7, 8]);
    assert_balanced(&pool);
}

/// As an upload that the server refuses by hanging up.
#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_alone_costs_the_others_a_check_and_no_more() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    for round in 1..=3 {
        fill(&pool, 4).await;
        let mut broken = acquire(&pool).await;
        fake.kill(broken.session());
        broken.query().await.unwrap_err();
        drop(broken);
        fill(&pool, 3).await;
        settle().await;
        let status = pool.status();
        assert_eq!((status.closed, status.idle), (round, 3), "{status:?}");
        assert_eq!(status.checks, 3 * round, "once each: {status:?}");
        fill(&pool, 3).await;
        assert_eq!(pool.status().checks, 3 * round);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disconnect_seen_by_its_user_makes_the_older_ones_suspect() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut pooled = acquire(&pool).await;
    fill(&pool, 3).await;
    fake.kill_all();
    pooled.query().await.unwrap_err();
    drop(pooled);
    assert_eq!(acquire(&pool).await.query().await, Ok(5));
    let status = pool.status();
    assert_eq!(status.closed_for(CloseReason::Dead), 1);
    assert_eq!(status.closed_for(CloseReason::Unusable), 3);
}

/// Nobody waits for the limit of a check once for each connection.
#[tokio::test(start_paused = true)]
async fn a_check_that_is_not_answered_retires_every_older_connection() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true).check_timeout(SECOND));
    let in_use = acquire(&pool).await;
    fill(&pool, 5).await;
    pass(SECOND).await;
    fake.on_check(Behaviour::Hang);
    let start = Instant::now();
    let pooled = acquire(&pool).await;
    assert_eq!((start.elapsed(), pooled.session()), (SECOND, 7));
    drop(in_use);
    settle().await;
    assert_eq!(pool.status().closed_for(CloseReason::Generation), 5);
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

/// Behaviour C19: found when the connection is cleaned.
#[tokio::test(start_paused = true)]
async fn a_disconnect_found_while_cleaning_makes_the_older_ones_suspect() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut pooled = acquire(&pool).await;
    fill(&pool, 3).await;
    pooled.alter().await.unwrap();
    fake.kill_all();
    drop(pooled);
    settle().await;
    let status = pool.status();
    assert_eq!(status.closed_for(CloseReason::Dead), 1, "{status:?}");
    assert_eq!(acquire(&pool).await.query().await, Ok(5));
    assert_eq!(pool.status().closed_for(CloseReason::Unusable), 3, "{:?}", pool.status());
}

/// Behaviours C39 and C40.
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
