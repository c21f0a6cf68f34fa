//! Changes that wait to be written: what is to become of each record, in the order in which it was first touched.
//!
//! A task that is submitted, assigned and done before the next write is one change. So that few tasks are written twice,
//! a write may leave out those at the end that are young and unfinished; the next takes them whatever has become of them.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::record::{RecordUpdate, TaskRecord};
use crate::protocol::MsgId;

/// What is to become of a record.
#[derive(Debug)]
pub(super) enum Change {
    Add(Box<TaskRecord>),
    Update(Box<RecordUpdate>),
}

impl Change {
    fn is_finished(&self) -> bool {
        match self {
            Self::Add(record) => record.completed.is_some(),
            Self::Update(update) => update.completed.is_some(),
        }
    }
}

/// Memory that a change takes besides its texts and buffers.
const OVERHEAD: u64 = 1024;

#[derive(Debug)]
struct Entry {
    msg_id: MsgId,
    change: Change,
    /// The round in which it came.
    round: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    entries: VecDeque<Entry>,
    /// Where each is, counted from the first that ever was.
    by_id: HashMap<MsgId, u64>,
    /// How many have been written.
    written: u64,
    round: u64,
    bytes: u64,
}

impl Changes {
    /// As many changes as are worth a write of their own, or as many bytes.
    pub(super) fn is_batch(&self) -> bool {
        self.entries.len() >= 4000 || self.bytes >= 16 << 20
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// About how much memory they take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn contains(&self, msg_id: &MsgId) -> bool {
        self.by_id.contains_key(msg_id)
    }

    /// The first `count`.
    pub(super) fn first(&self, count: usize) -> impl Iterator<Item = (&MsgId, &Change)> {
        let first = self.entries.iter().take(count);
        first.map(|entry| (&entry.msg_id, &entry.change))
    }

    /// How many from the first on are to be written now: all up to the first unfinished one that came since this was
    /// last asked.
    pub(super) fn due(&mut self) -> usize {
        let now = self.round;
        self.round += 1;
        let is_due = |entry: &&Entry| entry.round < now || entry.change.is_finished();
        self.entries.iter().take_while(is_due).count()
    }

    /// The first `count` are written. How many bytes they were.
    pub(super) fn drop_first(&mut self, count: usize) -> u64 {
        let before = self.bytes;
        for entry in self.entries.drain(..count) {
            self.by_id.remove(&entry.msg_id);
            self.bytes -= entry.bytes;
            self.written += 1;
        }
        before - self.bytes
    }

    pub(super) fn add(&mut self, mut record: TaskRecord) {
        let bytes = record.text_bytes() + record.buffer_bytes() + OVERHEAD;
        let Some(entry) = self.find(&record.msg_id) else {
            let msg_id = record.msg_id.clone();
            self.push(msg_id, Change::Add(Box::new(record)), bytes);
            return;
        };
        let now = Change::Update(Box::default());
        match std::mem::replace(&mut entry.change, now) {
            Change::Add(earlier) => record.fill_from(*earlier),
            Change::Update(update) => record.apply(*update),
        }
        entry.change = Change::Add(Box::new(record));
        entry.bytes += bytes;
        self.bytes += bytes;
    }

    pub(super) fn update(&mut self, msg_id: &MsgId, update: RecordUpdate) {
        let bytes = update.bytes();
        let Some(entry) = self.find(msg_id) else {
            self.push(
                msg_id.clone(),
                Change::Update(Box::new(update)),
                bytes + OVERHEAD,
            );
            return;
        };
        match &mut entry.change {
            Change::Add(record) => record.apply(update),
            Change::Update(earlier) => earlier.merge(update),
        }
        entry.bytes += bytes;
        self.bytes += bytes;
    }

    fn find(&mut self, msg_id: &MsgId) -> Option<&mut Entry> {
        let at = self.by_id.get(msg_id)? - self.written;
        self.entries.get_mut(usize::try_from(at).ok()?)
    }

    fn push(&mut self, msg_id: MsgId, change: Change, bytes: u64) {
        let at = self.written + self.entries.len() as u64;
        self.by_id.insert(msg_id.clone(), at);
        self.bytes += bytes;
        self.entries.push_back(Entry {
            msg_id,
            change,
            round: self.round,
            bytes,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taskdb::testing::{record, time};

    fn done() -> RecordUpdate {
        RecordUpdate {
            completed: Some(time(9)),
            ..RecordUpdate::default()
        }
    }

    fn ids(changes: &Changes) -> Vec<String> {
        let all = changes.first(usize::MAX);
        all.map(|(msg_id, _)| msg_id.to_string()).collect()
    }

    #[test]
    fn the_young_and_unfinished_wait_for_one_round() {
        let mut changes = Changes::default();
        for n in 0..4 {
            changes.add(record(n));
        }
        for n in [0, 1, 3] {
            changes.update(&record(n).msg_id, done());
        }
        assert_eq!(
            changes.due(),
            2,
            "what comes behind an unfinished one keeps its place"
        );
        let all = changes.bytes();
        let gone = changes.drop_first(2);
        assert_eq!(changes.bytes(), all - gone);
        changes.add(record(4));
        // What was left is found in its new place.
        changes.update(&record(3).msg_id, done());
        assert_eq!(ids(&changes), ["session_1_2", "session_1_3", "session_1_4"]);
        assert_eq!(
            changes.due(),
            2,
            "the old one goes as it is, the new one waits"
        );
        changes.drop_first(2);
        assert_eq!(changes.due(), 1);
        changes.drop_first(1);
        assert!(changes.len() == 0 && changes.bytes() == 0);
        assert!(!changes.contains(&record(4).msg_id));
    }
}
