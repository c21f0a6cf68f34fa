//! The task queue: which engine gets which task, and when.
//!
//! The meaning of a request's metadata is that of ipyparallel 9.2 (`controller/task_scheduler.py`). Where it leaves a
//! choice, or lets a task wait for ever, these are the policies.
//!
//! # Order
//! A task that is ready is given to an engine by the [`Scheme`](crate::scheduler::Scheme), among the engines that may
//! have it and are below the high water mark. When there is none, it waits; an engine with room takes its next task at
//! once. The client that was served longest ago goes first, and a new one before all others, so that no client starves
//! another whatever it has queued. Of one client, tasks that came back from an engine go first; then the order is that
//! of submission, also for tasks that had to wait for others.
//!
//! # What nothing can come for
//! A task waits only while something may come for it: an engine that may have it is there or expected
//! ([`on_engine_expected`](TaskScheduler::on_engine_expected)), or a task that it needs has not ended. A task that any
//! engine may have waits for the first engine as long as there is none. `ImpossibleDependency` ends, as soon as it is
//! known:
//! - a task whose `targets` are all gone, were never there, or refused it;
//! - a task with `follow` whose engine is gone, is not among its targets, or would have to be several;
//! - a task that every engine there is has refused (`UnmetDependency`), unless it has a timeout and may run anywhere:
//!   then it waits for another engine for so long;
//! - a task that needs one that has ended the wrong way.
//!
//! A task that follows any one of several waits on while one of them may still end on an engine that will do. An engine
//! that goes and comes back is the same engine; tasks that were meant for it among others do not wait for it meanwhile,
//! and are not given to it again.
//!
//! # Retries
//! A task that failed with retries left goes to an engine where it has not failed yet, waiting for one if they are
//! busy. When it has failed on all of them, it goes to any but the last; when there is just that one, again to it. Only
//! a task with a timeout that may run anywhere waits for another engine instead, until its timeout, as in ipyparallel
//! (whose own tests ask for that). When an engine dies, its tasks are tried again elsewhere in the same way, or end
//! with `EngineError`. An engine that is given up may still answer: its success ends the task, wherever that is by
//! then, once.
//!
//! # Timeouts
//! A timeout counts while a task waits, each time from when it came to wait, as in ipyparallel. It never ends a task
//! that runs.
//!
//! # Memory
//! A waiting task takes less than 200 bytes beside its frames, with its part of every index; less than 300 with a
//! timeout or dependencies, and 32 more for each task that it needs. All of it is given back. What remains is the memory
//! of finished tasks, up to [`TaskConfig::finished_limit`], and the names of the last engines that have gone.

mod deadlines;
mod error;
mod flow;
mod graph;
mod ids;
mod job;
mod queues;
mod request;
mod roster;
mod slab;
mod takeover;
mod types;

use std::collections::VecDeque;
use std::time::Instant;

pub use error::TaskError;
pub use types::{
    ClientWaiting, DEFAULT_FINISHED_LIMIT, EngineLoad, JobKey, Outcome, Payload, TaskAction,
    TaskConfig, TaskSnapshot, TaskStatus, Verdict,
};

use crate::protocol::{EngineUuid, Identity, MsgId, TaskMetadata, session_of};
use deadlines::{Deadlines, Nanos};
use flow::Doom;
use graph::Checked;
use ids::{Ended, Finished, IdHash, IdHasher, JobIx, LiveIds};
use job::{Edge, EdgeIx, FAILED, Follow, Job, Kind, LOST, REFUSED, RETURNED, State, Terms};
use queues::Queues;
use request::Request;
use roster::{Presence, Roster, Slot};
use slab::{Ix, Slab};

/// Decides for every task which engine gets it, and when. `P` is the payload: the request's frames.
#[derive(Debug)]
pub struct TaskScheduler<P> {
    jobs: Slab<JobIx, Job<P>>,
    live: LiveIds,
    finished: Finished,
    hasher: IdHasher,
    edges: Slab<EdgeIx, Edge>,
    roster: Roster,
    queues: Queues,
    deadlines: Deadlines,
    submissions: u64,
    /// To be placed before the event is over, unless they end.
    ready: Vec<JobKey>,
    /// To be ended before the event is over.
    doomed: VecDeque<Doom>,
}

