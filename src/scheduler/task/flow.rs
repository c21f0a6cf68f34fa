//! The way of a job: to an engine, into a lane, back from an engine, to its end.

use std::time::Instant;

use super::ids::{Ended, JobIx};
use super::job::{FAILED, HAD, Job, RETURNED, State};
use super::queues::ClassIx;
use super::roster::{Serial, Slot};
use super::slab::Ix;
use super::{JobKey, Payload, TaskAction, TaskError, TaskScheduler};
use crate::protocol::{EngineUuid, Identity};

/// A job that the scheduler ends, with the engine that is to blame.
#[derive(Debug)]
pub(super) struct Doom {
    job: JobIx,
    error: TaskError,
    engine: Option<(Serial, EngineUuid)>,
}

/// Lists of one event keep their memory up to this length.
const KEPT: usize = 1024;

impl<P: Payload> TaskScheduler<P> {
    /// Ends and places what an event has put into the lists, and what that leads to.
    pub(super) fn work(&mut self, now: Instant, out: &mut Vec<TaskAction<P>>) {
        loop {
            while let Some(doom) = self.doomed.pop_front() {
                self.fail(doom, out);
            }
            if self.ready.is_empty() {
                break;
            }
            let mut ready = std::mem::take(&mut self.ready);
            ready.retain(|key| {
                self.of_key(*key)
                    .is_some_and(|job| job.state == State::Moving)
            });
            let sequence = |key: &JobKey| self.jobs[JobIx::new(key.index)].sequence;
            ready.sort_unstable_by_key(sequence);
            ready.dedup();
            for key in ready.drain(..) {
                self.place(now, JobIx::new(key.index), out);
            }
            self.ready = ready;
        }
        self.ready.shrink_to(KEPT);
        self.doomed.shrink_to(KEPT);
    }

    /// A job that is nowhere any more is to be placed before the event is over.
    pub(super) fn make_ready(&mut self, job: JobIx) {
        self.ready.push(self.key(job));
    }

    /// Gives an engine all it has room for.
    pub(super) fn serve(&mut self, slot: Slot, out: &mut Vec<TaskAction<P>>) {
        let serial = self.roster[slot].serial;
        while self.roster.has_room(slot) {
            let jobs = &self.jobs;
            let next = self
                .queues
                .next_for(slot, serial, |job| jobs[job].excludes(serial));
            let Some(job) = next else {
                break;
            };
            self.dispatch(job, slot, out);
        }
        self.roster.release(slot);
    }

    /// Sends a job to an engine, or lets it wait for one, or for the tasks that it needs. No engine with room can have tasks
    /// waiting that it may have, so no other is passed by.
    fn place(&mut self, now: Instant, job: JobIx, out: &mut Vec<TaskAction<P>>) {
        let known = &mut self.jobs[job];
        if known.terms.as_ref().is_some_and(|terms| !terms.are_met()) {
            known.state = State::Blocked;
            self.queues.block(known.client, known.class, job);
            self.start_clock(now, job);
            return;
        }
        if let Some(slot) = self.choose_for(job) {
            self.dispatch(job, slot, out);
            return;
        }
        let known = &self.jobs[job];
        let attempts = match &known.attempts {
            Some(attempts) if known.excludes_any() => attempts.len(),
            _ => 0,
        };
        let (lane, order) =
            self.queues
                .push(job, known.sequence, known.client, known.class, attempts);
        self.jobs[job].state = State::Ready { lane, order };
        self.start_clock(now, job);
    }

    fn choose_for(&mut self, job: JobIx) -> Option<Slot> {
        let known = &self.jobs[job];
        let members = self.queues.members(known.class);
        if !known.excludes_any() {
            if members.is_none() {
                return self.roster.choose();
            }
            if self.queues.has_waiting(known.class) {
                return None;
            }
        }
        self.roster
            .choose_among(members, |serial| known.excludes(serial))
    }

    fn dispatch(&mut self, job: JobIx, slot: Slot, out: &mut Vec<TaskAction<P>>) {
        self.assign(job, slot);
        let engine = &self.roster[slot];
        let resend = self.jobs[job].marks(engine.serial) & HAD != 0;
        out.push(TaskAction::Dispatch {
            job: self.key(job),
            engine: engine.uuid.clone(),
            resend,
        });
    }

    /// From now on the engine has the job.
    pub(super) fn assign(&mut self, job: JobIx, slot: Slot) {
        self.stop_clock(job);
        let terms = self.jobs[job].terms.as_ref();
        if terms.is_some_and(|terms| !terms.may_follow_more()) {
            self.disconnect(job);
        }
        let place = self.roster.put_on(slot, job);
        let known = &mut self.jobs[job];
        known.state = State::Running {
            engine: slot,
            place,
        };
        self.queues.served(known.client);
    }

    /// A job that does not run leaves its lane, or stops waiting for others.
    pub(super) fn detach(&mut self, job: JobIx) {
        let known = &mut self.jobs[job];
        match std::mem::replace(&mut known.state, State::Moving) {
            State::Blocked => self.queues.unblock(known.client, known.class, job),
            State::Ready { lane, order } => self.queues.remove(lane, order),
            State::Moving | State::Doomed | State::Running { .. } => {}
        }
    }

