use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(20);

fn limits(workers: usize) -> Limits {
    Limits {
        workers,
        timeout: Some(TIMEOUT),
        boot_timeout: Some(BOOT_TIMEOUT),
        graceful_timeout: GRACE,
    }
}

/// A kernel and a clock for an arbiter, which check what it does.
struct World {
    arbiter: Arbiter,
    now: Instant,
    next_pid: Pid,
    processes: BTreeMap<Pid, Process>,
    /// What the settings file says; `None` if it is wrong.
    file: Option<Limits>,
    forks_fail: bool,
    spawns: Vec<(Instant, usize)>,
    log: Vec<Action>,
}

struct Process {
    slot: usize,
    generation: u64,
    ready: bool,
    /// Whether its runtime turns.
    beats: bool,
    /// Whether it leaves when it is told to.
    obeys: bool,
    told_at: Option<Instant>,
    signals: Vec<Strike>,
}

impl World {
    fn new(workers: usize) -> Self {
        Self::starting(workers, false)
    }

    fn starting(workers: usize, prepare: bool) -> Self {
        let now = Instant::now();
        let (arbiter, actions) = Arbiter::start(limits(workers), prepare, now);
        let mut world = Self {
            arbiter,
            now,
            next_pid: 100,
            processes: BTreeMap::new(),
            file: Some(limits(workers)),
            forks_fail: false,
            spawns: Vec::new(),
            log: Vec::new(),
        };
        world.act(actions);
        world
    }

    /// A server that runs.
    fn running(workers: usize) -> Self {
        let mut world = Self::new(workers);
        world.all_ready();
        assert_eq!(world.arbiter.phase(), Phase::Running);
        world
    }

    fn feed(&mut self, event: Event) {
        let actions = self.arbiter.handle(event, self.now);
        self.act(actions);
        self.check();
    }

    fn act(&mut self, actions: Vec<Action>) {
        let mut queue = std::collections::VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            self.log.push(action);
            let event = match action {
                Action::Prepare => {
                    let pid = self.fork(usize::MAX, 0);
                    Event::Preparing(pid)
                }
                Action::Spawn { slot, .. } if self.forks_fail => Event::SpawnFailed { slot },
                Action::Spawn { slot, generation } => {
                    self.spawns.push((self.now, slot));
                    let pid = self.fork(slot, generation);
                    Event::Spawned { pid, slot, generation }
                }
                Action::Signal { pid, signal, why } => {
                    self.signal(pid, signal, why);
                    continue;
                }
                Action::Reread => Event::Reread(self.file.clone()),
                Action::Testify { pid, .. } => {
                    assert!(self.processes.contains_key(&pid));
                    continue;
                }
                Action::Revert { .. } | Action::Proven { .. } => continue,
            };
            queue.extend(self.arbiter.handle(event, self.now));
        }
    }

    fn fork(&mut self, slot: usize, generation: u64) -> Pid {
        self.next_pid += 1;
        let process = Process {
            slot,
            generation,
            ready: false,
            beats: true,
            obeys: true,
            told_at: None,
            signals: Vec::new(),
        };
        self.processes.insert(self.next_pid, process);
        self.next_pid
    }

    fn signal(&mut self, pid: Pid, signal: Strike, why: Why) {
        let target = self.arbiter.target();
        let process = self.processes.get(&pid).expect("signals go to processes that live");
        assert!(!process.signals.contains(&signal), "{pid} gets {signal:?} twice");
        let (slot, generation) = (process.slot, process.generation);
        if signal == Strike::Term && why == Why::Replaced && process.ready && slot < target {
            let successor = self.processes.iter().any(|(&other, candidate)| {
                other != pid
                    && candidate.slot == slot
                    && candidate.ready
                    && candidate.told_at.is_none()
                    && candidate.generation >= generation
            });
            assert!(successor, "{pid} is replaced before its successor is ready");
        }
        let now = self.now;
        if let Some(process) = self.processes.get_mut(&pid) {
            process.signals.push(signal);
            process.told_at.get_or_insert(now);
        }
    }

    /// What must be true at any time.
    fn check(&self) {
        let stopping = matches!(self.arbiter.phase(), Phase::Stopping { .. } | Phase::Stopped(_));
        for (&pid, process) in &self.processes {
            assert!(
                self.arbiter.worker(pid).is_some() || process.slot == usize::MAX,
                "{pid} is forgotten"
            );
            let struck = process.signals.contains(&Strike::Kill);
            if let Some(told_at) = process.told_at {
                let late = self.now.duration_since(told_at) > GRACE + GRACE_MARGIN;
                assert!(struck || !late, "{pid} has more than its grace");
            }
            assert!(
                !stopping || process.told_at.is_some() || struck,
                "{pid} was not told to leave"
            );
        }
        if matches!(self.arbiter.phase(), Phase::Stopped(_)) {
            assert!(self.processes.is_empty(), "stopped with processes left");
        }
    }

    fn ready(&mut self, pid: Pid) {
        if let Some(process) = self.processes.get_mut(&pid) {
            if process.slot != usize::MAX && !process.signals.contains(&Strike::Kill) {
                process.ready = true;
                self.feed(Event::Ready(pid));
            }
        }
    }

    fn die(&mut self, pid: Pid) {
        if self.processes.remove(&pid).is_some() {
            self.feed(Event::Gone { pid, success: false });
        }
    }

    fn all_ready(&mut self) {
        for pid in self.pids() {
            self.ready(pid);
        }
    }

    fn pids(&self) -> Vec<Pid> {
        self.processes.keys().copied().collect()
    }

    /// Everybody does what a healthy process does, for this long; the master ticks when it is due.
    fn live(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for pid in self.pids() {
                let process = &self.processes[&pid];
                let leaves = match process.signals.iter().max() {
                    None => false,
                    Some(Strike::Kill) => true,
                    Some(_) => process.obeys,
                };
                if process.beats {
                    let at = self.now;
                    self.feed(Event::Beat { pid, at });
                }
                if leaves {
                    self.die(pid);
                } else if process_boots(self.processes.get(&pid)) {
                    self.ready(pid);
                }
            }
            if self.now >= end {
                return;
            }
            let due =
                self.arbiter.deadline().into_iter().chain([self.now + Duration::from_millis(250)]);
            let next = due.chain([end]).min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_millis(1));
            self.feed(Event::Tick);
        }
    }

    fn advance(&mut self, time: Duration) {
        self.arbiter.deadline();
        self.now += time;
        self.feed(Event::Tick);
    }

    fn order(&mut self, order: Order) {
        self.feed(Event::Order(order));
    }

    /// Processes in each slot that serve and were not told to leave.
    fn serving(&self) -> Vec<(usize, u64)> {
        let mut serving: Vec<_> = self
            .processes
            .values()
            .filter(|process| process.ready && process.told_at.is_none())
            .map(|process| (process.slot, process.generation))
            .collect();
        serving.sort_unstable();
        serving
    }
}

