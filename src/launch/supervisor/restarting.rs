//! Engines that somebody wants to have anew: their processes end, and others are started in their place.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Action, Member, Phase, Process, Supervisor};
use crate::launch::report::Report;
use crate::protocol::EngineId;

/// A restart that is under way.
#[derive(Debug)]
pub(super) struct Restarting {
    began: Instant,
    /// The engines of before.
    old: BTreeSet<EngineId>,
    /// What has not ended by then is killed.
    kill_at: Option<Instant>,
    /// The new engines have to be registered by then.
    until: Instant,
}

impl Restarting {
    pub(super) fn next_deadline(&self) -> Instant {
        self.kill_at
            .map_or(self.until, |kill_at| kill_at.min(self.until))
    }
}

impl Supervisor {
    /// All engines of this supervisor are to be started again. An error says why they cannot be now;
    /// [`Action::Restarted`] says how it went.
    pub fn on_restart_requested(
        &mut self,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), &'static str> {
        if self.restarting.is_some() {
            return Err("its engines are being started again already");
        }
        match self.phase {
            Phase::Up => {}
            Phase::Stopping { .. } | Phase::Over => return Err("it is about to end"),
            _ => return Err("it is still starting"),
        }
        out.push(Action::Report(Report::Restarting));
        self.restarting = Some(Restarting {
            began: now,
            old: self.registered.clone(),
            kill_at: now.checked_add(self.plan.grace),
            until: now + self.plan.grace + self.plan.engine_timeout,
        });
        let mut absent = Vec::new();
        for (number, set) in &mut self.sets {
            set.restart_at = None;
            match set.process {
                Process::Running => {
                    set.again = true;
                    out.push(Action::Terminate(Member::Engines(*number)));
                }
                // It is new enough.
                Process::Starting => {}
                Process::Absent if set.engines > 0 => absent.push(*number),
                Process::Absent => {}
            }
        }
        for number in absent {
            self.spawn(now, Member::Engines(number), out);
        }
        self.check_restarted(now, out);
        Ok(())
    }

    pub(super) fn on_restart_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(restarting) = &mut self.restarting else {
            return;
        };
        if restarting.kill_at.is_some_and(|at| at <= now) {
            restarting.kill_at = None;
            let late = self
                .sets
                .iter()
                .filter(|(_, set)| set.again && set.process == Process::Running);
            out.extend(late.map(|(number, _)| Action::Kill(Member::Engines(*number))));
        }
        if restarting.until <= now {
            let count = self.fresh();
            self.restarting = None;
            out.push(Action::Report(Report::TooFew {
                count,
                of: self.wanted(),
                seconds: self.plan.engine_timeout.as_secs_f64(),
            }));
            out.push(Action::Restarted { complete: false });
        }
    }

    /// Are all there again?
    pub(super) fn check_restarted(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(restarting) = &self.restarting else {
            return;
        };
        let wanted = self.wanted();
        let ending = self.sets.values().any(|set| set.again);
        if !ending && self.fresh() >= usize::try_from(wanted).unwrap_or(usize::MAX) {
            out.push(Action::Report(Report::EnginesRestarted {
                count: wanted,
                took: now.saturating_duration_since(restarting.began),
            }));
            out.push(Action::Restarted { complete: true });
            self.restarting = None;
        }
    }

    fn fresh(&self) -> usize {
        match &self.restarting {
            Some(restarting) => self.registered.difference(&restarting.old).count(),
            None => 0,
        }
    }
}
