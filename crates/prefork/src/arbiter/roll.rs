//! From what there is to what there should be: start, replacement of the dead, reload, stop.

use std::time::Instant;

use super::machine::{Arbiter, Phase, Trial, Verdict};
use super::member::{Member, SlotState, Stage};
use super::orders::{Action, Limits, Pid, Place, Why};

impl Arbiter {
    pub(super) fn reread(&mut self, limits: Option<Limits>) {
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
        for slot in self.slots.iter_mut().chain(&mut self.companions) {
            slot.failures = 0;
            slot.retry_at = None;
        }
    }

    pub(super) fn resize(&mut self, workers: usize) {
        self.slots.resize(workers, SlotState::default());
    }

    /// Brings what there is closer to what there should be.
    pub(super) fn settle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::New { prepare: true } => {
                let deadline = self.limits.boot_timeout.map(|limit| now + limit);
                self.phase = Phase::Preparing { pid: None, deadline };
                actions.push(Action::Prepare);
            }
            Phase::New { prepare: false } => {
                self.phase = Phase::Starting;
                self.settle_start(now, actions);
            }
            Phase::Preparing { .. } | Phase::Stopped(_) => {}
            Phase::Starting => self.settle_start(now, actions),
            Phase::Running => self.settle_run(now, actions),
            Phase::Stopping { verdict, quick } => {
                // Whoever was forked while the order came in.
                self.dismiss_all(quick, now, actions);
                let mut slots = self.slots.iter().chain(&self.companions);
                if self.workers.is_empty() && !slots.any(|slot| slot.spawning) {
                    self.phase = Phase::Stopped(verdict);
                }
            }
        }
    }

    /// Each slot has one try; who is not ready then will not be.
    fn settle_start(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let started = self.all_companions_started();
        if self.limits.require_companions && started.is_none() {
            self.stop(true, Verdict::NoCompanion, now, actions);
            return self.settle(now, actions);
        }
        self.settle_companions(now, actions);
        if self.limits.require_companions && started == Some(false) {
            return;
        }
        for slot in 0..self.slots.len() {
            let state = &self.slots[slot];
            if !state.spawning && state.failures == 0 && self.is_vacant(slot) {
                self.spawn(slot, actions);
            }
        }
        let hope = self.slots.iter().any(|slot| slot.spawning)
            || self.workers.values().any(|member| member.is_worker() && member.stage.is_active());
        if !hope {
            self.stop(true, Verdict::NeverReady, now, actions);
            self.settle(now, actions);
        }
    }

    fn settle_run(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.settle_companions(now, actions);
        for slot in 0..self.slots.len() {
            // The newest of the slot that serves; whoever is older, or due, goes. Never the other way round.
            let serving =
                self.active(Place::Worker(slot)).filter(|(_, member)| member.stage == Stage::Ready);
            let best = serving
                .max_by_key(|(_, member)| (member.generation, member.due.is_none(), member.fork));
            if let Some((best, newest)) = best.map(|(pid, member)| (pid, member.generation)) {
                self.retire(now, actions, |pid, member| {
                    member.place == Place::Worker(slot)
                        && pid != best
                        && (member.stage == Stage::Ready || member.generation < newest)
                });
            } else if self.is_vacant(slot) && self.slots[slot].may_spawn() {
                self.spawn(slot, actions);
            }
        }
        let target = self.slots.len();
        // Slots that are no longer wanted, and the boots of a generation that was given up.
        let current = self.generation;
        self.retire(now, actions, |_, member| {
            let given_up =
                member.generation > current && matches!(member.stage, Stage::Booting { .. });
            matches!(member.place, Place::Worker(slot) if slot >= target || given_up)
        });
        self.roll(actions);
        self.recycle(actions);
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
                || arbiter.active(Place::Worker(slot)).any(|(_, member)| {
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
                && !self.is_vacant(slot)
                && self
                    .active(Place::Worker(slot))
                    .all(|(_, member)| member.generation < self.generation)
        });
        if let Some(slot) = stale {
            self.slots[slot].spawning = true;
            let place = Place::Worker(slot);
            actions.push(Action::Spawn { place, generation: self.generation });
        }
    }

    /// As a reload does, for one worker that is due, the one that is so for longest; a reload replaces them anyway.
    fn recycle(&mut self, actions: &mut Vec<Action>) {
        let booting = |slot: usize| {
            let boots = |(_, member): (Pid, &Member)| matches!(member.stage, Stage::Booting { .. });
            self.slots[slot].spawning || self.active(Place::Worker(slot)).any(boots)
        };
        let slots = 0..self.slots.len();
        if self.rolling() || slots.clone().any(booting) {
            return;
        }
        let since = |slot: usize| {
            let active = self.active(Place::Worker(slot));
            let due = active.filter_map(|(_, member)| member.due).map(|(since, _)| since);
            due.min().filter(|_| self.slots[slot].may_spawn()).map(|since| (since, slot))
        };
        if let Some((_, slot)) = slots.filter_map(since).min() {
            self.spawn(slot, actions);
        }
    }

    /// Whether workers of an older generation still wait for their replacement.
    pub(super) fn rolling(&self) -> bool {
        self.trial.is_some()
            || self
                .workers
                .values()
                .filter(|member| member.is_worker() && member.stage.is_active())
                .any(|member| member.generation != self.generation)
    }

    /// Whether each slot has a worker of the newest generation that serves.
    fn is_complete(&self) -> bool {
        let serves = |(_, member): (Pid, &Member)| {
            member.generation == self.generation && member.stage == Stage::Ready
        };
        (0..self.slots.len()).all(|slot| self.active(Place::Worker(slot)).any(serves))
    }

    fn spawn(&mut self, slot: usize, actions: &mut Vec<Action>) {
        self.slots[slot].spawning = true;
        let (place, generation) = (Place::Worker(slot), self.proven());
        actions.push(Action::Spawn { place, generation });
    }

    /// While a new generation is on trial, deaths are made good with the one before.
    pub(super) fn proven(&self) -> u64 {
        self.trial.as_ref().map_or(self.generation, |trial| trial.former)
    }

    pub(super) fn retire(
        &mut self,
        now: Instant,
        actions: &mut Vec<Action>,
        which: impl Fn(Pid, &Member) -> bool,
    ) {
        for (&pid, member) in &mut self.workers {
            if member.stage.is_active() && which(pid, member) {
                // What failed before it did not fail again.
                let slot = member.place.of(self.slots.iter_mut(), self.companions.iter_mut());
                if let Some(slot) = slot.filter(|_| member.is_healthy(now)) {
                    slot.failures = 0;
                }
                let why = member.due.map_or(Why::Replaced, |(_, why)| Why::Recycled(why));
                member.leave(pid, why, now, actions);
            }
        }
    }

    pub(super) fn active(&self, place: Place) -> impl Iterator<Item = (Pid, &Member)> {
        self.workers
            .iter()
            .filter(move |(_, member)| member.place == place && member.stage.is_active())
            .map(|(&pid, member)| (pid, member))
    }

    fn is_vacant(&self, slot: usize) -> bool {
        self.active(Place::Worker(slot)).next().is_none()
    }
}
