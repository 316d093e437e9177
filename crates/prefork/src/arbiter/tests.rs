mod companions;
mod properties;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::member::LONGEST_BACKOFF;
use super::*;
use crate::ends::{ABORT_GAP, LEAST_COMPANION, MASTER_MARGIN, MASTER_QUICK};
use world::World;

const TIMEOUT: Duration = Duration::from_secs(30);
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_millis(1250);
const GRACE: Duration = Duration::from_secs(20);

fn limits(workers: usize) -> Limits {
    Limits {
        workers,
        timeout: Some(TIMEOUT),
        patience: PATIENCE,
        boot_timeout: Some(BOOT_TIMEOUT),
        graceful_timeout: GRACE,
        require_companions: false,
    }
}

#[test]
fn the_start_forks_the_target_and_runs_with_the_first_ready_one() {
    let mut world = World::new(3);
    assert_eq!(world.spawns.len(), 3);
    assert_eq!(world.arbiter.phase(), Phase::Starting);
    world.ready(world.pids()[1]);
    assert_eq!(world.arbiter.phase(), Phase::Running);
}

/// Behaviour L29.
#[test]
fn a_first_generation_that_dies_is_the_end() {
    for workers in [1, 8] {
        let mut world = World::new(workers);
        for pid in world.pids() {
            world.die(pid);
        }
        assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::NeverReady));
        assert_eq!(world.spawns.len(), workers, "one try each");
    }
}

#[test]
fn a_first_generation_that_hangs_at_boot_ends_at_boot_timeout() {
    let mut world = World::new(2);
    for process in world.processes.values_mut() {
        process.beats = false;
        process.obeys = false;
    }
    world.live(BOOT_TIMEOUT - Duration::from_secs(1));
    assert_eq!(world.arbiter.phase(), Phase::Starting, "timeout does not judge the boot");
    world.live(Duration::from_secs(3));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::NeverReady));
}

#[test]
fn one_that_fails_at_the_start_is_tried_again_when_another_is_ready() {
    let mut world = World::new(2);
    let pids = world.pids();
    world.die(pids[0]);
    assert_eq!(world.spawns.len(), 2);
    world.ready(pids[1]);
    assert_eq!(world.spawns.len(), 3);
    world.all_ready();
    assert_eq!(world.serving(), [(0, 1), (1, 1)]);
}

#[test]
fn forks_that_fail_at_the_start_are_the_end() {
    let now = Instant::now();
    let mut arbiter = Arbiter::new(limits(2), 0, false);
    let actions = arbiter.handle(Event::Tick, now);
    assert_eq!(actions.len(), 2);
    arbiter.handle(Event::SpawnFailed { place: Place::Worker(0), generation: 1 }, now);
    arbiter.handle(Event::SpawnFailed { place: Place::Worker(1), generation: 1 }, now);
    assert_eq!(arbiter.phase(), Phase::Stopped(Verdict::NeverReady));
}

#[test]
fn the_preparation_comes_first_and_its_failure_is_the_end() {
    let mut world = World::starting(2, true);
    assert_eq!(world.log, [Action::Prepare]);
    let pid = world.pids()[0];
    world.processes.remove(&pid);
    world.feed(Event::Gone { pid, success: true });
    assert_eq!(world.spawns.len(), 2);

    let mut world = World::starting(2, true);
    world.die(world.pids()[0]);
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::NotPrepared));
    assert_eq!(world.spawns.len(), 0);
}

#[test]
fn a_preparation_can_be_stopped_and_has_a_limit() {
    let mut world = World::starting(1, true);
    world.order(Order::Stop { quick: false });
    world.live(Duration::from_secs(1));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));

    let mut world = World::starting(1, true);
    world.live(BOOT_TIMEOUT + Duration::from_secs(1));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::NotPrepared));
}

/// Behaviour L26.
#[test]
fn a_worker_that_dies_is_replaced_at_once() {
    let mut world = World::running(2);
    world.live(Duration::from_secs(2));
    let spawns = world.spawns.len();
    world.die(world.pids()[0]);
    assert_eq!(world.spawns.len(), spawns + 1);
    assert_eq!(world.spawns[spawns].1, 0, "in the same slot");
}