fn process_boots(process: Option<&Process>) -> bool {
    process.is_some_and(|process| !process.ready && process.beats && process.told_at.is_none())
}

#[test]
fn the_start_forks_the_target_and_runs_with_the_first_ready_one() {
    let mut world = World::new(3);
    assert_eq!(world.spawns.len(), 3);
    assert_eq!(world.arbiter.phase(), Phase::Starting);
    world.ready(world.pids()[1]);
    assert_eq!(world.arbiter.phase(), Phase::Running);
}

/// gunicorn.md 4, test 29.
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
    let (mut arbiter, actions) = Arbiter::start(limits(2), false, now);
    assert_eq!(actions.len(), 2);
    arbiter.handle(Event::SpawnFailed { slot: 0 }, now);
    arbiter.handle(Event::SpawnFailed { slot: 1 }, now);
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

/// gunicorn.md 4, test 26.
#[test]
fn a_worker_that_dies_is_replaced_at_once() {
    let mut world = World::running(2);
    world.live(Duration::from_secs(2));
    let spawns = world.spawns.len();
    world.die(world.pids()[0]);
    assert_eq!(world.spawns.len(), spawns + 1);
    assert_eq!(world.spawns[spawns].1, 0, "in the same slot");
}

/// gunicorn.md 4, test 28.
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

/// gunicorn.md 4, tests 13 and 14; the order of DESIGN section 5.
#[test]
fn a_hung_worker_is_replaced_explained_aborted_and_killed() {
    let mut world = World::running(2);
    world.live(Duration::from_secs(5));
    let hung = world.pids()[0];
    let process = world.processes.get_mut(&hung).unwrap();
    (process.beats, process.obeys) = (false, false);
    world.log.clear();
    world.live(TIMEOUT + Duration::from_millis(100));
    assert!(
        matches!(
            world.log[..],
            [
                Action::Spawn { slot: 0, .. },
                Action::Testify { pid, .. },
                Action::Signal { pid: struck, signal: Strike::Abort, why: Why::Hung },
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

/// gunicorn.md 4, test 19.
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
                Action::Signal { pid, signal: Strike::Abort, .. } => aborted.insert(pid, now),
                Action::Signal { pid, signal: Strike::Kill, .. } => killed.insert(pid, now),
                _ => None,
            };
        }
    }
    for pid in victims {
        let gap = killed[&pid] - aborted[&pid];
        assert!(gap >= ABORT_GAP - Duration::from_millis(20), "{gap:?}");
    }
}

/// gunicorn.md 4, test 15.
#[test]
fn without_a_timeout_nobody_is_judged() {
    let mut world = World::running(1);
    world.arbiter.limits.timeout = None;
    let pid = world.pids()[0];
    world.processes.get_mut(&pid).unwrap().beats = false;
    world.live(Duration::from_secs(1000));
    assert_eq!(world.pids(), [pid]);
}

/// prefork.md 6, test 16.
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
    world.live(TIMEOUT + Duration::from_secs(2));
    assert!(!world.processes.contains_key(&before[0]));
}

