//! Companions: each exists once, whatever happens, and costs no worker anything.

use super::world::World;
use super::*;

const FIRST: Place = Place::Companion(0);

fn running(companions: usize) -> World {
    let mut world = World::starting_with(limits(2), companions, false);
    world.all_ready();
    assert_eq!(world.arbiter.phase(), Phase::Running);
    world
}

fn required() -> World {
    World::starting_with(Limits { require_companions: true, ..limits(2) }, 2, false)
}

#[test]
fn each_is_there_once_beside_the_workers() {
    let world = running(2);
    assert_eq!(world.companions(), [(0, 1), (1, 1)]);
    assert_eq!(world.serving(), [(0, 1), (1, 1)]);
}

/// Behaviour L67.
#[test]
fn one_that_keeps_failing_costs_no_worker_anything_and_is_tried_ever_more_rarely() {
    let mut world = running(1);
    let begin = world.now;
    let mut tries = 0;
    while world.now < begin + Duration::from_secs(100) {
        if let Some(companion) = world.pid_of(FIRST) {
            world.die(companion);
            tries += 1;
        }
        for pid in world.pids() {
            let at = world.now;
            world.feed(Event::Beat { pid, at });
        }
        world.advance(Duration::from_millis(100));
    }
    assert!((5..15).contains(&tries), "{tries}");
    assert_eq!(world.serving(), [(0, 1), (1, 1)]);
    assert_eq!(world.spawns.len(), 2, "no worker is replaced");
    world.live(LONGEST_BACKOFF * 2);
    assert_eq!(world.companions(), [(0, 1)]);
}

/// Behaviour L66: `fork` of the world asserts that none is there twice.
#[test]
fn a_hung_one_is_gone_before_the_next_one_comes() {
    let mut world = running(1);
    world.live(Duration::from_secs(2));
    let hung = world.pid_of(FIRST).expect("it runs");
    let process = world.processes.get_mut(&hung).expect("it runs");
    (process.beats, process.obeys) = (false, false);
    world.live(TIMEOUT + PATIENCE + ABORT_GAP + Duration::from_secs(2));
    let next = world.pid_of(FIRST).expect("it is replaced");
    assert_ne!(next, hung);
    assert_eq!(world.companions(), [(0, 1)]);
    assert_eq!(world.serving().len(), 2);
}

/// Behaviour L66.
#[test]
fn a_reload_replaces_it_when_the_first_worker_is_proven() {
    let mut world = running(1);
    world.live(Duration::from_secs(2));
    let old = world.pid_of(FIRST).expect("it runs");
    world.order(Order::Reload);
    assert!(world.processes[&old].signals.is_empty(), "not before");
    let canary = *world.pids().last().expect("a canary");
    world.ready(canary);
    assert_eq!(world.processes[&old].signals, [WorkerSignal::Term]);
    world.live(Duration::from_secs(5));
    assert_eq!(world.companions(), [(0, 2)]);
    assert_eq!(world.serving(), [(0, 2), (1, 2)]);
    assert!(!world.arbiter.reloading());
}

#[test]
fn a_reload_that_is_reverted_leaves_it_alone() {
    let mut world = running(1);
    let old = world.pid_of(FIRST).expect("it runs");
    world.order(Order::Reload);
    let canary = *world.pids().last().expect("a canary");
    world.die(canary);
    world.live(Duration::from_secs(5));
    assert_eq!(world.pid_of(FIRST), Some(old));
}

/// Behaviour L68: workers go first, and what they have left of the grace is the companions'.
#[test]
fn a_stop_is_for_the_workers_first_and_one_grace_for_all() {
    let mut world = running(2);
    for process in world.processes.values_mut() {
        process.obeys = false;
    }
    world.order(Order::Stop { quick: false });
    let companion = world.pid_of(FIRST).expect("it runs");
    world.live(Duration::from_secs(5));
    assert!(world.processes[&companion].signals.is_empty());
    for slot in 0..2 {
        let worker = world.pid_of(Place::Worker(slot)).expect("it drains");
        world.die(worker);
    }
    assert_eq!(world.processes[&companion].signals, [WorkerSignal::Term]);
    world.live(GRACE - Duration::from_secs(6));
    assert_eq!(world.pids().len(), 2);
    world.live(Duration::from_secs(2));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
}

#[test]
fn a_companion_has_a_second_also_if_the_workers_took_all_of_the_grace() {
    let mut world = running(1);
    for process in world.processes.values_mut() {
        process.obeys = false;
    }
    world.order(Order::Stop { quick: false });
    while world.processes.len() > 1 {
        world.live(Duration::from_millis(50));
    }
    world.live(LEAST_COMPANION - Duration::from_millis(200));
    assert_eq!(world.pids().len(), 1);
    world.live(MASTER_MARGIN + Duration::from_secs(1));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
}