/// Behaviour L28.
#[test]
fn workers_that_keep_dying_are_tried_ever_more_rarely() {
    let mut world = World::running(2);
    let begin = world.now;
    world.spawns.clear();
    let victim = world.pids()[0];
    world.die(victim);
    while world.now < begin + Duration::from_secs(100) {
        for pid in world.pids() {
            if !world.processes[&pid].ready {
                world.die(pid);
            }
        }
        for pid in world.pids() {
            let at = world.now;
            world.feed(Event::Beat { pid, at });
        }
        world.advance(Duration::from_millis(50));
    }
    let in_ten = world.spawns.iter().filter(|(at, _)| *at < begin + Duration::from_secs(10));
    let in_ten = in_ten.count();
    assert!((3..=10).contains(&in_ten), "{in_ten} spawns in 10 s");
    let gaps: Vec<_> = world.spawns.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.is_sorted(), "{gaps:?}");
    assert_eq!(world.serving().len(), 1, "the other slot is left alone");

    world.live(LONGEST_BACKOFF + Duration::from_secs(2));
    assert_eq!(world.serving().len(), 2, "recovered");
}

/// Behaviour L28: the same for workers that become ready first.
#[test]
fn workers_that_die_soon_after_they_are_ready_are_throttled_too() {
    let mut world = World::running(1);
    let begin = world.now;
    world.spawns.clear();
    while world.now < begin + Duration::from_secs(10) {
        for pid in world.pids() {
            world.ready(pid);
            world.die(pid);
        }
        world.advance(Duration::from_millis(10));
    }
    assert!((5..=10).contains(&world.spawns.len()), "{} spawns in 10 s", world.spawns.len());
}

/// Behaviours L13 and L14: first its replacement, then what is known of it, then the first signal.
#[test]
fn a_hung_worker_is_replaced_explained_aborted_and_killed() {
    let mut world = World::running(2);
    world.live(Duration::from_secs(5));
    let hung = world.pids()[0];
    let process = world.processes.get_mut(&hung).unwrap();
    (process.beats, process.obeys) = (false, false);
    world.log.clear();
    world.live(TIMEOUT + PATIENCE + Duration::from_millis(100));
    assert!(
        matches!(
            world.log[..],
            [
                Action::Spawn { place: Place::Worker(0), .. },
                Action::LogHung { pid, .. },
                Action::Signal { pid: struck, signal: WorkerSignal::Abort, why: Why::Hung },
            ] if pid == hung && struck == hung
        ),
        "{:?}",
        world.log
    );
    world.live(ABORT_GAP - Duration::from_millis(200));
    assert!(world.processes.contains_key(&hung), "the gap is kept");
    world.live(Duration::from_millis(300));
    assert!(!world.processes.contains_key(&hung));
    assert_eq!(world.serving(), [(0, 1), (1, 1)]);
}

/// Behaviour L19.
#[test]
fn two_that_hang_have_the_gap_each() {
    let mut world = World::running(2);
    world.live(Duration::from_secs(1));
    for (pid, later) in world.pids().into_iter().zip([0, 300]) {
        world.live(Duration::from_millis(later));
        let process = world.processes.get_mut(&pid).unwrap();
        (process.beats, process.obeys) = (false, false);
    }
    let victims = world.pids();
    let mut aborted: BTreeMap<Pid, Instant> = BTreeMap::new();
    let mut killed: BTreeMap<Pid, Instant> = BTreeMap::new();
    for _ in 0..4000 {
        world.live(Duration::from_millis(10));
        let now = world.now;
        for action in world.log.drain(..) {
            match action {
                Action::Signal { pid, signal: WorkerSignal::Abort, .. } => aborted.insert(pid, now),
                Action::Signal { pid, signal: WorkerSignal::Kill, .. } => killed.insert(pid, now),
                _ => None,
            };
        }
    }
    for pid in victims {
        let gap = killed[&pid] - aborted[&pid];
        assert!(gap >= ABORT_GAP - Duration::from_millis(20), "{gap:?}");
    }
}