/// gunicorn.md 4, test 34.
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
    world.live(Duration::from_secs(1));
    assert_eq!(world.serving(), [(0, 2), (1, 2), (2, 2)]);
    assert_eq!(world.pids().len(), 3);
    assert!(!world.arbiter.reloading());
}

/// gunicorn.md 4, test 37.
#[test]
fn a_canary_that_dies_leaves_the_old_generation_as_it_was() {
    let mut world = World::running(2);
    let before = world.pids();
    world.file = Some(limits(5));
    world.order(Order::Reload);
    let canary = *world.pids().last().unwrap();
    world.die(canary);
    assert!(world.log.contains(&Action::Revert { generation: 2 }));
    world.live(Duration::from_secs(5));
    assert_eq!(world.pids(), before);
    assert_eq!(world.arbiter.target(), 2);
    assert_eq!(world.arbiter.generation(), 1);
    assert!(!world.arbiter.reloading());

    world.order(Order::Reload);
    world.live(Duration::from_secs(5));
    assert_eq!(world.serving(), [(0, 3), (1, 3), (2, 3), (3, 3), (4, 3)], "the next one works");
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

/// gunicorn.md 4, test 38.
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

/// gunicorn.md 4, test 42.
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

/// gunicorn.md 4, test 40.
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

/// gunicorn.md 4, tests 30 and 32 as DESIGN section 7 and the list of the launcher say.
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

/// gunicorn.md 4, test 4.
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

/// gunicorn.md 4, test 5.
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

/// gunicorn.md 4, test 9.
#[test]
fn a_stop_during_a_reload_takes_no_longer() {
    let mut world = World::running(2);
    world.order(Order::Reload);
    world.order(Order::Stop { quick: false });
    world.live(Duration::from_secs(1));
    assert_eq!(world.arbiter.phase(), Phase::Stopped(Verdict::Stopped));
}

#[derive(Clone, Debug)]
enum Step {
    Ready(usize),
    Die(usize),
    Freeze(usize),
    Disobey(usize),
    Leave(usize),
    Live(u64),
    Jump(u64),
    Order(Order),
    File(Option<usize>),
    ForksFail(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..16_usize).prop_map(Step::Ready),
        2 => (0..16_usize).prop_map(Step::Die),
        1 => (0..16_usize).prop_map(Step::Freeze),
        1 => (0..16_usize).prop_map(Step::Disobey),
        2 => (0..16_usize).prop_map(Step::Leave),
        3 => (0..5_000_u64).prop_map(Step::Live),
        1 => (0..100_000_u64).prop_map(Step::Jump),
        2 => prop_oneof![
            Just(Order::Reload), Just(Order::More), Just(Order::Fewer)
        ].prop_map(Step::Order),
        1 => proptest::option::of(1..5_usize).prop_map(Step::File),
        1 => any::<bool>().prop_map(Step::ForksFail),
    ]
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
                    self.feed(Event::Gone { pid, success: true });
                }
            }
            Step::Live(millis) => self.live(Duration::from_millis(millis)),
            // A pause of the master: whoever was due is struck late, and `check` would blame the arbiter.
            Step::Jump(millis)
                if self.processes.values().all(|process| process.told_at.is_none()) =>
            {
                self.advance(Duration::from_millis(millis));
            }
            Step::Jump(_) => {}
            Step::Order(order) => self.order(order),
            Step::File(workers) => self.file = workers.map(limits),
            Step::ForksFail(fail) => self.forks_fail = fail,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happened: left alone, the server comes back to its target, each slot with one worker of the
    /// current generation. `check` and `signal` watch every step on the way.
    #[test]
    fn the_target_is_reached_again(workers in 1..5_usize, steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::running(workers);
        for step in &steps {
            world.step(step);
        }
        world.forks_fail = false;
        world.live(BOOT_TIMEOUT + GRACE + LONGEST_BACKOFF * 3);
        prop_assert_eq!(world.arbiter.phase(), Phase::Running);
        let generation = world.arbiter.generation();
        let expected: Vec<_> = (0..world.arbiter.target()).map(|slot| (slot, generation)).collect();
        prop_assert_eq!(world.serving(), expected);
        prop_assert_eq!(world.pids().len(), world.arbiter.target());
        prop_assert!(!world.arbiter.reloading());
    }

    /// A stop ends within its grace from any state, the start included, and leaves nobody behind.
    #[test]
    fn a_stop_ends_from_any_state(
        workers in 1..5_usize,
        prepare in any::<bool>(),
        quick in any::<bool>(),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut world = World::starting(workers, prepare);
        for step in &steps {
            world.step(step);
        }
        world.order(Order::Stop { quick });
        let most = if quick { QUICK + ABORT_GAP } else { GRACE + GRACE_MARGIN };
        world.live(most + Duration::from_secs(1));
        prop_assert!(matches!(world.arbiter.phase(), Phase::Stopped(_)), "{:?}", world.arbiter.phase());
        prop_assert_eq!(world.pids().len(), 0);
    }
}
