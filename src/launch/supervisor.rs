//! Decides what becomes of a cluster's processes: what is started when, and what follows when one ends. Pure: events
//! and the time come in, actions come out, and `conduct` performs them.
//!
//! The controller's end is the cluster's end. The engines' process is started again when it dies, a few times; a single
//! engine that leaves is news and nothing more. Nothing is left behind: `Exit` comes when every process is gone.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::report::Report;
use crate::protocol::EngineId;

/// A process that this supervisor starts. All engines of a host are one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    Controller,
    Engines,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Code(i32),
    Signal(i32),
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Else the engines join a controller that runs already.
    pub with_controller: bool,
    pub engines: u32,
    /// Between the controller and the engines.
    pub delay: Duration,
    /// In which all engines are to be registered.
    pub engine_timeout: Duration,
    /// What is done when they are not: end everything, or say so and go on.
    pub give_up: bool,
    /// Between the request to end and SIGKILL.
    pub grace: Duration,
}

/// Why a cluster is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT, by Ctrl-C or `ipcluster stop`. A second one kills.
    Interrupted,
    Terminated,
    /// The terminal was closed.
    HungUp,
    /// The command that waits for the cluster in the background has ended.
    FrontGone,
    /// The controller that these engines had joined has ended.
    ControllerGone,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody wanted it.
    Stopped,
    /// Stopped before everything was up.
    Interrupted,
    /// With the exit code that says why.
    Failed(u8),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Spawn(Member),
    /// Ask it to end.
    Terminate(Member),
    /// End it.
    Kill(Member),
    /// Pass on a signal that was meant for the engines.
    Relay(i32),
    /// The files that say what runs.
    WriteFiles,
    RemoveFiles,
    Report(Report),
    /// Show the end of what the process has written.
    ShowLog(Member),
    /// Everything that was asked for is there.
    Ready,
    /// Every process is gone.
    Exit(Outcome),
}

/// Restarts of the engines' process within [`RESTART_WINDOW`], and the pause before each.
const RESTARTS: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
];
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// Exit codes of a controller that say more than "failed", and are passed on (`cli::exit_code`).
const TELLING: [i32; 2] = [2, 10];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    Absent,
    Starting,
    Running(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    /// Until the controller listens; then, after a pause, the engines are started.
    Controller,
    Pause {
        until: Instant,
    },
    /// Until all engines are registered.
    Engines {
        deadline: Option<Instant>,
    },
    Up,
    Stopping {
        outcome: Outcome,
        kill_at: Option<Instant>,
    },
    Over,
}

#[derive(Debug)]
pub struct Supervisor {
    plan: Plan,
    phase: Phase,
    began: Instant,
    controller: Process,
    engines: Process,
    /// Of this supervisor's plan, as the hub says.
    registered: BTreeSet<EngineId>,
    /// Engines that were there before.
    others: BTreeSet<EngineId>,
    restarts: VecDeque<Instant>,
    restart_at: Option<Instant>,
}

impl Supervisor {
    pub fn new(plan: Plan, now: Instant) -> Self {
        Self {
            plan,
            phase: Phase::New,
            began: now,
            controller: Process::Absent,
            engines: Process::Absent,
            registered: BTreeSet::new(),
            others: BTreeSet::new(),
            restarts: VecDeque::new(),
            restart_at: None,
        }
    }

    /// Starts the controller, or the engines that join one. `there` are the engines that it has already.
    pub fn on_begin(
        &mut self,
        now: Instant,
        there: impl IntoIterator<Item = EngineId>,
        out: &mut Vec<Action>,
    ) {
        self.others = there.into_iter().collect();
        if self.plan.with_controller {
            self.phase = Phase::Controller;
            self.spawn(Member::Controller, out);
        } else {
            self.start_engines(now, out);
        }
    }

    pub fn on_started(&mut self, member: Member, pid: i32, out: &mut Vec<Action>) {
        *self.process(member) = Process::Running(pid);
        if member == Member::Engines {
            let count = self.plan.engines;
            out.push(Action::Report(Report::EnginesStarting { count, pid }));
            out.push(Action::WriteFiles);
        }
        if matches!(self.phase, Phase::Stopping { .. }) {
            out.push(Action::Terminate(member));
        }
    }

    pub fn on_spawn_failed(
        &mut self,
        now: Instant,
        member: Member,
        why: String,
        out: &mut Vec<Action>,
    ) {
        *self.process(member) = Process::Absent;
        out.push(Action::Report(Report::CannotStart { member, why }));
        self.stop(now, Outcome::Failed(1), out);
    }

