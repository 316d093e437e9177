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