/// Behaviour L15.
#[test]
fn without_a_timeout_nobody_is_judged() {
    let mut world = World::running(1);
    world.arbiter.workers.values_mut().for_each(|member| member.limits.timeout = None);
    let pid = world.pids()[0];
    world.processes.get_mut(&pid).unwrap().beats = false;
    world.live(Duration::from_secs(1000));
    assert_eq!(world.pids(), [pid]);
}

/// Behaviour L60.
#[test]
fn a_master_that_was_paused_kills_nobody() {
    let mut world = World::running(3);
    let before = world.pids();
    world.advance(3 * TIMEOUT);
    world.advance(TIMEOUT / 2);
    world.live(Duration::from_secs(5));
    assert_eq!(world.pids(), before);
    // Who is silent afterwards is hung all the same.
    world.processes.get_mut(&before[0]).unwrap().beats = false;
    world.live(TIMEOUT + PATIENCE + ABORT_GAP + Duration::from_secs(1));
    assert!(!world.processes.contains_key(&before[0]));
}

/// Short of what the master could notice by its own lateness: it looks twice before it judges.
#[test]
fn a_pause_of_the_whole_machine_kills_nobody_however_short() {
    for beyond in [1, 100, 500, 990, 5_000] {
        let mut world = World::running(3);
        world.live(Duration::from_secs(1));
        let before = world.pids();
        world.advance(TIMEOUT + Duration::from_millis(beyond));
        world.live(Duration::from_secs(5));
        assert_eq!(world.pids(), before, "{beyond} ms beyond the timeout");
    }
}

