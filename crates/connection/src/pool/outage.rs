//! Whether the server gives connections: when to try again, what to answer meanwhile, when to say so.

use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use crate::AcquireError;
use crate::back_off::back_off;

/// An outage whose next attempt was due this long ago, and that nobody asked for, is forgotten.
const MEMORY: Duration = Duration::from_secs(1);
/// One line of log for all failures of a kind in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// The server as its last answer to a connect or a check shows it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// `None` while it answers. Exits: a check that is not answered, a connect that fails.
    failing: Option<Failing>,
}

/// When to log failures that may come in storms: at once, and then with their number.
#[derive(Debug, Default)]
struct LogLimit {
    logged: Option<Instant>,
    /// Since then.
    failures: u64,
}

/// What may fail in storms.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    Connect,
    Check,
    Clean,
    Kill,
    /// A kill that would have met another server.
    KillElsewhere,
}

/// A limit for each kind of failure.
#[derive(Debug, Default)]
pub(super) struct LogLimits([LogLimit; 5]);

/// Which of the pool's connects it is, in the order of their beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attempt(u64);

/// Exits: a connect that succeeds; from zero failures also a check that is answered; with no prober,
/// time.
#[derive(Debug)]
struct Failing {
    error: AcquireError,
    /// Connects that failed one after the other; zero while the server is only suspected.
    failures: u32,
    retry_at: Instant,
    /// Who alone tries again: the last that failed, since one that has not failed may hang.
    prober: Option<Attempt>,
}

impl Attempt {
    pub(super) fn next(&mut self) -> Self {
        self.0 += 1;
        *self
    }
}

impl Outage {
    /// Somebody asks for a connection: what lies too far back says nothing about now.
    pub(super) fn asked(&mut self, now: Instant) {
        let old = |failing: &mut Failing| {
            let since_due = now.saturating_duration_since(failing.retry_at);
            failing.failures > 0 && failing.prober.is_none() && since_due > MEMORY
        };
        self.failing.take_if(old);
    }

    /// How many connects are to begin for those who wait, beside those under way, of which there may
    /// be `max`.
    ///
    /// While they fail, one is enough to see whether the server is back, and those under way may hang.
    pub(super) fn wanted(&self, waiting: usize, under_way: usize, max: usize) -> usize {
        let wanted = match self.failed_before() {
            None => waiting.saturating_sub(under_way),
            Some(failing) if failing.prober.is_none() => waiting.min(1),
            Some(_) => 0,
        };
        wanted.min(max.saturating_sub(under_way))
    }

    /// A connect begins.
    pub(super) fn begun(&mut self, attempt: Attempt) {
        if let Some(failing) = self.failing.as_mut().filter(|failing| failing.failures > 0) {
            failing.prober = Some(attempt);
        }
    }

    /// Whether a connect is to go on; not one that is not needed to see whether the server is back.
    pub(super) fn goes_on(&self, attempt: Attempt) -> bool {
        self.failed_before().is_none_or(|failing| failing.prober == Some(attempt))
    }

    /// A connect ends, whatever came of it.
    pub(super) fn ended(&mut self, attempt: Attempt) {
        if let Some(failing) = &mut self.failing {
            failing.prober.take_if(|prober| *prober == attempt);
        }
    }

    /// A connect succeeded.
    pub(super) fn over(&mut self) {
        self.failing = None;
    }

    /// The server answered a health check. That it takes new sessions is not said by it: with a
    /// changed password, or when it is full, those from before live on.
    pub(super) fn unsuspected(&mut self) {
        self.failing.take_if(|failing| failing.failures == 0);
    }

    /// The server did not answer a health check; a connect will tell more.
    pub(super) fn suspected(&mut self, now: Instant) {
        let error = AcquireError::TimedOut;
        self.failing.get_or_insert(Failing { error, failures: 0, retry_at: now, prober: None });
    }

    /// An attempt failed, and is the one to be repeated; `off`, from 0 to 1, takes up to half of the
    /// pause away, so that processes do not march in step.
    pub(super) fn failed(&mut self, attempt: Attempt, error: AcquireError, now: Instant, off: f64) {
        let failures = self.failing.as_ref().map_or(0, |failing| failing.failures);
        let retry_at = now + back_off(failures).mul_f64(1.0 - 0.5 * off);
        let failures = failures.saturating_add(1);
        self.failing = Some(Failing { error, failures, retry_at, prober: Some(attempt) });
    }

    pub(super) fn error(&self) -> Option<&AcquireError> {
        self.failing.as_ref().map(|failing| &failing.error)
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failing.as_ref().map(|failing| failing.retry_at)
    }

    /// The answer to who wants a connection before the next attempt, where waiting is of no use: the
    /// server has refused the credentials.
    pub(super) fn refusal(&self, now: Instant) -> Option<AcquireError> {
        let failing = self.failing.as_ref().filter(|failing| now < failing.retry_at)?;
        matches!(failing.error, AcquireError::Denied(_)).then(|| failing.error.clone())
    }

    /// Not only suspected.
    fn failed_before(&self) -> Option<&Failing> {
        self.failing.as_ref().filter(|failing| failing.failures > 0)
    }
}

