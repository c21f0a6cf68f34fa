//! Decides what becomes of a cluster's processes: what is started when, and what follows when one ends. Pure: events
//! and the time come in, actions come out, and `conduct` performs them.
//!
//! The controller's end is the cluster's end. A set of engines whose process dies is started again, a few times; a single
//! engine that leaves is news and nothing more. Nothing is left behind: `Exit` comes when every process is gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::report::Report;
use crate::protocol::EngineId;

/// What this supervisor starts and ends as one: a process, or a job of a batch system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    Controller,
    Engines(SetNo),
}

/// The number of a set of engines in its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetNo(pub u32);

/// How a process or a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Code(i32),
    Signal(i32),
    /// A batch system says so.
    Job(JobEnd),
}

/// How a job ended, in the words that batch systems have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Completed,
    /// By its owner or an administrator.
    Cancelled,
    Failed,
    TimeLimit,
    NodeFailure,
    Preempted,
    OutOfMemory,
    /// It is not among the system's jobs any more.
    Gone,
}

impl Status {
    /// Did it end by itself, or as it was told to?
    fn is_orderly(self) -> bool {
        matches!(self, Self::Code(0) | Self::Job(JobEnd::Completed))
    }
}

impl std::fmt::Display for JobEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Completed => "its job is complete",
            Self::Cancelled => "its job was cancelled",
            Self::Failed => "its job has failed",
            Self::TimeLimit => "its job has reached its time limit",
            Self::NodeFailure => "a node of its job has failed",
            Self::Preempted => "its job had to make room for another one",
            Self::OutOfMemory => "its job was out of memory",
            Self::Gone => "its job is not in the queue any more",
        })
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Job(end) => end.fmt(f),
        }
    }
}

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Else the engines join a controller that runs already.
    pub with_controller: bool,
    /// The engines of each set.
    pub sets: Vec<u32>,
    /// Start a set again that has died.
    pub restart: bool,
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
    Relay(SetNo, i32),
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Process {
    #[default]
    Absent,
    Starting,
    Running,
}

/// A set of engines.
#[derive(Debug, Default)]
struct Set {
    engines: u32,
    process: Process,
    /// It waits in the queue of a batch system.
    queued: bool,
    restarts: VecDeque<Instant>,
    restart_at: Option<Instant>,
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
    /// Where the controller runs.
    place: String,
    sets: BTreeMap<SetNo, Set>,
    /// Whoever waits for the cluster has been told that it is there.
    told_ready: bool,
    /// Of this supervisor's plan, as the hub says.
    registered: BTreeSet<EngineId>,
    /// Engines that were there before.
    others: BTreeSet<EngineId>,
}