/// Behaviour L68: one that is not there when the server stops comes once more, and does what is left.
#[test]
fn a_companion_that_is_missing_at_the_stop_comes_once_more() {
    // It dies while the workers drain.
    let mut world = running(1);
    for process in world.processes.values_mut() {
        process.obeys = false;
    }
    world.order(Order::Stop { quick: false });
    world.die(world.pid_of(FIRST).expect("it runs"));
    let next = world.pid_of(FIRST).expect("it is replaced");
    world.ready(next);
    assert!(world.processes[&next].signals.is_empty());
    for slot in 0..2 {
        world.die(world.pid_of(Place::Worker(slot)).expect("it drains"));
    }
    assert_eq!(world.processes[&next].signals, [WorkerSignal::Term]);
    world.die(next);
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));

    // It waits for its next try.
    let mut world = running(1);
    for _ in 0..6 {
        world.die(world.pid_of(FIRST).expect("it is tried"));
        world.advance(Duration::from_millis(600));
        if world.pid_of(FIRST).is_none() {
            break;
        }
    }
    assert_eq!(world.pid_of(FIRST), None, "it is in back-off");
    world.order(Order::Stop { quick: false });
    assert!(world.pid_of(FIRST).is_some());
    world.live(Duration::from_secs(2));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));

    // It leaves for a reload, and has what it has to do.
    let mut world = running(1);
    let old = world.pid_of(FIRST).expect("it runs");
    world.processes.get_mut(&old).expect("it runs").obeys = false;
    world.order(Order::Reload);
    world.live(Duration::from_secs(3));
    assert_eq!(world.processes[&old].signals, [WorkerSignal::Term]);
    world.order(Order::Stop { quick: false });
    world.live(Duration::from_secs(1));
    assert_eq!(world.pids(), [old]);
    world.die(old);
    let last = world.pid_of(FIRST).expect("what the workers left is not done");
    world.ready(last);
    assert_eq!(world.processes[&last].signals, [WorkerSignal::Term]);
    world.die(last);
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
}

/// A last one that cannot start is tried once.
#[test]
fn a_stop_does_not_wait_for_a_companion_that_fails() {
    let mut world = running(1);
    let workers = [0, 1].map(|slot| world.pid_of(Place::Worker(slot)).expect("it serves"));
    world.die(world.pid_of(FIRST).expect("it runs"));
    world.order(Order::Stop { quick: false });
    for worker in workers {
        world.die(worker);
    }
    let mut tries = 0;
    while let Some(companion) = world.pid_of(FIRST) {
        world.die(companion);
        tries += 1;
    }
    assert!(tries <= 2, "{tries}");
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
}

#[test]
fn a_quick_stop_is_for_all_at_once() {
    let mut world = running(1);
    world.order(Order::Stop { quick: true });
    assert!(world.processes.values().all(|process| process.signals == [WorkerSignal::Quit]));
}

/// Behaviour L69.
#[test]
fn required_companions_come_before_the_workers() {
    let mut world = required();
    assert_eq!(world.spawns.len(), 0);
    world.ready(world.pid_of(FIRST).expect("it is forked"));
    assert_eq!(world.spawns.len(), 0);
    world.ready(world.pid_of(Place::Companion(1)).expect("it is forked"));
    assert_eq!(world.spawns.len(), 2);
    world.all_ready();
    assert_eq!(world.arbiter.phase(), Phase::Running);
    // Later it is as with any.
    world.live(Duration::from_secs(2));
    world.die(world.pid_of(FIRST).expect("it runs"));
    world.live(Duration::from_secs(2));
    assert_eq!(world.companions().len(), 2);
    assert_eq!(world.spawns.len(), 2);
}

/// Behaviour L69.
#[test]
fn a_required_companion_that_fails_is_the_end() {
    let mut world = required();
    world.die(world.pid_of(FIRST).expect("it is forked"));
    assert_eq!(world.pid_of(FIRST), None, "it has one try");
    world.live(Duration::from_secs(1));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::NoCompanion));

    let mut world = required();
    world.forks_fail = true;
    for process in world.processes.values_mut() {
        (process.beats, process.obeys) = (false, false);
    }
    world.live(BOOT_TIMEOUT + Duration::from_secs(2));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::NoCompanion), "it hangs");
    assert_eq!(world.spawns.len(), 0);
}
