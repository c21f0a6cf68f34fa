//! Decides what becomes of a cluster's processes: what is started when, and what follows when one ends. Pure: events
//! and the time come in, actions come out, and `conduct` performs them.
//!
//! The controller's end is the cluster's end. A set of engines whose process dies is started again, a few times, unless
//! it ended because its kernels died and are to stay dead; a single engine that leaves is news and nothing more. Nothing
//! is left behind: `Exit` comes when every process is gone.

mod ends;
mod expected;
mod restarting;
mod scaling;
mod stopping;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::elastic::Elastic;
use super::report::Report;
use crate::protocol::EngineId;
use restarting::Restarting;

pub use types::{Action, JobEnd, Member, Outcome, Plan, SetNo, Status, StopReason};

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
    /// Where it runs, or why it waits.
    note: String,
    /// How often it was started.
    starts: u32,
    restarts: VecDeque<Instant>,
    restart_at: Option<Instant>,
    /// When it was started.
    began: Option<Instant>,
    /// Where it is started, of the plan's machines.
    machine: Option<usize>,
    /// Its end is followed by another start, as somebody wants it.
    again: bool,
    /// It was told to end while it waited in a queue.
    withdrawn: bool,
    /// Its engines that have registered, where the hub says whose they are.
    seen: BTreeSet<EngineId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    /// Until the controller listens; then, after a pause, the engines are started.
    Controller {
        /// For one that waits in the queue of a batch system: until whoever waits for the cluster is told so.
        deadline: Option<Instant>,
    },
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
    was_up: bool,
    /// Of this supervisor's plan, as the hub says.
    registered: BTreeSet<EngineId>,
    /// Engines that were there before.
    others: BTreeSet<EngineId>,
    restarting: Option<Restarting>,
    /// Engines that were asked to end.
    retiring: BTreeSet<EngineId>,
    elastic: Option<Elastic>,
}

impl Supervisor {
    pub fn new(plan: Plan, now: Instant) -> Self {
        let has_machines = !plan.machines.is_empty();
        let sets = (0..).map(SetNo).zip(plan.sets.iter().enumerate());
        let sets = sets.map(|(number, (place, engines))| {
            let set = Set {
                engines: *engines,
                machine: has_machines.then_some(place),
                ..Set::default()
            };
            (number, set)
        });
        let elastic = plan.elastic.clone().map(Elastic::new);
        Self {
            sets: sets.collect(),
            plan,
            phase: Phase::New,
            began: now,
            controller: Process::Absent,
            place: String::new(),
            told_ready: false,
            was_up: false,
            registered: BTreeSet::new(),
            others: BTreeSet::new(),
            restarting: None,
            retiring: BTreeSet::new(),
            elastic,
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
            self.phase = Phase::Controller { deadline: None };
            self.spawn(now, Member::Controller, out);
        } else {
            self.start_engines(now, out);
        }
    }

    /// Engines that this supervisor is to start.
    fn wanted(&self) -> u32 {
        self.sets.values().map(|set| set.engines).sum()
    }

    /// The machine on which a set is to be started, by its place in the plan.
    pub fn machine_of(&self, number: SetNo) -> Option<usize> {
        self.sets.get(&number)?.machine
    }

    /// Of one set.
    pub fn engines_of(&self, number: SetNo) -> u32 {
        self.sets.get(&number).map_or(0, |set| set.engines)
    }

    /// It has been started at `place`: a process, a job, a process of another host.
    pub fn on_started(&mut self, member: Member, place: String, out: &mut Vec<Action>) {
        *self.process(member) = Process::Running;
        match member {
            Member::Controller => self.place = place,
            Member::Engines(number) => {
                let count = self.engines_of(number);
                if let Some(set) = self.sets.get_mut(&number) {
                    set.note.clone_from(&place);
                }
                out.push(Action::Report(Report::EnginesStarting { count, place }));
                out.push(Action::WriteFiles);
            }
        }
        if matches!(self.phase, Phase::Stopping { .. }) {
            out.push(Action::Terminate(member));
        }
    }

