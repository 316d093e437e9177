//! A lock that another process has, or wants.
#![expect(clippy::unwrap_used, reason = "in a test it is an assertion")]

mod support;

use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use farrier_shared::{Counter, Mutex};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(20);

/// Longer than a process needs to begin to wait.
const HOLD: Duration = Duration::from_millis(10);

/// How often `name` was held by the other process.
fn held(name: &str) -> Counter {
    Counter::named(&format!("{name} was held")).unwrap()
}

/// Another process that has the lock, and wants it again and again.
async fn holder(name: &str, hold: Duration) -> Child {
    let what = format!("{name},{}", hold.as_millis());
    let holder = support::start("processes_have_a_lock_in_turn", &what);
    let begun = async {
        while held(name).get() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, begun).await.unwrap();
    holder
}

/// `what` is the lock, and for how many milliseconds it is held.
async fn hold_for_ever(what: &str) -> ! {
    let (name, hold) = what.split_once(',').unwrap();
    let (mutex, held) = (Mutex::named(name).unwrap(), held(name));
    let hold = Duration::from_millis(hold.parse().unwrap());
    loop {
        let _guard = mutex.lock().await.unwrap();
        held.add(1);
        sleep(hold).await;
    }
}

fn kill(mut holder: Child) {
    holder.kill().unwrap();
    holder.wait().unwrap();
}

/// Behaviour V5: a process that wants a lock again and again leaves it to the others in between.
#[tokio::test]
async fn processes_have_a_lock_in_turn() {
    if let Some(what) = support::told() {
        hold_for_ever(&what).await;
    }
    let holder = holder("turns", HOLD).await;
    let (mutex, held) = (Mutex::named("turns").unwrap(), held("turns"));
    let mut between = Vec::new();
    for _ in 0..20 {
        let before = held.get();
        let guard = timeout(SOON, mutex.lock()).await.expect("it comes soon").unwrap();
        between.push(held.get() - before);
        // This process is as greedy.
        sleep(HOLD).await;
        drop(guard);
    }
    kill(holder);
    // Unless the machine is busy, each has it once, and then the other.
    let in_a_row = between.iter().filter(|&&others| others == 0).count();
    assert!(in_a_row <= 8, "this process came again at once: {between:?}");
    assert!(between.iter().sum::<u64>() <= 60, "the other one did: {between:?}");
}

/// Behaviour V2: whoever gives up waiting takes nobody's news.
#[tokio::test]
async fn who_gives_up_waiting_leaves_the_news_to_the_next() {
    let holder = holder("news", SOON).await;
    let mutex = Mutex::named("news").unwrap();
    for _ in 0..3 {
        assert!(timeout(HOLD, mutex.lock()).await.is_err());
    }
    kill(holder);
    let guard = timeout(SOON, mutex.lock()).await.expect("it comes soon").unwrap();
    assert!(guard.holder_died());
    drop(guard);
    assert!(!mutex.lock().await.unwrap().holder_died());
}

/// A program that is being started has a copy of whatever its parent has open.
#[test]
fn a_lock_is_free_when_it_was_given_back_whatever_is_started_meanwhile() {
    let mutex = Mutex::named("free").unwrap();
    thread::scope(|scope| {
        let starts = scope.spawn(|| {
            for _ in 0..100 {
                Command::new("true").status().unwrap();
            }
        });
        while !starts.is_finished() {
            assert!(mutex.try_lock().unwrap().is_some(), "nobody has it");
        }
    });
}
