//! How long each step of an end may take: of a worker that leaves or hangs, and of all when the master is gone.
//!
//! What is inside has to be over before what is around it gives up: the work before the exit, then the worker's
//! server and process, then the master that waits for it.

use std::time::Duration;

use farrier_serve::CUT_PAUSE;

/// What the work before the exit has at least, also when the requests took all of `graceful_timeout`.
pub(crate) const LEAST_EXIT_WORK: Duration = Duration::from_millis(250);

/// What it has when the worker is told to leave at once.
pub(crate) const QUICK_EXIT_WORK: Duration = Duration::from_millis(200);

/// What a worker gets beyond `graceful_timeout` before the process ends in spite of itself: for the server to cut
/// its connections, and for the least of the work before the exit.
pub(crate) const WORKER_MARGIN: Duration = Duration::from_millis(450);

/// The same for a worker that was told to leave at once.
pub(crate) const WORKER_QUICK: Duration = Duration::from_millis(400);

/// What a worker gets beyond `graceful_timeout` before the master kills it.
pub(crate) const MASTER_MARGIN: Duration = Duration::from_millis(600);

/// The same for a process that was told to leave at once.
pub(crate) const MASTER_QUICK: Duration = Duration::from_millis(500);

/// What a companion has at least when the server stops, also if the workers took all of the grace.
pub(crate) const LEAST_COMPANION: Duration = Duration::from_secs(1);

/// Between the SIGABRT and the SIGKILL that a hung worker gets.
pub(crate) const ABORT_GAP: Duration = Duration::from_secs(1);

/// A SIGTERM that is not the master's may have gone to the whole process group, and the master may be slower to hear
/// it: so long its order is waited for. Without it this worker alone was meant.
pub(crate) const TOLD_ALONE: Duration = Duration::from_secs(1);

/// How long the workers have to empty a queue before the master looks at it, and between two looks.
pub(crate) const MASTER_LOOKS: Duration = Duration::from_millis(100);

/// The same for a worker without a master.
pub(crate) const ORPHAN_LOOKS: Duration = Duration::from_millis(200);

/// How long after the master's death a queue is left to whoever serves it: then the next master can come.
pub(crate) const ORPHAN_CLOSES: Duration = Duration::from_millis(700);

/// How long an address that is taken is asked for at the start: its workers may be those of a killed master.
pub(crate) const ADDRESS_TAKEN: Duration = Duration::from_secs(2);

const _: () = {
    assert!(fits(CUT_PAUSE, LEAST_EXIT_WORK, WORKER_MARGIN));
    assert!(fits(CUT_PAUSE, QUICK_EXIT_WORK, WORKER_QUICK));
    assert!(fits(Duration::ZERO, WORKER_MARGIN, MASTER_MARGIN));
    assert!(fits(Duration::ZERO, WORKER_QUICK, MASTER_QUICK));
    assert!(fits(ORPHAN_LOOKS, ORPHAN_CLOSES, ADDRESS_TAKEN));
};

/// Whether two steps, one after the other, are over before `whole` is.
const fn fits(first: Duration, second: Duration, whole: Duration) -> bool {
    first.as_nanos() + second.as_nanos() < whole.as_nanos()
}
