//! Records in memory (the original's `DictDB`), the oldest dropped when there are too many or when they are too big.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use hashbrown::HashMap;

use super::query::Query;
use super::record::{KeySet, RecordUpdate, TaskRecord};
use super::store::{RecordReader, StoreError, StoreStats, TaskStore};
use crate::protocol::{MsgId, Timestamp};

/// When to drop records, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of buffers. What a record holds besides its buffers counts too where it exceeds [`Limits::FREE_TEXT`].
    pub size_limit: u64,
    pub record_limit: usize,
    /// The part of a limit by which the store shrinks when it is exceeded.
    pub cull_fraction: f64,
}

impl Limits {
    /// Bytes of JSON and of output that a record may have for nothing, so that ordinary ones are counted as the
    /// original counts them, and yet no endless output escapes the limit.
    pub const FREE_TEXT: u64 = 1 << 16;
}

impl Default for Limits {
    /// The original's.
    fn default() -> Self {
        Self {
            size_limit: 1 << 30,
            record_limit: 1024,
            cull_fraction: 0.1,
        }
    }
}

#[derive(Debug, Default)]
pub struct MemoryStore {
    limits: Limits,
    /// In order of arrival.
    records: BTreeMap<u64, Box<Entry>>,
    by_id: HashMap<MsgId, u64>,
    /// In order of submission. A record of unknown submission stands where it arrived.
    by_age: BTreeSet<(Timestamp, u64)>,
    newest: Option<Timestamp>,
    next: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Entry {
    record: TaskRecord,
    age: Timestamp,
    weight: u64,
}

impl MemoryStore {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn insert(&mut self, record: TaskRecord) {
        let number = match self.by_id.get(&record.msg_id) {
            Some(number) => *number,
            None => {
                let number = self.next;
                self.next += 1;
                self.by_id.insert(record.msg_id.clone(), number);
                number
            }
        };
        let submitted = record.submitted.or(self.newest);
        let age = submitted.unwrap_or_else(|| Timestamp::from_micros(0));
        self.newest = self.newest.max(record.submitted);
        let weight = weight(&record);
        self.bytes += weight;
        self.by_age.insert((age, number));
        self.records.insert(
            number,
            Box::new(Entry {
                record,
                age,
                weight,
            }),
        );
    }

    fn drop_number(&mut self, number: u64) -> Option<Box<Entry>> {
        let entry = self.records.remove(&number)?;
        self.by_id.remove(&entry.record.msg_id);
        self.by_age.remove(&(entry.age, number));
        self.bytes -= entry.weight;
        Some(entry)
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((_, number)) = self.by_age.first() else {
            return false;
        };
        self.drop_number(*number).is_some()
    }

    /// As the original: first the number of records, then their size.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fraction of a limit need not be exact, and casts saturate"
    )]
    fn cull(&mut self) {
        let Limits {
            size_limit,
            record_limit,
            cull_fraction,
        } = self.limits;
        let fraction = cull_fraction.clamp(0.0, 1.0);
        if self.records.len() > record_limit {
            // At least the one that is too many: a fraction of a small limit may be none.
            let excess = self.records.len() - record_limit;
            let count = ((fraction * record_limit as f64) as usize).max(excess);
            for _ in 0..count {
                self.drop_oldest();
            }
        }
        if self.bytes > size_limit {
            let wanted = (size_limit as f64 * (1.0 - fraction)) as u64;
            while self.bytes > wanted && self.drop_oldest() {}
        }
    }

    fn numbers(&self, query: &Query) -> Option<BTreeSet<u64>> {
        let ids = query.named_ids()?;
        Some(
            ids.iter()
                .filter_map(|id| self.by_id.get(*id))
                .copied()
                .collect(),
        )
    }

    /// The matching records, in order of arrival.
    fn matching<'a>(
        &'a self,
        query: &'a Query,
    ) -> Box<dyn Iterator<Item = (u64, &'a TaskRecord)> + 'a> {
        let matches = |(_, record): &(u64, &TaskRecord)| query.matches(record);
        match self.numbers(query) {
            Some(numbers) => Box::new(
                numbers
                    .into_iter()
                    .filter_map(|number| Some((number, &self.records.get(&number)?.record)))
                    .filter(matches),
            ),
            None => Box::new(
                self.records
                    .iter()
                    .map(|(number, entry)| (*number, &entry.record))
                    .filter(matches),
            ),
        }
    }
}

fn weight(record: &TaskRecord) -> u64 {
    record.buffer_bytes() + record.text_bytes().saturating_sub(Limits::FREE_TEXT)
}

