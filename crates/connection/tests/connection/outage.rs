//! While the server gives no connections: how often it is asked, what is logged, who is answered.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;
use farrier_connection::fake::{Behaviour, Fake};
use farrier_connection::{AcquireError, ConnectionLayer, Db, ErrorClass, Pool, PooledConnection};
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::log::Log;
use crate::{SECOND, acquire, fill, pass, policy, pool, settle};

const MS: Duration = Duration::from_millis(1);

fn app(pool: &Pool<Fake>) -> Router {
    let handler = async |db: Db<Fake>| db.get().await.map(drop);
    Router::new().route("/", get(handler)).layer(ConnectionLayer::new(pool.clone()))
}

async fn status(app: &Router) -> StatusCode {
    let request = Request::new(Body::empty());
    app.clone().oneshot(request).await.expect("a router never fails").status()
}

/// Neither a password that was changed nor a setup that fails makes a storm of connects and of log
/// lines, and nobody waits long when it is good again.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_asked_for_slowly_and_logged_once_a_second() {
    for class in [ErrorClass::Denied, ErrorClass::Suspect, ErrorClass::Busy, ErrorClass::Fatal] {
        let log = Log::here();
        let fake = Fake::new();
        fake.on_connect(Behaviour::Fail(class));
        let pool = pool(&fake, policy().acquire_timeout(SECOND));
        let app = app(&pool);
        let clients: Vec<_> = (0..5)
            .map(|_| {
                let app = app.clone();
                tokio::spawn(async move {
                    while status(&app).await != 200 {
                        sleep(MS).await;
                    }
                })
            })
            .collect();
        sleep(3 * SECOND).await;
        let attempts = fake.attempts();
        assert!((4..=30).contains(&attempts), "{class:?}: {attempts}");
        let lines = log.lines();
        assert!((2..=4).contains(&lines.len()), "{class:?}: {lines:#?}");
        // What came after the last line is in the next one.
        assert!((attempts - 3..=attempts).contains(&log.failures()), "{class:?}: {lines:#?}");
        let well = Instant::now();
        fake.on_connect(Behaviour::Answer);
        for client in clients {
            client.await.unwrap();
        }
        assert!(well.elapsed() < SECOND, "{class:?}: {:?}", well.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_cannot_be_cleaned_are_logged_once_a_second() {
    for behaviour in [Behaviour::Hang, Behaviour::Fail(ErrorClass::Suspect)] {
        let log = Log::here();
        let fake = Fake::new();
        let pool = pool(&fake, policy().max_connections(50));
        fake.on_reset(behaviour);
        let mut taken = Vec::new();
        for _ in 0..50 {
            taken.push(acquire(&pool).await);
        }
        for mut pooled in taken {
            pooled.alter().await.unwrap();
        }
        sleep(2 * SECOND).await;
        assert_eq!((pool.status().closed, log.lines().len()), (50, 1), "{:#?}", log.lines());
    }
}

/// The server takes no new session, and answers those that it has.
#[tokio::test(start_paused = true)]
async fn sessions_from_before_a_refusal_do_not_end_its_pauses() {
    for class in [ErrorClass::Denied, ErrorClass::Busy] {
        let log = Log::here();
        let fake = Fake::new();
        let pool = pool(&fake, policy().health_checks(true).health_check_bypass(Duration::ZERO));
        fill(&pool, 1).await;
        fake.on_connect(Behaviour::Fail(class));
        let until = Instant::now() + 3 * SECOND;
        let clients: Vec<_> = (0..5)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    while Instant::now() < until {
                        if let Ok(mut pooled) = pool.acquire().await {
                            pooled.query_for(2 * MS).await.unwrap();
                        }
                        sleep(MS).await;
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        assert!(pool.status().checks > 500, "{class:?}: {:?}", pool.status());
        let attempts = fake.attempts();
        assert!((5..=31).contains(&attempts), "{class:?}: {attempts}");
        let lines = log.lines();
        assert!((2..=4).contains(&lines.len()), "{class:?}: {lines:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_the_pause_the_refusal_is_the_answer_and_nobody_connects() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Fail(ErrorClass::Denied));
    let pool = pool(&fake, policy());
    while fake.attempts() < 10 {
        let _ = pool.acquire().await;
        sleep(MS).await;
    }
    let start = Instant::now();
    for _ in 0..100 {
        let error = pool.acquire().await.unwrap_err();
        assert!(matches!(error, AcquireError::Denied(_)), "{error:?}");
        assert!(matches!(pool.acquire_once().await, Err(AcquireError::Denied(_))));
    }
    settle().await;
    assert_eq!((start.elapsed(), fake.attempts()), (Duration::ZERO, 10));
    // The first request after the pause connects.
    fake.on_connect(Behaviour::Answer);
    sleep(SECOND / 2).await;
    drop(acquire(&pool).await);
}

/// Nor does one that hangs keep the others from asking again.
#[tokio::test(start_paused = true)]
async fn a_connect_that_hangs_is_not_waited_for_when_another_was_refused() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let acquiring = || tokio::spawn(acquire_owned(pool.clone()));
    fake.on_connect(Behaviour::Hang);
    let first = acquiring();
    settle().await;
    fake.on_connect(Behaviour::Fail(ErrorClass::Busy));
    let second = acquiring();
    pass(100 * MS).await;
    // Those that hang do not try again, and are not counted; one other does.
    assert!((3..=6).contains(&fake.attempts()), "{}", fake.attempts());
    let well = Instant::now();
    fake.on_connect(Behaviour::Answer);
    for acquired in [first, second] {
        acquired.await.unwrap();
    }
    assert!(well.elapsed() < SECOND / 5, "{:?}", well.elapsed());
}

/// Also when those who waited have left, and with them the one that asked again.
#[tokio::test(start_paused = true)]
async fn connects_that_hang_are_not_waited_for_by_who_comes_later() {
    let fake = Fake::new();
    let pool = pool(&fake, policy());
    let acquiring = || tokio::spawn(acquire_owned(pool.clone()));
    fake.on_connect(Behaviour::Hang);
    let mut left: Vec<_> = (0..3).map(|_| acquiring()).collect();
    settle().await;
    fake.on_connect(Behaviour::Fail(ErrorClass::Busy));
    left.push(acquiring());
    settle().await;
    left.iter().for_each(JoinHandle::abort);
    pass(600 * MS).await;
    assert_eq!((pool.status().connecting, pool.status().waiting), (3, 0));
    fake.on_connect(Behaviour::Answer);
    let start = Instant::now();
    acquire(&pool).await;
    assert!(start.elapsed() < SECOND / 10, "{:?}", start.elapsed());
}

/// It may have been that connection's fault alone.
#[tokio::test(start_paused = true)]
async fn a_check_that_is_not_answered_does_not_slow_the_connects_down() {
    let log = Log::here();
    let fake = Fake::new();
    let pool = pool(&fake, policy().health_checks(true).health_check_bypass(Duration::ZERO));
    fill(&pool, 1).await;
    fake.on_check(Behaviour::Hang);
    fake.on_connect(Behaviour::Slow(SECOND));
    let acquiring = || tokio::spawn(acquire_owned(pool.clone()));
    let first = acquiring();
    settle().await;
    pass(pool.policy().check_timeout).await;
    assert_eq!((pool.status().check_failures, log.failures()), (1, 1), "{:#?}", log.lines());
    let others = [acquiring(), acquiring(), acquiring()];
    settle().await;
    assert_eq!(pool.status().connecting, 4, "{:?}", pool.status());
    first.await.unwrap();
    for other in others {
        other.await.unwrap();
    }
}

/// Nobody asked meanwhile: what was is no longer known.
#[tokio::test(start_paused = true)]
async fn an_outage_of_an_hour_ago_is_forgotten() {
    let fake = Fake::new();
    fake.on_connect(Behaviour::Fail(ErrorClass::Fatal));
    let pool = pool(&fake, policy().acquire_timeout(3 * SECOND));
    assert!(pool.acquire().await.is_err());
    sleep(3_600 * SECOND).await;
    fake.on_connect(Behaviour::Slow(SECOND));
    let all = join_all((0..4).map(|_| pool.acquire()));
    let start = Instant::now();
    assert!(all.await.iter().all(Result::is_ok));
    assert_eq!(start.elapsed(), SECOND);
}

async fn acquire_owned(pool: Pool<Fake>) -> PooledConnection<Fake> {
    acquire(&pool).await
}
