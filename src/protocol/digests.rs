//! Remembers the digests of accepted messages, so that a recorded message cannot be played back.

use hashbrown::HashSet;

use super::signature::Digest;

/// The newest `capacity` digests, oldest forgotten first. Eight bytes of each are kept: a forger would have to find a
/// signed message to collide with, and a false hit among 2^16 has the odds of 2^-48.
#[derive(Debug)]
pub struct DigestHistory {
    seen: HashSet<u64>,
    order: Vec<u64>,
    next: usize,
    capacity: usize,
}

impl DigestHistory {
    /// With a capacity of 0 nothing is remembered, and every digest passes.
    pub fn new(capacity: usize) -> Self {
        Self {
            seen: HashSet::new(),
            order: Vec::new(),
            next: 0,
            capacity,
        }
    }

    /// Records a digest that was found right; `false` when it was seen before.
    pub fn record(&mut self, digest: &Digest) -> bool {
        if self.capacity == 0 {
            return true;
        }
        let short = u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
        if !self.seen.insert(short) {
            return false;
        }
        if self.order.len() < self.capacity {
            self.order.push(short);
        } else {
            self.seen.remove(&self.order[self.next]);
            self.order[self.next] = short;
            self.next = (self.next + 1) % self.capacity;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_le_bytes());
        digest
    }

    #[test]
    fn a_digest_passes_once_until_it_is_forgotten() {
        let mut history = DigestHistory::new(3);
        for n in 0..3 {
            assert!(history.record(&digest(n)));
            assert!(!history.record(&digest(n)));
        }
        assert!(history.record(&digest(3)));
        assert!(history.record(&digest(0)), "the oldest is forgotten");
        assert!(!history.record(&digest(2)));
        assert_eq!(history.seen.len(), 3);
    }
}