impl RecordReader for MemoryStore {
    fn find(
        &mut self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        for (_, record) in self.matching(query) {
            if each(record.project(keys)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
        let records = self
            .by_age
            .iter()
            .filter_map(|(_, number)| self.records.get(number));
        Ok(records
            .filter(|entry| entry.record.submitted.is_some())
            .map(|entry| entry.record.msg_id.clone())
            .collect())
    }

    fn get(&mut self, msg_id: &str) -> Result<Option<TaskRecord>, StoreError> {
        let number = self.by_id.get(msg_id);
        let entry = number.and_then(|number| self.records.get(number));
        Ok(entry.map(|entry| entry.record.clone()))
    }
}

impl TaskStore for MemoryStore {
    fn add(&mut self, mut record: TaskRecord) -> Result<(), StoreError> {
        if let Some(number) = self.by_id.get(&record.msg_id).copied()
            && let Some(entry) = self.records.remove(&number)
        {
            self.by_age.remove(&(entry.age, number));
            self.bytes -= entry.weight;
            record.fill_from(entry.record);
        }
        self.insert(record);
        self.cull();
        Ok(())
    }

    fn update(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<bool, StoreError> {
        let number = self.by_id.get(msg_id);
        let Some(entry) = number.and_then(|number| self.records.get_mut(number)) else {
            return Ok(false);
        };
        let grows = update.result_buffers.is_some() || update.has_text();
        entry.record.apply(update);
        if grows {
            self.bytes -= entry.weight;
            entry.weight = weight(&entry.record);
            self.bytes += entry.weight;
            self.cull();
        }
        Ok(true)
    }

    fn remove(&mut self, query: &Query) -> Result<u64, StoreError> {
        let numbers: Vec<u64> = self.matching(query).map(|(number, _)| number).collect();
        for number in &numbers {
            self.drop_number(*number);
        }
        Ok(numbers.len() as u64)
    }

    fn place(&self) -> String {
        "in memory".to_owned()
    }

    fn stats(&mut self) -> Result<StoreStats, StoreError> {
        Ok(StoreStats {
            records: self.records.len() as u64,
            bytes: self.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::taskdb::testing::{
        any_query, any_record, compare, conformance, record, with_buffer,
    };

    #[test]
    fn it_does_what_every_store_does() {
        conformance(&mut MemoryStore::default());
    }

    proptest! {
        #[test]
        fn it_means_what_the_matcher_means(
            records in prop::collection::vec(any_record(), 1..12),
            queries in prop::collection::vec(any_query(), 1..12),
        ) {
            compare(&mut MemoryStore::default(), &records, &queries)?;
        }
    }

    fn store(size_limit: u64, record_limit: usize) -> MemoryStore {
        MemoryStore::new(Limits {
            size_limit,
            record_limit,
            cull_fraction: 0.2,
        })
    }

    /// The numbers are those of the original's `test_cull_count`.
    #[test]
    fn too_many_records_drop_a_part_of_the_limit() {
        let mut store = store(u64::MAX, 20);
        let mut lens = Vec::new();
        for n in 0..25 {
            store.add(record(n)).unwrap();
            lens.push(store.len());
        }
        assert_eq!(lens[19..], [20, 17, 18, 19, 20, 17]);
        let history = store.history().unwrap();
        assert_eq!(history[0], record(8).msg_id, "the oldest are gone");
        assert_eq!(store.by_id.len(), store.len());
        assert_eq!(store.by_age.len(), store.len());
    }

    /// `test_cull_size`, `test_cull_size_drop` and `test_cull_size_update`.
    #[test]
    fn too_many_bytes_drop_a_part_of_the_limit() {
        let full = || {
            let mut store = store(1000, 1024);
            for n in 0..100 {
                store.add(with_buffer(n, 10)).unwrap();
            }
            store
        };
        let mut store = full();
        store.add(with_buffer(100, 0)).unwrap();
        assert_eq!(store.len(), 101);
        store.add(with_buffer(101, 1)).unwrap();
        assert_eq!(store.len(), 81);

        let mut store = full();
        store.remove(&Query::from(&record(99).msg_id)).unwrap();
        for (n, size, len) in [(200, 5, 100), (201, 5, 101), (202, 1, 81)] {
            store.add(with_buffer(n, size)).unwrap();
            assert_eq!(store.len(), len);
        }

        let mut store = full();
        let update = |size| RecordUpdate {
            result_buffers: Some(vec![vec![0; size].into()]),
            ..Default::default()
        };
        let last = record(99).msg_id;
        assert!(store.update(&last, update(1)).unwrap());
        assert!(store.len() < 100);
        let bytes: u64 = store
            .records
            .values()
            .map(|entry| weight(&entry.record))
            .sum();
        assert_eq!(bytes, store.bytes);
    }

    #[test]
    fn a_small_limit_is_a_limit() {
        let mut store = store(10, 3);
        for n in 0..10 {
            store.add(with_buffer(n, 2)).unwrap();
            assert!(store.len() <= 3);
        }
        store.add(with_buffer(11, 100)).unwrap();
        assert_eq!((store.len(), store.bytes), (0, 0));
    }

    #[test]
    fn endless_output_counts() {
        let mut store = store(1 << 20, 10);
        for n in 0..3 {
            store.add(record(n)).unwrap();
        }
        for _ in 0..100 {
            let update = RecordUpdate {
                stdout: "x".repeat(50_000),
                ..Default::default()
            };
            store.update(&record(2).msg_id, update).unwrap();
        }
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn a_record_of_unknown_submission_is_culled_in_its_turn() {
        let mut store = store(u64::MAX, 5);
        store.add(record(1)).unwrap();
        store.add(TaskRecord::new("odd".into())).unwrap();
        for n in 2..6 {
            store.add(record(n)).unwrap();
        }
        assert!(store.get("odd").unwrap().is_some());
        assert_eq!(store.history().unwrap().len(), 4);
        store.add(record(6)).unwrap();
        assert!(store.get("odd").unwrap().is_none());
    }

    #[test]
    fn an_unknown_record_is_not_made_by_an_update() {
        let mut store = MemoryStore::default();
        assert!(!store.update(&"x".into(), RecordUpdate::default()).unwrap());
        assert!(store.is_empty());
    }
}
