//! Slow work after a response, tracked so that a worker can wait for it before it exits.
//!
//! tokio-util's `TaskTracker` counts as well, but says nothing of work that panics or is cut off: the guard that does
//! say so is most of what is here, and counts by the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Tracked work: [`spawn`](Self::spawn) from a hook, [`wait`](Self::wait) when the worker drains.
///
/// A clone is the same set of tasks.
///
/// # Example
///
/// ```
/// use farrier_hooks::{Tasks, post_request};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let tasks = Tasks::new();
/// let bookkeeping = post_request({
///     let tasks = tasks.clone();
///     move |_, end| {
///         let bytes = end.bytes;
///         tasks.spawn(async move {
///             // ... write it down somewhere slow
///             let _ = bytes;
///         });
///     }
/// });
/// # let _ = bookkeeping;
///
/// // When the server has drained, within the worker's grace:
/// tasks.wait().await;
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    unfinished: AtomicUsize,
    idle: Notify,
}

/// One task; dropped when it is done, cut off or has panicked.
struct Unfinished {
    shared: Arc<Shared>,
    done: bool,
}

impl Tasks {
    /// An empty set of tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work` beside the requests, on the current tokio runtime.
    ///
    /// Outside a runtime nothing can run it: it is dropped. That is logged, as is work that panics or
    /// that is cut off because its runtime ends (a `post_request` may run while one is torn down).
    pub fn spawn<W>(&self, work: W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let Ok(runtime) = Handle::try_current() else {
            tracing::error!("work after a request is lost: no runtime");
            return;
        };
        let unfinished = Unfinished::begin(&self.shared);
        runtime.spawn(async move {
            work.await;
            // Moved into the task: whatever ends the task ends it.
            unfinished.finish();
        });
    }

    /// How many tasks are not done yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.unfinished.load(Ordering::Acquire)
    }

    /// Whether all tasks are done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until all tasks are done, those included that are spawned meanwhile.
    ///
    /// Put a deadline around it: a worker waits within its grace, not for ever.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing; the tasks go on.
    pub async fn wait(&self) {
        loop {
            // Listening before looking, or the last task's end could fall between.
            let mut idle = std::pin::pin!(self.shared.idle.notified());
            idle.as_mut().enable();
            if self.is_empty() {
                return;
            }
            idle.await;
        }
    }
}

impl Unfinished {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.unfinished.fetch_add(1, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), done: false }
    }

    fn finish(mut self) {
        self.done = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("work after a request panicked");
        } else if !self.done {
            tracing::error!("work after a request is lost: its runtime ended");
        }
        if self.shared.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.idle.notify_waiters();
        }
    }
}
