//! What a former controller's engines are still at work on.
//!
//! A task that such an engine had is taken to be there until the engine is registered and says what it has not answered
//! yet: that runs on, the rest goes to any engine, as does everything if the engine does not come.

use std::time::Instant;

use super::ids::JobIx;
use super::job::{LOST, State};
use super::roster::{Presence, Slot};
use super::{Payload, TaskAction, TaskScheduler};
use crate::protocol::{EngineUuid, Identity, TaskMetadata};

impl<P: Payload> TaskScheduler<P> {
    /// A former controller's request, which it had given to `engine`. If that is expected, the task is taken to be there,
    /// up to the high water mark; in any other case this is [`on_submit`](Self::on_submit).
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
        let expected =
            expected.filter(|slot| self.is_expected(*slot) && self.roster.is_below_mark(*slot));
        self.submit(now, client, metadata, payload, expected, out)
    }

    /// An expected engine is about to be registered, and says of each task whether it has it and has not answered. An
    /// answer of it to any of the others counts if it still comes.
    pub fn on_recollected(
        &mut self,
        now: Instant,
        engine: &EngineUuid,
        has: impl Fn(&str) -> bool,
        out: &mut Vec<TaskAction<P>>,
    ) {
        let Some(slot) = self.roster.find(engine.as_str()) else {
            return;
        };
        if !self.is_expected(slot) {
            return;
        }
        let running = self.roster[slot].running.iter().copied();
        let forgotten: Vec<JobIx> = running
            .filter(|job| !has(self.jobs[*job].payload.msg_id()))
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

    /// The engine does not have the task, as was thought.
    pub(super) fn is_not_there(&mut self, job: JobIx, slot: Slot) {
        let serial = self.roster[slot].serial;
        self.jobs[job].mark(serial, LOST);
        self.requeue(job);
    }

    pub(super) fn is_expected(&self, slot: Slot) -> bool {
        self.roster[slot].presence == Presence::Expected
    }
}