    /// A batch system lets a job wait, as is also the case when it has interrupted one.
    pub fn on_queued(&mut self, now: Instant, member: Member, why: String, out: &mut Vec<Action>) {
        // Whoever waits is told once; reasons to wait may change for days.
        if let (Member::Controller, Phase::Controller { deadline }) = (member, &mut self.phase)
            && !self.told_ready
        {
            let patience = self.plan.engine_timeout;
            *deadline = deadline.or_else(|| now.checked_add(patience));
        }
        if let Member::Engines(number) = member
            && let Some(set) = self.sets.get_mut(&number)
        {
            set.queued = true;
            set.note.clone_from(&why);
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
            set.note.clone_from(&place);
        }
        // That a controller runs may be learned when it has been ready for long.
        match (member, &mut self.phase) {
            (Member::Controller, Phase::Controller { deadline }) => *deadline = None,
            (Member::Engines(_), Phase::Engines { deadline }) => {
                *deadline = now.checked_add(self.plan.engine_timeout);
            }
            _ => {}
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
        if let (Phase::Up, Some(_), Member::Engines(number)) = (self.phase, &self.elastic, member) {
            self.sets.remove(&number);
            return self.on_elastic_failure(now);
        }
        self.stop(now, Outcome::Failed(1), out);
    }

    /// The controller listens, and its connection files are there.
    pub fn on_controller_ready(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Controller { .. }) {
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
            Phase::Controller { .. } | Phase::Pause { .. } | Phase::Engines { .. } => {
                out.push(Action::Report(Report::EngineRegistered {
                    engine,
                    count: self.registered.len(),
                    of: self.wanted(),
                    took: now.saturating_duration_since(self.began),
                }));
                self.check_complete(now, out);
            }
            Phase::Up => {
                out.push(Action::Report(Report::EngineCame {
                    engine,
                    count: self.registered.len() + self.others.len(),
                }));
                self.check_restarted(now, out);
            }
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
        let wanted = self.retiring.remove(&engine) || self.restarting.is_some();
        out.push(Action::Report(Report::EngineLeft {
            engine,
            count,
            wanted,
        }));
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
            Phase::Controller { deadline } | Phase::Engines { deadline } => deadline,
            Phase::Up => {
                let restart = self.restarting.as_ref().map(Restarting::next_deadline);
                let sets = self.sets.values().filter_map(|set| set.restart_at);
                sets.chain(restart).min()
            }
            Phase::Stopping { kill_at, .. } => kill_at,
            Phase::New | Phase::Over => None,
        }
    }

    pub fn on_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match &mut self.phase {
            Phase::Pause { .. } => self.start_engines(now, out),
            Phase::Controller { deadline } => {
                // Nobody knows for how long; everything else follows when it runs.
                *deadline = None;
                out.push(Action::Report(Report::StillQueued(Member::Controller)));
                self.tell_ready(out);
            }
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
                    self.spawn(now, Member::Engines(number), out);
                }
                self.on_restart_time(now, out);
            }
            Phase::Stopping { kill_at, .. } => {
                *kill_at = None;
                out.push(Action::Report(Report::TooSlow {
                    seconds: self.plan.grace.as_secs_f64(),
                }));
                self.kill_all(out);
            }
            Phase::New | Phase::Over => {}
        }
    }

    /// Not all engines are there in time.
    fn on_engine_timeout(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Some((number, _)) = self.sets.iter().find(|(_, set)| set.queued) {
            // Nobody knows for how long; when it runs, its engines have their time.
            let member = Member::Engines(*number);
            out.push(Action::Report(Report::StillQueued(member)));
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
            self.spawn(now, Member::Engines(number), out);
        }
        self.check_complete(now, out);
    }

    fn check_complete(&mut self, now: Instant, out: &mut Vec<Action>) {
        let wanted = usize::try_from(self.wanted()).unwrap_or(usize::MAX);
        if matches!(self.phase, Phase::Engines { .. }) && self.registered.len() >= wanted {
            self.phase = Phase::Up;
            self.was_up = true;
            let took = now.saturating_duration_since(self.began);
            out.push(Action::Report(Report::Up {
                engines: self.wanted(),
                with_controller: self.plan.with_controller,
                took,
                end: self.plan.end.clone(),
            }));
            out.push(Action::WriteFiles);
            self.tell_ready(out);
        }
    }

    /// Has everything that was asked for been there?
    pub fn has_been_up(&self) -> bool {
        self.was_up
    }

    fn spawn(&mut self, now: Instant, member: Member, out: &mut Vec<Action>) {
        *self.process(member) = Process::Starting;
        if let Member::Engines(number) = member {
            let set = self.sets.entry(number).or_default();
            set.began = Some(now);
            set.seen.clear();
            set.starts += 1;
            set.note.clear();
        }
        out.push(Action::Spawn(member));
    }

    fn process(&mut self, member: Member) -> &mut Process {
        match member {
            Member::Controller => &mut self.controller,
            Member::Engines(number) => &mut self.sets.entry(number).or_default().process,
        }
    }
}

#[cfg(test)]
mod tests;
