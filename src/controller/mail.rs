//! What the controller's threads tell each other.

use crate::hub::{Inspection, Report, Token};
use crate::protocol::{EngineId, EngineUuid, Identity, MsgId};
use crate::transport::Sender;

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
    },
    /// A scheduler has carried out a change of the set of engines.
    SchedulerDone {
        token: Token,
        answered: bool,
    },
    Report {
        token: Token,
        report: Report,
    },
    Stop,
}

/// To the heartbeat thread.
#[derive(Debug)]
pub(super) enum HeartbeatMail {
    Accept(EngineUuid),
    Forget(EngineUuid),
    Stop,
}

/// To the threads of the schedulers and of iopub.
#[derive(Clone, Debug)]
pub(super) enum SchedulerMail {
    TakeIn {
        token: Token,
        engine: EngineUuid,
        id: EngineId,
    },
    LetGo {
        token: Token,
        engine: EngineUuid,
        id: EngineId,
        how: String,
    },
    Inspect {
        token: Token,
        what: Inspection,
    },
    /// Tasks that still wait end as aborted.
    Abort(Vec<MsgId>),
    Stop,
}

/// Ways to the schedulers.
#[derive(Debug)]
pub(super) struct SchedulerSenders {
    /// Those that keep track of engines: each answers `TakeIn`, `LetGo` and `Inspect`.
    pub(super) all: Vec<Sender<SchedulerMail>>,
    pub(super) task: Sender<SchedulerMail>,
    pub(super) iopub: Sender<SchedulerMail>,
}
