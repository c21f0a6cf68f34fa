//! What a scheduler's thread hands over: everything of a moment.

use std::time::Instant;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::Serialize;

use super::stream::Status;
use crate::protocol::{EngineUuid, MsgId};

/// Clients that are told apart in one window.
pub(super) const CLIENTS_AT_MOST: usize = 1_024;

/// The queue of which something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    Task,
    Mux,
    Broadcast,
}

impl Channel {
    pub const ALL: [Self; 3] = [Self::Task, Self::Mux, Self::Broadcast];

    pub fn name(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Mux => "mux",
            Self::Broadcast => "broadcast",
        }
    }
}

/// Requests that were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub submitted: u64,
    pub ok: u64,
    pub failed: u64,
    pub aborted: u64,
}

impl Tally {
    pub fn ended(&self) -> u64 {
        self.ok + self.failed + self.aborted
    }

    pub fn count(&mut self, status: Status) {
        match status {
            Status::Ok => self.ok += 1,
            Status::Failed => self.failed += 1,
            Status::Aborted => self.aborted += 1,
        }
    }

    pub fn add(&mut self, other: Self) {
        self.submitted += other.submitted;
        self.ok += other.ok;
        self.failed += other.failed;
        self.aborted += other.aborted;
    }
}

/// What a scheduler has at one engine, in its own figures: those that it tells the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    pub engine: EngineUuid,
    /// Requests that are not answered yet.
    pub pending: u64,
    /// Requests that it has answered since it registered.
    pub completed: u64,
}

/// Requests that no engine has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// They wait for others to end.
    pub blocked: u64,
    /// They wait for an engine.
    pub ready: u64,
}

impl Waiting {
    pub fn all(self) -> u64 {
        self.blocked + self.ready
    }

    pub(super) fn add(&mut self, other: Self) {
        self.blocked += other.blocked;
        self.ready += other.ready;
    }
}

/// What there is at a scheduler at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    pub waiting: Waiting,
    /// The same of each client that has anything waiting, by its session.
    pub clients: HashMap<String, Waiting>,
    /// Every engine of the scheduler.
    pub loads: Vec<Load>,
}

impl Look {
    /// `clients`: sessions, and what waits of each. A session may come more than once.
    pub fn new<'a>(
        loads: impl IntoIterator<Item = Load>,
        clients: impl IntoIterator<Item = (&'a str, Waiting)>,
    ) -> Self {
        let mut look = Self {
            loads: loads.into_iter().collect(),
            ..Self::default()
        };
        for (session, waiting) in clients {
            if waiting.all() == 0 {
                continue;
            }
            look.waiting.add(waiting);
            // Of so many clients, nobody sees all.
            if look.clients.len() < CLIENTS_AT_MOST || look.clients.contains_key(session) {
                look.clients.entry_ref(session).or_default().add(waiting);
            }
        }
        look
    }
}

/// What happened to a request that is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It went to an engine.
    Sent {
        msg_id: MsgId,
        engine: EngineUuid,
        at: Instant,
        request: Request,
    },
    /// The engine gave it back, or is gone: it waits again.
    Returned { msg_id: MsgId, at: Instant },
    Ended {
        msg_id: MsgId,
        /// None if no engine answered.
        engine: Option<EngineUuid>,
        at: Instant,
        status: Status,
        reply: Reply,
    },
}

/// What of a request says what it is. Short pieces, copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// JSON.
    pub header: Bytes,
    /// JSON; empty if it is long.
    pub metadata: Bytes,
    /// The content of an execution, JSON; empty if it is long.
    pub content: Bytes,
    /// The pickled function, and what is a map's; empty if they are long.
    pub functions: [Bytes; 2],
}

/// What of a reply says how long it took, and what went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// JSON.
    pub header: Bytes,
    /// JSON; empty if it is long.
    pub metadata: Bytes,
    /// JSON of a failure; empty if it is long.
    pub content: Bytes,
}

/// Lines that an engine wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub engine: EngineUuid,
    pub is_error: bool,
    pub text: String,
}

/// What one scheduler saw since the last window.
#[derive(Clone, Debug)]
pub struct Window {
    pub channel: Channel,
    pub tally: Tally,
    /// By client: the session, with which its message ids begin.
    pub clients: HashMap<String, Tally>,
    /// What did not succeed, by engine.
    pub failures: HashMap<EngineUuid, Tally>,
    pub steps: Vec<Step>,
    /// Requests that were sent and not followed.
    pub unfollowed: u64,
    /// At the end of the window.
    pub look: Look,
}

impl Window {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            channel,
            tally: Tally::default(),
            clients: HashMap::new(),
            failures: HashMap::new(),
            steps: Vec::new(),
            unfollowed: 0,
            look: Look::default(),
        }
    }
}
