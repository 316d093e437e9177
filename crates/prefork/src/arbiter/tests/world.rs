//! A kernel and a clock for an arbiter.

use std::collections::VecDeque;

use super::*;

/// A kernel and a clock for an arbiter, which check what it does.
pub(super) struct World {
    pub(super) arbiter: Arbiter,
    pub(super) now: Instant,
    pub(super) next_pid: Pid,
    pub(super) processes: BTreeMap<Pid, Process>,
    /// What the settings file says; `None` if it is wrong.
    pub(super) file: Option<Limits>,
    pub(super) forks_fail: bool,
    /// Whether the master's own call of the preload succeeds, if there is one.
    pub(super) preload: Option<bool>,
    pub(super) dry_run: Option<Pid>,
    /// Of the workers that are forked from now on.
    pub(super) lifetime: Option<Duration>,
    pub(super) spawns: Vec<(Instant, usize)>,
    pub(super) log: Vec<Action>,
}

pub(super) struct Process {
    pub(super) place: Place,
    pub(super) generation: u64,
    pub(super) ready: bool,
    /// Whether its runtime turns.
    pub(super) beats: bool,
    /// Whether it leaves when it is told to.
    pub(super) obeys: bool,
    pub(super) told_at: Option<Instant>,
    pub(super) aborted_at: Option<Instant>,
    pub(super) signals: Vec<WorkerSignal>,
}

impl World {
    pub(super) fn new(workers: usize) -> Self {
        Self::starting(workers, false)
    }

    pub(super) fn starting(workers: usize, prepare: bool) -> Self {
        Self::starting_with(limits(workers), 0, prepare)
    }

    pub(super) fn starting_with(limits: Limits, companions: usize, prepare: bool) -> Self {
        let now = Instant::now();
        let arbiter = Arbiter::new(limits.clone(), companions, prepare);
        let mut world = Self {
            arbiter,
            now,
            next_pid: 100,
            processes: BTreeMap::new(),
            file: Some(limits),
            forks_fail: false,
            preload: None,
            dry_run: None,
            lifetime: None,
            spawns: Vec::new(),
            log: Vec::new(),
        };
        world.feed(Event::Tick);
        world
    }

    /// A server that runs.
    pub(super) fn running(workers: usize) -> Self {
        let mut world = Self::new(workers);
        world.all_ready();
        assert_eq!(world.arbiter.phase(), Phase::Running);
        world
    }

    pub(super) fn feed(&mut self, event: Event) {
        let is_tick = matches!(event, Event::Tick);
        let actions = self.arbiter.handle(event, self.now);
        self.act(actions);
        if is_tick {
            let deadline = self.arbiter.deadline();
            assert!(deadline.is_none_or(|next| next >= self.now), "a deadline that stays past");
        }
        self.check();
    }

