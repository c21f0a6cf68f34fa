//! Which requests are unfinished, and output that came before its request.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use serde_json::{Value, json};

use crate::protocol::{EngineUuid, MsgId};
use crate::taskdb::{RecordUpdate, TaskRecord};

/// An unfinished request.
#[derive(Debug)]
pub(super) struct Pending {
    /// The engine with which it fails: of mux requests and of the parts of a broadcast.
    pub(super) engine: Option<EngineUuid>,
    pub(super) part: Part,
}

#[derive(Debug)]
pub(super) enum Part {
    /// A request of its own.
    Whole,
    /// One engine's part in a broadcast.
    Of(MsgId),
    /// The broadcast.
    Parts(Box<Whole>),
}

/// A broadcast that waits for its engines.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) missing: usize,
    pub(super) targets: Value,
    /// The first error's content.
    pub(super) failure: Option<Bytes>,
}

impl Whole {
    /// The ids of the parts.
    pub(super) fn parts(&self, msg_id: &MsgId) -> Vec<MsgId> {
        let targets = self.targets.as_array().into_iter().flatten();
        targets
            .filter_map(|target| target.get(0)?.as_str())
            .map(|engine| MsgId::from(format!("{msg_id}_{engine}")))
            .collect()
    }

    /// The result of the broadcast, given that of the engine that was the last. Its buffers are those of the parts.
    pub(super) fn result(self, msg_id: &MsgId, last: &RecordUpdate) -> RecordUpdate {
        let metadata = json!({
            "status": if self.failure.is_some() { "error" } else { "ok" },
            "is_broadcast": true,
            "is_coalescing": true,
            "original_msg_id": msg_id,
            "broadcast_targets": self.targets,
        });
        RecordUpdate {
            started: last.started,
            completed: last.completed,
            received: last.received,
            result_header: last.result_header.clone(),
            result_metadata: Some(metadata.to_string().into()),
            result_content: self.failure.or_else(|| last.result_content.clone()),
            ..Default::default()
        }
    }
}

/// All unfinished requests.
#[derive(Debug, Default)]
pub(super) struct PendingSet {
    requests: HashMap<MsgId, Pending>,
    by_engine: HashMap<EngineUuid, HashSet<MsgId>>,
}

impl PendingSet {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn contains(&self, msg_id: &str) -> bool {
        self.requests.contains_key(msg_id)
    }

    pub(super) fn insert(&mut self, msg_id: MsgId, pending: Pending) {
        self.remove(&msg_id);
        if let Some(engine) = &pending.engine {
            let requests = self.by_engine.entry(engine.clone()).or_default();
            requests.insert(msg_id.clone());
        }
        self.requests.insert(msg_id, pending);
    }

    pub(super) fn remove(&mut self, msg_id: &MsgId) -> Option<Pending> {
        let pending = self.requests.remove(msg_id)?;
        if let Some(engine) = &pending.engine
            && let Some(requests) = self.by_engine.get_mut(engine)
        {
            requests.remove(msg_id);
            if requests.is_empty() {
                self.by_engine.remove(engine);
            }
        }
        Some(pending)
    }

    #[cfg(test)]
    pub(super) fn sanity_check(&self) {
        let with_engine = self
            .requests
            .iter()
            .filter(|(_, pending)| pending.engine.is_some());
        let indexed: usize = self.by_engine.values().map(HashSet::len).sum();
        assert_eq!(with_engine.count(), indexed);
        assert!(self.by_engine.values().all(|requests| !requests.is_empty()));
    }

    /// The requests that fail with an engine.
    pub(super) fn of_engine(&self, engine: &EngineUuid) -> Vec<MsgId> {
        let requests = self.by_engine.get(engine);
        let mut requests: Vec<MsgId> = requests.into_iter().flatten().cloned().collect();
        requests.sort_unstable();
        requests
    }

    /// One part of a broadcast is done. The broadcast's state when it was the last.
    pub(super) fn on_part(
        &mut self,
        whole: &MsgId,
        update: &RecordUpdate,
        failed: bool,
    ) -> Option<Whole> {
        let waiting = self.requests.get_mut(whole)?;
        let Part::Parts(state) = &mut waiting.part else {
            return None;
        };
        if failed && state.failure.is_none() {
            state.failure.clone_from(&update.result_content);
        }
        state.missing = state.missing.saturating_sub(1);
        if state.missing > 0 {
            return None;
        }
        match self.remove(whole)?.part {
            Part::Parts(state) => Some(*state),
            _ => None,
        }
    }
}

/// Output whose request has not been reported yet: it travels on another socket. What is never claimed, such as
/// output of a frontend that is connected to an engine directly, is pushed out by what follows.
#[derive(Debug, Default)]
pub(super) struct Early {
    records: HashMap<MsgId, TaskRecord>,
    order: VecDeque<MsgId>,
    bytes: u64,
}

impl Early {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    const MAX_RECORDS: usize = 1000;
    const MAX_BYTES: u64 = 1 << 20;

    pub(super) fn put(&mut self, msg_id: MsgId, update: RecordUpdate) {
        let record = self.records.entry(msg_id.clone()).or_insert_with(|| {
            self.order.push_back(msg_id.clone());
            TaskRecord::new(msg_id)
        });
        let before = record.text_bytes();
        record.apply(update);
        self.bytes += record.text_bytes().saturating_sub(before);
        while self.records.len() > Self::MAX_RECORDS || self.bytes > Self::MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.forget(oldest.as_str());
        }
    }

    pub(super) fn take(&mut self, msg_id: &str) -> Option<TaskRecord> {
        if self.records.is_empty() {
            return None;
        }
        let record = self.forget(msg_id)?;
        self.order.retain(|id| id.as_str() != msg_id);
        Some(record)
    }

    fn forget(&mut self, msg_id: &str) -> Option<TaskRecord> {
        let record = self.records.remove(msg_id)?;
        // The id itself was there before the first output was counted.
        let counted = record.text_bytes().saturating_sub(msg_id.len() as u64);
        self.bytes = self.bytes.saturating_sub(counted);
        Some(record)
    }
}
