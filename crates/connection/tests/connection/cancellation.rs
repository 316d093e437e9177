//! What is cancelled: waits, connects, statements; and what becomes of their sessions.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use farrier_connection::fake::{Behaviour, Event, Fake, FakeError};
use farrier_connection::{CloseReason, ErrorClass, StatementTimedOut};
use tokio::time::{Instant, sleep, timeout};

use crate::{SECOND, acquire, assert_balanced, pass, policy, poll_times, pool, settle};

/// Behaviour C32.
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

/// Behaviour C33: what was begun is for the next that asks.
#[tokio::test(start_paused = true)]
async fn a_connect_outlives_those_who_give_up() {
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

/// Behaviour C33, with a connect that never ends.
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

/// Behaviour C34.
#[tokio::test(start_paused = true)]
async fn a_transaction_statement_cancelled_at_any_poll_never_comes_back() {
    for polls in 0..4 {
        for statement in ["begin", "commit", "alter"] {
            let fake = Fake::new();
            let pool = pool(&fake, policy());
            let mut pooled = acquire(&pool).await;
            fake.on_statement(Behaviour::Slow(Duration::from_millis(1)));
            let finished = match statement {
                "begin" => poll_times(pooled.begin(), polls).await,
                "commit" => poll_times(pooled.commit(), polls).await,
                _ => poll_times(pooled.alter(), polls).await,
            };
            drop(pooled);
            pass(SECOND).await;
            let kept = acquire(&pool).await.session() == 1;
            let started = fake.events().iter().any(|event| !matches!(event, Event::Connect(_)));
            assert_eq!(kept, finished.is_some() || !started, "{statement}, {polls} polls");
        }
    }
}

/// Behaviours C29 and C31.
#[tokio::test(start_paused = true)]
async fn a_cancelled_statement_is_ended_at_the_server() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut pooled = acquire(&pool).await;
    assert!(timeout(SECOND, pooled.query_for(60 * SECOND)).await.is_err());
    drop(pooled);
    settle().await;
    assert_eq!(fake.sessions(), [0_u64; 0]);
    assert!(fake.events().contains(&Event::Kill(1)));
    assert_eq!((pool.status().kills, pool.status().closed_for(CloseReason::Poisoned)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn without_kill_a_cancelled_statement_is_abandoned() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().kill_cancelled(false));
    let mut pooled = acquire(&pool).await;
    assert!(timeout(SECOND, pooled.query_for(60 * SECOND)).await.is_err());
    drop(pooled);
    settle().await;
    assert_eq!(fake.sessions(), [1], "the server works on");
    assert_eq!(pool.status().kills, 0);
    assert_ne!(acquire(&pool).await.session(), 1);
}

/// Behaviour C30.
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
            let mut pooled = pool.acquire().await.unwrap();
            let _ = timeout(Duration::from_millis(20), pooled.query_for(60 * SECOND)).await;
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

/// Behaviour C30: a slot is not free before the server has confirmed the end.
#[tokio::test(start_paused = true)]
async fn a_slot_stays_taken_until_the_cancelled_session_is_known_to_be_gone() {
    for behaviour in [
        Behaviour::Hang,
        Behaviour::Fail(ErrorClass::Fatal),
        Behaviour::Fail(ErrorClass::Busy),
        Behaviour::Fail(ErrorClass::Denied),
    ] {
        let fake = Fake::new();
        fake.on_kill(behaviour);
        let pool = pool(&fake, policy().max_connections(1));
        let mut pooled = acquire(&pool).await;
        assert!(timeout(SECOND, pooled.query_for(600 * SECOND)).await.is_err());
        drop(pooled);
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

/// The twin: at a full server only the end of these sessions makes room for the side channel, so
/// their clients leave first.
#[tokio::test(start_paused = true)]
async fn a_full_server_is_no_lasting_outage_after_hang_ups() {
    let fake = Fake::new();
    fake.set_max_sessions(3);
    let pool = pool(&fake, policy().max_connections(3));
    for round in 1..=4 {
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.push(acquire(&pool).await);
        }
        for mut pooled in taken {
            let cut_off = timeout(Duration::from_millis(10), pooled.query_for(2 * SECOND));
            assert!(cut_off.await.is_err());
        }
        let hung_up = Instant::now();
        settle().await;
        assert_eq!((fake.sessions().len(), pool.status().maintaining), (3, 3), "they work on");
        drop(acquire(&pool).await);
        let after = hung_up.elapsed().checked_sub(2 * SECOND);
        assert!(after.is_none_or(|after| after < SECOND), "round {round}: {after:?}");
    }
    assert!(pool.status().kill_failures > 0);
    pass(SECOND).await;
    assert_eq!(pool.status().closed_for(CloseReason::Poisoned), 12);
    assert_balanced(&pool);
}

/// A server that refuses to end the session will refuse it again.
#[tokio::test(start_paused = true)]
async fn a_refused_kill_is_not_repeated() {
    let fake = Fake::new();
    fake.on_kill(Behaviour::Fail(ErrorClass::Suspect));
    let pool = pool(&fake, policy().max_connections(1));
    let mut pooled = acquire(&pool).await;
    assert!(timeout(SECOND, pooled.query_for(60 * SECOND)).await.is_err());
    drop(pooled);
    assert_eq!(acquire(&pool).await.session(), 2);
    assert_eq!((pool.status().kills, pool.status().kill_failures), (0, 1));
}

/// Behaviour C57: nobody takes the slot of a pool that is closed.
#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_kill_that_never_succeeds() {
    let fake = Fake::new();
    fake.on_kill(Behaviour::Hang);
    let pool = pool(&fake, policy());
    let mut pooled = acquire(&pool).await;
    assert!(timeout(SECOND, pooled.query_for(60 * SECOND)).await.is_err());
    drop(pooled);
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

/// Behaviour C28.
#[tokio::test(start_paused = true)]
async fn a_poisoned_connection_does_nothing_more() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let mut pooled = acquire(&pool).await;
    assert!(timeout(SECOND, pooled.query_for(2 * SECOND)).await.is_err());
    sleep(10 * SECOND).await;
    pooled.query().await.unwrap_err();
}

/// The policy's `statement_timeout`: a typed error, and the session is ended.
#[tokio::test(start_paused = true)]
async fn a_statement_that_takes_too_long_is_given_up_and_its_session_ended() {
    let fake = Fake::new();
    let pool = pool(&fake, policy().statement_timeout(Duration::from_secs(30)));
    let mut pooled = pool.acquire().await.unwrap();
    pooled.query_for(Duration::from_secs(29)).await.unwrap();
    let start = Instant::now();
    let error = pooled.query_for(Duration::from_secs(60)).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::from_secs(30));
    let timed_out = StatementTimedOut::find(&error).unwrap();
    assert_eq!(timed_out.limit, Duration::from_secs(30));
    assert_eq!(pooled.query().await, Err(FakeError::Poisoned));
    drop(pooled);
    settle().await;
    assert_eq!(pool.status().closed_for(CloseReason::Poisoned), 1);
    assert!(fake.events().contains(&Event::Kill(1)));
}
