//! What follows when a process ends.

use std::time::{Duration, Instant};

use super::{Action, Member, Outcome, Phase, Process, SetNo, Status, Supervisor};
use crate::launch::report::Report;

/// Restarts of the engines' process within [`RESTART_WINDOW`], and the pause before each.
pub(super) const RESTARTS: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
];
pub(super) const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// Exit codes of a controller that say more than "failed", and are passed on (`cli::exit_code`).
const TELLING: [i32; 2] = [2, 10];

/// Engines that end with it have lost their kernels, and their restart policy wants no others (`cli::exit_code`).
pub(super) const KERNELS_DIED: Status = Status::Code(13);

/// Of a controller whose task database does not have everything.
pub(super) const RECORDS_LOST: Status = Status::Code(14);

impl Supervisor {
    pub fn on_exited(
        &mut self,
        now: Instant,
        member: Member,
        status: Status,
        out: &mut Vec<Action>,
    ) {
        if std::mem::replace(self.process(member), Process::Absent) == Process::Absent {
            return;
        }
        if let Phase::Stopping { outcome, .. } = &mut self.phase {
            let is_controller = member == Member::Controller;
            if is_controller && status == RECORDS_LOST && *outcome == Outcome::Stopped {
                *outcome = Outcome::Failed(14);
            }
            self.go_on_stopping(out);
            return;
        }
        match member {
            Member::Controller => self.on_controller_exited(now, status, out),
            Member::Engines(number) => self.on_engines_exited(now, number, status, out),
        }
    }

    fn on_controller_exited(&mut self, now: Instant, status: Status, out: &mut Vec<Action>) {
        let up = matches!(self.phase, Phase::Up | Phase::Engines { .. });
        if up && status == Status::Code(0) {
            out.push(Action::Report(Report::ControllerEnded));
            let outcome = self.outcome_of_a_wish();
            self.stop(now, outcome, out);
            return;
        }
        // It has ended in order, and has said what is missing.
        if up && status == RECORDS_LOST {
            out.push(Action::Report(Report::ControllerEnded));
            self.stop(now, Outcome::Failed(14), out);
            return;
        }
        out.push(Action::Report(Report::ControllerDied { status, up }));
        out.push(Action::ShowLog(Member::Controller));
        let code = match status {
            Status::Code(code) if TELLING.contains(&code) && !up => u8::try_from(code).unwrap_or(1),
            _ => 1,
        };
        self.stop(now, Outcome::Failed(code), out);
    }

    fn on_engines_exited(
        &mut self,
        now: Instant,
        number: SetNo,
        status: Status,
        out: &mut Vec<Action>,
    ) {
        let member = Member::Engines(number);
        if self.phase != Phase::Up {
            out.push(Action::Report(Report::EnginesFailed { status }));
            out.push(Action::ShowLog(member));
            self.stop(now, Outcome::Failed(1), out);
            return;
        }
        if std::mem::take(&mut self.sets.entry(number).or_default().again) {
            out.push(Action::WriteFiles);
            return self.spawn(now, member, out);
        }
        if self.elastic.is_some() {
            return self.on_elastic_set_exited(now, number, status, out);
        }
        out.push(Action::WriteFiles);
        let last = self.sets.iter().all(|(other, set)| {
            *other == number || (set.process == Process::Absent && set.restart_at.is_none())
        });
        if status.is_orderly() {
            out.push(Action::Report(Report::EnginesEnded));
            if !self.plan.with_controller && last {
                self.stop(now, Outcome::Stopped, out);
            }
            return;
        }
        let set = self.sets.get_mut(&number).expect("it was running");
        let recent = |earlier: &Instant| now.saturating_duration_since(*earlier) < RESTART_WINDOW;
        set.restarts.retain(recent);
        if !self.plan.restart || status == KERNELS_DIED {
            out.push(Action::Report(if status == KERNELS_DIED {
                Report::KernelsDied
            } else {
                Report::EnginesLost {
                    status,
                    elastic: false,
                }
            }));
            if !self.plan.with_controller && last {
                self.stop(now, Outcome::Failed(1), out);
            }
            return;
        }
        let pause = RESTARTS.get(set.restarts.len()).copied();
        if let Some(pause) = pause {
            set.restarts.push_back(now);
            set.restart_at = Some(now + pause);
        }
        out.push(Action::Report(Report::EnginesDied { status, pause }));
        out.push(Action::ShowLog(member));
        // Those of other hosts go on.
        if pause.is_none() && last {
            self.stop(now, Outcome::Failed(1), out);
        }
    }
}
