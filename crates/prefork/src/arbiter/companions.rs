//! The companions: each exists once, so an old one is gone before the next one is forked.

use std::time::Instant;

use super::machine::Arbiter;
use super::member::{Member, Stage};
use super::orders::{Action, Place};

impl Arbiter {
    /// Brings what there is of them closer to one of each, of the generation that is proven.
    pub(super) fn settle_companions(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let generation = self.proven();
        self.retire(now, actions, |_, member| {
            member.is_companion() && member.generation < generation
        });
        for companion in 0..self.companions.len() {
            let place = Place::Companion(companion);
            // Also one that leaves, or that was killed and is not gone yet.
            let exists = self.workers.values().any(|member| member.place == place);
            if !exists && self.companions[companion].may_spawn() {
                self.companions[companion].spawning = true;
                actions.push(Action::Spawn { place, generation });
            }
        }
    }

    /// The server stops: each has the chance to do what the workers leave to it. So one that is not there comes once more,
    /// and each is told to leave when it has started and no worker is left.
    pub(super) fn dismiss_companions(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let forking = self.slots.iter().any(|slot| slot.spawning);
        let working = forking || self.workers.values().any(Member::is_worker);
        let generation = self.proven();
        let end = self.stop_began.map(|began| began + self.limits.graceful_timeout);
        for companion in 0..self.companions.len() {
            let (place, slot) = (Place::Companion(companion), &mut self.companions[companion]);
            let member = self.workers.iter_mut().find(|(_, member)| member.place == place);
            match (member, end) {
                (Some((_, Member { stage: Stage::Booting { deadline }, .. })), Some(end)) => {
                    *deadline = Some(deadline.map_or(end, |boot| boot.min(end)));
                }
                (Some((&pid, member)), _) if !working && member.stage.is_active() => {
                    slot.is_last = true;
                    member.leave_after_the_workers(pid, end.unwrap_or(now), now, actions);
                }
                (None, Some(end)) if !slot.is_last && slot.may_spawn() && now < end => {
                    slot.spawning = true;
                    slot.is_last = !working;
                    actions.push(Action::Spawn { place, generation });
                }
                _ => {}
            }
        }
    }

    /// Whether each has started; `None` if one has failed to.
    pub(super) fn all_companions_started(&self) -> Option<bool> {
        if self.companions.iter().any(|slot| slot.failures > 0) {
            return None;
        }
        let started = |member: &Member| member.is_companion() && member.stage == Stage::Ready;
        let count = self.workers.values().filter(|member| started(member)).count();
        Some(count == self.companions.len())
    }
}
