//! Processes that are killed at random while they update what they share with others: nothing is left half done.
#![expect(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod support;

use std::process::Child;
use std::thread;
use std::time::Duration;

use farrier_shared::{Counter, Gauge, Histogram, Mutex, Value, share};

const KILLS: u64 = 1_000;

struct Shared {
    begun: Counter,
    done: Counter,
    inside: Gauge,
    sizes: Histogram,
    pair: Value<[u32; 2]>,
    mutex: Mutex,
    /// Both are written while the lock is held.
    one: Value<u64>,
    other: Value<u64>,
}

impl Shared {
    fn named() -> Self {
        Self {
            begun: Counter::named("begun").unwrap(),
            done: Counter::named("done").unwrap(),
            inside: Gauge::named("inside").unwrap(),
            sizes: Histogram::named("sizes", &[1.0, 2.0]).unwrap(),
            pair: Value::named("pair", [0, !0]).unwrap(),
            mutex: Mutex::named("mutex").unwrap(),
            one: Value::named("one", 0).unwrap(),
            other: Value::named("other", 0).unwrap(),
        }
    }

    async fn update(&self) {
        self.begun.add(1);
        self.inside.add(1);
        self.sizes.record(1.5);
        self.pair.update(|[low, _]| [low.wrapping_add(1), !low.wrapping_add(1)]);
        let guard = self.mutex.lock().await.unwrap();
        let one = self.one.get();
        assert!(guard.holder_died() || one == self.other.get(), "half done, and nobody says so");
        self.one.set(one + 1);
        self.other.set(one + 1);
        drop(guard);
        self.inside.add(-1);
        self.done.add(1);
    }

    fn check(&self, kills: u64) {
        let (done, begun) = (self.done.get(), self.begun.get());
        // Two more are in the midst of it.
        let rest = kills + 2;
        assert!((done..=done + rest).contains(&begun), "{done} of {begun} are done");
        let inside = self.inside.get();
        assert!((0..=rest as i64).contains(&inside), "{inside} are inside");
        let [low, high] = self.pair.get();
        assert_eq!(low, !high);
    }
}

/// Behaviour V6: whoever is killed, however often, leaves no half of an update.
#[test]
#[expect(clippy::disallowed_methods, reason = "it kills after a random time")]
fn what_a_killed_process_leaves_is_whole() {
    if let Some(number) = support::told() {
        update_until_killed(&number);
    }
    share().unwrap();
    let shared = Shared::named();
    let (mut kills, mut dead_holders) = (0, 0);
    let mut updaters = [updater(0), updater(1)];
    while kills < KILLS {
        let index = fastrand::usize(..2);
        thread::sleep(Duration::from_micros(fastrand::u64(..3_000)));
        kill(&mut updaters[index]);
        kills += 1;
        shared.check(kills);
        if kills % 10 == 0 {
            // Nobody else is told of it.
            kill(&mut updaters[1 - index]);
            kills += 1;
            let guard = shared.mutex.try_lock().unwrap().expect("who had it is dead");
            let is_whole = shared.one.get() == shared.other.get();
            assert!(is_whole || guard.holder_died());
            dead_holders += u64::from(guard.holder_died());
            shared.other.set(shared.one.get());
            drop(guard);
            updaters[1 - index] = updater(kills);
        }
        updaters[index] = updater(kills + 1);
    }
    updaters.iter_mut().for_each(kill);

    let (done, read) = (shared.done.get(), shared.sizes.read());
    assert!(done > KILLS, "{done}");
    assert!(dead_holders > 0, "somebody was killed with the lock");
    let count = read.count();
    assert_eq!(read.buckets, [0, count, 0]);
    assert!((done..=shared.begun.get()).contains(&count), "{count} of {done}");
    let missing = 1.5 * count as f64 - read.sum;
    assert!((0.0..=1.5 * (kills + 2) as f64).contains(&missing), "{missing} is missing");
    let made: u64 = (0..=kills + 1).map(|number| of(number).get()).sum();
    assert!(made > kills / 2, "{made}");
}

/// Each updater has one more, which it makes.
fn of(number: u64) -> Counter {
    Counter::named(&format!("of {}", number % 900)).unwrap()
}

fn updater(number: u64) -> Child {
    support::start("what_a_killed_process_leaves_is_whole", &number.to_string())
}

fn kill(updater: &mut Child) {
    updater.kill().unwrap();
    let status = updater.wait().unwrap();
    assert_eq!(status.code(), None, "it ended by itself: {status}");
}

fn update_until_killed(number: &str) -> ! {
    of(number.parse().unwrap()).add(1);
    let shared = Shared::named();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        loop {
            shared.update().await;
        }
    })
}
