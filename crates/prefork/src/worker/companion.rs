//! A companion: a process beside the workers that exists once, with work of its own.

use std::cell::Cell;
use std::fmt;
use std::future::{self, Future};
use std::pin::{Pin, pin};
use std::sync::Arc;

use farrier_heartbeat::keep_beating;
use farrier_serve::{BoxError, Drain};

use super::process::{chain, status};
use super::supervised::{Pipes, Seed, Supervised, not_set_up, say, settle_in};
use super::watch::{Watch, run_watched};
use crate::board::BoardPulse;
use crate::report::Report;
use crate::settings::Settings;

/// What a companion knows of itself; its function gets one. See [`Launcher::companion`](crate::Launcher::companion).
#[derive(Clone, Debug)]
pub struct Companion {
    name: Arc<str>,
    supervised: Supervised,
}

type Running = Pin<Box<dyn Future<Output = ()>>>;

type Starting = Pin<Box<dyn Future<Output = Result<Running, BoxError>>>>;

/// A companion's name and its function.
pub(crate) struct CompanionWork {
    pub(crate) name: Arc<str>,
    start: Box<dyn Fn(Companion) -> Starting + Sync>,
}

impl CompanionWork {
    pub(crate) fn new<F, R, E>(
        name: String,
        start: impl Fn(Companion) -> F + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<R, E>> + 'static,
        R: Future<Output = ()> + 'static,
        E: Into<BoxError>,
    {
        let start = move |companion| -> Starting {
            let starting = start(companion);
            Box::pin(async move {
                match starting.await {
                    Ok(running) => Ok(Box::pin(running) as Running),
                    Err(error) => Err(error.into()),
                }
            })
        };
        Self { name: name.into(), start: Box::new(start) }
    }

    /// The companion's whole life, in the forked process; the exit status comes back.
    pub(crate) fn live(&self, seed: Seed) -> i32 {
        let signals = match settle_in(seed.master, &self.name) {
            Ok(signals) => signals,
            Err(error) => return not_set_up(&error, &self.name),
        };
        let (supervised, Pipes { report, alive }) = Supervised::new(seed);
        let companion = Companion { name: Arc::clone(&self.name), supervised };
        let watch = |done| Watch::of_companion(signals, alive, done, companion.supervised.clone());
        let who = format!("the companion {}", self.name);
        let work = || companion.run(&self.start, &report);
        run_watched(watch, "companion", &who, work)
            .unwrap_or_else(|error| not_set_up(&error, &self.name))
    }
}

impl Companion {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// 1 for the companions of the start, and one more with each reload.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.supervised.generation
    }

    /// The companion's heartbeat.
    #[must_use]
    pub fn pulse(&self) -> Arc<BoardPulse> {
        Arc::clone(&self.supervised.pulse)
    }

    /// Tells when the companion is told to leave.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.supervised.drain.clone()
    }

    /// The settings that this companion was started with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.supervised.settings
    }

    /// Registers work that is done when the companion's own has ended, and waited for before the process exits: as
    /// [`Worker::before_exit`](crate::Worker::before_exit).
    #[track_caller]
    pub fn before_exit(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.supervised.exit_work.register(work);
    }

    /// The fresh thread: runtime, start, work.
    fn run(&self, start: &dyn Fn(Self) -> Starting, report: &std::os::fd::OwnedFd) -> i32 {
        let supervised = &self.supervised;
        let runtime = match supervised.runtime() {
            Ok(runtime) => runtime,
            Err(error) => return not_set_up(&error, &self.name),
        };
        let code = runtime.block_on(async {
            tokio::spawn(keep_beating(self.pulse(), supervised.settings.beat_interval()));
            match start(self.clone()).await {
                Ok(running) => {
                    if !supervised.pulse.begin_to_serve() {
                        // It was told to leave, and the forked thread does.
                        future::pending::<()>().await;
                    }
                    say(report, &Report::Ready);
                    let told = Cell::new(None);
                    let mut running = pin!(running);
                    tokio::select! {
                        biased;
                        () = running.as_mut() => {}
                        why = supervised.time_is_over(&told) => {
                            tracing::warn!(companion = &*self.name, "cut {why}");
                        }
                    }
                    supervised.finish(&told).await;
                    status::LEFT
                }
                Err(error) => {
                    let error = chain(&*error);
                    tracing::error!(companion = &*self.name, error, "a companion failed to start");
                    say(report, &Report::Failure(error));
                    supervised.finish_unstarted().await;
                    status::NOT_STARTED
                }
            }
        });
        runtime.shutdown_background();
        code
    }
}

impl fmt::Debug for CompanionWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompanionWork").field("name", &self.name).finish_non_exhaustive()
    }
}
