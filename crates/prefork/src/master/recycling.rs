//! How much a worker may serve, age and grow before it is replaced.

use std::fs;
use std::time::{Duration, Instant};

use super::state::Master;
use crate::arbiter::{Due, Event, Pid};
use crate::settings::Settings;

/// How often the workers' memory is looked at.
const MEMORY_LOOKS: Duration = Duration::from_secs(1);

/// By which part of it `max_lifetime` may be shorter, so that workers that were started together do not go together.
const LIFETIME_JITTER: f64 = 0.1;

/// One worker's limits; `None` is none.
#[derive(Debug, Default)]
pub(super) struct Recycling {
    pub(super) max_requests: Option<u64>,
    pub(super) lifetime: Option<Duration>,
    /// Bytes.
    pub(super) max_rss: Option<u64>,
}

impl Recycling {
    /// A worker's own limits, by what the settings leave to chance.
    pub(super) fn draw(settings: &Settings) -> Self {
        let Settings { max_requests, max_requests_jitter, max_lifetime, max_rss, .. } = *settings;
        // As in gunicorn the jitter may be all of it, or nothing.
        let requests = max_requests + fastrand::usize(0..=max_requests_jitter);
        let sooner = max_lifetime.mul_f64(LIFETIME_JITTER * fastrand::f64());
        Self {
            max_requests: (max_requests > 0).then_some(requests as u64),
            lifetime: (!max_lifetime.is_zero()).then(|| max_lifetime.saturating_sub(sooner)),
            max_rss: (max_rss > 0).then_some((max_rss as u64) << 20),
        }
    }
}

impl Master<'_> {
    /// Looks, once in a while, which workers hold more memory than they may.
    pub(super) fn look_at_memory(&mut self) {
        let now = Instant::now();
        if self.memory_look.is_some_and(|look| now < look) {
            return;
        }
        let limited = self.children.iter().filter_map(|(&pid, child)| Some((pid, child.max_rss?)));
        let limited: Vec<_> = limited.collect();
        self.memory_look = (!limited.is_empty()).then_some(now + MEMORY_LOOKS);
        for (pid, limit) in limited {
            if resident(pid).is_some_and(|bytes| bytes > limit) {
                self.feed(Event::Due { pid, why: Due::Memory });
            }
        }
    }
}

/// A process's resident memory in bytes; `None` if it is gone.
fn resident(pid: Pid) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behaviour L44.
    #[test]
    fn limits_are_off_or_within_their_jitter() {
        let none = Recycling::draw(&Settings::default());
        assert!(none.max_requests.is_none() && none.lifetime.is_none() && none.max_rss.is_none());

        let mut settings = Settings::default();
        (settings.max_requests, settings.max_requests_jitter) = (100, 3);
        (settings.max_lifetime, settings.max_rss) = (Duration::from_secs(100), 2);
        let mut drawn = [0; 4];
        for _ in 0..1_000 {
            let Recycling { max_requests, lifetime, max_rss } = Recycling::draw(&settings);
            drawn[usize::try_from(max_requests.unwrap()).unwrap() - 100] += 1;
            assert!((90.0..=100.0).contains(&lifetime.unwrap().as_secs_f64()), "{lifetime:?}");
            assert_eq!(max_rss, Some(2 << 20));
        }
        assert!(drawn.iter().all(|&times| times > 0), "both ends are included: {drawn:?}");

        // Jitter alone is no limit.
        settings.max_requests = 0;
        assert_eq!(Recycling::draw(&settings).max_requests, None);
    }

    #[test]
    fn the_own_memory_is_known() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(resident(own).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(resident(i32::MAX), None);
    }
}
