//! What a pool does in the background: connecting, cleaning, closing, reaping.

use std::error::Error;
use std::sync::{Arc, Weak};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::live::Live;
use super::outage::{Attempt, Failure};
use super::shared::{Maintaining, Occupied, Shared, Slot};
use crate::back_off::back_off;
use crate::deadline::after;
use crate::{AcquireError, Backend, CloseReason, ErrorClass, Inspection, Interruption};

/// A slot in which a connection is in the making.
pub(super) struct Connecting<B: Backend> {
    /// `None` once the connection is made.
    slot: Option<Slot<B>>,
    attempt: Attempt,
    shared: Arc<Shared<B>>,
}

/// The reaper's hold on its pool, which it does not keep alive.
pub(super) struct Reaper<B: Backend> {
    shared: Weak<Shared<B>>,
    wake: Arc<Notify>,
}

/// Connects for whoever waits first, and tries again while anybody waits.
///
/// It is a task of its own: a request that gives up does not cost the connection it asked for.
pub(super) async fn connect<B: Backend>(mut connecting: Connecting<B>) {
    if let Some(slot) = &mut connecting.slot {
        slot.running();
    }
    let shared = Arc::clone(&connecting.shared);
    while let Some((after, generation)) = connect_wanted(&shared, connecting.attempt) {
        if let Some(after) = after.filter(|after| *after > Instant::now()) {
            sleep_until(after).await;
            continue;
        }
        let error = match timeout(shared.policy.connect_timeout, shared.backend.connect()).await {
            Ok(Ok(mut connection)) => {
                if let Some(limit) = shared.policy.statement_timeout {
                    shared.backend.limit_statements(&mut connection, limit);
                }
                let now = Instant::now();
                let live = Live {
                    idle_timeout: shared.idle_timeout(&connection),
                    connection,
                    expires: shared.roll_expiry(now),
                    generation,
                    checked: generation,
                    last_used: now,
                    uses: 0,
                };
                shared.counters.opened.add();
                shared.lock().state.connected();
                if let Some(slot) = connecting.made() {
                    shared.park(Occupied { live, slot });
                }
                return shared.start_connects();
            }
            Ok(Err(error)) if shared.backend.classify(&error) == ErrorClass::Denied => {
                AcquireError::Denied(Arc::new(error))
            }
            Ok(Err(error)) => AcquireError::Unavailable(Arc::new(error)),
            Err(_) => AcquireError::TimedOut,
        };
        if let Some(failures) = shared.connect_failed(connecting.attempt, &error) {
            log_failed_connect(&error, failures);
        }
    }
}

/// What to wait for before the next connect, and the generation it will have; `None` if there is to be none.
fn connect_wanted<B: Backend>(
    shared: &Shared<B>,
    attempt: Attempt,
) -> Option<(Option<Instant>, u64)> {
    let guarded = shared.lock();
    Some((guarded.state.connect_wanted(attempt)?, shared.generation()))
}

/// `failures` are those since the last time.
fn log_failed_connect(error: &AcquireError, failures: u64) {
    let source = Error::source(error).map(tracing::field::display);
    if matches!(error, AcquireError::Denied(_)) {
        tracing::error!(failures, source, "{error}");
    } else {
        tracing::warn!(failures, source, "{error}");
    }
}

/// Rolls back or resets a connection that its user left unclean, and closes it if that fails.
pub(super) async fn clean<B: Backend>(mut occupied: Occupied<B>, maintaining: Maintaining<B>) {
    let shared = occupied.slot.shared();
    let deadline = after(Instant::now(), shared.policy.reset_timeout);
    let mut reason = CloseReason::ResetFailed;
    let connection = &mut occupied.live.connection;
    let cleaned = timeout_at(deadline, async {
        if shared.backend.inspect(connection) == Inspection::InTransaction {
            shared.counters.rollbacks.add();
            shared.backend.rollback(connection).await?;
        }
        if shared.backend.inspect(connection) == Inspection::Unknown {
            shared.counters.resets.add();
            shared.backend.reset(connection).await?;
        }
        Ok::<_, B::Error>(shared.backend.inspect(connection))
    });
    match cleaned.await {
        Ok(Ok(Inspection::Clean)) => {
            drop(maintaining);
            return shared.park(occupied);
        }
        Ok(Ok(Inspection::FailedOver)) => {
            shared.distrust(occupied.live.generation);
            reason = CloseReason::Dead;
        }
        Ok(Ok(state)) => tracing::debug!(?state, "a connection stayed unclean and is closed"),
        Ok(Err(error)) => {
            log_unclean(&shared, &error);
            if shared.backend.classify(&error) == ErrorClass::Fatal {
                shared.disconnected(occupied.live.checked);
                reason = CloseReason::Dead;
            }
        }
        Err(late) => log_unclean(&shared, &late),
    }
    close(occupied, reason, maintaining).await;
}