impl LogLimits {
    /// Counts a failure; how many of its kind to log now, if the last time was long enough ago.
    pub(super) fn count(&mut self, failure: Failure, now: Instant) -> Option<u64> {
        self.0[failure as usize].count(now)
    }
}

impl LogLimit {
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.failures += 1;
        let last = self.logged.map(|logged| now.saturating_duration_since(logged));
        if last.is_some_and(|last| last < LOG_INTERVAL) {
            return None;
        }
        self.logged = Some(now);
        Some(mem::take(&mut self.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const ONE: Attempt = Attempt(1);
    const TWO: Attempt = Attempt(2);

    #[test]
    fn the_pause_doubles_up_to_half_a_second_and_begins_anew_after_an_answer() {
        let now = Instant::now();
        let mut outage = Outage::default();
        for pause in [10, 20, 40, 80, 160, 320, 500, 500] {
            outage.failed(ONE, AcquireError::TimedOut, now, 0.0);
            assert_eq!(outage.retry_at(), Some(now + pause * MS));
        }
        outage.failed(ONE, AcquireError::TimedOut, now, 1.0);
        assert_eq!(outage.retry_at(), Some(now + 250 * MS));
        outage.over();
        assert_eq!(outage.retry_at(), None);
        outage.failed(ONE, AcquireError::TimedOut, now, 0.0);
        assert_eq!(outage.retry_at(), Some(now + 10 * MS));
    }

    #[test]
    fn a_check_that_is_answered_ends_a_suspicion_and_no_pause() {
        let now = Instant::now();
        let mut outage = Outage::default();
        outage.suspected(now);
        outage.unsuspected();
        assert_eq!(outage.retry_at(), None);
        outage.suspected(now);
        outage.failed(ONE, AcquireError::TimedOut, now, 0.0);
        outage.unsuspected();
        assert_eq!(outage.retry_at(), Some(now + 10 * MS));
    }

    #[test]
    fn the_last_that_failed_tries_again_and_nobody_else() {
        let now = Instant::now();
        let mut outage = Outage::default();
        assert_eq!((outage.wanted(9, 0, 4), outage.wanted(9, 3, 4)), (4, 1));
        assert_eq!((outage.wanted(1, 0, 4), outage.wanted(1, 1, 4)), (1, 0));
        outage.suspected(now);
        assert_eq!(outage.wanted(9, 0, 4), 4);
        assert!(outage.goes_on(ONE));
        outage.failed(ONE, AcquireError::TimedOut, now, 0.0);
        assert_eq!(outage.wanted(9, 1, 4), 0);
        assert!(outage.goes_on(ONE) && !outage.goes_on(TWO));
        outage.failed(TWO, AcquireError::TimedOut, now, 0.0);
        assert!(outage.goes_on(TWO) && !outage.goes_on(ONE));
        outage.ended(ONE);
        assert_eq!(outage.wanted(9, 1, 4), 0);
        outage.ended(TWO);
        assert_eq!((outage.wanted(9, 1, 4), outage.wanted(9, 4, 4)), (1, 0));
        assert_eq!((outage.wanted(1, 3, 4), outage.wanted(0, 3, 4)), (1, 0));
        outage.begun(ONE);
        assert_eq!(outage.wanted(9, 1, 4), 0);
        assert!(outage.goes_on(ONE));
    }

    #[test]
    fn an_outage_that_nobody_asked_for_is_forgotten_and_one_that_is_probed_is_not() {
        let now = Instant::now();
        let mut outage = Outage::default();
        outage.failed(ONE, AcquireError::TimedOut, now, 0.0);
        outage.asked(now + 2 * MEMORY);
        assert_eq!(outage.retry_at(), Some(now + 10 * MS));
        outage.ended(ONE);
        outage.asked(now + MEMORY);
        assert_eq!(outage.retry_at(), Some(now + 10 * MS));
        outage.asked(now + 2 * MEMORY);
        assert_eq!(outage.retry_at(), None);
    }

    #[test]
    fn failures_are_logged_once_a_second_with_their_number() {
        let now = Instant::now();
        let mut limit = LogLimit::default();
        assert_eq!(limit.count(now), Some(1));
        for _ in 0..7 {
            assert_eq!(limit.count(now + 999 * MS), None);
        }
        assert_eq!(limit.count(now + 1_000 * MS), Some(8));
        assert_eq!(limit.count(now + 9_000 * MS), Some(1));
    }

    #[test]
    fn only_a_refusal_of_the_credentials_is_an_answer_and_only_until_the_next_attempt() {
        let now = Instant::now();
        let mut outage = Outage::default();
        outage.failed(ONE, AcquireError::TimedOut, now, 0.0);
        assert!(outage.refusal(now).is_none());
        let denied =
            AcquireError::Denied(std::sync::Arc::new(crate::fake::FakeError::Disconnected));
        outage.failed(ONE, denied, now, 0.0);
        assert!(matches!(outage.refusal(now), Some(AcquireError::Denied(_))));
        assert!(outage.refusal(now + 20 * MS).is_none());
    }
}
