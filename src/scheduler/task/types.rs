//! What goes into the task scheduler and what comes out of it.

use crate::protocol::{EngineUuid, Identity};
use crate::scheduler::Scheme;

use super::error::TaskError;

/// A request as its sender wants it kept: its frames.
pub trait Payload {
    /// Its id, which is in the frames already, so that nobody needs a second copy.
    fn msg_id(&self) -> &str;
}

/// Settings of the task scheduler.
#[derive(Clone, Debug)]
pub struct TaskConfig {
    pub scheme: Scheme,
    /// Tasks that may be outstanding on one engine; 0 is no limit. [`Scheme::Pure`] knows none.
    pub hwm: u32,
    /// Of the random choices of the schemes that make any.
    pub seed: u64,
    /// How many finished tasks are remembered for dependencies that may still name them, at about 17 bytes each; the
    /// oldest are forgotten.
    pub finished_limit: usize,
}

impl Default for TaskConfig {
    fn default() -> Self {
        Self {
            scheme: Scheme::LeastLoad,
            hwm: 1,
            seed: 0,
            finished_limit: DEFAULT_FINISHED_LIMIT,
        }
    }
}

/// Just below what a hash table of 2^19 places holds: about 8 MB once they are all in use.
pub const DEFAULT_FINISHED_LIMIT: usize = 450_000;

/// Names a live job. A key whose job has ended matches nothing, even when its place is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// What the reactor does for the scheduler, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskAction<P> {
    /// Send the job's payload ([`TaskScheduler::payload`](super::TaskScheduler::payload)) to the engine.
    Dispatch {
        job: JobKey,
        engine: EngineUuid,
        /// This engine has had this very message before. Stock engines drop a message whose signature they know, so it
        /// must be changed and signed again.
        resend: bool,
    },
    /// The scheduler itself ends the task; the client gets an error reply (`Aborted`: status "aborted").
    Fail {
        job_payload: P,
        client: Identity,
        /// The engine that is to blame, if one is.
        engine: Option<EngineUuid>,
        error: TaskError,
    },
}

/// What becomes of an engine's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The task has ended: forward the reply.
    Deliver { client: Identity },
    /// The task goes to another engine, or waits: drop the reply.
    Requeued,
    /// No live task of that engine: drop the reply.
    Unknown,
}

/// What an engine's reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// An exception: status "error".
    Failed,
    /// The engine dropped it because a client asked for that: status "aborted". Never tried again.
    Aborted,
    /// `dependencies_met` is false: this engine is not fit for the task.
    Unmet,
}

/// Where a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    Waiting,
    Running(EngineUuid),
    Finished { ok: bool },
}

/// Numbers for `queue_request`, `load_request` and the status page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskSnapshot {
    /// In the order of their registration.
    pub engines: Vec<EngineLoad>,
    /// Tasks that are on no engine.
    pub waiting: u64,
}

/// What waits of one client that has tasks in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientWaiting<'a> {
    /// With which the ids of its messages begin.
    pub session: &'a str,
    /// Tasks that wait for other tasks.
    pub blocked: u64,
    /// Tasks that wait for an engine.
    pub ready: u64,
}

/// One engine's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineLoad {
    pub uuid: EngineUuid,
    /// Tasks outstanding on it.
    pub pending: u64,
    /// Tasks whose replies came from it, whether they succeeded or failed.
    pub completed: u64,
    /// Those of them that failed.
    pub failed: u64,
}
