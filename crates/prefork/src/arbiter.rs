//! What the master decides, apart from how it is done: a state machine without I/O and without a clock.
//!
//! The master feeds it [`Event`]s with the time at which they happened and carries out the [`Action`]s
//! that come back. Everything that waits is a state with a deadline, and [`Arbiter::deadline`] is the
//! earliest of them, so no wait ever keeps the master from the next event.

mod member;
mod orders;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub(crate) use self::member::Stage;
use self::member::{Member, QUICK, SlotState};
pub(crate) use self::orders::{Action, Event, Limits, Order, Strike, Why};
use crate::settings::MAX_WORKERS;

pub(crate) type Pid = i32;

/// Between the SIGABRT and the SIGKILL that a hung worker gets.
const ABORT_GAP: Duration = Duration::from_secs(1);

/// The state machine of a master.
#[derive(Debug)]
pub(crate) struct Arbiter {
    limits: Limits,
    phase: Phase,
    slots: Vec<SlotState>,
    workers: BTreeMap<Pid, Member>,
    /// The generation that new workers belong to.
    generation: u64,
    /// The highest generation there ever was; numbers of those that failed are not used again.
    newest: u64,
    /// The generation before, while no worker of the current one has ever been ready.
    trial: Option<Trial>,
    /// A reload was asked for while another one, or the start, was going on.
    reload_wanted: bool,
    /// The settings are being read; the answer is the next [`Event::Reread`].
    rereading: bool,
    /// A reload has begun, and neither [`Action::Reloaded`] nor [`Action::Revert`] has ended it.
    unfinished: bool,
}

/// What the master as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The preparing process runs. Exits: `Starting` (it succeeded), `Stopping` (it failed, was too slow,
    /// or a stop was ordered).
    Preparing {
        /// The process, once it is forked.
        pid: Option<Pid>,
        deadline: Option<Instant>,
    },
    /// The first generation boots and none is ready. Exits: `Running` (one is), `Stopping` (all are dead,
    /// or a stop was ordered).
    Starting,
    /// At least one worker was ready once. Exit: `Stopping` (ordered).
    Running,
    /// Everything is told to leave, and killed at the deadline of each. Exit: `Stopped` (all are gone).
    Stopping { quick: bool, verdict: Verdict },
    /// No process is left. No exit.
    Stopped(Verdict),
}

/// Why the master ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A stop was ordered.
    Stopped,
    /// The preparing process failed.
    NotPrepared,
    /// No worker of the first generation became ready.
    NeverReady,
}

/// The generation that a reload is about to replace.
#[derive(Debug)]
struct Trial {
    former: u64,
    limits: Limits,
    /// How many workers there should be once it is proven, if the reload changes that.
    target: Option<usize>,
}

// === impl Arbiter ===

impl Arbiter {
    /// A master that has not forked yet, and its first actions.
    pub(crate) fn start(limits: Limits, prepare: bool, now: Instant) -> (Self, Vec<Action>) {
        let slots = vec![SlotState::default(); limits.workers];
        let mut arbiter = Self {
            limits,
            phase: Phase::Starting,
            slots,
            workers: BTreeMap::new(),
            generation: 1,
            newest: 1,
            trial: None,
            reload_wanted: false,
            rereading: false,
            unfinished: false,
        };
        let mut actions = Vec::new();
        if prepare {
            arbiter.phase = Phase::Preparing {
                pid: None,
                deadline: arbiter.limits.boot_timeout.map(|limit| now + limit),
            };
            actions.push(Action::Prepare);
        } else {
            arbiter.settle(now, &mut actions);
        }
        (arbiter, actions)
    }

