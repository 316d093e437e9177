//! What holds of a pool whatever happens: random users, connects, failures and times.

use std::collections::BTreeSet;
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

/// A server and the users of a pool, who carry out what the state decides, and check it.
struct World {
    state: State<u64, u64>,
    policy: Policy,
    now: Instant,
    generation: u64,
    next: u64,
    in_use: Vec<Live<u64>>,
    connects: Vec<Attempt>,
    /// Being closed.
    closing: usize,
    /// Tickets and users.
    waiting: Vec<(u64, u64)>,
    answered: BTreeSet<u64>,
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
            connects: Vec::new(),
            closing: 0,
            waiting: Vec::new(),
            answered: BTreeSet::new(),
        }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Each user has one answer.
    fn answer(&mut self, user: u64) {
        let before = self.waiting.len();
        self.waiting.retain(|(_, waits)| *waits != user);
        assert_eq!(self.waiting.len() + 1, before, "{user} waits");
        assert!(self.answered.insert(user), "{user} was answered before");
    }

    fn start_connects(&mut self) {
        let attempts = self.state.connects();
        self.connects.extend(attempts);
    }

    fn give_back(&mut self, live: Live<u64>) {
        match self.state.returned(live, self.now) {
            Returned::Close(..) => self.closing += 1,
            Returned::Hand(live, user) => {
                self.answer(user);
                self.take(live);
            }
            Returned::Idle(_) => {}
        }
    }

    fn take(&mut self, mut live: Live<u64>) {
        assert!(live.generation >= self.state.trusted, "a distrusted one is given out");
        live.uses += 1;
        self.in_use.push(live);
    }

    fn slot_free(&mut self) {
        let _ = self.state.slot_free();
        self.start_connects();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { first, patience } => {
                let user = self.id();
                let Acquired { outlived, answer } =
                    self.state.acquire(first, patience, self.now, || (user, user));
                self.closing += outlived.len();
                match answer {
                    Answer::Ready(live) => {
                        assert!(self.waiting.is_empty(), "somebody was overtaken");
                        assert_eq!(live.outlived(self.now, 0), None);
                        self.take(live);
                    }
                    Answer::Wait(ticket, user) => {
                        self.waiting.push((ticket, user));
                        self.start_connects();
                    }
                    Answer::Refused(AcquireError::QueueFull) => {
                        assert!(!first && self.waiting.len() >= self.policy.max_waiting);
                    }
                    Answer::Refused(_) => {}
                }
            }
            Step::Leave(which) => {
                if let Some(which) = which.checked_rem(self.waiting.len()) {
                    let (ticket, user) = self.waiting.remove(which);
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
                let Some(which) = which.checked_rem(self.connects.len()) else { return };
                let attempt = self.connects.swap_remove(which);
                self.state.connected();
                self.state.connecting_over(attempt);
                let connection = self.id();
                let live = Live {
                    connection,
                    expires: Some(self.now + Duration::from_secs(10)),
                    idle_timeout: Some(Duration::from_secs(2)),
                    generation: self.generation,
                    checked: self.generation,
                    last_used: self.now,
                    uses: 0,
                };
                self.give_back(live);
                self.start_connects();
            }
            Step::ConnectFailed { which, denied } => {
                let Some(which) = which.checked_rem(self.connects.len()) else { return };
                let attempt = self.connects[which];
                let why = Arc::new(FakeError::Disconnected);
                let error =
                    if denied { AcquireError::Denied(why) } else { AcquireError::Unavailable(why) };
                for user in self.state.connect_failed(attempt, &error, self.now, 0.5) {
                    self.answer(user);
                }
                if self.state.connect_wanted(attempt).is_none() {
                    self.connects.swap_remove(which);
                    self.state.connecting_over(attempt);
                    self.slot_free();
                }
            }
            Step::Answered => self.state.answered(),
            Step::Unanswered => self.state.unanswered(self.now),
            Step::Distrust(which) => {
                let Some(which) = which.checked_rem(self.in_use.len()) else { return };
                if let Some(old) = self.state.distrust(self.in_use[which].generation) {
                    self.generation = self.generation.max(self.state.trusted);
                    self.closing += old.len();
                }
            }
            Step::Reap => {
                let (outlived, next) = self.state.reap(self.now);
                assert!(next.is_none_or(|next| next > self.now));
                self.closing += outlived.len();
            }
            Step::Wait(time) => self.now += time,
            Step::Shut => {
                let (idle, waiters) = self.state.shut();
                self.closing += idle.len();
                waiters.into_iter().for_each(|user| self.answer(user));
                assert!(self.waiting.is_empty());
            }
        }
    }

    fn check(&self) {
        let state = &self.state;
        let sessions = self.in_use.len() + state.idle() + self.connects.len() + self.closing;
        assert_eq!(state.slots(), sessions, "every session has its slot");
        assert!(state.slots() <= self.policy.max_connections, "{}", state.slots());
        assert_eq!(state.connecting(), self.connects.len());
        assert!(state.connecting() <= self.policy.max_connecting);
        assert_eq!(state.waiting(), self.waiting.len());
        assert!(state.waiting() == 0 || state.idle() == 0, "somebody waits beside an idle one");
        let trusted = |live: &Live<u64>| live.generation >= state.trusted;
        assert!(state.idle.iter().all(trusted), "a distrusted one is kept");
        let comes = state.connecting() > 0 || state.slots() == self.policy.max_connections;
        assert!(state.waiting() == 0 || comes, "somebody waits for nothing");
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
            prop_assert_eq!(world.state.connect_wanted(attempt), None);
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
