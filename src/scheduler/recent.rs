//! Ids of finished requests, for those who ask what became of one.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashSet};

/// Ids that are remembered: at 16 bytes each, four megabytes when full.
const CAPACITY: usize = 1 << 18;

/// The newest [`CAPACITY`] ids, as 64-bit hashes: a false "yes" among them has the odds of 2^-46.
#[derive(Debug, Default)]
pub(super) struct Recent {
    hasher: DefaultHashBuilder,
    known: HashSet<u64>,
    order: Vec<u64>,
    next: usize,
}

impl Recent {
    pub(super) fn add(&mut self, id: impl AsRef<str>) {
        let hash = self.hash(id.as_ref());
        if !self.known.insert(hash) {
            return;
        }
        if self.order.len() < CAPACITY {
            self.order.push(hash);
        } else {
            self.known.remove(&self.order[self.next]);
            self.order[self.next] = hash;
            self.next = (self.next + 1) % CAPACITY;
        }
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.known.contains(&self.hash(id))
    }

    fn hash(&self, id: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(id.as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_known_and_no_more() {
        let mut recent = Recent::default();
        for n in 0..CAPACITY + 10 {
            recent.add(n.to_string());
        }
        assert!(!recent.contains("9") && recent.contains("10"));
        assert!(recent.contains(&(CAPACITY + 9).to_string()));
        assert_eq!(recent.known.len(), CAPACITY);
    }
}