/// A request that makes sense.
struct Plan<'a> {
    /// None for any engine.
    targets: Option<Vec<Slot>>,
    after: Option<Checked<'a>>,
    follow: Option<Checked<'a>>,
}

impl<P: Payload> TaskScheduler<P> {
    pub fn new(config: TaskConfig) -> Self {
        Self {
            jobs: Slab::new(),
            live: LiveIds::default(),
            finished: Finished::new(config.finished_limit),
            hasher: IdHasher::default(),
            edges: Slab::new(),
            roster: Roster::new(&config),
            queues: Queues::new(),
            deadlines: Deadlines::default(),
            submissions: 0,
            ready: Vec::new(),
            doomed: VecDeque::new(),
        }
    }

    /// The engine is there and may be given tasks.
    pub fn on_engine_registered(
        &mut self,
        now: Instant,
        engine: EngineUuid,
        out: &mut Vec<TaskAction<P>>,
    ) {
        if let Some(slot) = self.roster.arrive(engine, Presence::Here) {
            self.serve(slot, out);
            self.free_the_cornered(&[]);
            self.work(now, out);
        }
    }

    /// The engine is said to come back, after a restart of the controller: tasks meant for it wait. It is registered
    /// later, or given up with [`on_engine_gone`](Self::on_engine_gone).
    pub fn on_engine_expected(
        &mut self,
        now: Instant,
        engine: EngineUuid,
        out: &mut Vec<TaskAction<P>>,
    ) {
        if self.roster.arrive(engine, Presence::Expected).is_some() {
            self.free_the_cornered(&[]);
            self.work(now, out);
        }
    }

    /// Those of a request's dependencies of which nothing is known here: tasks that ended long ago or under a former
    /// controller, or no tasks at all.
    pub fn unknown_dependencies(&self, msg_id: &str, metadata: &TaskMetadata) -> Vec<String> {
        let Ok(request) = Request::parse(metadata) else {
            return Vec::new();
        };
        let named = [&request.after, &request.follow];
        let named = named.into_iter().flatten().flat_map(|named| &named.ids);
        let unknown = named.filter(|id| **id != msg_id && self.is_unknown(id));
        unknown.map(|id| (*id).to_owned()).collect()
    }

    /// A task ended under a former controller: others may depend on it. Its engine counts where it is there or expected.
    pub fn on_ended_before(&mut self, msg_id: &str, ok: bool, engine: Option<&EngineUuid>) {
        let slot = engine.and_then(|engine| self.roster.find(engine.as_str()));
        let ended = Ended {
            ok,
            engine: slot.map(|slot| self.roster[slot].serial),
        };
        self.finished.insert(self.hasher.hash(msg_id), ended);
    }

    /// The engine is gone; `how` is a few words for the user.
    pub fn on_engine_gone(
        &mut self,
        now: Instant,
        engine: &EngineUuid,
        how: &str,
        out: &mut Vec<TaskAction<P>>,
    ) {
        let Some(slot) = self.roster.find_present(engine.as_str()) else {
            return;
        };
        let serial = self.roster[slot].serial;
        let never_came = self.is_awaited(slot);
        let mut lost = self.roster.depart(slot);
        lost.sort_unstable_by_key(|job| self.jobs[*job].sequence);
        let classes = self.queues.engine_gone(slot);
        for class in &classes {
            let mut stranded = self.queues.stranded(*class);
            stranded.sort_unstable_by_key(|job| self.jobs[*job].sequence);
            for job in stranded {
                self.class_is_empty(job);
            }
        }
        for job in lost {
            let known = &mut self.jobs[job];
            known.state = State::Moving;
            let again = never_came || (known.retries > 0 && !known.aborted);
            let class = known.class;
            if again && (!self.is_empty(class) || self.follows_more(job)) {
                if !never_came {
                    self.jobs[job].retries -= 1;
                }
                self.is_not_there(job, slot);
            } else {
                let error = TaskError::EngineDied {
                    engine: engine.clone(),
                    msg_id: self.id_of(job),
                    how: how.to_owned(),
                };
                self.doom(job, error, Some((serial, engine.clone())));
            }
        }
        self.free_the_cornered(&classes);
        self.work(now, out);
        self.roster.forget();
    }

