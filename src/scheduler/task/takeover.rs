//! What a former controller's engines are still at work on.
//!
//! A task that such an engine had is taken to be there until the engine is registered and says what it has: that runs on,
//! whatever the high water mark; the rest goes to any engine, as does everything if the engine does not come.

use std::collections::HashSet;
use std::time::Instant;

use super::ids::JobIx;
use super::job::{LOST, State};
use super::roster::{Presence, Slot};
use super::{Payload, TaskAction, TaskScheduler};
use crate::protocol::{EngineUuid, Identity, MsgId, TaskMetadata};

impl<P: Payload> TaskScheduler<P> {
    /// A former controller's request, which it had given to `engine`. If that is expected, the task is taken to be there,
    /// unless it has to wait for others or is meant for other engines; in any other case this is [`on_submit`](Self::on_submit).
    pub fn on_taken_over(
        &mut self,
        now: Instant,
        client: Identity,
        metadata: &TaskMetadata,
        payload: P,
        engine: &EngineUuid,
        out: &mut Vec<TaskAction<P>>,
    ) -> bool {
        let expected = self.roster.find(engine.as_str());
        let expected = expected.filter(|slot| self.is_awaited(*slot));
        self.submit(now, client, metadata, payload, expected, out)
    }

    /// An expected engine is about to be registered, and says what it has and has not answered. An answer of it to
    /// anything else that it was taken to have counts if it still comes.
    pub fn on_recollected(
        &mut self,
        now: Instant,
        engine: &EngineUuid,
        has: &HashSet<MsgId>,
        out: &mut Vec<TaskAction<P>>,
    ) {
        let slot = self.roster.find(engine.as_str());
        let Some(slot) = slot.filter(|slot| self.is_awaited(*slot)) else {
            return;
        };
        let running = self.roster[slot].running.iter().copied();
        let forgotten: Vec<JobIx> = running
            .filter(|job| !has.contains(self.jobs[*job].payload.msg_id()))
            .collect();
        for job in forgotten {
            if let State::Running { place, .. } = self.jobs[job].state {
                self.take_off(job, slot, place);
                self.is_not_there(job, slot);
            }
        }
        self.roster.release(slot);
        self.work(now, out);
    }

    /// The task waits for no others, and is not meant for other engines.
    pub(super) fn may_have(&self, slot: Slot, job: JobIx) -> bool {
        let known = &self.jobs[job];
        let is_met = known.terms.as_ref().is_none_or(|terms| terms.are_met());
        let members = self.queues.members(known.class);
        is_met && members.is_none_or(|members| members.binary_search(&slot).is_ok())
    }

    /// The engine does not have the task, as was thought.
    pub(super) fn is_not_there(&mut self, job: JobIx, slot: Slot) {
        self.may_be_answered_by(job, slot);
        self.requeue(job);
    }

    /// Whether the engine has the task or not, its answer counts.
    pub(super) fn may_be_answered_by(&mut self, job: JobIx, slot: Slot) {
        let serial = self.roster[slot].serial;
        self.jobs[job].mark(serial, LOST);
    }

    pub(super) fn is_awaited(&self, slot: Slot) -> bool {
        self.roster[slot].presence == Presence::Expected
    }
}
