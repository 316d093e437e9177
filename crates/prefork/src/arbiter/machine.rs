//! The state of a master, the life of each worker in it, and the orders of operators.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::member::{Member, SlotState, Stage};
use super::orders::{Action, Due, Event, Limits, Order, Pid, Place, Why, WorkerSignal};
use crate::ends;
use crate::settings::MAX_WORKERS;

/// The state machine of a master.
#[derive(Debug)]
pub(crate) struct Arbiter {
    pub(super) limits: Limits,
    pub(super) phase: Phase,
    /// The workers'.
    pub(super) slots: Vec<SlotState>,
    pub(super) companions: Vec<SlotState>,
    pub(super) workers: BTreeMap<Pid, Member>,
    /// How many workers and companions were ever forked.
    pub(super) forks: u64,
    /// The generation that new workers belong to.
    pub(super) generation: u64,
    /// The highest generation there ever was; numbers of those that failed are not used again.
    pub(super) newest: u64,
    /// The generation before, while no worker of the current one has ever been ready.
    pub(super) trial: Option<Trial>,
    /// A reload was asked for while another one, or the start, was going on.
    pub(super) reload_wanted: bool,
    /// The settings are being read, and with a preload it is tried and called; the end of that is [`Event::Reread`], or
    /// that the dry run has failed.
    pub(super) rereading: bool,
    /// While that waits for the dry run.
    pub(super) dry_run: Option<DryRun>,
    /// A reload has begun, and neither [`Action::Reloaded`] nor [`Action::Revert`] has ended it.
    pub(super) unfinished: bool,
    /// When the first order to stop came, if the server ran then.
    pub(super) stop_began: Option<Instant>,
}

/// What the master as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing was done yet. Exits: `Preparing`, `Starting` (the first event), `Stopping` (a stop was ordered).
    New { prepare: bool },
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
    /// A companion did not start, and the settings require it.
    NoCompanion,
}

/// The process in which a preload is tried before the master calls it.
#[derive(Debug)]
pub(super) struct DryRun {
    pub(super) pid: Pid,
    /// When it is killed; `None` for never, and once it is.
    pub(super) deadline: Option<Instant>,
}

/// The generation that a reload is about to replace.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) former: u64,
    pub(super) limits: Limits,
    /// How many workers there should be once it is proven, if the reload changes that.
    pub(super) target: Option<usize>,
}

