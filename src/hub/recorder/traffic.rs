//! What the recorder is told, and what it hands back.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::protocol::{EngineId, EngineUuid, MsgId, RemoteError, Timestamp};
use crate::taskdb::Queue;

/// The parts of a message. Cloning shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMessage {
    pub header: Bytes,
    pub parent_header: Bytes,
    pub metadata: Bytes,
    pub content: Bytes,
    pub buffers: Vec<Bytes>,
}

impl StoredMessage {
    /// About how much memory it holds.
    pub fn bytes(&self) -> u64 {
        let parts = [
            &self.header,
            &self.parent_header,
            &self.metadata,
            &self.content,
        ];
        let parts = parts.into_iter().chain(&self.buffers);
        parts.map(|part| part.len() as u64).sum()
    }
}

/// What happened on the queues. What of it belongs to no known request is dropped in silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A client's request was accepted. A broadcast is one request, in the client's own words; `engine` is set on the
    /// mux queue.
    Submitted {
        queue: Queue,
        engine: Option<EngineUuid>,
        message: StoredMessage,
    },
    /// A task was sent to an engine.
    Assigned { msg_id: MsgId, engine: EngineUuid },
    /// A reply goes to the client: an engine's, or one that a scheduler made. Its parent header names the request. A
    /// coalescing broadcast has one reply, the joined one; any other broadcast has one for each engine.
    Completed {
        engine: Option<EngineUuid>,
        received: Timestamp,
        message: StoredMessage,
    },
    /// A message on iopub. Those that leave nothing in a record (`status`, comms, data) need not be reported.
    Output { message: StoredMessage },
    /// An engine is gone. Its mux requests and its parts of broadcasts fail here unless their failure was reported
    /// before; its tasks, and the joined reply of a coalescing broadcast, are the scheduler's affair.
    EngineGone { engine: EngineUuid, at: Timestamp },
}

impl Traffic {
    /// About how much memory it holds.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Submitted { message, .. }
            | Self::Completed { message, .. }
            | Self::Output { message } => message.bytes(),
            Self::Assigned { .. } | Self::EngineGone { .. } => 0,
        }
    }
}

/// What the recorder must be given to answer a question.
pub struct Ask<'a> {
    pub now: Timestamp,
    /// Makes the msg_id of a resubmitted task.
    pub new_id: &'a mut dyn FnMut() -> MsgId,
    /// The uuid of a registered engine.
    pub engine: &'a dyn Fn(EngineId) -> Option<EngineUuid>,
    pub behind: Behind,
}

/// How far the store is behind what happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Reports on their way to the recorder.
    pub reports: usize,
    pub delays: Delays,
}

/// How long it took from a report until the store had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// The longest of the last write.
    pub last: Duration,
    /// The longest ever.
    pub longest: Duration,
}

/// The reply to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub msg_type: &'static str,
    /// JSON.
    pub content: Bytes,
    pub buffers: Vec<Bytes>,
    /// What is to be put into the task queue.
    pub resubmit: Vec<Resubmission>,
}

impl Answer {
    pub(super) fn new(msg_type: &'static str, content: impl Into<Bytes>) -> Self {
        Self {
            msg_type,
            content: content.into(),
            buffers: Vec::new(),
            resubmit: Vec::new(),
        }
    }

    pub(super) fn json(msg_type: &'static str, content: &Value) -> Self {
        Self::new(msg_type, content.to_string())
    }

    /// The reply to a request that could not be understood.
    pub(super) fn hub_error(error: &RemoteError) -> Self {
        Self::error("hub_error", error)
    }

    pub(super) fn error(msg_type: &'static str, error: &RemoteError) -> Self {
        Self::json(msg_type, &error.to_content())
    }
}

/// A request that is to be queued again under a new id. Nobody waits for its reply at a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resubmission {
    pub msg_id: MsgId,
    /// The request that it repeats.
    pub original: MsgId,
    pub message: StoredMessage,
}