    /// A job leaves the engine that it runs on.
    pub(super) fn take_off(&mut self, job: JobIx, slot: Slot, place: u32) {
        let moved = self.roster.take_off(slot, place);
        self.now_at(moved, place);
        self.jobs[job].state = State::Moving;
    }

    /// Another job has moved to this place of the engine that it runs on.
    pub(super) fn now_at(&mut self, moved: Option<JobIx>, at: u32) {
        if let Some(moved) = moved
            && let State::Running { place, .. } = &mut self.jobs[moved].state
        {
            *place = at;
        }
    }

    /// A job that came back from an engine is to run again.
    pub(super) fn requeue(&mut self, job: JobIx) {
        if self.jobs[job].aborted {
            self.doom(job, TaskError::Aborted, None);
        } else if let Err(error) = self.give_way(job) {
            self.doom(job, error, None);
        } else {
            self.make_ready(job);
        }
    }

    /// Sees to it that a job does not stay away from every engine that it may have; see the policies of the module.
    pub(super) fn give_way(&mut self, job: JobIx) -> Result<(), TaskError> {
        let known = &self.jobs[job];
        let holds_out = known.class == self.queues.any() && known.timeout().is_some();
        let forgivable = if holds_out {
            RETURNED
        } else {
            RETURNED | FAILED
        };
        for but_last in [true, false] {
            if !self.is_cornered(job) {
                return Ok(());
            }
            if let Some(attempts) = &mut self.jobs[job].attempts {
                attempts.forgive(forgivable, but_last);
            }
        }
        if holds_out || !self.is_cornered(job) || self.follows_more(job) {
            return Ok(());
        }
        Err(TaskError::Impossible(
            "every engine that it may run on says that its dependencies are not met there"
                .to_owned(),
        ))
    }

    /// Engines have come or gone, and these classes have lost one: no job may be left that stays away from all.
    pub(super) fn free_the_cornered(&mut self, classes: &[ClassIx]) {
        for job in self.queues.at_risk(classes, self.roster.present()) {
            if matches!(self.jobs[job].state, State::Ready { .. }) && self.is_cornered(job) {
                self.detach(job);
                self.requeue(job);
            }
        }
    }

    /// Whether the job stays away from every engine, there or expected, that it may have. With no engine at all it is
    /// not: it waits, as everything does.
    pub(super) fn is_cornered(&self, job: JobIx) -> bool {
        let known = &self.jobs[job];
        let Some(attempts) = &known.attempts else {
            return false;
        };
        let members = self.queues.members(known.class);
        let engines = members.map_or_else(|| self.roster.present(), <[_]>::len);
        if engines == 0 || attempts.len() < engines {
            return false;
        }
        let excluded = attempts.excluded().filter(|(serial, _)| {
            self.roster.present_with(*serial).is_some_and(|slot| {
                members.is_none_or(|members| members.binary_search(&slot).is_ok())
            })
        });
        excluded.count() == engines
    }

    /// The scheduler ends a job that does not run, before the event is over.
    pub(super) fn doom(
        &mut self,
        job: JobIx,
        error: TaskError,
        engine: Option<(Serial, EngineUuid)>,
    ) {
        self.detach(job);
        self.jobs[job].state = State::Doomed;
        self.doomed.push_back(Doom { job, error, engine });
    }

    fn fail(&mut self, doom: Doom, out: &mut Vec<TaskAction<P>>) {
        let (serial, uuid) = doom.engine.unzip();
        let end = Ended {
            ok: false,
            engine: serial,
        };
        let (job, client) = self.end(doom.job, end);
        out.push(TaskAction::Fail {
            job_payload: job.payload,
            client,
            engine: uuid,
            error: doom.error,
        });
    }

    /// Forgets a job that is nowhere any more, but for how it ended, and tells those that need it.
    pub(super) fn end(&mut self, job: JobIx, end: Ended) -> (Job<P>, Identity) {
        self.stop_clock(job);
        self.disconnect(job);
        let known = self.jobs.remove(job);
        let hash = self.hasher.hash(known.payload.msg_id());
        self.live.remove(hash, job);
        self.finished.insert(hash, end);
        self.queues.let_go(known.class);
        if let Some(terms) = &known.terms {
            self.queues.let_go(terms.targets);
        }
        let client = self.queues.leave(known.client);
        self.tell_dependents(&known, end);
        (known, client)
    }

    /// The job's timeout runs while it waits, from when it came to wait.
    pub(super) fn start_clock(&mut self, now: Instant, job: JobIx) {
        if let Some(terms) = &mut self.jobs[job].terms
            && terms.deadline.is_none()
            && let Some(timeout) = terms.timeout
            && let Some(deadline) = self.deadlines.add(now, timeout, job)
        {
            terms.deadline = Some(deadline);
        }
    }

    fn stop_clock(&mut self, job: JobIx) {
        if let Some(terms) = &mut self.jobs[job].terms
            && let Some(deadline) = terms.deadline.take()
        {
            self.deadlines.remove(deadline, job);
        }
    }
}
