//! How a cluster ends: the engines first, then the controller; what does not end in time is killed.

use std::time::Instant;

use super::{Action, Member, Outcome, Phase, Process, StopReason, Supervisor};
use crate::launch::report::Report;

impl Supervisor {
    /// Ends everything in order. A second interruption kills what is left.
    pub fn on_stop_requested(&mut self, now: Instant, reason: StopReason, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Over => {}
            Phase::Stopping { kill_at, .. } => {
                if reason == StopReason::Interrupted {
                    *kill_at = None;
                    out.push(Action::Report(Report::Killing));
                    self.kill_all(out);
                }
            }
            // What has come up needs nobody who waits for it any more.
            Phase::Up if reason == StopReason::FrontGone => {}
            _ => {
                out.push(Action::Report(Report::Stopping { reason }));
                let outcome = self.outcome_of_a_wish();
                self.stop(now, outcome, out);
            }
        }
    }

    /// The engines first: then they take their leave from a controller that is still there.
    pub(super) fn stop(&mut self, now: Instant, outcome: Outcome, out: &mut Vec<Action>) {
        if self.restarting.take().is_some() {
            out.push(Action::Restarted { complete: false });
        }
        self.phase = Phase::Stopping {
            outcome,
            kill_at: now.checked_add(self.plan.grace),
        };
        for (number, set) in &mut self.sets {
            set.restart_at = None;
            set.again = false;
            // What is starting gets its request when it has started.
            if set.process == Process::Running {
                out.push(Action::Terminate(Member::Engines(*number)));
            }
        }
        self.go_on_stopping(out);
    }

    pub(super) fn go_on_stopping(&mut self, out: &mut Vec<Action>) {
        let Phase::Stopping { outcome, .. } = self.phase else {
            return;
        };
        if self.sets.values().any(|set| set.process != Process::Absent) {
            return;
        }
        match self.controller {
            Process::Absent => {
                self.phase = Phase::Over;
                out.push(Action::RemoveFiles);
                out.push(Action::Report(Report::Over {
                    with_controller: self.plan.with_controller,
                }));
                out.push(Action::Exit(outcome));
            }
            Process::Running => out.push(Action::Terminate(Member::Controller)),
            Process::Starting => {}
        }
    }

    pub(super) fn kill_all(&self, out: &mut Vec<Action>) {
        let sets = self.sets.iter();
        let engines = sets.map(|(number, set)| (Member::Engines(*number), set.process));
        let all = engines.chain([(Member::Controller, self.controller)]);
        let running = all.filter(|(_, process)| *process == Process::Running);
        out.extend(running.map(|(member, _)| Action::Kill(member)));
    }

    pub(super) fn outcome_of_a_wish(&self) -> Outcome {
        if self.phase == Phase::Up {
            Outcome::Stopped
        } else {
            Outcome::Interrupted
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Over)
    }
}