impl Supervisor {
    pub fn new(plan: Plan, now: Instant) -> Self {
        let sets = (0..).map(SetNo).zip(&plan.sets);
        let sets = sets.map(|(number, engines)| {
            let set = Set {
                engines: *engines,
                ..Set::default()
            };
            (number, set)
        });
        Self {
            sets: sets.collect(),
            plan,
            phase: Phase::New,
            began: now,
            controller: Process::Absent,
            place: String::new(),
            told_ready: false,
            registered: BTreeSet::new(),
            others: BTreeSet::new(),
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

    /// Engines that this supervisor is to start.
    fn wanted(&self) -> u32 {
        self.plan.sets.iter().sum()
    }

    /// It has been started at `place`: a process, a job, a process of another host.
    pub fn on_started(&mut self, member: Member, place: String, out: &mut Vec<Action>) {
        *self.process(member) = Process::Running;
        match member {
            Member::Controller => self.place = place,
            Member::Engines(number) => {
                let set = &self.sets[&number];
                let count = set.engines;
                out.push(Action::Report(Report::EnginesStarting { count, place }));
                out.push(Action::WriteFiles);
            }
        }
        if matches!(self.phase, Phase::Stopping { .. }) {
            out.push(Action::Terminate(member));
        }
    }

    /// A batch system lets a job wait, as is also the case when it has interrupted one.
    pub fn on_queued(&mut self, member: Member, why: String, out: &mut Vec<Action>) {
        if let Member::Engines(number) = member
            && let Some(set) = self.sets.get_mut(&number)
        {
            set.queued = true;
        }
        if !self.is_over() {
            out.push(Action::Report(Report::Queued { member, why }));
        }
    }

    /// A job that waited in the queue runs now, so that its engines are to be expected.
    pub fn on_runs(&mut self, now: Instant, member: Member, place: String, out: &mut Vec<Action>) {
        if let Member::Engines(number) = member
            && let Some(set) = self.sets.get_mut(&number)
        {
            set.queued = false;
        }
        if let Phase::Engines { deadline } = &mut self.phase {
            *deadline = now.checked_add(self.plan.engine_timeout);
        }
        if !self.is_over() {
            out.push(Action::Report(Report::Runs { member, place }));
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
        let took = now.saturating_duration_since(self.began);
        let place = self.place.clone();
        out.push(Action::Report(Report::ControllerReady { place, took }));
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
        if self.is_over() {
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
                    of: self.wanted(),
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
        if !self.is_over() {
            out.push(Action::Report(Report::EngineEnded { engine, why }));
        }
    }

    /// The controller serves a status page.
    pub fn on_dashboard(&mut self, address: String, out: &mut Vec<Action>) {
        out.push(Action::Report(Report::Dashboard(address)));
    }

    /// Something that the user should know, from one of the programs.
    pub fn on_warning(&mut self, text: String, out: &mut Vec<Action>) {
        out.push(Action::Report(Report::Warning(text)));
    }

    pub fn on_left(&mut self, engine: EngineId, out: &mut Vec<Action>) {
        let known = self.registered.remove(&engine) | self.others.remove(&engine);
        if !known || self.is_over() {
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
        if !self.plan.restart {
            out.push(Action::Report(Report::EnginesLost { status }));
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
        let running: Vec<SetNo> = self
            .sets
            .iter()
            .filter(|(_, set)| set.process == Process::Running)
            .map(|(number, _)| *number)
            .collect();
        if !running.is_empty() {
            out.push(Action::Report(Report::Relaying { signal }));
        }
        out.extend(
            running
                .into_iter()
                .map(|number| Action::Relay(number, signal)),
        );
    }

    /// When [`Self::on_time`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Pause { until } => Some(until),
            Phase::Engines { deadline } => deadline,
            Phase::Up => self.sets.values().filter_map(|set| set.restart_at).min(),
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
                self.on_engine_timeout(now, out);
            }
            Phase::Up => {
                let due: Vec<SetNo> = self
                    .sets
                    .iter_mut()
                    .filter(|(_, set)| set.restart_at.is_some_and(|at| at <= now))
                    .map(|(number, set)| {
                        set.restart_at = None;
                        *number
                    })
                    .collect();
                for number in due {
                    self.spawn(Member::Engines(number), out);
                }
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

    /// Not all engines are there in time.
    fn on_engine_timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.sets.values().any(|set| set.queued) {
            // Nobody knows for how long; when it runs, its engines have their time.
            out.push(Action::Report(Report::StillQueued));
            self.tell_ready(out);
            return;
        }
        out.push(Action::Report(Report::TooFew {
            count: self.registered.len(),
            of: self.wanted(),
            seconds: self.plan.engine_timeout.as_secs_f64(),
        }));
        out.extend(
            self.sets
                .keys()
                .map(|number| Action::ShowLog(Member::Engines(*number))),
        );
        if self.plan.give_up && !self.told_ready {
            self.stop(now, Outcome::Failed(1), out);
        }
    }

    fn tell_ready(&mut self, out: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.told_ready, true) {
            out.push(Action::Ready);
        }
    }

    fn start_engines(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.phase = Phase::Engines {
            deadline: now.checked_add(self.plan.engine_timeout),
        };
        let wanted = self.sets.iter().filter(|(_, set)| set.engines > 0);
        let wanted: Vec<SetNo> = wanted.map(|(number, _)| *number).collect();
        for number in wanted {
            self.spawn(Member::Engines(number), out);
        }
        self.check_complete(now, out);
    }

    fn check_complete(&mut self, now: Instant, out: &mut Vec<Action>) {
        let wanted = usize::try_from(self.wanted()).unwrap_or(usize::MAX);
        if matches!(self.phase, Phase::Engines { .. }) && self.registered.len() >= wanted {
            self.phase = Phase::Up;
            let took = now.saturating_duration_since(self.began);
            out.push(Action::Report(Report::Up {
                engines: self.wanted(),
                with_controller: self.plan.with_controller,
                took,
            }));
            out.push(Action::WriteFiles);
            self.tell_ready(out);
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. } | Phase::Over)
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
        self.phase = Phase::Stopping {
            outcome,
            kill_at: now.checked_add(self.plan.grace),
        };
        for (number, set) in &mut self.sets {
            set.restart_at = None;
            // What is starting gets its request when it has started.
            if set.process == Process::Running {
                out.push(Action::Terminate(Member::Engines(*number)));
            }
        }
        self.go_on_stopping(out);
    }

    fn go_on_stopping(&mut self, out: &mut Vec<Action>) {
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

    fn kill_all(&self, out: &mut Vec<Action>) {
        let sets = self.sets.iter();
        let engines = sets.map(|(number, set)| (Member::Engines(*number), set.process));
        let all = engines.chain([(Member::Controller, self.controller)]);
        let running = all.filter(|(_, process)| *process == Process::Running);
        out.extend(running.map(|(member, _)| Action::Kill(member)));
    }

    fn process(&mut self, member: Member) -> &mut Process {
        match member {
            Member::Controller => &mut self.controller,
            Member::Engines(number) => &mut self.sets.entry(number).or_default().process,
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
