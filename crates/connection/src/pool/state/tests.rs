//! What holds of a pool whatever happens: random users, connects, failures and times.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::fake::FakeError;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody wants a connection; once in a while one who had one already.
    Acquire {
        first: bool,
        patience: Patience,
    },
    /// One that waits gives up.
    Leave(usize),
    /// A connection comes back clean.
    GiveBack(usize),
    /// A connection comes back and is of no more use.
    Ruin(usize),
    /// A connection that was being closed is closed.
    Closed,
    Connected(usize),
    ConnectFailed {
        which: usize,
        denied: bool,
    },
    Answered,
    Unanswered,
    /// Connections as old as one in use are not trusted any more.
    Distrust(usize),
    Reap,
    Wait(Duration),
    Shut,
}

fn step() -> impl Strategy<Value = Step> {
    let patience = prop_oneof![4 => Just(Patience::UntilDeadline), 1 => Just(Patience::OneAttempt)];
    prop_oneof![
        12 => (prop::bool::weighted(0.1), patience)
            .prop_map(|(first, patience)| Step::Acquire { first, patience }),
        2 => any::<usize>().prop_map(Step::Leave),
        8 => any::<usize>().prop_map(Step::GiveBack),
        2 => any::<usize>().prop_map(Step::Ruin),
        4 => Just(Step::Closed),
        8 => any::<usize>().prop_map(Step::Connected),
        3 => (any::<usize>(), prop::bool::weighted(0.1))
            .prop_map(|(which, denied)| Step::ConnectFailed { which, denied }),
        1 => Just(Step::Answered),
        1 => Just(Step::Unanswered),
        1 => any::<usize>().prop_map(Step::Distrust),
        2 => Just(Step::Reap),
        4 => (0..3_000_u64).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    (1..6_usize, 1..4_usize, 0..8_usize).prop_map(|(connections, connecting, waiting)| {
        Policy::default()
            .max_connections(connections)
            .max_connecting(connecting)
            .max_waiting(waiting)
    })
}

/// One that waits, as the model has it.
#[derive(Clone, Copy, Debug)]
struct Waits {
    ticket: u64,
    user: u64,
    patience: Patience,
}

/// A server and the users of a pool, who carry out what the state decides, and check it.
struct World {
    state: State<u64, u64>,
    policy: Policy,
    now: Instant,
    generation: u64,
    next: u64,
    in_use: Vec<Live<u64>>,
    /// The connections that lie idle and until when, the longest unused first.
    idle: Vec<(u64, Instant)>,
    connects: Vec<Attempt>,
    /// Being closed.
    closing: usize,
    /// In the order of the queue.
    waiting: VecDeque<Waits>,
    answered: BTreeSet<u64>,
    /// When the reaper looks.
    reaping: Option<Instant>,
    /// No connect has failed since one succeeded.
    is_healthy: bool,
}

impl World {
    fn new(policy: Policy) -> Self {
        let policy = policy.normalized();
        Self {
            state: State::new(&policy),
            policy,
            now: Instant::now(),
            generation: 0,
            next: 0,
            in_use: Vec::new(),
            idle: Vec::new(),
            connects: Vec::new(),
            closing: 0,
            waiting: VecDeque::new(),
            answered: BTreeSet::new(),
            reaping: None,
            is_healthy: true,
        }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Each user has one answer.
    fn answer(&mut self, user: u64) {
        let before = self.waiting.len();
        self.waiting.retain(|waits| waits.user != user);
        assert_eq!(self.waiting.len() + 1, before, "{user} waits");
        assert!(self.answered.insert(user), "{user} was answered before");
    }

    /// Those were idle, and are closed.
    fn close(&mut self, live: &Live<u64>) {
        let before = self.idle.len();
        self.idle.retain(|(connection, _)| *connection != live.connection);
        assert_eq!(self.idle.len() + 1, before, "{} was idle", live.connection);
        self.closing += 1;
    }

    fn start_connects(&mut self) {
        let attempts = self.state.connects();
        if let ([attempt], false) = (&attempts[..], self.is_healthy) {
            assert!(self.state.connect_wanted(*attempt).is_some(), "it tries for all");
            assert_eq!(self.state.connects(), [], "and alone");
        }
        self.connects.extend(attempts);
    }

    fn give_back(&mut self, live: Live<u64>) {
        let (connection, first) = (live.connection, self.waiting.front().copied());
        match self.state.returned(live, self.now) {
            Returned::Close(live, _) => {
                let has_its_use = live.uses > 0 || first.is_none() || self.state.closed;
                assert!(has_its_use, "it was made for one that waits");
                self.closing += 1;
            }
            Returned::Hand(live, user) => {
                assert_eq!(first.map(|waits| waits.user), Some(user), "in order");
                self.answer(user);
                self.take(live);
            }
            Returned::Idle(reaping) => {
                let live = self.state.idle.last().expect("it was kept");
                let until = live.idle_until().expect("each has a limit here");
                let expected = match self.reaping {
                    None => Reaping::Start(until),
                    Some(at) if until < at => Reaping::Sooner,
                    Some(_) => Reaping::AsBefore,
                };
                assert_eq!(reaping, expected);
                self.reaping = Some(self.reaping.map_or(until, |at| at.min(until)));
                self.idle.push((connection, until));
            }
        }
    }

    fn take(&mut self, mut live: Live<u64>) {
        assert!(live.generation >= self.state.trusted, "a distrusted one is given out");
        live.uses += 1;
        self.in_use.push(live);
    }

    fn slot_free(&mut self) {
        let is_last = self.state.slot_free();
        assert_eq!(is_last, self.sessions() == 0);
        self.start_connects();
    }

    fn sessions(&self) -> usize {
        self.in_use.len() + self.idle.len() + self.connects.len() + self.closing
    }

    fn acquire(&mut self, first: bool, patience: Patience) {
        let user = self.id();
        let Acquired { outlived, answer } =
            self.state.acquire(first, patience, self.now, || (user, user));
        outlived.iter().for_each(|(live, _)| self.close(live));
        match answer {
            Answer::Ready(live) => {
                assert!(self.waiting.is_empty(), "somebody was overtaken");
                assert_eq!(live.outlived(self.now, 0), None);
                let last = self.idle.pop().map(|(connection, _)| connection);
                assert_eq!(last, Some(live.connection), "the last one that was used");
                self.take(live);
            }
            Answer::Wait(ticket, user) => {
                let waits = Waits { ticket, user, patience };
                if first {
                    self.waiting.push_front(waits);
                } else {
                    self.waiting.push_back(waits);
                }
                self.start_connects();
            }
            Answer::Refused(AcquireError::QueueFull) => {
                assert!(!first && self.waiting.len() >= self.policy.max_waiting);
            }
            Answer::Refused(_) => {}
        }
    }

    fn connected(&mut self, attempt: Attempt) {
        self.is_healthy = true;
        self.state.connected();
        self.state.connecting_over(attempt);
        let connection = self.id();
        let live = Live {
            connection,
            // Once in a while it is as old at once as it may be.
            expires: Some(self.now + Duration::from_secs(if connection % 8 == 0 { 0 } else { 10 })),
            idle_timeout: Some(Duration::from_secs(2)),
            generation: self.generation,
            checked: self.generation,
            last_used: self.now,
            uses: 0,
        };
        self.give_back(live);
        self.start_connects();
    }

    fn connect_failed(&mut self, which: usize, denied: bool) {
        let attempt = self.connects[which];
        let why = Arc::new(FakeError::Disconnected);
        let error = if denied { AcquireError::Denied(why) } else { AcquireError::Unavailable(why) };
        self.is_healthy = false;
        let told = self.state.connect_failed(attempt, &error, self.now, 0.5);
        let has_no_use = |waits: &&Waits| denied || waits.patience == Patience::OneAttempt;
        let expected: Vec<_> =
            self.waiting.iter().filter(has_no_use).map(|waits| waits.user).collect();
        assert_eq!(told, expected, "those for whom waiting is of no use");
        told.into_iter().for_each(|user| self.answer(user));
        // It alone goes on, if anybody wants it.
        for other in &self.connects {
            let goes_on = self.state.connect_wanted(*other).is_some();
            let wanted = *other == attempt && !self.state.closed && !self.waiting.is_empty();
            assert_eq!(goes_on, wanted);
        }
        if self.state.connect_wanted(attempt).is_none() {
            self.connects.swap_remove(which);
            self.state.connecting_over(attempt);
            self.slot_free();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { first, patience } => self.acquire(first, patience),
            Step::Leave(which) => {
                if let Some(which) = which.checked_rem(self.waiting.len()) {
                    let Waits { ticket, user, .. } = self.waiting.remove(which).expect("one");
                    assert_eq!(self.state.leave(ticket), Some(user));
                    assert_eq!(self.state.leave(ticket), None);
                }
            }
            Step::GiveBack(which) => {
                if let Some(which) = which.checked_rem(self.in_use.len()) {
                    let live = self.in_use.swap_remove(which);
                    self.give_back(live);
                }
            }
            Step::Ruin(which) => {
                if let Some(which) = which.checked_rem(self.in_use.len()) {
                    self.in_use.swap_remove(which);
                    self.closing += 1;
                }
            }
            Step::Closed => {
                if self.closing > 0 {
                    self.closing -= 1;
                    self.slot_free();
                }
            }
            Step::Connected(which) => {
                if let Some(which) = which.checked_rem(self.connects.len()) {
                    let attempt = self.connects.swap_remove(which);
                    self.connected(attempt);
                }
            }
            Step::ConnectFailed { which, denied } => {
                if let Some(which) = which.checked_rem(self.connects.len()) {
                    self.connect_failed(which, denied);
                }
            }
            Step::Answered => {
                self.state.answered();
                assert!(!self.is_healthy || self.state.outage.error().is_none(), "suspected");
            }
            Step::Unanswered => {
                self.state.unanswered(self.now);
                assert!(self.state.outage.error().is_some());
            }
            Step::Distrust(which) => {
                let Some(which) = which.checked_rem(self.in_use.len()) else { return };
                if let Some(old) = self.state.distrust(self.in_use[which].generation) {
                    self.generation = self.generation.max(self.state.trusted);
                    old.iter().for_each(|live| self.close(live));
                }
            }
            Step::Reap => {
                let (outlived, next) = self.state.reap(self.now);
                outlived.iter().for_each(|(live, _)| self.close(live));
                assert_eq!(next, self.idle.iter().map(|(_, until)| *until).min());
                assert!(next.is_none_or(|next| next > self.now));
                self.reaping = next;
            }
            Step::Wait(time) => self.now += time,
            Step::Shut => {
                let (idle, waiters) = self.state.shut();
                idle.iter().for_each(|live| self.close(live));
                waiters.into_iter().for_each(|user| self.answer(user));
                assert!(self.waiting.is_empty());
            }
        }
    }

    fn check(&self) {
        let state = &self.state;
        assert_eq!(state.slots(), self.sessions(), "every session has its slot");
        assert!(state.slots() <= self.policy.max_connections, "{}", state.slots());
        assert_eq!(state.connecting(), self.connects.len());
        assert!(state.connecting() <= self.policy.max_connecting);
        assert_eq!((state.idle(), state.waiting()), (self.idle.len(), self.waiting.len()));
        assert!(state.waiting() == 0 || state.idle() == 0, "somebody waits beside an idle one");
        let trusted = |live: &Live<u64>| live.generation >= state.trusted;
        assert!(state.idle.iter().all(trusted), "a distrusted one is kept");
        let comes = state.connecting() > 0 || state.slots() == self.policy.max_connections;
        assert!(state.waiting() == 0 || comes, "somebody waits for nothing");
        if self.is_healthy && !state.closed {
            let free = self.policy.max_connections - (state.slots() - state.connecting());
            let wanted = state.waiting().min(free).min(self.policy.max_connecting);
            assert!(state.connecting() >= wanted, "fewer connects than are wanted");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    /// Slots never above the bound, nobody waits beside an idle connection or for nothing, each user is
    /// answered once; and after the end nothing is left.
    #[test]
    fn the_rules_hold_whatever_happens(policy in policy(), steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new(policy);
        for step in steps {
            world.step(step);
            world.check();
        }
        world.step(Step::Shut);
        world.check();
        while let Some(attempt) = world.connects.pop() {
            prop_assert_eq!(world.state.connect_wanted(attempt), None, "nobody waits any more");
            world.state.connecting_over(attempt);
            world.slot_free();
            world.check();
        }
        while !world.in_use.is_empty() {
            world.step(Step::GiveBack(0));
        }
        while world.closing > 0 {
            world.step(Step::Closed);
        }
        world.check();
        prop_assert_eq!(world.state.slots(), 0);
        let refused = world.state.acquire(false, Patience::UntilDeadline, world.now, || (0, ()));
        prop_assert!(matches!(refused.answer, Answer::Refused(AcquireError::Closed)));
    }
}
