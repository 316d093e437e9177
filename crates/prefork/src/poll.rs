//! The one way in which the launcher's single-threaded processes wait.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};

/// Waits for what tells nobody when it changes: a process that ends, a file that is unlocked.
pub(crate) fn pause(time: Duration) {
    poll_until(&mut [], Some(Instant::now() + time));
}

/// Polls until something happens or `deadline` has passed; never returns before the deadline without
/// reason, so that a loop around it does not spin.
pub(crate) fn poll_until(watched: &mut [PollFd<'_>], deadline: Option<Instant>) {
    let timeout = match deadline {
        None => PollTimeout::NONE,
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up: poll counts whole milliseconds.
            let left = if left.is_zero() { left } else { left + Duration::from_millis(1) };
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(watched, timeout) {
        // An interruption is a reason to look around, as any event.
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => tracing::error!(%error, "poll failed"),
    }
}
