//! Deadlines that pass: who hangs, who is too slow to boot or to leave, who is too old.

use std::time::Instant;

use super::machine::{Arbiter, Phase};
use super::member::{Member, Stage};
use super::orders::{Action, Due, Pid, Why, WorkerSignal};
use crate::ends;

impl Arbiter {
    /// When this worker's beat is too late, if it goes on being silent.
    pub(super) fn late_at(member: &Member) -> Option<Instant> {
        let late = member.beat + member.limits.timeout?;
        let judged = match member.stage {
            Stage::Ready => true,
            // Not if its grace ends before the gap does: it is killed then anyway.
            Stage::Leaving { deadline, .. } => {
                let sure = member.suspect.unwrap_or(late + member.limits.patience);
                member.ready_at.is_some() && sure + ends::ABORT_GAP <= deadline
            }
            Stage::Booting { .. } | Stage::Aborting { .. } | Stage::Killed => false,
        };
        judged.then_some(late)
    }

    /// Acts on every deadline that has passed.
    pub(super) fn expire(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Phase::Preparing { pid: Some(pid), deadline: Some(deadline) } = self.phase {
            if now >= deadline {
                self.phase = Phase::Preparing { pid: Some(pid), deadline: None };
                actions.push(Action::Signal {
                    pid,
                    signal: WorkerSignal::Kill,
                    why: Why::NotPrepared,
                });
            }
        }
        if let Some(run) = self.dry_run.as_mut() {
            if run.deadline.is_some_and(|deadline| now >= deadline) {
                run.deadline = None;
                let (pid, signal) = (run.pid, WorkerSignal::Kill);
                actions.push(Action::Signal { pid, signal, why: Why::NotPreloaded });
            }
        }
        for slot in self.slots.iter_mut().chain(&mut self.companions) {
            slot.retry_at = slot.retry_at.filter(|at| now < *at);
        }
        for pid in self.hung(now) {
            self.abort(pid, now, actions);
        }
        let old = |member: &Member| member.expires.is_some_and(|expires| now >= expires);
        let old = self.workers.iter().filter(|(_, member)| old(member)).map(|(&pid, _)| pid);
        for pid in old.collect::<Vec<_>>() {
            self.due(pid, Due::Lifetime, now, actions);
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
                actions.push(Action::Signal { pid, signal: WorkerSignal::Kill, why });
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
                    Stage::Leaving { deadline, .. } => now + ends::ABORT_GAP <= deadline,
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

    /// A worker is hung: its replacement, then what is known of it, then the first signal.
    fn abort(&mut self, pid: Pid, now: Instant, actions: &mut Vec<Action>) {
        let Some(mut member) = self.workers.remove(&pid) else {
            return;
        };
        let silent = now.duration_since(member.beat);
        let missed = member.stage == Stage::Ready;
        let gap = now + ends::ABORT_GAP;
        // The end of a drain is not put off.
        let deadline = member.stage.deadline().map_or(gap, |grace| grace.min(gap));
        member.stage = Stage::Aborting { deadline };
        if missed {
            self.died(&member, now, actions);
        }
        self.workers.insert(pid, member);
        self.settle(now, actions);
        actions.push(Action::LogHung { pid, silent });
        actions.push(Action::Signal { pid, signal: WorkerSignal::Abort, why: Why::Hung });
    }
}
