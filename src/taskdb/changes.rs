//! Changes that wait to be written: what is to become of each record, in the order in which it was first touched.
//!
//! A task that is submitted, assigned and done before the next write is one change.

use hashbrown::HashMap;

use super::record::{RecordUpdate, TaskRecord};
use crate::protocol::MsgId;

/// What is to become of a record.
#[derive(Debug)]
pub(super) enum Change {
    Add(Box<TaskRecord>),
    Update(Box<RecordUpdate>),
}

/// Memory that a change takes besides its texts and buffers.
const OVERHEAD: u64 = 1024;

#[derive(Debug, Default)]
pub(super) struct Changes {
    list: Vec<(MsgId, Change)>,
    by_id: HashMap<MsgId, usize>,
    bytes: u64,
}

impl Changes {
    /// As many changes as are worth a write of their own, or as many bytes.
    pub(super) fn is_batch(&self) -> bool {
        self.list.len() >= 1000 || self.bytes >= 16 << 20
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// About how much memory they take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn contains(&self, msg_id: &MsgId) -> bool {
        self.by_id.contains_key(msg_id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&MsgId, &Change)> {
        self.list.iter().map(|(msg_id, change)| (msg_id, change))
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.by_id.clear();
        self.bytes = 0;
    }

    pub(super) fn add(&mut self, mut record: TaskRecord) {
        self.bytes += record.text_bytes() + record.buffer_bytes() + OVERHEAD;
        let Some(at) = self.by_id.get(&record.msg_id) else {
            let msg_id = record.msg_id.clone();
            self.push(msg_id, Change::Add(Box::new(record)));
            return;
        };
        let change = &mut self.list[*at].1;
        let now = Change::Update(Box::default());
        match std::mem::replace(change, now) {
            Change::Add(earlier) => record.fill_from(*earlier),
            Change::Update(update) => record.apply(*update),
        }
        *change = Change::Add(Box::new(record));
    }

    pub(super) fn update(&mut self, msg_id: &MsgId, update: RecordUpdate) {
        self.bytes += update.bytes();
        match self.by_id.get(msg_id).map(|at| &mut self.list[*at].1) {
            Some(Change::Add(record)) => record.apply(update),
            Some(Change::Update(earlier)) => earlier.merge(update),
            None => {
                self.bytes += OVERHEAD;
                self.push(msg_id.clone(), Change::Update(Box::new(update)));
            }
        }
    }

    fn push(&mut self, msg_id: MsgId, change: Change) {
        self.by_id.insert(msg_id.clone(), self.list.len());
        self.list.push((msg_id, change));
    }
}