    /// The controller listens, and its connection files are there.
    pub fn on_controller_ready(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.phase != Phase::Controller {
            return;
        }
        let pid = match self.controller {
            Process::Running(pid) => pid,
            _ => -1,
        };
        let took = now.saturating_duration_since(self.began);
        out.push(Action::Report(Report::ControllerReady { pid, took }));
        out.push(Action::WriteFiles);
        if self.plan.delay.is_zero() {
            self.start_engines(now, out);
        } else {
            let until = now + self.plan.delay;
            self.phase = Phase::Pause { until };
        }
    }

    /// The controller cannot be used, though it runs.
    pub fn on_hub_failed(&mut self, now: Instant, why: String, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Stopping { .. } | Phase::Over) {
            return;
        }
        out.push(Action::Report(Report::HubFailed(why)));
        if self.phase != Phase::Up {
            self.stop(now, Outcome::Failed(1), out);
        }
    }

    /// The hub has an engine. It may say so more than once.
    pub fn on_registered(&mut self, now: Instant, engine: EngineId, out: &mut Vec<Action>) {
        if self.others.contains(&engine) || !self.registered.insert(engine) {
            return;
        }
        match self.phase {
            Phase::Controller | Phase::Pause { .. } | Phase::Engines { .. } => {
                out.push(Action::Report(Report::EngineRegistered {
                    engine,
                    count: self.registered.len(),
                    of: self.plan.engines,
                    took: now.saturating_duration_since(self.began),
                }));
                self.check_complete(now, out);
            }
            Phase::Up => out.push(Action::Report(Report::EngineCame {
                engine,
                count: self.registered.len() + self.others.len(),
            })),
            Phase::New | Phase::Stopping { .. } | Phase::Over => {}
        }
    }

    /// An engine says why it ends; that it is gone says the hub.
    pub fn on_engine_ended(
        &mut self,
        engine: Option<EngineId>,
        why: String,
        out: &mut Vec<Action>,
    ) {
        if !matches!(self.phase, Phase::Stopping { .. } | Phase::Over) {
            out.push(Action::Report(Report::EngineEnded { engine, why }));
        }
    }

    /// Something that the user should know, from one of the programs.
    pub fn on_warning(&mut self, text: String, out: &mut Vec<Action>) {
        out.push(Action::Report(Report::Warning(text)));
    }

    pub fn on_left(&mut self, engine: EngineId, out: &mut Vec<Action>) {
        let known = self.registered.remove(&engine) | self.others.remove(&engine);
        if !known || matches!(self.phase, Phase::Stopping { .. } | Phase::Over) {
            return;
        }
        let count = self.registered.len() + self.others.len();
        out.push(Action::Report(Report::EngineLeft { engine, count }));
    }

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
        if matches!(self.phase, Phase::Stopping { .. }) {
            self.go_on_stopping(out);
            return;
        }
        match member {
            Member::Controller => self.on_controller_exited(now, status, out),
            Member::Engines => self.on_engines_exited(now, status, out),
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
        out.push(Action::Report(Report::ControllerDied { status, up }));
        out.push(Action::ShowLog(Member::Controller));
        let code = match status {
            Status::Code(code) if TELLING.contains(&code) && !up => u8::try_from(code).unwrap_or(1),
            _ => 1,
        };
        self.stop(now, Outcome::Failed(code), out);
    }

    fn on_engines_exited(&mut self, now: Instant, status: Status, out: &mut Vec<Action>) {
        if self.phase != Phase::Up {
            out.push(Action::Report(Report::EnginesFailed { status }));
            out.push(Action::ShowLog(Member::Engines));
            self.stop(now, Outcome::Failed(1), out);
            return;
        }
        out.push(Action::WriteFiles);
        if status == Status::Code(0) {
            out.push(Action::Report(Report::EnginesEnded));
            if !self.plan.with_controller {
                self.stop(now, Outcome::Stopped, out);
            }
            return;
        }
        while self
            .restarts
            .front()
            .is_some_and(|earlier| now.saturating_duration_since(*earlier) >= RESTART_WINDOW)
        {
            self.restarts.pop_front();
        }
        let pause = RESTARTS.get(self.restarts.len()).copied();
        out.push(Action::Report(Report::EnginesDied { status, pause }));
        out.push(Action::ShowLog(Member::Engines));
        match pause {
            Some(pause) => {
                self.restarts.push_back(now);
                self.restart_at = Some(now + pause);
            }
            None => self.stop(now, Outcome::Failed(1), out),
        }
    }

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

    /// A signal for the engines.
    pub fn on_relay(&mut self, signal: i32, out: &mut Vec<Action>) {
        if matches!(self.engines, Process::Running(_)) {
            out.push(Action::Report(Report::Relaying { signal }));
            out.push(Action::Relay(signal));
        }
    }

    /// When [`Self::on_time`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Pause { until } => Some(until),
            Phase::Engines { deadline } => deadline,
            Phase::Up => self.restart_at,
            Phase::Stopping { kill_at, .. } => kill_at,
            Phase::New | Phase::Controller | Phase::Over => None,
        }
    }

    pub fn on_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match &mut self.phase {
            Phase::Pause { .. } => self.start_engines(now, out),
            Phase::Engines { deadline } => {
                *deadline = None;
                out.push(Action::Report(Report::TooFew {
                    count: self.registered.len(),
                    of: self.plan.engines,
                    seconds: self.plan.engine_timeout.as_secs_f64(),
                }));
                out.push(Action::ShowLog(Member::Engines));
                if self.plan.give_up {
                    self.stop(now, Outcome::Failed(1), out);
                }
            }
            Phase::Up => {
                self.restart_at = None;
                self.spawn(Member::Engines, out);
            }
            Phase::Stopping { kill_at, .. } => {
                *kill_at = None;
                out.push(Action::Report(Report::TooSlow {
                    seconds: self.plan.grace.as_secs_f64(),
                }));
                self.kill_all(out);
            }
            Phase::New | Phase::Controller | Phase::Over => {}
        }
    }

    fn start_engines(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.phase = Phase::Engines {
            deadline: now.checked_add(self.plan.engine_timeout),
        };
        if self.plan.engines > 0 {
            self.spawn(Member::Engines, out);
        }
        self.check_complete(now, out);
    }

    fn check_complete(&mut self, now: Instant, out: &mut Vec<Action>) {
        let wanted = usize::try_from(self.plan.engines).unwrap_or(usize::MAX);
        if matches!(self.phase, Phase::Engines { .. }) && self.registered.len() >= wanted {
            self.phase = Phase::Up;
            let took = now.saturating_duration_since(self.began);
            out.push(Action::Report(Report::Up {
                engines: self.plan.engines,
                with_controller: self.plan.with_controller,
                took,
            }));
            out.push(Action::WriteFiles);
            out.push(Action::Ready);
        }
    }

    fn spawn(&mut self, member: Member, out: &mut Vec<Action>) {
        *self.process(member) = Process::Starting;
        out.push(Action::Spawn(member));
    }

    fn outcome_of_a_wish(&self) -> Outcome {
        if self.phase == Phase::Up {
            Outcome::Stopped
        } else {
            Outcome::Interrupted
        }
    }

    /// The engines first: then they take their leave from a controller that is still there.
    fn stop(&mut self, now: Instant, outcome: Outcome, out: &mut Vec<Action>) {
        self.restart_at = None;
        self.phase = Phase::Stopping {
            outcome,
            kill_at: now.checked_add(self.plan.grace),
        };
        match self.engines {
            Process::Running(_) => out.push(Action::Terminate(Member::Engines)),
            // It gets its request when it has started.
            Process::Starting => {}
            Process::Absent => self.go_on_stopping(out),
        }
    }

    fn go_on_stopping(&mut self, out: &mut Vec<Action>) {
        let Phase::Stopping { outcome, .. } = self.phase else {
            return;
        };
        match (self.engines, self.controller) {
            (Process::Absent, Process::Absent) => {
                self.phase = Phase::Over;
                out.push(Action::RemoveFiles);
                out.push(Action::Report(Report::Over {
                    with_controller: self.plan.with_controller,
                }));
                out.push(Action::Exit(outcome));
            }
            (Process::Absent, Process::Running(_)) => {
                out.push(Action::Terminate(Member::Controller));
            }
            _ => {}
        }
    }

    fn kill_all(&self, out: &mut Vec<Action>) {
        for (member, process) in [
            (Member::Engines, self.engines),
            (Member::Controller, self.controller),
        ] {
            if matches!(process, Process::Running(_)) {
                out.push(Action::Kill(member));
            }
        }
    }

    fn process(&mut self, member: Member) -> &mut Process {
        match member {
            Member::Controller => &mut self.controller,
            Member::Engines => &mut self.engines,
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