    pub(super) fn act(&mut self, actions: Vec<Action>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            self.log.push(action);
            let event = match action {
                Action::Prepare => {
                    let pid = self.fork(Place::Helper, 0);
                    Event::Preparing(pid)
                }
                Action::Spawn { place, generation } if self.forks_fail => {
                    Event::SpawnFailed { place, generation }
                }
                Action::Spawn { place, generation } => {
                    let mut lifetime = None;
                    if let Place::Worker(slot) = place {
                        self.spawns.push((self.now, slot));
                        lifetime = self.lifetime;
                    }
                    let pid = self.fork(place, generation);
                    Event::Spawned { pid, place, generation, lifetime }
                }
                Action::Signal { pid, signal, why } => {
                    self.signal(pid, signal, why);
                    continue;
                }
                Action::Reread if self.preload.is_some() && self.file.is_some() => {
                    let pid = self.fork(Place::Helper, 0);
                    self.dry_run = Some(pid);
                    Event::DryRun { pid, limit: Some(BOOT_TIMEOUT) }
                }
                Action::Reread => Event::Reread(self.file.clone()),
                Action::Preload => {
                    Event::Reread(self.file.clone().filter(|_| self.preload != Some(false)))
                }
                Action::LogHung { pid, .. } | Action::LogDue { pid, .. } => {
                    assert!(self.processes.contains_key(&pid));
                    continue;
                }
                Action::Proven { generation } if self.preload.is_some() && generation > 1 => {
                    Event::PreloadDropped
                }
                Action::Revert { .. } | Action::Proven { .. } | Action::Reloaded { .. } => {
                    continue;
                }
            };
            queue.extend(self.arbiter.handle(event, self.now));
        }
    }

    pub(super) fn fork(&mut self, place: Place, generation: u64) -> Pid {
        let runs_twice = self.processes.values().any(|process| process.place == place);
        assert!(!matches!(place, Place::Companion(_)) || !runs_twice, "{place:?} runs twice");
        self.next_pid += 1;
        let process = Process {
            place,
            generation,
            ready: false,
            beats: true,
            obeys: true,
            told_at: None,
            aborted_at: None,
            signals: Vec::new(),
        };
        self.processes.insert(self.next_pid, process);
        self.next_pid
    }

    pub(super) fn signal(&mut self, pid: Pid, signal: WorkerSignal, why: Why) {
        let target = self.arbiter.target();
        let process = self.processes.get(&pid).expect("signals go to processes that live");
        assert!(!process.signals.contains(&signal), "{pid} gets {signal:?} twice");
        let (place, generation) = (process.place, process.generation);
        if let (Place::Companion(_), WorkerSignal::Term, Why::Stop) = (place, signal, why) {
            let works = |process: &Process| matches!(process.place, Place::Worker(_));
            assert!(!self.processes.values().any(works), "workers go first");
        }
        if signal == WorkerSignal::Term
            && matches!(why, Why::Replaced | Why::Recycled(_))
            && process.ready
            && matches!(place, Place::Worker(slot) if slot < target)
        {
            let successor = self.processes.iter().any(|(&other, candidate)| {
                other != pid
                    && candidate.place == place
                    && candidate.ready
                    && candidate.told_at.is_none()
                    && candidate.generation >= generation
            });
            assert!(successor, "{pid} is replaced before its successor is ready");
        }
        let now = self.now;
        if let Some(process) = self.processes.get_mut(&pid) {
            process.signals.push(signal);
            match (signal, process.aborted_at) {
                (WorkerSignal::Abort, _) => process.aborted_at = Some(now),
                (WorkerSignal::Kill, Some(aborted_at)) => {
                    assert!(now - aborted_at >= ABORT_GAP, "{pid} has less than the gap");
                }
                _ => {}
            }
            process.told_at.get_or_insert(now);
        }
    }

    /// What must be true at any time.
    pub(super) fn check(&self) {
        let stopping = matches!(self.arbiter.phase(), Phase::Stopping { .. } | Phase::Stopped(_));
        for (&pid, process) in &self.processes {
            assert!(
                self.arbiter.stage(pid).is_some() || process.place == Place::Helper,
                "{pid} is forgotten"
            );
            let struck = process.signals.contains(&WorkerSignal::Kill);
            if let Some(told_at) = process.told_at {
                let late = self.now.duration_since(told_at) > GRACE + MASTER_MARGIN;
                assert!(struck || !late, "{pid} has more than its grace");
            }
            let told = process.told_at.is_some() || struck;
            let waits = matches!(process.place, Place::Companion(_));
            assert!(!stopping || told || waits, "{pid} was not told to leave");
        }
        if matches!(self.arbiter.phase(), Phase::Stopped(_)) {
            assert!(self.processes.is_empty(), "stopped with processes left");
        }
    }

    pub(super) fn ready(&mut self, pid: Pid) {
        if let Some(process) = self.processes.get_mut(&pid) {
            if process.place != Place::Helper && !process.signals.contains(&WorkerSignal::Kill) {
                process.ready = true;
                self.feed(Event::Ready(pid));
            }
        }
    }

    /// The dry run succeeds.
    pub(super) fn loaded(&mut self) {
        let pid = self.dry_run.take().expect("a dry run");
        self.processes.remove(&pid).expect("it lives");
        self.feed(Event::Gone { pid, success: true });
    }

    pub(super) fn die(&mut self, pid: Pid) {
        if self.processes.remove(&pid).is_some() {
            self.dry_run = self.dry_run.filter(|run| *run != pid);
            self.feed(Event::Gone { pid, success: false });
        }
    }

    pub(super) fn all_ready(&mut self) {
        for pid in self.pids() {
            self.ready(pid);
        }
    }

    pub(super) fn pids(&self) -> Vec<Pid> {
        self.processes.keys().copied().collect()
    }

    /// Everybody does what a healthy process does, for this long; the master ticks when it is due.
    pub(super) fn live(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for pid in self.pids() {
                let process = &self.processes[&pid];
                let leaves = match process.signals.iter().max() {
                    None => false,
                    Some(WorkerSignal::Kill) => true,
                    Some(_) => process.obeys,
                };
                if process.beats {
                    let at = self.now;
                    self.feed(Event::Beat { pid, at });
                }
                if leaves {
                    self.die(pid);
                } else if self.dry_run == Some(pid) && process_boots(self.processes.get(&pid)) {
                    self.loaded();
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

    pub(super) fn advance(&mut self, time: Duration) {
        self.now += time;
        self.feed(Event::Tick);
    }

    pub(super) fn order(&mut self, order: Order) {
        self.feed(Event::Order(order));
    }

    /// The companions that have started and were not told to leave.
    pub(super) fn companions(&self) -> Vec<(usize, u64)> {
        let mut companions: Vec<_> = self
            .processes
            .values()
            .filter(|process| process.ready && process.told_at.is_none())
            .filter_map(|process| match process.place {
                Place::Companion(companion) => Some((companion, process.generation)),
                Place::Worker(_) | Place::Helper => None,
            })
            .collect();
        companions.sort_unstable();
        companions
    }

    pub(super) fn pid_of(&self, place: Place) -> Option<Pid> {
        self.processes.iter().find(|(_, process)| process.place == place).map(|(&pid, _)| pid)
    }

    /// Processes in each slot that serve and were not told to leave.
    pub(super) fn serving(&self) -> Vec<(usize, u64)> {
        let mut serving: Vec<_> = self
            .processes
            .values()
            .filter(|process| process.ready && process.told_at.is_none())
            .filter_map(|process| match process.place {
                Place::Worker(slot) => Some((slot, process.generation)),
                Place::Companion(_) | Place::Helper => None,
            })
            .collect();
        serving.sort_unstable();
        serving
    }
}

fn process_boots(process: Option<&Process>) -> bool {
    process.is_some_and(|process| !process.ready && process.beats && process.told_at.is_none())
}