    /// A client's request. `false` when a task of its id is here already: it is refused, and that one goes on.
    pub fn on_submit(
        &mut self,
        now: Instant,
        client: Identity,
        metadata: &TaskMetadata,
        payload: P,
        out: &mut Vec<TaskAction<P>>,
    ) -> bool {
        self.submit(now, client, metadata, payload, None, out)
    }

    /// `at`: the engine is taken to have it.
    fn submit(
        &mut self,
        now: Instant,
        client: Identity,
        metadata: &TaskMetadata,
        payload: P,
        at: Option<Slot>,
        out: &mut Vec<TaskAction<P>>,
    ) -> bool {
        let msg_id = payload.msg_id();
        let hash = self.hasher.hash(msg_id);
        let refused = |payload, error| TaskAction::Fail {
            job_payload: payload,
            client: client.clone(),
            engine: None,
            error,
        };
        if self.find(hash, msg_id).is_some() {
            let error = TaskError::Duplicate(msg_id.into());
            out.push(refused(payload, error));
            return false;
        }
        let planned = Request::parse(metadata)
            .map_err(TaskError::BadRequest)
            .and_then(|mut request| Ok((self.plan(msg_id, &mut request)?, request)));
        let (plan, request) = match planned {
            Ok(planned) => planned,
            Err(error) => {
                out.push(refused(payload, error));
                // Tasks that need it learn that it failed.
                self.finished.insert(
                    hash,
                    Ended {
                        ok: false,
                        engine: None,
                    },
                );
                return true;
            }
        };
        self.admit(client, hash, &plan, &request, payload, at);
        self.work(now, out);
        true
    }

