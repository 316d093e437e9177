//! What holds whatever happens.

use proptest::prelude::*;

use super::super::member::LONGEST_BACKOFF;
use super::world::World;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Ready(usize),
    Die(usize),
    Freeze(usize),
    Disobey(usize),
    Leave(usize),
    Due(usize),
    Lifetime(Option<u64>),
    Live(u64),
    Jump(u64),
    Order(Order),
    File(Option<Limits>),
    ForksFail(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..16_usize).prop_map(Step::Ready),
        2 => (0..16_usize).prop_map(Step::Die),
        1 => (0..16_usize).prop_map(Step::Freeze),
        1 => (0..16_usize).prop_map(Step::Disobey),
        2 => (0..16_usize).prop_map(Step::Leave),
        2 => (0..16_usize).prop_map(Step::Due),
        1 => proptest::option::of(1..60_000_u64).prop_map(Step::Lifetime),
        3 => (0..5_000_u64).prop_map(Step::Live),
        1 => (0..100_000_u64).prop_map(Step::Jump),
        2 => prop_oneof![
            Just(Order::Reload), Just(Order::More), Just(Order::Fewer)
        ].prop_map(Step::Order),
        1 => proptest::option::of(file()).prop_map(Step::File),
        1 => any::<bool>().prop_map(Step::ForksFail),
    ]
}

/// Settings of which none lets a worker that beats four times a second seem hung.
fn file() -> impl Strategy<Value = Limits> {
    let seconds = |seconds: u64| Duration::from_secs(seconds);
    let timeout = proptest::option::of((1..60_u64).prop_map(seconds));
    let grace = (0..=GRACE.as_secs()).prop_map(seconds);
    (1..5_usize, timeout, grace).prop_map(|(workers, timeout, graceful_timeout)| Limits {
        timeout,
        graceful_timeout,
        ..limits(workers)
    })
}

impl World {
    fn step(&mut self, step: &Step) {
        let pids = self.pids();
        let pick = |index: usize| pids.get(index % pids.len().max(1)).copied();
        match *step {
            Step::Ready(index) => pick(index).into_iter().for_each(|pid| self.ready(pid)),
            Step::Die(index) => pick(index).into_iter().for_each(|pid| self.die(pid)),
            Step::Freeze(index) => {
                if let Some(process) = pick(index).and_then(|pid| self.processes.get_mut(&pid)) {
                    (process.beats, process.obeys) = (false, false);
                }
            }
            Step::Disobey(index) => {
                if let Some(process) = pick(index).and_then(|pid| self.processes.get_mut(&pid)) {
                    process.obeys = false;
                }
            }
            Step::Leave(index) => {
                let told = |pid: &Pid| self.processes[pid].told_at.is_some();
                if let Some(pid) = pick(index).filter(told) {
                    self.processes.remove(&pid);
                    self.dry_run = self.dry_run.filter(|run| *run != pid);
                    self.feed(Event::Gone { pid, success: true });
                }
            }
            Step::Due(index) => {
                let why = Due::Requests;
                pick(index).into_iter().for_each(|pid| self.feed(Event::Due { pid, why }));
            }
            Step::Lifetime(millis) => self.lifetime = millis.map(Duration::from_millis),
            Step::Live(millis) => self.live(Duration::from_millis(millis)),
            // A pause of the master: whoever was due is struck late, and `check` would blame the arbiter.
            Step::Jump(millis)
                if self.processes.values().all(|process| process.told_at.is_none()) =>
            {
                self.advance(Duration::from_millis(millis));
            }
            Step::Jump(_) => {}
            Step::Order(order) => self.order(order),
            Step::File(ref file) => self.file.clone_from(file),
            Step::ForksFail(fail) => self.forks_fail = fail,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened: left alone, the server comes back to its target, each slot with one worker of the
    /// current generation. `check` and `signal` watch every step on the way.
    #[test]
    fn the_target_is_reached_again(workers in 1..5_usize, companions in 0..3_usize, preload: Option<bool>, steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::starting_with(limits(workers), companions, false);
        world.all_ready();
        world.preload = preload;
        for step in &steps {
            world.step(step);
        }
        (world.forks_fail, world.lifetime) = (false, None);
        world.live(BOOT_TIMEOUT + GRACE + LONGEST_BACKOFF * 3);
        prop_assert_eq!(world.arbiter.phase(), Phase::Running);
        let generation = world.arbiter.generation();
        let expected: Vec<_> = (0..world.arbiter.target()).map(|slot| (slot, generation)).collect();
        prop_assert_eq!(world.serving(), expected);
        let expected: Vec<_> = (0..companions).map(|companion| (companion, generation)).collect();
        prop_assert_eq!(world.companions(), expected);
        prop_assert_eq!(world.pids().len(), world.arbiter.target() + companions);
        prop_assert!(!world.arbiter.reloading());
    }

    /// A stop ends within its grace from any state, the start included, and leaves nobody behind.
    #[test]
    fn a_stop_ends_from_any_state(
        workers in 1..5_usize,
        prepare in any::<bool>(),
        companions in 0..3_usize,
        required in any::<bool>(),
        quick in any::<bool>(),
        preload in any::<Option<bool>>(),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let limits = Limits { require_companions: required, ..limits(workers) };
        let mut world = World::starting_with(limits, companions, prepare);
        world.preload = preload;
        for step in &steps {
            world.step(step);
        }
        world.order(Order::Stop { quick });
        let most = if quick { MASTER_QUICK + ABORT_GAP } else { GRACE + LEAST_COMPANION + MASTER_MARGIN * 2 };
        world.live(most + Duration::from_secs(1));
        prop_assert!(matches!(world.arbiter.phase(), Phase::Stopped(_)), "{:?}", world.arbiter.phase());
        prop_assert_eq!(world.pids().len(), 0);
    }
}