impl Arbiter {
    /// A master that has not forked yet; its first event makes it begin.
    pub(crate) fn new(limits: Limits, companions: usize, prepare: bool) -> Self {
        Self {
            slots: vec![SlotState::default(); limits.workers],
            companions: vec![SlotState::default(); companions],
            limits,
            phase: Phase::New { prepare },
            workers: BTreeMap::new(),
            forks: 0,
            generation: 1,
            newest: 1,
            trial: None,
            reload_wanted: false,
            rereading: false,
            dry_run: None,
            unfinished: false,
            stop_began: None,
        }
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
            Event::Spawned { pid, place, generation, lifetime } => {
                self.spawned(pid, place, generation, lifetime, now);
            }
            Event::SpawnFailed { place, generation } => {
                self.spawn_failed(place, generation, now, &mut actions);
            }
            Event::Ready(pid) => self.ready(pid, now, &mut actions),
            Event::Gone { pid, success } => self.gone(pid, success, now, &mut actions),
            Event::Due { pid, why } => self.due(pid, why, now, &mut actions),
            Event::PreloadDropped => {
                // Whoever was forked before has a copy of it for ever.
                let new =
                    |member: &Member| member.is_worker() && member.generation == self.generation;
                let new = self.workers.iter().filter(|(_, member)| new(member));
                for pid in new.map(|(&pid, _)| pid).collect::<Vec<_>>() {
                    self.due(pid, Due::Preload, now, &mut actions);
                }
            }
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
            Event::DryRun { pid, limit } => {
                self.dry_run = Some(DryRun { pid, deadline: limit.map(|limit| now + limit) });
            }
            Event::Reread(limits) => self.reread(limits),
            // Deadlines are judged last, when all that came before them was told.
            Event::Tick => self.expire(now, &mut actions),
        }
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
            let may_be_due = member.stage.is_active() && member.due.is_none();
            let expires = member.expires.filter(|_| may_be_due);
            [member.stage.deadline(), judged, expires].into_iter().flatten()
        });
        let slots = self.slots.iter().chain(&self.companions).filter_map(|slot| slot.retry_at);
        let dry_run = self.dry_run.as_ref().and_then(|run| run.deadline);
        workers.chain(slots).chain(preparing).chain(dry_run).min()
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

    /// What a worker or companion is doing.
    pub(crate) fn stage(&self, pid: Pid) -> Option<Stage> {
        self.workers.get(&pid).map(|member| member.stage)
    }

    /// How often a place's process has failed in a row, and when the next one is forked, if that has to wait.
    pub(crate) fn failures(&self, place: Place, now: Instant) -> (u32, Option<Instant>) {
        let healthy = self.active(place).any(|(_, member)| member.is_healthy(now));
        let (slots, companions) = (&self.slots, &self.companions);
        match place.of(slots.iter(), companions.iter()) {
            Some(slot) if !healthy => (slot.failures, slot.retry_at),
            _ => (0, None),
        }
    }

    pub(super) fn slot_mut(&mut self, place: Place) -> Option<&mut SlotState> {
        place.of(self.slots.iter_mut(), self.companions.iter_mut())
    }

    fn spawned(
        &mut self,
        pid: Pid,
        place: Place,
        generation: u64,
        lifetime: Option<Duration>,
        now: Instant,
    ) {
        if let Some(slot) = self.slot_mut(place) {
            slot.spawning = false;
            slot.retry_at = None;
        }
        let former = self.trial.as_ref().filter(|trial| trial.former == generation);
        let limits = former.map_or(&self.limits, |trial| &trial.limits).clone();
        let deadline = limits.boot_timeout.map(|limit| now + limit);
        self.forks += 1;
        let member = Member {
            place,
            generation,
            fork: self.forks,
            limits,
            stage: Stage::Booting { deadline },
            beat: now,
            suspect: None,
            ready_at: None,
            expires: lifetime.map(|lifetime| now + lifetime),
            due: None,
        };
        self.workers.insert(pid, member);
    }

    /// Once; a worker that leaves already has its successor.
    pub(super) fn due(&mut self, pid: Pid, why: Due, now: Instant, actions: &mut Vec<Action>) {
        let Some(member) = self.workers.get_mut(&pid) else { return };
        if member.stage.is_active() && member.due.is_none() {
            member.due = Some((now, why));
            actions.push(Action::LogDue { pid, why });
        }
    }

    fn spawn_failed(
        &mut self,
        place: Place,
        generation: u64,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if let Some(slot) = self.slot_mut(place) {
            slot.spawning = false;
            slot.failed(false, now);
        }
        if generation == self.generation {
            self.revert(place, actions);
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
        if !member.is_worker() {
            return;
        }
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
        if self.dry_run.as_ref().is_some_and(|run| run.pid == pid) {
            self.dry_run = None;
            self.rereading = success;
            if success {
                actions.push(Action::Preload);
            }
            return;
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
    pub(super) fn died(&mut self, member: &Member, now: Instant, actions: &mut Vec<Action>) {
        if let Some(slot) = self.slot_mut(member.place) {
            if member.is_healthy(now) {
                let SlotState { spawning, is_last, .. } = *slot;
                *slot = SlotState { spawning, is_last, ..SlotState::default() };
            } else {
                slot.failed(member.ready_at.is_some(), now);
            }
        }
        if member.ready_at.is_none() && member.generation == self.generation {
            self.revert(member.place, actions);
        }
    }

    /// The canary of a reload, if one is on trial, is gone before it was ready: the old generation stays.
    fn revert(&mut self, place: Place, actions: &mut Vec<Action>) {
        let Place::Worker(slot) = place else { return };
        if let Some(trial) = self.trial.take() {
            actions.push(Action::Revert { generation: self.generation, slot });
            self.unfinished = false;
            self.generation = trial.former;
            self.limits = trial.limits;
            if let Some(slot) = self.slots.get_mut(slot) {
                *slot = SlotState::default();
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

    pub(super) fn stop(
        &mut self,
        quick: bool,
        verdict: Verdict,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let (quick, verdict, preparing) = match self.phase {
            Phase::Stopped(_) => return,
            // A second order can make it quicker, never slower.
            Phase::Stopping { quick: before, verdict } => (quick || before, verdict, None),
            Phase::Preparing { pid, .. } => (quick, verdict, pid),
            Phase::New { .. } | Phase::Starting | Phase::Running => (quick, verdict, None),
        };
        if self.phase == Phase::Running {
            self.stop_began = Some(now);
            // One that has failed has its last chance without a pause.
            self.companions.iter_mut().for_each(|slot| slot.retry_at = None);
        }
        for pid in preparing.into_iter().chain(self.dry_run.take().map(|run| run.pid)) {
            self.dismiss_process(pid, now, actions);
        }
        self.phase = Phase::Stopping { quick, verdict };
        self.dismiss_all(quick, now, actions);
    }

    /// One that is no worker, and has no signal handling of its own, so that SIGTERM ends it at once.
    fn dismiss_process(&mut self, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        let member = Member {
            place: Place::Helper,
            generation: 0,
            fork: 0,
            limits: self.limits.clone(),
            stage: Stage::Leaving { deadline: now + ends::MASTER_QUICK, quick: true },
            beat: now,
            suspect: None,
            ready_at: None,
            expires: None,
            due: None,
        };
        self.workers.insert(pid, member);
        actions.push(Action::Signal { pid, signal: WorkerSignal::Term, why: Why::Stop });
    }

    /// Workers first: the companions do what those leave to them, and go when no worker is left.
    pub(super) fn dismiss_all(&mut self, quick: bool, now: Instant, actions: &mut Vec<Action>) {
        for (&pid, member) in &mut self.workers {
            if quick {
                member.leave_quick(pid, now, actions);
            } else if !member.is_companion() {
                member.leave(pid, Why::Stop, now, actions);
            }
        }
        if !quick {
            self.dismiss_companions(now, actions);
        }
    }
}