fn log_unclean<B: Backend>(shared: &Shared<B>, error: &dyn Error) {
    if let Some(failures) = shared.to_log(Failure::Clean) {
        tracing::warn!(failures, %error, "a connection could not be cleaned and is closed");
    }
}

/// Ends a session, at the server too if an operation on it was cut off.
pub(super) async fn close<B: Backend>(
    occupied: Occupied<B>,
    reason: CloseReason,
    maintaining: Maintaining<B>,
) {
    let Occupied { mut live, mut slot } = occupied;
    let shared = slot.shared();
    let limit = shared.policy.close_timeout;
    let cut_off = shared.backend.inspect(&mut live.connection) == Inspection::Poisoned;
    let session = shared.backend.session_id(&live.connection);
    // The client first: at a full server the side channel is refused until a session ends, and one
    // whose statement is over ends only when its client leaves.
    if timeout(limit, shared.backend.close(live.connection)).await.is_err() {
        tracing::debug!(?limit, "closing a connection took too long");
    }
    if let Some(session) = session.filter(|_| cut_off && shared.policy.kill_cancelled) {
        kill_session(&shared, &session).await;
    }
    tracing::debug!(?reason, uses = live.uses, "a connection was closed");
    slot.closed(reason);
    // Before the slot is free: what is maintained is part of what is taken.
    drop(maintaining);
}

/// Ends a session at the server, and returns when it is known to be over.
///
/// While that is not known the slot stays taken, or there would be more sessions than slots. Little
/// is lost by it: a server that does not let itself be told takes no new connection either.
async fn kill_session<B: Backend>(shared: &Shared<B>, session: &B::SessionId) {
    let limit = shared.policy.close_timeout;
    for earlier in 0.. {
        match timeout(limit, shared.backend.interrupt(session)).await {
            Ok(Ok(Interruption::Gone)) => return shared.counters.kills.add(),
            Ok(Ok(Interruption::OtherServer)) => {
                shared.counters.kills_at_other_server.add();
                if let Some(sessions) = shared.to_log(Failure::KillElsewhere) {
                    let text = "a cancelled session is left to itself: the side connection leads \
                        to another server";
                    tracing::warn!(sessions, %session, "{text}");
                }
                return;
            }
            Ok(Ok(Interruption::Unsupported)) => return,
            Ok(Err(error)) => {
                shared.counters.kill_failures.add();
                if let Some(failures) = shared.to_log(Failure::Kill) {
                    let text = "a cancelled session could not be ended";
                    tracing::warn!(failures, %session, %error, "{text}");
                }
                match shared.backend.classify(&error) {
                    // Nor is anybody else let in then, until the session may be ended, too.
                    ErrorClass::Fatal | ErrorClass::Busy | ErrorClass::Denied => {}
                    // The server's last word.
                    _ => return,
                }
            }
            Err(_) => {
                shared.counters.kill_failures.add();
                if let Some(failures) = shared.to_log(Failure::Kill) {
                    let text = "ending a cancelled session took too long";
                    tracing::warn!(failures, %session, ?limit, "{text}");
                }
            }
        }
        if shared.is_closed() {
            return;
        }
        sleep(back_off(earlier)).await;
    }
}

/// Closes idle connections when their time is over, without any traffic.
pub(super) async fn reap<B: Backend>(mut reaper: Reaper<B>, first: Instant) {
    let mut at = first;
    loop {
        // Woken early: something expires sooner, or the pool is gone.
        let _ = timeout_at(at, reaper.wake.notified()).await;
        let Some(shared) = reaper.shared.upgrade() else {
            return;
        };
        match shared.reap() {
            Some(next) => at = next,
            // The next connection that becomes idle starts another reaper, perhaps already now.
            None => return reaper.finish(),
        }
    }
}

impl<B: Backend> Connecting<B> {
    pub(super) fn new(slot: Slot<B>, attempt: Attempt) -> Self {
        Self { shared: slot.shared(), attempt, slot: Some(slot) }
    }

    /// The connection is made; what follows is no longer connecting.
    fn made(mut self) -> Option<Slot<B>> {
        let mut slot = self.slot.take();
        if let Some(slot) = &mut slot {
            slot.opened();
        }
        slot
    }
}

impl<B: Backend> Drop for Connecting<B> {
    fn drop(&mut self) {
        // Before the slot's own drop, which may start another connect.
        self.shared.lock().state.connecting_over(self.attempt);
    }
}

impl<B: Backend> Reaper<B> {
    pub(super) fn new(shared: &Arc<Shared<B>>) -> Self {
        Self { shared: Arc::downgrade(shared), wake: Arc::clone(&shared.reaper) }
    }

    fn finish(&mut self) {
        self.shared = Weak::new();
    }
}

impl<B: Backend> Drop for Reaper<B> {
    fn drop(&mut self) {
        // Not finished: its runtime is gone.
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().state.reaper_gone();
        }
    }
}