/// Behaviour L34.
#[test]
fn a_reload_replaces_slot_by_slot_and_each_old_one_after_its_successor() {
    let mut world = World::running(3);
    world.order(Order::Reload);
    assert_eq!(world.pids().len(), 4, "one boots, none is told to leave");
    assert_eq!(world.serving(), [(0, 1), (1, 1), (2, 1)]);
    let canary = *world.pids().last().unwrap();
    world.ready(canary);
    assert!(world.log.contains(&Action::Proven { generation: 2 }));
    assert_eq!(world.serving(), [(0, 2), (1, 1), (2, 1)]);
    assert!(!world.log.contains(&Action::Reloaded { generation: 2 }));
    world.live(Duration::from_secs(1));
    assert_eq!(world.serving(), [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(world.pids().len(), 3);
    let over = world.log.iter().filter(|action| **action == Action::Reloaded { generation: 2 });
    assert_eq!(over.count(), 1);
    assert!(!world.arbiter.reloading());
}

/// Behaviour L47: those that are due are replaced one after the other, each told when its successor serves, longest due first.
#[test]
fn recycling_makes_before_it_breaks_one_slot_at_a_time() {
    let mut world = World::running(3);
    let first = world.pids();
    for index in [2, 0, 1] {
        world.now += Duration::from_millis(1);
        world.feed(Event::Due { pid: first[index], why: Due::Requests });
        world.feed(Event::Due { pid: first[index], why: Due::Memory });
    }
    for (round, index) in [2, 0, 1].into_iter().enumerate() {
        assert_eq!(world.spawns.len(), 3 + round + 1, "one boots");
        assert_eq!(world.spawns.last().unwrap().1, index);
        let told = world.processes[&first[index]].told_at;
        assert_eq!(told, None, "not before its successor serves");
        world.ready(*world.pids().last().unwrap());
        assert!(world.processes[&first[index]].told_at.is_some());
        assert_eq!(world.serving().len(), 3, "none is missing at any time");
    }
    assert_eq!(world.spawns.len(), 6);
    let because = |action: &&Action| {
        matches!(action, Action::Signal { why: Why::Recycled(Due::Requests), .. })
    };
    assert_eq!(world.log.iter().filter(because).count(), 3, "why was said first is the reason");
}

/// Behaviour L48: a successor that never serves costs nothing but tries, ever more rarely.
#[test]
fn a_worker_that_is_due_stays_until_its_successor_serves() {
    let mut world = World::running(2);
    let first = world.pids();
    world.forks_fail = true;
    world.feed(Event::Due { pid: first[0], why: Due::Memory });
    world.live(Duration::from_secs(60));
    let tries = world.log.iter().filter(|action| matches!(action, Action::Spawn { .. })).count();
    assert!((2 + 5..2 + 15).contains(&tries), "{tries}");
    assert_eq!(world.pids(), first);
    world.forks_fail = false;
    world.live(LONGEST_BACKOFF + Duration::from_secs(1));
    assert!(!world.pids().contains(&first[0]) && world.pids().contains(&first[1]));
    assert_eq!(world.serving(), [(0, 1), (1, 1)]);
}

/// A first worker that cannot even be forked is one that does not become ready.
#[test]
fn a_canary_that_cannot_be_forked_ends_the_reload() {
    let mut world = World::running(2);
    world.forks_fail = true;
    world.order(Order::Reload);
    assert!(world.log.contains(&Action::Revert { generation: 2, slot: 0 }));
    assert!(!world.arbiter.reloading());
    world.live(Duration::from_secs(5));
    assert_eq!(world.serving(), [(0, 1), (1, 1)]);
    world.forks_fail = false;
    world.order(Order::Reload);
    world.live(Duration::from_secs(5));
    assert_eq!(world.serving(), [(0, 3), (1, 3)]);
}

/// Deadlines are judged by the tick, after all that came before it was told: who was ready or gone by then is.
#[test]
fn who_was_heard_before_the_tick_is_not_late() {
    let mut world = World::new(2);
    let pids = world.pids();
    world.now += BOOT_TIMEOUT;
    world.ready(pids[0]);
    world.ready(pids[1]);
    world.feed(Event::Tick);
    assert_eq!(world.serving(), [(0, 1), (1, 1)]);
    assert!(world.log.iter().all(|action| !matches!(action, Action::Signal { .. })));
}

/// Failures in a row end with a healthy worker, also if that is recycled.
#[test]
fn a_healthy_worker_that_is_recycled_ends_a_row_of_failures() {
    let mut world = World::running(1);
    for _ in 0..2 {
        world.forks_fail = true;
        let due = world.pids()[0];
        world.feed(Event::Due { pid: due, why: Due::Requests });
        world.live(Duration::from_secs(20));
        assert!(world.arbiter.slots[0].failures > 3);
        world.forks_fail = false;
        world.live(LONGEST_BACKOFF);
        assert!(!world.pids().contains(&due));
        assert_eq!(world.arbiter.slots[0].failures, 0);
    }
}

/// Of two that are due the one that was forked later stays, also when pids begin anew.
#[test]
fn the_order_of_workers_is_not_that_of_their_pids() {
    let mut world = World::running(1);
    let old = world.pids()[0];
    world.feed(Event::Due { pid: old, why: Due::Lifetime });
    let booting = *world.pids().last().unwrap();
    // As if its pid were a low one.
    let (process, member) = (
        world.processes.remove(&booting).unwrap(),
        world.arbiter.workers.remove(&booting).unwrap(),
    );
    world.processes.insert(7, process);
    world.arbiter.workers.insert(7, member);
    world.feed(Event::Due { pid: 7, why: Due::Lifetime });
    world.ready(7);
    assert!(world.processes[&old].told_at.is_some());
    assert_eq!(world.processes[&7].told_at, None);
}

/// By its age, and in a reload, which replaces it anyway.
#[test]
fn a_worker_is_due_at_the_end_of_its_lifetime() {
    let mut world = World { lifetime: Some(Duration::from_secs(60)), ..World::running(1) };
    world.order(Order::Reload);
    world.live(Duration::from_secs(1));
    let old = world.pids();
    world.live(Duration::from_secs(55));
    assert_eq!(world.pids(), old);
    world.live(Duration::from_secs(10));
    assert_ne!(world.pids(), old);
    assert_eq!(world.serving(), [(0, 2)]);
    let why = |action: &Action| matches!(action, Action::LogDue { why: Due::Lifetime, .. });
    assert_eq!(world.log.iter().filter(|action| why(action)).count(), 1);
}

/// The one that grows the server is over when the added workers serve, and the next one waits for that.
#[test]
fn a_reload_waits_for_the_workers_that_the_one_before_adds() {
    let mut world = World::running(1);
    world.file = Some(limits(3));
    world.order(Order::Reload);
    world.ready(*world.pids().last().unwrap());
    assert_eq!(world.arbiter.target(), 3);
    world.order(Order::Reload);
    world.live(Duration::from_secs(5));
    let reloads = world.log.iter().filter(|action| {
        matches!(action, Action::Reread | Action::Reloaded { .. } | Action::Revert { .. })
    });
    let over = |generation| Action::Reloaded { generation };
    let expected = [Action::Reread, over(2), Action::Reread, over(3)];
    assert_eq!(reloads.copied().collect::<Vec<_>>(), expected);
}

#[test]
fn an_old_worker_that_hangs_at_boot_does_not_outlast_its_successor() {
    let mut world = World::running(2);
    world.live(Duration::from_secs(2));
    world.die(world.pids()[1]);
    let hung = *world.pids().last().unwrap();
    world.processes.get_mut(&hung).unwrap().beats = false;
    world.live(Duration::from_secs(1));
    world.order(Order::Reload);
    world.live(Duration::from_secs(5));
    assert!(world.log.contains(&Action::Reloaded { generation: 2 }));
    assert!(!world.arbiter.reloading());
    assert!(!world.pids().contains(&hung));
}

/// Behaviour L37.
#[test]
fn a_canary_that_dies_leaves_the_old_generation_as_it_was() {
    let mut world = World::running(2);
    let before = world.pids();
    world.file = Some(limits(5));
    world.order(Order::Reload);
    let canary = *world.pids().last().unwrap();
    world.die(canary);
    assert!(world.log.contains(&Action::Revert { generation: 2, slot: 0 }));
    world.live(Duration::from_secs(5));
    assert!(!world.log.iter().any(|action| matches!(action, Action::Reloaded { .. })));
    assert_eq!(world.pids(), before);
    assert_eq!(world.arbiter.target(), 2);
    assert_eq!(world.arbiter.generation(), 1);
    assert!(!world.arbiter.reloading());

    world.order(Order::Reload);
    world.live(Duration::from_secs(5));
    assert_eq!(world.serving(), [(0, 3), (1, 3), (2, 3), (3, 3), (4, 3)], "the next one works");
    assert!(world.log.contains(&Action::Reloaded { generation: 3 }));
}

#[test]
fn a_reload_that_fails_keeps_what_ttin_did() {
    let mut world = World::running(2);
    world.order(Order::More);
    world.live(Duration::from_secs(1));
    world.order(Order::Reload);
    world.die(*world.pids().last().unwrap());
    world.live(Duration::from_secs(5));
    assert_eq!(world.arbiter.target(), 3);

    world.file = Some(limits(5));
    world.order(Order::Reload);
    assert_eq!(world.arbiter.target(), 3, "not before it is proven");
    world.die(*world.pids().last().unwrap());
    assert_eq!(world.arbiter.target(), 3);
}

#[test]
fn a_canary_that_hangs_at_boot_is_given_up_at_boot_timeout() {
    let mut world = World::running(2);
    let before = world.pids();
    world.order(Order::Reload);
    let canary = *world.pids().last().unwrap();
    let process = world.processes.get_mut(&canary).unwrap();
    (process.beats, process.obeys) = (false, false);
    world.live(BOOT_TIMEOUT + Duration::from_secs(1));
    assert_eq!(world.pids(), before);
    assert_eq!(world.arbiter.generation(), 1);
}

/// Behaviour L38.
#[test]
fn wrong_settings_change_nothing() {
    let mut world = World::running(2);
    world.file = None;
    let (before, spawns) = (world.pids(), world.spawns.len());
    world.order(Order::Reload);
    world.live(Duration::from_secs(5));
    assert_eq!((world.pids(), world.spawns.len()), (before, spawns));
    assert!(!world.arbiter.reloading());
}

/// Behaviours L63 and L65: a reload with a preload tries it in a process of its own, then calls it in the master, and only then
/// begins.
#[test]
fn a_preload_is_tried_before_it_is_called() {
    let mut world = World::running(2);
    (world.preload, world.file) = (Some(true), Some(limits(3)));
    let log = world.log.len();
    world.order(Order::Reload);
    assert_eq!(world.log[log..], [Action::Reread]);
    assert!(world.arbiter.reloading());
    world.order(Order::More);
    world.all_ready();
    assert_eq!(world.serving().len(), 3, "orders are obeyed meanwhile");
    let log = world.log.len();
    world.loaded();
    let canary = Action::Spawn { place: Place::Worker(0), generation: 2 };
    assert_eq!(world.log[log..], [Action::Preload, canary]);
    let canary = *world.pids().last().unwrap();
    world.ready(canary);
    world.all_ready();
    world.all_ready();
    assert_eq!(world.serving().len(), 3);
    assert!(world.log.contains(&Action::Reloaded { generation: 2 }));
    // It was forked while the master had both values.
    assert_eq!(world.processes[&canary].told_at, None, "its successor is to come first");
    world.live(Duration::from_secs(5));
    assert!(!world.processes.contains_key(&canary));
    assert_eq!(world.serving(), [(0, 2), (1, 2), (2, 2)]);
    let spawns = world.spawns.len();
    world.live(Duration::from_secs(60));
    assert_eq!(world.spawns.len(), spawns, "and no other one");
}

/// Behaviour L62: one that fails, or hangs, changes nothing.
#[test]
fn a_preload_that_fails_changes_nothing() {
    let mut world = World::running(2);
    world.preload = Some(true);
    let (before, spawns) = (world.pids(), world.spawns.len());
    let unchanged = |world: &World| {
        assert_eq!((world.pids(), world.spawns.len()), (before.clone(), spawns));
        assert!(!world.arbiter.reloading());
        assert_eq!(world.arbiter.generation(), 1);
    };
    world.order(Order::Reload);
    world.die(world.dry_run.expect("a dry run"));
    unchanged(&world);

    world.order(Order::Reload);
    let hung = world.dry_run.expect("a dry run");
    let process = world.processes.get_mut(&hung).expect("it lives");
    (process.beats, process.obeys) = (false, false);
    world.live(BOOT_TIMEOUT - Duration::from_secs(1));
    assert!(world.processes.contains_key(&hung));
    world.live(Duration::from_secs(2));
    let signal = WorkerSignal::Kill;
    assert!(world.log.contains(&Action::Signal { pid: hung, signal, why: Why::NotPreloaded }));
    unchanged(&world);

    world.preload = Some(false);
    world.order(Order::Reload);
    world.loaded();
    unchanged(&world);

    world.preload = Some(true);
    world.order(Order::Reload);
    world.order(Order::Reload);
    world.loaded();
    world.live(Duration::from_secs(5));
    assert_eq!(world.serving(), [(0, 3), (1, 3)], "who asks meanwhile asks for another one");
}

#[test]
fn a_stop_ends_a_dry_run() {
    for quick in [true, false] {
        let mut world = World::running(2);
        world.preload = Some(true);
        world.order(Order::Reload);
        let dry_run = world.dry_run.expect("a dry run");
        world.order(Order::Stop { quick });
        assert_eq!(world.processes[&dry_run].signals, [WorkerSignal::Term]);
        world.live(Duration::from_secs(1));
        assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
    }
}

/// Behaviour L42.
#[test]
fn reloads_in_a_burst_never_make_a_third_generation() {
    let mut world = World::running(3);
    for _ in 0..5 {
        world.order(Order::Reload);
        world.advance(Duration::from_millis(1));
        let mut generations: Vec<_> =
            world.processes.values().map(|process| process.generation).collect();
        generations.sort_unstable();
        generations.dedup();
        assert!(generations.len() <= 2, "{generations:?}");
    }
    world.live(Duration::from_secs(5));
    assert_eq!(world.serving(), [(0, 3), (1, 3), (2, 3)], "the burst is one more reload");
}

/// Behaviour L40.
#[test]
fn during_a_reload_deaths_are_made_good() {
    let mut world = World::running(3);
    world.live(Duration::from_secs(2));
    world.order(Order::Reload);
    let old = world.pids()[1];
    world.die(old);
    let newest = *world.pids().last().unwrap();
    assert_eq!(world.processes[&newest].generation, 1, "the new one is not proven yet");
    world.live(Duration::from_secs(5));
    assert_eq!(world.serving(), [(0, 2), (1, 2), (2, 2)]);
}

/// Behaviours L30 and L32.
#[test]
fn more_and_fewer_workers() {
    let mut world = World::running(2);
    for _ in 0..3 {
        world.order(Order::More);
    }
    world.live(Duration::from_secs(1));
    assert_eq!(world.serving().len(), 5);
    world.order(Order::Reload);
    world.live(Duration::from_secs(1));
    assert_eq!(world.serving().len(), 5, "a reload keeps it");
    world.file = Some(limits(3));
    world.order(Order::Reload);
    world.live(Duration::from_secs(1));
    assert_eq!(world.serving().len(), 3, "unless the configured number is another one");
    for _ in 0..10 {
        world.order(Order::Fewer);
    }
    world.live(Duration::from_secs(1));
    assert_eq!(world.serving().len(), 1);
}

/// Behaviour L4.
#[test]
fn a_stop_kills_who_does_not_leave() {
    let mut world = World::running(2);
    for process in world.processes.values_mut() {
        process.obeys = false;
    }
    world.order(Order::Stop { quick: false });
    world.live(GRACE - Duration::from_secs(1));
    assert_eq!(world.pids().len(), 2);
    world.live(Duration::from_secs(2));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
}

/// Behaviour L5.
#[test]
fn a_quick_stop_shortens_a_slow_one() {
    let mut world = World::running(2);
    for process in world.processes.values_mut() {
        process.obeys = false;
    }
    world.order(Order::Stop { quick: false });
    world.live(Duration::from_secs(1));
    world.order(Order::Stop { quick: true });
    world.order(Order::Stop { quick: false });
    world.live(Duration::from_secs(1));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
}

/// Behaviour L9.
#[test]
fn a_stop_during_a_reload_takes_no_longer() {
    let mut world = World::running(2);
    world.order(Order::Reload);
    world.order(Order::Stop { quick: false });
    world.live(Duration::from_secs(1));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
}

#[test]
fn a_worker_that_is_forked_while_the_order_to_stop_comes_is_told_too() {
    let now = Instant::now();
    for quick in [true, false] {
        let mut arbiter = Arbiter::new(limits(1), 0, false);
        arbiter.handle(Event::Tick, now);
        let actions = arbiter.handle(Event::Order(Order::Stop { quick }), now);
        assert_eq!((arbiter.phase(), actions.len()), (stopping(quick), 0));
        let place = Place::Worker(0);
        let spawned = Event::Spawned { pid: 7, place, generation: 1, lifetime: None };
        let actions = arbiter.handle(spawned, now);
        let signal = if quick { WorkerSignal::Quit } else { WorkerSignal::Term };
        assert_eq!(actions, [Action::Signal { pid: 7, signal, why: Why::Stop }]);
        assert_eq!(arbiter.phase(), stopping(quick));
        arbiter.handle(Event::Gone { pid: 7, success: true }, now);
        assert_eq!(arbiter.phase(), Phase::Stopped(Verdict::Stopped));
    }
}

fn stopping(quick: bool) -> Phase {
    Phase::Stopping { quick, verdict: Verdict::Stopped }
}

#[test]
fn a_drain_that_hangs_near_its_end_is_not_aborted_in_haste() {
    let mut world = World::running(1);
    let old = world.pids()[0];
    world.live(Duration::from_secs(2));
    let process = world.processes.get_mut(&old).unwrap();
    (process.beats, process.obeys) = (false, false);
    world.live(TIMEOUT - GRACE);
    world.order(Order::Reload);
    world.live(GRACE + Duration::from_secs(1));
    assert!(!world.processes.contains_key(&old));
    let struck = |action: &&Action| matches!(action, Action::Signal { pid, .. } if *pid == old);
    let signals: Vec<_> = world.log.iter().filter(struck).collect();
    assert!(
        matches!(
            signals[..],
            [
                Action::Signal { signal: WorkerSignal::Term, why: Why::Replaced, .. },
                Action::Signal { signal: WorkerSignal::Kill, why: Why::GraceOver, .. },
            ]
        ),
        "{signals:?}"
    );
}

#[test]
fn a_reload_ends_the_waiting_of_a_slot_that_failed() {
    let mut world = World::running(2);
    world.forks_fail = true;
    world.die(world.pids()[0]);
    world.live(Duration::from_secs(60));
    world.forks_fail = false;
    let spawns = world.spawns.len();
    world.order(Order::Reload);
    assert!(world.spawns[spawns..].iter().any(|(_, slot)| *slot == 0), "{:?}", world.spawns);
}

/// Old workers beat and leave by the settings that they were started with.
#[test]
fn new_limits_judge_new_workers() {
    let mut world = World::running(2);
    let old = world.pids();
    let short = Duration::from_millis(50);
    let strict = Limits { timeout: Some(short), patience: short, ..limits(2) };
    world.file = Some(Limits { graceful_timeout: Duration::ZERO, ..strict });
    world.order(Order::Reload);
    let canary = *world.pids().last().unwrap();
    // They beat once a second.
    for _ in 0..8 {
        for &pid in &old {
            let at = world.now;
            world.feed(Event::Beat { pid, at });
        }
        for _ in 0..40 {
            world.advance(Duration::from_millis(25));
        }
    }
    assert!(old.iter().all(|pid| world.processes[pid].signals.is_empty()), "{:?}", world.log);
    world.processes.values_mut().for_each(|process| process.obeys = false);
    world.ready(canary);
    let told = world.processes[&old[0]].told_at;
    assert_eq!(told, Some(world.now));
    world.advance(GRACE - Duration::from_secs(1));
    assert_eq!(world.processes[&old[0]].signals, [WorkerSignal::Term], "its grace is the old one");
}

/// The number changes with a generation that is proven.
#[test]
fn fewer_workers_are_not_fewer_before_the_canary_is_ready() {
    for (before, after) in [(4, 1), (2, 6)] {
        let mut world = World::running(before);
        let old = world.pids();
        world.file = Some(limits(after));
        world.order(Order::Reload);
        assert_eq!(world.pids().len(), before + 1, "one canary");
        let canary = *world.pids().last().unwrap();
        world.die(canary);
        assert_eq!(world.pids(), old);
        assert!(old.iter().all(|pid| world.processes[pid].signals.is_empty()));
        assert_eq!(world.arbiter.target(), before);
        world.order(Order::Reload);
        world.ready(*world.pids().last().unwrap());
        assert_eq!(world.arbiter.target(), after);
        world.live(Duration::from_secs(60));
        assert_eq!(world.serving().len(), after);
    }
}

/// An operator's order during a reload counts for what the reload makes, too.
#[test]
fn ttou_during_a_trial_is_not_lost() {
    let mut world = World::running(3);
    world.file = Some(limits(4));
    world.order(Order::Reload);
    world.order(Order::Fewer);
    assert_eq!(world.arbiter.target(), 2);
    world.live(Duration::from_secs(60));
    assert_eq!(world.serving().len(), 3);
}