    /// Takes notice of an event and decides.
    pub(crate) fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Preparing(process) => {
                if let Phase::Preparing { pid, .. } = &mut self.phase {
                    *pid = Some(process);
                }
            }
            Event::Unprepared => {
                self.phase = Phase::Stopping { quick: true, verdict: Verdict::NotPrepared };
            }
            Event::Spawned { pid, slot, generation } => self.spawned(pid, slot, generation, now),
            Event::SpawnFailed { slot } => self.spawn_failed(slot, now),
            Event::Ready(pid) => self.ready(pid, now, &mut actions),
            Event::Gone { pid, success } => self.gone(pid, success, now, &mut actions),
            Event::Beat { pid, at } => {
                if let Some(member) = self.workers.get_mut(&pid) {
                    if at > member.beat {
                        member.beat = at;
                        member.suspect = None;
                    }
                }
                // Beats come in numbers before each tick, which judges them.
                return actions;
            }
            Event::Order(order) => self.order(order, now, &mut actions),
            Event::Reread(limits) => self.reread(limits),
            Event::Tick => {}
        }
        self.expire(now, &mut actions);
        self.settle(now, &mut actions);
        actions
    }

    /// When the next [`Event::Tick`] is due, if nothing happens before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let preparing = match self.phase {
            Phase::Preparing { deadline, .. } => deadline,
            _ => None,
        };
        let workers = self.workers.values().flat_map(|member| {
            let judged = Self::late_at(member).map(|late| member.suspect.unwrap_or(late));
            [member.stage.deadline(), judged].into_iter().flatten()
        });
        let slots = self.slots.iter().filter_map(|slot| slot.retry_at);
        workers.chain(slots).chain(preparing).min()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// How many workers there should be.
    pub(crate) fn target(&self) -> usize {
        self.slots.len()
    }

    /// Whether a reload is going on or waiting.
    pub(crate) fn reloading(&self) -> bool {
        self.reload_wanted || self.rereading || self.unfinished || self.rolling()
    }

    /// Slot, generation and stage of a worker.
    pub(crate) fn worker(&self, pid: Pid) -> Option<(usize, u64, Stage)> {
        let member = self.workers.get(&pid)?;
        Some((member.slot, member.generation, member.stage))
    }

    /// How often a slot's worker has failed in a row, and when the next one is forked, if that has to wait.
    pub(crate) fn failures(&self, slot: usize, now: Instant) -> (u32, Option<Instant>) {
        let healthy = self.active(slot).any(|(_, member)| member.is_healthy(now));
        match self.slots.get(slot) {
            Some(slot) if !healthy => (slot.failures, slot.retry_at),
            _ => (0, None),
        }
    }

    fn spawned(&mut self, pid: Pid, slot: usize, generation: u64, now: Instant) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.spawning = false;
            slot.retry_at = None;
        }
        let former = self.trial.as_ref().filter(|trial| trial.former == generation);
        let limits = former.map_or(&self.limits, |trial| &trial.limits).clone();
        let deadline = limits.boot_timeout.map(|limit| now + limit);
        let member = Member {
            slot,
            generation,
            limits,
            stage: Stage::Booting { deadline },
            beat: now,
            suspect: None,
            ready_at: None,
        };
        self.workers.insert(pid, member);
    }

    fn spawn_failed(&mut self, slot: usize, now: Instant) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.spawning = false;
            slot.failed(false, now);
        }
    }

    fn ready(&mut self, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        let Some(member) = self.workers.get_mut(&pid) else {
            return;
        };
        if !matches!(member.stage, Stage::Booting { .. }) {
            return;
        }
        member.stage = Stage::Ready;
        member.ready_at = Some(now);
        member.beat = now;
        let generation = member.generation;
        if self.phase == Phase::Starting {
            self.phase = Phase::Running;
            actions.push(Action::Proven { generation });
        } else if generation == self.generation {
            let Some(trial) = self.trial.take() else { return };
            if let Some(target) = trial.target {
                self.resize(target);
            }
            actions.push(Action::Proven { generation });
        }
    }

    fn gone(&mut self, pid: Pid, success: bool, now: Instant, actions: &mut Vec<Action>) {
        if let Phase::Preparing { pid: Some(preparing), .. } = self.phase {
            if preparing == pid {
                self.phase = if success {
                    Phase::Starting
                } else {
                    Phase::Stopping { quick: true, verdict: Verdict::NotPrepared }
                };
                return;
            }
        }
        let Some(member) = self.workers.remove(&pid) else {
            return;
        };
        // One that was told to leave says nothing of its slot; one that is killed was written off before.
        if member.stage.is_active() {
            self.died(&member, now, actions);
        }
    }

    /// A worker is lost that nobody told to leave; called once for each.
    fn died(&mut self, member: &Member, now: Instant, actions: &mut Vec<Action>) {
        if let Some(slot) = self.slots.get_mut(member.slot) {
            if member.is_healthy(now) {
                *slot = SlotState { spawning: slot.spawning, ..SlotState::default() };
            } else {
                slot.failed(member.ready_at.is_some(), now);
            }
        }
        // The canary of a reload died before it was ready: the old generation stays.
        if member.ready_at.is_none() && member.generation == self.generation {
            if let Some(trial) = self.trial.take() {
                actions.push(Action::Revert { generation: self.generation, slot: member.slot });
                self.unfinished = false;
                self.generation = trial.former;
                self.limits = trial.limits;
                if let Some(slot) = self.slots.get_mut(member.slot) {
                    *slot = SlotState::default();
                }
            }
        }
    }

    fn order(&mut self, order: Order, now: Instant, actions: &mut Vec<Action>) {
        match order {
            Order::Stop { quick } => self.stop(quick, Verdict::Stopped, now, actions),
            Order::Reload => self.reload_wanted = true,
            Order::More => self.change_target(|workers| (workers + 1).min(MAX_WORKERS)),
            Order::Fewer => self.change_target(|workers| (workers - 1).max(1)),
        }
    }

    /// Now, and for the generation on trial.
    fn change_target(&mut self, change: impl Fn(usize) -> usize) {
        self.resize(change(self.target()));
        if let Some(target) = self.trial.as_mut().and_then(|trial| trial.target.as_mut()) {
            *target = change(*target);
        }
    }

    fn stop(&mut self, quick: bool, verdict: Verdict, now: Instant, actions: &mut Vec<Action>) {
        let (quick, verdict, preparing) = match self.phase {
            Phase::Stopped(_) => return,
            // A second order can make it quicker, never slower.
            Phase::Stopping { quick: before, verdict } => (quick || before, verdict, None),
            Phase::Preparing { pid, .. } => (quick, verdict, pid),
            Phase::Starting | Phase::Running => (quick, verdict, None),
        };
        if let Some(pid) = preparing {
            // It has no signal handling of its own, so SIGTERM ends it at once.
            let member = Member {
                slot: usize::MAX,
                generation: 0,
                limits: self.limits.clone(),
                stage: Stage::Leaving { deadline: now + QUICK, quick: true },
                beat: now,
                suspect: None,
                ready_at: None,
            };
            self.workers.insert(pid, member);
            actions.push(Action::Signal { pid, signal: Strike::Term, why: Why::Stop });
        }
        self.phase = Phase::Stopping { quick, verdict };
        self.dismiss_all(quick, now, actions);
    }

    fn dismiss_all(&mut self, quick: bool, now: Instant, actions: &mut Vec<Action>) {
        for (&pid, member) in &mut self.workers {
            if quick {
                member.leave_at_once(pid, now, actions);
            } else {
                member.leave(pid, Why::Stop, now, actions);
            }
        }
    }

    fn reread(&mut self, limits: Option<Limits>) {
        self.rereading = false;
        let (Some(limits), Phase::Running) = (limits, self.phase) else {
            return;
        };
        let former = std::mem::replace(&mut self.limits, limits);
        // TTIN and TTOU keep their effect unless the configured number itself is another one.
        let target = (self.limits.workers != former.workers).then_some(self.limits.workers);
        self.trial = Some(Trial { former: self.generation, limits: former, target });
        self.unfinished = true;
        self.newest += 1;
        self.generation = self.newest;
        for slot in &mut self.slots {
            slot.failures = 0;
            slot.retry_at = None;
        }
    }

    fn resize(&mut self, workers: usize) {
        self.slots.resize(workers, SlotState::default());
    }

    /// When this worker's beat is too late, if it goes on being silent.
    fn late_at(member: &Member) -> Option<Instant> {
        let late = member.beat + member.limits.timeout?;
        let judged = match member.stage {
            Stage::Ready => true,
            // Not if its grace ends before the gap does: it is killed then anyway.
            Stage::Leaving { deadline, .. } => {
                let sure = member.suspect.unwrap_or(late + member.limits.patience);
                member.ready_at.is_some() && sure + ABORT_GAP <= deadline
            }
            Stage::Booting { .. } | Stage::Aborting { .. } | Stage::Killed => false,
        };
        judged.then_some(late)
    }

    /// Acts on every deadline that has passed.
    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Phase::Preparing { pid: Some(pid), deadline: Some(deadline) } = self.phase {
            if now >= deadline {
                self.phase = Phase::Preparing { pid: Some(pid), deadline: None };
                actions.push(Action::Signal { pid, signal: Strike::Kill, why: Why::NotPrepared });
            }
        }
        for slot in &mut self.slots {
            slot.retry_at = slot.retry_at.filter(|at| now < *at);
        }
        for pid in self.hung(now) {
            self.abort(pid, now, actions);
        }
        let mut never_ready = Vec::new();
        for (&pid, member) in &mut self.workers {
            let why = match member.stage {
                Stage::Booting { .. } => Why::BootTimeout,
                Stage::Aborting { .. } => Why::Hung,
                Stage::Leaving { .. } => Why::GraceOver,
                Stage::Ready | Stage::Killed => continue,
            };
            if member.stage.deadline().is_some_and(|deadline| now >= deadline) {
                if why == Why::BootTimeout {
                    never_ready.push(member.clone());
                }
                member.stage = Stage::Killed;
                actions.push(Action::Signal { pid, signal: Strike::Kill, why });
            }
        }
        for member in never_ready {
            self.died(&member, now, actions);
        }
    }

    /// The workers that are hung, beyond doubt.
    ///
    /// A late beat alone proves nothing: whoever is late may have been paused together with the master
    /// (Ctrl-Z, a frozen container, a virtual machine that is moved) and be about to beat. So each is looked
    /// at twice, with time for a beat in between in which the master was there too.
    fn hung(&mut self, now: Instant) -> Vec<Pid> {
        let late: Vec<Pid> = self
            .workers
            .iter()
            .filter(|(_, member)| Self::late_at(member).is_some_and(|late| now > late))
            .map(|(&pid, _)| pid)
            .collect();
        let beyond_doubt = |pid: &Pid| {
            self.workers.get_mut(pid).is_some_and(|member| {
                let patience = member.limits.patience;
                // Much later than it wanted to look again, the master was paused in the meantime.
                let proven = member.suspect.is_some_and(|at| (at..at + patience).contains(&now));
                let gap_fits = match member.stage {
                    Stage::Leaving { deadline, .. } => now + ABORT_GAP <= deadline,
                    _ => true,
                };
                let sure = proven && gap_fits;
                if !sure && member.suspect.is_none_or(|at| now >= at) {
                    member.suspect = Some(now + patience);
                }
                sure
            })
        };
        late.into_iter().filter(beyond_doubt).collect()
    }

    /// A worker is hung: its replacement, then what is known of it, then the first strike.
    fn abort(&mut self, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        let Some(mut member) = self.workers.remove(&pid) else {
            return;
        };
        let silent = now.duration_since(member.beat);
        let missed = member.stage == Stage::Ready;
        let gap = now + ABORT_GAP;
        // The end of a drain is not put off.
        let deadline = member.stage.deadline().map_or(gap, |grace| grace.min(gap));
        member.stage = Stage::Aborting { deadline };
        if missed {
            self.died(&member, now, actions);
        }
        self.workers.insert(pid, member);
        self.settle(now, actions);
        actions.push(Action::Testify { pid, silent });
        actions.push(Action::Signal { pid, signal: Strike::Abort, why: Why::Hung });
    }

    /// Brings what there is closer to what there should be.
    fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Preparing { .. } | Phase::Stopped(_) => {}
            Phase::Starting => self.settle_start(now, actions),
            Phase::Running => self.settle_run(now, actions),
            Phase::Stopping { verdict, quick } => {
                // Whoever was forked while the order came in.
                self.dismiss_all(quick, now, actions);
                if self.workers.is_empty() && !self.slots.iter().any(|slot| slot.spawning) {
                    self.phase = Phase::Stopped(verdict);
                }
            }
        }
    }

    /// Each slot has one try; who is not ready then will not be.
    fn settle_start(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for slot in 0..self.slots.len() {
            let state = &self.slots[slot];
            if !state.spawning && state.failures == 0 && self.active(slot).next().is_none() {
                self.spawn(slot, actions);
            }
        }
        let hope = self.slots.iter().any(|slot| slot.spawning)
            || self.workers.values().any(|member| member.stage.is_active());
        if !hope {
            self.stop(true, Verdict::NeverReady, now, actions);
            self.settle(now, actions);
        }
    }

    fn settle_run(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for slot in 0..self.slots.len() {
            // The newest of the slot that serves; whoever is older goes. Never the other way round.
            let serving = self.active(slot).filter(|(_, member)| member.stage == Stage::Ready);
            let best = serving.max_by_key(|(pid, member)| (member.generation, *pid));
            if let Some((best, newest)) = best.map(|(pid, member)| (pid, member.generation)) {
                self.retire(now, actions, |pid, member| {
                    member.slot == slot
                        && pid != best
                        && (member.stage == Stage::Ready || member.generation < newest)
                });
            } else if self.active(slot).next().is_none() && self.slots[slot].may_spawn() {
                self.spawn(slot, actions);
            }
        }
        let target = self.slots.len();
        // Slots that are no longer wanted, and the boots of a generation that was given up.
        let current = self.generation;
        self.retire(now, actions, |_, member| {
            let given_up =
                member.generation > current && matches!(member.stage, Stage::Booting { .. });
            member.slot >= target || given_up
        });
        self.roll(actions);
        if self.unfinished && !self.rolling() && self.is_complete() {
            self.unfinished = false;
            actions.push(Action::Reloaded { generation: self.generation });
        }
        // A roll that meets dying workers may never end: then the next reload may bring the cure.
        let stuck = self.trial.is_none() && self.slots.iter().any(|slot| slot.failures > 1);
        if self.reload_wanted && !self.rereading && (stuck || !(self.rolling() || self.unfinished))
        {
            self.reload_wanted = false;
            self.rereading = true;
            actions.push(Action::Reread);
        }
    }

    /// Make before break, one slot at a time: the next replacement boots when no other one does.
    fn roll(&mut self, actions: &mut Vec<Action>) {
        let booting = |arbiter: &Self, slot: usize| {
            arbiter.slots[slot].spawning
                || arbiter.active(slot).any(|(_, member)| {
                    member.generation == arbiter.generation
                        && matches!(member.stage, Stage::Booting { .. })
                })
        };
        let slots = 0..self.slots.len();
        if slots.clone().any(|slot| booting(self, slot)) {
            return;
        }
        let stale = slots.into_iter().find(|&slot| {
            self.slots[slot].may_spawn()
                && self.active(slot).next().is_some()
                && self.active(slot).all(|(_, member)| member.generation < self.generation)
        });
        if let Some(slot) = stale {
            self.slots[slot].spawning = true;
            actions.push(Action::Spawn { slot, generation: self.generation });
        }
    }

    /// Whether workers of an older generation still wait for their replacement.
    fn rolling(&self) -> bool {
        self.trial.is_some()
            || self
                .workers
                .values()
                .any(|member| member.stage.is_active() && member.generation != self.generation)
    }

    /// Whether each slot has a worker of the newest generation that serves.
    fn is_complete(&self) -> bool {
        let serves = |(_, member): (Pid, &Member)| {
            member.generation == self.generation && member.stage == Stage::Ready
        };
        (0..self.slots.len()).all(|slot| self.active(slot).any(serves))
    }

    fn spawn(&mut self, slot: usize, actions: &mut Vec<Action>) {
        self.slots[slot].spawning = true;
        // While the new generation is on trial, deaths are made good with the proven one.
        let generation = self.trial.as_ref().map_or(self.generation, |trial| trial.former);
        actions.push(Action::Spawn { slot, generation });
    }

    fn retire(
        &mut self,
        now: Instant,
        actions: &mut Vec<Action>,
        which: impl Fn(Pid, &Member) -> bool,
    ) {
        for (&pid, member) in &mut self.workers {
            if member.stage.is_active() && which(pid, member) {
                member.leave(pid, Why::Replaced, now, actions);
            }
        }
    }

    fn active(&self, slot: usize) -> impl Iterator<Item = (Pid, &Member)> {
        self.workers
            .iter()
            .filter(move |(_, member)| member.slot == slot && member.stage.is_active())
            .map(|(&pid, member)| (pid, member))
    }
}

#[cfg(test)]
mod tests;