    /// Looks up what a request names; the dependencies are moved into the plan.
    fn plan<'a>(&self, msg_id: &str, request: &mut Request<'a>) -> Result<Plan<'a>, TaskError> {
        let after = request.after.take();
        let after = after.map(|after| self.check(msg_id, after, Kind::After));
        let follow = request.follow.take();
        let follow = follow.map(|follow| self.check(msg_id, follow, Kind::Follow));
        let (after, follow) = (after.transpose()?, follow.transpose()?);
        let mut targets = None;
        if !request.targets.is_empty() {
            let known = request.targets.iter();
            let known: Vec<_> = known
                .filter_map(|uuid| self.roster.find_present(uuid))
                .collect();
            if known.is_empty() {
                return Err(TaskError::Impossible(format!(
                    "none of the engines that it is meant for is there: {}",
                    graph::some_of(&request.targets)
                )));
            }
            targets = Some(known);
        }
        Ok(Plan {
            targets,
            after: after.flatten(),
            follow: follow.flatten(),
        })
    }

    /// Makes a live job of a request, and puts it on the engine that has it, or into the list of those to be placed or of
    /// those to be ended.
    fn admit(
        &mut self,
        client: Identity,
        hash: IdHash,
        plan: &Plan<'_>,
        request: &Request<'_>,
        payload: P,
        at: Option<Slot>,
    ) {
        let class = match &plan.targets {
            Some(targets) => self.queues.hold_class(targets.clone()),
            None => self.queues.any(),
        };
        let special = request.timeout.is_some() || plan.after.is_some() || plan.follow.is_some();
        let terms = special.then(|| {
            Box::new(Terms {
                timeout: request.timeout.and_then(Nanos::new),
                deadline: None,
                targets: self.queues.hold_again(class),
                after: plan.after.as_ref().map(Checked::need),
                follow: plan.follow.as_ref().map(|follow| Follow {
                    need: follow.need(),
                    at: None,
                }),
                needs: None,
            })
        });
        self.submissions += 1;
        let session = session_of(payload.msg_id());
        let client = self.queues.join(client, session);
        let job = self.jobs.insert(Job {
            payload,
            sequence: self.submissions,
            client,
            class,
            state: State::Moving,
            retries: request.retries,
            aborted: false,
            first_dependent: None,
            last_dependent: None,
            attempts: None,
            terms,
        });
        self.live.insert(hash, job);
        for (checked, kind) in [(&plan.after, Kind::After), (&plan.follow, Kind::Follow)] {
            if let Some(checked) = checked {
                self.connect(job, checked, kind);
            }
        }
        let followed = match &plan.follow {
            Some(follow) => self.follow_ended(job, follow),
            None => Ok(()),
        };
        match (followed, at) {
            (Ok(()), Some(slot)) if self.may_have(slot, job) => self.assign(job, slot),
            (Ok(()), Some(slot)) => {
                self.may_be_answered_by(job, slot);
                self.make_ready(job);
            }
            (Ok(()), None) => self.make_ready(job),
            (Err(error), _) => self.doom(job, error, None),
        }
    }

    /// An engine's reply to a task. `engine` is the routing id that it came from.
    pub fn on_reply(
        &mut self,
        now: Instant,
        engine: &[u8],
        msg_id: &str,
        outcome: Outcome,
        out: &mut Vec<TaskAction<P>>,
    ) -> Verdict {
        let Some(slot) = self.find_engine(engine) else {
            return Verdict::Unknown;
        };
        if self.roster.lay_ghost(slot, msg_id) {
            self.serve(slot, out);
            return Verdict::Unknown;
        }
        let Some(job) = self.find(self.hasher.hash(msg_id), msg_id) else {
            return Verdict::Unknown;
        };
        let serial = self.roster[slot].serial;
        let verdict = match self.jobs[job].state {
            State::Running { engine, place } if engine == slot => {
                self.take_off(job, slot, place);
                self.answered(job, slot, outcome)
            }
            _ if self.jobs[job].marks(serial) & LOST != 0 => self.answered_late(job, slot, outcome),
            _ => return Verdict::Unknown,
        };
        self.work(now, out);
        if self.roster.is_present(slot) {
            self.serve(slot, out);
        }
        verdict
    }

    /// The engine that held the job has answered.
    fn answered(&mut self, job: JobIx, slot: Slot, outcome: Outcome) -> Verdict {
        let serial = self.roster[slot].serial;
        let known = &mut self.jobs[job];
        let mark = match outcome {
            Outcome::Unmet => REFUSED,
            Outcome::Failed if known.retries > 0 && !known.aborted => {
                known.retries -= 1;
                FAILED
            }
            Outcome::Ok | Outcome::Failed | Outcome::Aborted => {
                return self.deliver(job, slot, outcome);
            }
        };
        known.mark(serial, mark);
        self.requeue(job);
        Verdict::Requeued
    }

    /// An engine that was given up with the job has answered after all.
    fn answered_late(&mut self, job: JobIx, slot: Slot, outcome: Outcome) -> Verdict {
        let serial = self.roster[slot].serial;
        let known = &mut self.jobs[job];
        if let Some(attempts) = &mut known.attempts {
            attempts.unmark(serial, LOST);
        }
        let state = known.state;
        match outcome {
            // The retry that followed the engine's death stands for this failure.
            Outcome::Failed => Verdict::Requeued,
            Outcome::Unmet => {
                if let State::Running { .. } = state {
                    known.mark(serial, REFUSED);
                } else {
                    self.detach(job);
                    self.jobs[job].mark(serial, REFUSED);
                    self.requeue(job);
                }
                Verdict::Requeued
            }
            Outcome::Ok | Outcome::Aborted => {
                if let State::Running { engine, place } = state {
                    let moved = self.roster.haunt(engine, place, self.id_of(job));
                    self.now_at(moved, place);
                    self.jobs[job].state = State::Moving;
                } else {
                    self.detach(job);
                }
                self.deliver(job, slot, outcome)
            }
        }
    }

    fn deliver(&mut self, job: JobIx, slot: Slot, outcome: Outcome) -> Verdict {
        let engine = &mut self.roster[slot];
        engine.completed += 1;
        engine.failed += u64::from(outcome == Outcome::Failed);
        let end = Ended {
            ok: outcome == Outcome::Ok,
            engine: Some(engine.serial),
        };
        let (_, client) = self.end(job, end);
        Verdict::Deliver { client }
    }

    /// The engine is about to go, and is given nothing more until it is registered again. `engine` is its routing id.
    pub fn on_engine_leaving(&mut self, engine: &[u8]) {
        if let Some(slot) = self.find_engine(engine) {
            self.roster.leave(slot);
        }
    }

    /// The engine has sent its last answer. What it has besides was on its way to it, and goes elsewhere; it is given
    /// nothing more until it is registered again.
    /// `false`: no such engine is known.
    pub fn on_farewell(
        &mut self,
        now: Instant,
        engine: &[u8],
        out: &mut Vec<TaskAction<P>>,
    ) -> bool {
        let Some(slot) = self.find_engine(engine) else {
            return false;
        };
        self.roster.leave(slot);
        let running = self.roster[slot].running.iter();
        let unanswered: Vec<MsgId> = running.map(|job| self.id_of(*job)).collect();
        for msg_id in unanswered {
            self.on_returned(now, engine, msg_id.as_str(), out);
        }
        true
    }

    /// The engine gives a task back that its kernel has not seen. It goes to another engine, or again to this one when
    /// there is no other; no retry is used up. `false`: that engine does not have that task.
    pub fn on_returned(
        &mut self,
        now: Instant,
        engine: &[u8],
        msg_id: &str,
        out: &mut Vec<TaskAction<P>>,
    ) -> bool {
        let Some(slot) = self.find_engine(engine) else {
            return false;
        };
        if self.roster.lay_ghost(slot, msg_id) {
            self.serve(slot, out);
            return false;
        }
        let Some(job) = self.find(self.hasher.hash(msg_id), msg_id) else {
            return false;
        };
        match self.jobs[job].state {
            State::Running { engine, place } if engine == slot => {
                self.take_off(job, slot, place);
            }
            _ => return false,
        }
        let serial = self.roster[slot].serial;
        self.jobs[job].mark(serial, RETURNED);
        self.requeue(job);
        self.work(now, out);
        self.serve(slot, out);
        true
    }

    /// The engine is there and has answered a task; what it said was lost on its way. It counts as a failure.
    pub fn on_answer_lost(
        &mut self,
        now: Instant,
        engine: &[u8],
        msg_id: &str,
        out: &mut Vec<TaskAction<P>>,
    ) {
        let Some(slot) = self.find_engine(engine) else {
            return;
        };
        if self.roster.lay_ghost(slot, msg_id) {
            return self.serve(slot, out);
        }
        let Some(job) = self.find(self.hasher.hash(msg_id), msg_id) else {
            return;
        };
        match self.jobs[job].state {
            State::Running { engine, place } if engine == slot => {
                self.take_off(job, slot, place);
            }
            _ => return,
        }
        let serial = self.roster[slot].serial;
        let known = &mut self.jobs[job];
        if known.retries > 0 && !known.aborted {
            known.retries -= 1;
            known.mark(serial, FAILED);
            self.requeue(job);
        } else {
            let engine = self.roster[slot].uuid.clone();
            let error = TaskError::AnswerLost {
                engine: engine.clone(),
                msg_id: self.id_of(job),
            };
            self.doom(job, error, Some((serial, engine)));
        }
        self.work(now, out);
        self.serve(slot, out);
    }

    /// Ends those of the tasks that wait; how many. One that runs is the engine's affair, but is not tried again.
    pub fn on_abort(
        &mut self,
        now: Instant,
        msg_ids: &[&str],
        out: &mut Vec<TaskAction<P>>,
    ) -> usize {
        // All of them before any, so that none fails for want of another.
        for msg_id in msg_ids {
            let Some(job) = self.find(self.hasher.hash(msg_id), msg_id) else {
                continue;
            };
            match self.jobs[job].state {
                State::Running { .. } => self.jobs[job].aborted = true,
                State::Doomed => {}
                _ => self.doom(job, TaskError::Aborted, None),
            }
        }
        let ended = self.doomed.len();
        self.work(now, out);
        ended
    }

    /// Ends the tasks whose timeout has passed.
    pub fn on_time(&mut self, now: Instant, out: &mut Vec<TaskAction<P>>) {
        while let Some(job) = self.deadlines.pop_passed(now) {
            let known = &mut self.jobs[job];
            let limit = known.timeout().map(Nanos::duration).unwrap_or_default();
            let blocked = matches!(known.state, State::Blocked);
            if let Some(terms) = &mut known.terms {
                terms.deadline = None;
            }
            self.doom(job, TaskError::Timeout { limit, blocked }, None);
        }
        self.work(now, out);
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// The request's frames.
    pub fn payload(&self, job: JobKey) -> Option<&P> {
        self.of_key(job).map(|job| &job.payload)
    }

    pub fn msg_id(&self, job: JobKey) -> Option<&str> {
        self.payload(job).map(Payload::msg_id)
    }

    /// The engine is expected, and not registered.
    pub fn is_expected(&self, engine: &EngineUuid) -> bool {
        let slot = self.roster.find(engine.as_str());
        slot.is_some_and(|slot| self.is_awaited(slot))
    }

    /// The task has not ended.
    pub fn is_live(&self, msg_id: &str) -> bool {
        self.find(self.hasher.hash(msg_id), msg_id).is_some()
    }

    /// Where a task is; none when it was never here or has been forgotten.
    pub fn status(&self, msg_id: &str) -> Option<TaskStatus> {
        let hash = self.hasher.hash(msg_id);
        let Some(job) = self.find(hash, msg_id) else {
            let end = self.finished.get(hash)?;
            return Some(TaskStatus::Finished { ok: end.ok });
        };
        Some(match self.jobs[job].state {
            State::Running { engine, .. } => TaskStatus::Running(self.roster[engine].uuid.clone()),
            _ => TaskStatus::Waiting,
        })
    }

    /// Are there tasks that have not ended?
    pub fn has_pending(&self) -> bool {
        self.jobs.len() > 0
    }

    /// Those that are expected included.
    pub fn engine_count(&self) -> usize {
        self.roster.present()
    }

    pub fn snapshot(&self) -> TaskSnapshot {
        let engines = self.roster.iter().map(|(_, engine)| engine);
        let mut here: Vec<_> = engines
            .filter(|engine| engine.presence == Presence::Here)
            .collect();
        here.sort_unstable_by_key(|engine| engine.serial);
        let running: usize = here.iter().map(|engine| engine.running.len()).sum();
        TaskSnapshot {
            engines: here
                .into_iter()
                .map(|engine| EngineLoad {
                    uuid: engine.uuid.clone(),
                    pending: engine.load() as u64,
                    completed: engine.completed,
                    failed: engine.failed,
                })
                .collect(),
            waiting: (self.jobs.len() - running) as u64,
        }
    }

    /// What waits of every client that has tasks here, in no order.
    pub fn waiting_by_client(&self) -> impl Iterator<Item = ClientWaiting<'_>> {
        self.queues.waiting()
    }

    /// The tasks outstanding on an engine, in the order of submission; behind them those that it works on though they
    /// have ended by another engine's late reply.
    pub fn pending_ids(&self, engine: &EngineUuid) -> Vec<MsgId> {
        let Some(slot) = self.roster.find(engine.as_str()) else {
            return Vec::new();
        };
        let engine = &self.roster[slot];
        let mut ids = self.ids_in_order(engine.running.iter().map(|job| &self.jobs[*job]));
        ids.extend(engine.ghosts.iter().cloned());
        ids
    }

    /// The tasks that are on no engine that is there, in the order of submission.
    pub fn waiting_ids(&self) -> Vec<MsgId> {
        let jobs = self.jobs.iter().map(|(_, job)| job);
        let runs = |state| match state {
            State::Running { engine, .. } => self.roster[engine].presence == Presence::Here,
            _ => false,
        };
        self.ids_in_order(jobs.filter(|job| !runs(job.state)))
    }

    fn ids_in_order<'a>(&'a self, jobs: impl Iterator<Item = &'a Job<P>>) -> Vec<MsgId>
    where
        P: 'a,
    {
        let mut jobs: Vec<_> = jobs.collect();
        jobs.sort_unstable_by_key(|job| job.sequence);
        jobs.into_iter()
            .map(|job| MsgId::from(job.payload.msg_id()))
            .collect()
    }

    fn find(&self, hash: IdHash, msg_id: &str) -> Option<JobIx> {
        self.live
            .find(hash, |job| self.jobs[job].payload.msg_id() == msg_id)
    }

    fn id_of(&self, job: JobIx) -> MsgId {
        MsgId::from(self.jobs[job].payload.msg_id())
    }

    /// By its routing id, which is its uuid.
    fn find_engine(&self, engine: &[u8]) -> Option<Slot> {
        self.roster.find(std::str::from_utf8(engine).ok()?)
    }

    fn key(&self, job: JobIx) -> JobKey {
        JobKey {
            index: job.index(),
            generation: self.jobs.generation(job).unwrap_or_default(),
        }
    }

    fn of_key(&self, key: JobKey) -> Option<&Job<P>> {
        let job = JobIx::new(key.index);
        (self.jobs.generation(job) == Some(key.generation)).then(|| &self.jobs[job])
    }
}

/// Tests invent what comes after it.
#[cfg(test)]
fn some_instant() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
