//! What is loaded before the fork, and reaches every worker with it.

use std::fmt;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use farrier_serve::BoxError;

use crate::audit::{Audit, ELSEWHERE, Offence, audit, audit_since};
use crate::sys;
use crate::unwind::caught;
use crate::worker::{WorkerSeed, chain, status};

/// What was preloaded and takes longer than this to be dropped is named in the log.
const SLOW: Duration = Duration::from_millis(100);

/// The preload of a [`Launcher`](crate::Launcher): see [`Launcher::preload`](crate::Launcher::preload).
pub struct Preload<T>(Box<dyn Fn() -> Result<T, BoxError>>);

/// The life of a worker process, with what was preloaded for its generation.
#[derive(Clone)]
pub(crate) struct Life<'a>(
    /// `None` only while it is dropped.
    Option<Rc<dyn Fn(WorkerSeed) -> i32 + 'a>>,
);

/// Where the lives of the generations come from.
pub(crate) enum Lives<'a> {
    /// Nothing is preloaded, so all have the same.
    Same(Life<'a>),
    /// Each has its own, by a call of the preload.
    Preloaded(Box<dyn Fn() -> Result<Life<'a>, PreloadError> + 'a>),
}

/// Why nothing was preloaded.
#[derive(Debug)]
pub(crate) enum PreloadError {
    Failed(BoxError),
    Panicked(String),
    /// No process can be forked, and it is not the preload's fault.
    Before(Offence),
    /// It was loaded, and beside it there is what no worker can have.
    LeftBehind(Offence),
}

impl<T> Preload<T> {
    pub(crate) fn new<E: Into<BoxError>>(load: impl Fn() -> Result<T, E> + 'static) -> Self {
        Self(Box::new(move || load().map_err(Into::into)))
    }

    /// # Errors
    ///
    /// Its error or its panic.
    pub(crate) fn load(&self) -> Result<T, PreloadError> {
        match caught(&self.0) {
            Ok(loaded) => loaded.map_err(PreloadError::Failed),
            Err(panic) => Err(PreloadError::Panicked(panic)),
        }
    }
}

impl<'a> Life<'a> {
    pub(crate) fn new(live: impl Fn(WorkerSeed) -> i32 + 'a) -> Self {
        Self(Some(Rc::new(live)))
    }

    /// In the forked process; the exit status comes back.
    pub(crate) fn live(&self, seed: WorkerSeed) -> i32 {
        self.0.as_ref().map_or(status::NOT_STARTED, |live| live(seed))
    }
}

impl<'a> Lives<'a> {
    /// That of one more generation; `known` are the launcher's own descriptors.
    ///
    /// # Errors
    ///
    /// The preload's, and what it has left behind.
    pub(crate) fn load(&self, known: &[RawFd]) -> Result<Life<'a>, PreloadError> {
        match self {
            Self::Same(life) => Ok(life.clone()),
            Self::Preloaded(load) => {
                let before = audit(known).map_err(PreloadError::Before)?;
                load_since(load, &before, known)
            }
        }
    }

    /// Loads, and drops what was loaded, in a process that is there for that only.
    ///
    /// # Errors
    ///
    /// The preload's, and what it or the drop has left behind.
    pub(crate) fn try_out(&self) -> Result<(), PreloadError> {
        let Self::Preloaded(load) = self else { return Ok(()) };
        let before = audit(&[]).map_err(PreloadError::Before)?;
        drop(load_since(load, &before, &[])?);
        audit_since(&before, &[]).map_err(PreloadError::LeftBehind)
    }

    pub(crate) fn is_preloaded(&self) -> bool {
        matches!(self, Self::Preloaded(_))
    }
}

/// Loads, and looks at what that has left behind since `before`.
fn load_since<'a>(
    load: impl Fn() -> Result<Life<'a>, PreloadError>,
    before: &Audit,
    known: &[RawFd],
) -> Result<Life<'a>, PreloadError> {
    let life = load()?;
    audit_since(before, known).map_err(PreloadError::LeftBehind)?;
    Ok(life)
}

impl Drop for Life<'_> {
    /// Of the last one of a generation, which drops what was preloaded for it.
    fn drop(&mut self) {
        let began = Instant::now();
        let Some(life) = self.0.take() else { return };
        let is_last = Rc::strong_count(&life) == 1;
        if let Err(panic) = caught(|| drop(life)) {
            tracing::error!(panic, "what was preloaded panicked when it was dropped");
        }
        if is_last {
            sys::trim_heap();
        }
        let took = began.elapsed();
        if took > SLOW {
            tracing::warn!("to drop what was preloaded took {:.1} s", took.as_secs_f64());
        }
    }
}

impl<T> fmt::Debug for Preload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preload").finish_non_exhaustive()
    }
}

impl fmt::Display for PreloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self {
            Self::Failed(error) => format!("the preload failed: {}", chain(&**error)),
            Self::Panicked(panic) => format!("the preload panicked: {panic}"),
            Self::Before(offence) => offence.to_string(),
            Self::LeftBehind(offence) => {
                let found = offence.found();
                format!(
                    "the preload has left behind what a worker can neither have nor share: {found}. {ELSEWHERE}"
                )
            }
        };
        // It becomes a part of lines.
        f.write_str(&why.replace(char::is_control, " "))
    }
}

impl std::error::Error for PreloadError {}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }

    #[test]
    fn a_value_that_panics_when_it_is_dropped_ends_nobody() {
        let value = Rc::new(PanicsWhenDropped);
        let life = Life::new(move |_| i32::from(Rc::strong_count(&value) == 0));
        let another = life.clone();
        drop(life);
        drop(another);
    }

    #[test]
    fn the_reason_is_one_line() {
        let preload = Preload::new(|| Err::<(), _>("no\ntable"));
        let error = preload.load().unwrap_err();
        assert_eq!(error.to_string(), "the preload failed: no table");
        let preload = Preload::new(|| -> Result<(), BoxError> { panic!("no\ntable") });
        assert_eq!(preload.load().unwrap_err().to_string(), "the preload panicked: no table");
    }
}
