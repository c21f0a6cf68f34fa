//! What the controller's threads tell each other.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedSender;

use super::recorder_thread::RecorderMail;
use crate::hub::recorder::Ended;
use crate::hub::{Inspection, Report, StorageFault, Token};
use crate::protocol::{EngineId, EngineUuid, Identity, Leaving, MsgId, RemoteError};
use crate::transport::{Frame, Sender};

/// To the hub's thread.
#[derive(Debug)]
pub(super) enum HubMail {
    HeartStarted(Identity),
    HeartStopped {
        heart: Identity,
        how: String,
    },
    /// An engine of this session announced its end on iopub.
    EngineShutDown {
        session: String,
        leaving: Leaving,
    },
    /// A scheduler has carried out a change of the set of engines.
    SchedulerDone {
        token: Token,
    },
    Report {
        token: Token,
        report: Report,
    },
    /// The dask.distributed scheduler of this run listens, or cannot.
    DaskStarted {
        run: u64,
        result: Result<Map<String, Value>, RemoteError>,
    },
    DaskEnded {
        run: u64,
    },
    /// The recorder's answer to a client.
    Answered {
        to: Identity,
        parent: Bytes,
        msg_type: &'static str,
        content: Bytes,
        buffers: Vec<Bytes>,
    },
    /// The task database has a fault, or none any more.
    Storage(Option<StorageFault>),
    /// A question from within this process; the content of the reply is its answer.
    Ask {
        msg_type: &'static str,
        content: Bytes,
        answer: Answer,
    },
    /// A control message to an engine from within this process; the content of its reply is the answer.
    Command {
        engine: EngineUuid,
        msg_type: &'static str,
        content: Value,
        answer: Answer,
    },
    Stop,
}

/// Where an answer goes that nobody waits for at a socket.
pub(super) type Answer = UnboundedSender<Bytes>;

/// To the heartbeat thread.
#[derive(Debug)]
pub(super) enum HeartbeatMail {
    Expect(EngineUuid),
    Accept { uuid: EngineUuid, is_tunneled: bool },
    Forget(EngineUuid),
    Stop,
}

/// To the threads of the schedulers and of iopub.
#[derive(Clone, Debug)]
pub(super) enum SchedulerMail {
    TakeIn {
        token: Token,
        engine: EngineUuid,
        /// The process that takes broadcasts for the engine.
        host: Option<Identity>,
        /// What it has from a former controller and has not answered.
        unanswered: Arc<HashSet<MsgId>>,
    },
    LetGo {
        token: Token,
        engine: EngineUuid,
        id: EngineId,
        how: String,
        /// The task queue has a last word of the engine to expect.
        farewell: bool,
    },
    Inspect {
        token: Token,
        what: Inspection,
    },
    /// Tasks that still wait end as aborted.
    Abort(Vec<MsgId>),
    /// An engine of a former controller, which is to come back. It is taken in, or let go of, later.
    Expect(EngineUuid),
    /// A task that ended under a former controller, and on which others depend.
    Ended(Ended),
    /// What the records say of the tasks that the oldest of the held requests needs.
    Ends(Vec<Ended>),
    /// A request that has its record already: a task that is to be queued again, or what a former controller left
    /// unfinished.
    Resubmit {
        /// As a client would send them.
        frames: Vec<Frame>,
        /// The engine to which a former controller had sent the task.
        at: Option<EngineUuid>,
    },
    /// The same for an engine's control channel; its reply is the answer.
    Command {
        frames: Vec<Frame>,
        answer: Answer,
    },
    /// Requests that were left in their sockets can be taken in again.
    StorageCaughtUp,
    /// A client was told which engines there are: its subscription is on its way.
    ClientComes,
    Stop,
}

/// Ways to the schedulers.
#[derive(Debug)]
pub(super) struct SchedulerSenders {
    /// Those that keep track of engines: each answers `TakeIn`, `LetGo` and `Inspect`.
    pub(super) all: Vec<Sender<SchedulerMail>>,
    pub(super) task: Sender<SchedulerMail>,
    pub(super) control: Sender<SchedulerMail>,
    pub(super) iopub: Sender<SchedulerMail>,
    /// Only with a database.
    pub(super) recorder: Option<Sender<RecorderMail>>,
}
