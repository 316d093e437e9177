//! What a worker does between its last request and its exit.

use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use tokio::task::{Id, JoinSet};

/// The work that was registered and not begun.
#[derive(Default)]
pub(crate) struct ExitWork(Mutex<Vec<Work>>);

struct Work {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    registered: &'static Location<'static>,
}

impl ExitWork {
    #[track_caller]
    pub(crate) fn register(&self, future: impl Future<Output = ()> + Send + 'static) {
        let work = Work { future: Box::pin(future), registered: Location::caller() };
        self.lock().push(work);
    }

    /// Runs all of it at once, until it is done or `over` is.
    ///
    /// What is registered meanwhile runs too, from the next end of another on.
    pub(crate) async fn finish(&self, over: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        let mut places: HashMap<Id, &'static Location<'static>> = HashMap::new();
        let all = async {
            loop {
                for Work { future, registered } in self.lock().drain(..) {
                    places.insert(tasks.spawn(future).id(), registered);
                }
                match tasks.join_next_with_id().await {
                    None => return,
                    Some(Ok((id, ()))) => drop(places.remove(&id)),
                    Some(Err(error)) => {
                        if let Some(registered) = places.remove(&error.id()) {
                            tracing::error!(%registered, "work before the exit failed: {error}");
                        }
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = all => {}
            () = over => for registered in places.values() {
                tracing::warn!(%registered, "work before the exit was not done in its time");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Work>> {
        // A push cannot leave the list half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ExitWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<_> = self.lock().iter().map(|work| work.registered.to_string()).collect();
        f.debug_tuple("ExitWork").field(&places).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::time::{self, Instant};

    use super::*;

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    }

    #[test]
    fn all_of_it_runs_at_once_and_once() {
        paused().block_on(async {
            let (work, done) = (ExitWork::default(), Arc::new(AtomicU32::new(0)));
            for _ in 0..10 {
                let done = Arc::clone(&done);
                work.register(async move {
                    time::sleep(Duration::from_secs(1)).await;
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            let began = Instant::now();
            work.finish(time::sleep(Duration::from_secs(5))).await;
            assert_eq!(done.load(Ordering::Relaxed), 10);
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
            work.finish(time::sleep(Duration::from_secs(5))).await;
            assert_eq!(done.load(Ordering::Relaxed), 10);
        });
    }

    #[test]
    fn nothing_registered_takes_no_time() {
        paused().block_on(async {
            let began = Instant::now();
            ExitWork::default().finish(time::sleep(Duration::from_secs(5))).await;
            assert_eq!(began.elapsed(), Duration::ZERO);
        });
    }

    #[test]
    fn a_panic_costs_nobody_else() {
        paused().block_on(async {
            let (work, done) = (ExitWork::default(), Arc::new(AtomicU32::new(0)));
            work.register(async { panic!("on purpose") });
            work.register({
                let done = Arc::clone(&done);
                async move {
                    time::sleep(Duration::from_secs(1)).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
            work.finish(time::sleep(Duration::from_secs(5))).await;
            assert_eq!(done.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn what_takes_too_long_is_given_up() {
        paused().block_on(async {
            let work = ExitWork::default();
            work.register(std::future::pending());
            let began = Instant::now();
            work.finish(time::sleep(Duration::from_secs(5))).await;
            assert_eq!(began.elapsed(), Duration::from_secs(5));
        });
    }

    #[test]
    fn work_may_register_work() {
        paused().block_on(async {
            let (work, done) = (Arc::new(ExitWork::default()), Arc::new(AtomicU32::new(0)));
            work.register({
                let (work, done) = (Arc::clone(&work), Arc::clone(&done));
                async move {
                    work.register(async move {
                        done.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            work.finish(time::sleep(Duration::from_secs(5))).await;
            assert_eq!(done.load(Ordering::Relaxed), 1);
        });
    }
}
