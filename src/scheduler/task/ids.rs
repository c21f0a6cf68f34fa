//! The ids of live tasks, and a compact memory of those that have ended.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::roster::Serial;
use super::slab::ix;

ix! {
    /// A live job.
    JobIx,
}

/// A hash of a msg_id, the same in both tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdHash(u64);

/// Hashes ids. Its seed differs from process to process, so that nobody can make up ids that collide; what the
/// scheduler decides does not depend on it.
#[derive(Clone, Debug, Default)]
pub(super) struct IdHasher(DefaultHashBuilder);

impl IdHasher {
    pub(super) fn hash(&self, msg_id: &str) -> IdHash {
        IdHash(self.0.hash_one(msg_id))
    }
}

/// Finds live jobs by msg_id. Half of the hash is kept with each, so that growing does not touch the jobs.
#[derive(Debug, Default)]
pub(super) struct LiveIds {
    table: HashTable<(u32, JobIx)>,
}

fn short(hash: IdHash) -> u32 {
    (hash.0 >> 32) as u32
}

/// Spreads the half over the bits that the table looks at.
fn spread(short: u32) -> u64 {
    u64::from(short).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl LiveIds {
    /// `is` tells whether a job has the id that is looked for.
    pub(super) fn find(&self, hash: IdHash, is: impl Fn(JobIx) -> bool) -> Option<JobIx> {
        let short = short(hash);
        self.table
            .find(spread(short), |entry| entry.0 == short && is(entry.1))
            .map(|entry| entry.1)
    }

    pub(super) fn insert(&mut self, hash: IdHash, job: JobIx) {
        let short = short(hash);
        self.table
            .insert_unique(spread(short), (short, job), |entry| spread(entry.0));
    }

    pub(super) fn remove(&mut self, hash: IdHash, job: JobIx) {
        if let Ok(entry) = self
            .table
            .find_entry(spread(short(hash)), |entry| entry.1 == job)
        {
            entry.remove();
        }
        if self.table.capacity() > 1024 && self.table.len() * 8 < self.table.capacity() {
            self.table
                .shrink_to(self.table.len() * 2, |entry| spread(entry.0));
        }
    }
}

/// How a task ended, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) ok: bool,
    /// The engine that it ran on; none when the scheduler ended it before.
    pub(super) engine: Option<Serial>,
}

impl Ended {
    fn pack(self) -> u32 {
        let engine = self.engine.map_or(0, |serial| serial.0 + 1);
        engine << 1 | u32::from(self.ok)
    }

    fn unpack(packed: u32) -> Self {
        Self {
            ok: packed & 1 == 1,
            engine: (packed >> 1).checked_sub(1).map(Serial),
        }
    }
}

/// The newest `limit` tasks that have ended. Two ids are taken for one if their 64-bit hashes are the same: with a
/// million remembered, one lookup in 2^44.
#[derive(Debug)]
pub(super) struct Finished {
    limit: usize,
    /// Where in the ring each is.
    table: HashTable<u32>,
    hashes: Vec<u64>,
    ends: Vec<u32>,
    /// The oldest, once the ring is full.
    next: usize,
}

impl Finished {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.min(u32::MAX as usize),
            table: HashTable::new(),
            hashes: Vec::new(),
            ends: Vec::new(),
            next: 0,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn get(&self, hash: IdHash) -> Option<Ended> {
        self.table
            .find(hash.0, |at| self.hashes[*at as usize] == hash.0)
            .map(|at| Ended::unpack(self.ends[*at as usize]))
    }

    pub(super) fn insert(&mut self, hash: IdHash, ended: Ended) {
        if self.limit == 0 {
            return;
        }
        // An id that ends once more is as young as its last end.
        if let Ok(entry) = self
            .table
            .find_entry(hash.0, |at| self.hashes[*at as usize] == hash.0)
        {
            entry.remove();
        }
        let at = if self.hashes.len() < self.limit {
            self.hashes.push(hash.0);
            self.ends.push(ended.pack());
            self.hashes.len() - 1
        } else {
            let at = self.next;
            self.next = (at + 1) % self.limit;
            let oldest = self.hashes[at];
            if let Ok(entry) = self.table.find_entry(oldest, |entry| *entry as usize == at) {
                entry.remove();
            }
            self.hashes[at] = hash.0;
            self.ends[at] = ended.pack();
            at
        };
        let hashes = &self.hashes;
        self.table
            .insert_unique(hash.0, at as u32, |at| hashes[*at as usize]);
    }
}

#[cfg(test)]
impl LiveIds {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size()
    }
}

#[cfg(test)]
impl Finished {
    pub(super) fn bytes(&self) -> usize {
        self.table.allocation_size() + self.hashes.capacity() * 8 + self.ends.capacity() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ok: bool, engine: Option<u32>) -> Ended {
        Ended {
            ok,
            engine: engine.map(Serial),
        }
    }

    #[test]
    fn the_oldest_ends_are_forgotten() {
        let hasher = IdHasher::default();
        let hash = |n: u32| hasher.hash(&format!("task_{n}"));
        let mut finished = Finished::new(100);
        for n in 0..250 {
            finished.insert(hash(n), ended(n % 2 == 0, (n % 3 > 0).then_some(n)));
        }
        for n in 0..250 {
            let expected = (n >= 150).then(|| ended(n % 2 == 0, (n % 3 > 0).then_some(n)));
            assert_eq!(finished.get(hash(n)), expected, "{n}");
        }
        assert_eq!(finished.table.len(), 100);
    }

    #[test]
    fn an_id_that_ends_twice_is_remembered_as_it_ended_last() {
        let hasher = IdHasher::default();
        let mut finished = Finished::new(4);
        for n in 0..20 {
            finished.insert(hasher.hash("same"), ended(n % 2 == 0, None));
            assert_eq!(
                finished.get(hasher.hash("same")),
                Some(ended(n % 2 == 0, None))
            );
            assert_eq!(finished.table.len(), 1);
        }
    }

    #[test]
    fn the_default_limit_costs_what_it_says() {
        let mut finished = Finished::new(super::super::DEFAULT_FINISHED_LIMIT);
        for n in 0..1_000_000_u64 {
            let hash = IdHash(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            finished.insert(hash, ended(true, Some(3)));
        }
        assert!(finished.bytes() < 9 << 20, "{}", finished.bytes());
    }
}
