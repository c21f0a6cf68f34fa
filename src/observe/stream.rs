//! The last tasks that ended: a bar each on a page.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::window::Channel;
use crate::protocol::{EngineId, MsgId};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// With an exception, or because its engine died.
    Failed,
    /// A client gave it up, or a request before it failed.
    Aborted,
}

impl Status {
    pub const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Aborted];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// A request that has ended. Times are in microseconds since the board's beginning; what was before is negative.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub seq: u64,
    pub msg_id: MsgId,
    pub channel: Channel,
    /// None if it reached none.
    pub engine: Option<EngineId>,
    /// The function, or `execute`.
    pub name: Arc<str>,
    /// The client's own word for it.
    pub label: Option<Arc<str>>,
    /// The client's session.
    pub client: Arc<str>,
    /// As the client dated it.
    pub submitted: Option<i64>,
    /// When the engine began, on the controller's clock.
    pub started: i64,
    pub ended: i64,
    pub status: Status,
    /// The exception's name and message.
    pub error: Option<Box<str>>,
}

impl Entry {
    /// As pages take it: `[seq, engine, started, ended, status, name, label, msg_id, client, submitted, queue, error]`.
    pub fn to_json(&self) -> Value {
        json!([
            self.seq,
            self.engine,
            self.started,
            self.ended,
            self.status,
            &*self.name,
            self.label.as_deref(),
            self.msg_id,
            &*self.client,
            self.submitted,
            self.channel,
            self.error.as_deref(),
        ])
    }
}

/// A ring of entries, numbered from 0.
#[derive(Debug)]
pub struct Stream {
    entries: VecDeque<Entry>,
    capacity: usize,
    next: u64,
}

impl Stream {
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            capacity: capacity.max(1),
            next: 0,
        }
    }

    /// Takes an entry in, under the next number.
    pub fn push(&mut self, mut entry: Entry) {
        if self.entries.len() == self.capacity {
            self.entries.pop_front();
        }
        entry.seq = self.next;
        self.next += 1;
        self.entries.push_back(entry);
    }

    /// How many there ever were.
    pub fn total(&self) -> u64 {
        self.next
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The last `count` of those from number `seq` on, oldest first.
    pub fn since(&self, seq: u64, count: usize) -> impl DoubleEndedIterator<Item = &Entry> {
        let first = self.next - self.entries.len() as u64;
        let skip = usize::try_from(seq.saturating_sub(first)).unwrap_or(usize::MAX);
        let skip = skip.max(self.entries.len().saturating_sub(count));
        self.entries.range(skip.min(self.entries.len())..)
    }

    /// The newest with this id.
    pub fn find(&self, msg_id: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.msg_id.as_str() == msg_id)
    }
}
