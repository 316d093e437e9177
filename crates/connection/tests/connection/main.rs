//! The behaviours of pool and request scope, against the fake backend on a paused clock.

mod bounds;
mod cancellation;
mod log;
mod outage;
mod pool;
mod request;
mod side_channel;

use std::pin::pin;
use std::time::Duration;

use farrier_connection::fake::Fake;
use farrier_connection::{Policy, Pool, PooledConnection};
use tokio::time::{advance, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Checks only where a test asks for them.
fn policy() -> Policy {
    Policy::default().health_checks(false).max_age(None).idle_timeout(None)
}

fn pool(fake: &Fake, policy: Policy) -> Pool<Fake> {
    Pool::new(fake.clone(), policy)
}

async fn acquire(pool: &Pool<Fake>) -> PooledConnection<Fake> {
    pool.acquire().await.expect("a connection")
}

/// Opens `count` connections and gives all of them back.
async fn fill(pool: &Pool<Fake>, count: usize) {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(acquire(pool).await);
    }
}

/// Lets the pool's background tasks run, without time passing.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass, and what is due in it happen.
async fn pass(time: Duration) {
    settle().await;
    advance(time).await;
    settle().await;
}

/// Polls a future `polls` times and drops it; whether it finished.
async fn poll_times<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Ok(output) = timeout(Duration::ZERO, &mut future).await {
            return Some(output);
        }
        settle().await;
    }
    None
}

/// What must hold of the counters when nothing moves.
fn assert_balanced(pool: &Pool<Fake>) {
    let status = pool.status();
    assert_eq!(status.in_use, 0, "{status:?}");
    assert_eq!(status.waiting, 0, "{status:?}");
    assert_eq!(status.connecting, 0, "{status:?}");
    assert_eq!(status.maintaining, 0, "{status:?}");
    assert_eq!(status.opened, status.closed + status.idle as u64, "{status:?}");
}
