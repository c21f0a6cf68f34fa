//! What peers may take of this process: connections, and memory for messages that are still coming in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::zmtp::Violation;
use crate::os::limits::open_files;
use crate::os::shared_memory;

/// Descriptors that are left for everything but peers: databases, logs, the status page.
const RESERVE: u64 = 64;

/// So much of a message is nobody's concern.
const FREE: u64 = 1 << 20;

/// Peers that connect to the sockets of a context.
#[derive(Debug)]
pub(super) struct Visitors {
    /// Bytes of one message, and of all together that have not come in whole.
    pub(super) message_limit: u64,
    count: AtomicUsize,
    /// Those of them that memory can be passed on to.
    near: AtomicUsize,
    held: AtomicU64,
}

/// A connection that a peer has made, as long as it lives.
#[derive(Debug)]
pub(super) struct Visitor {
    all: Arc<Visitors>,
    is_near: bool,
    held: u64,
}

impl Visitors {
    pub(super) fn new(message_limit: u64) -> Self {
        Self {
            message_limit,
            count: AtomicUsize::new(0),
            near: AtomicUsize::new(0),
            held: AtomicU64::new(0),
        }
    }

    /// Takes one more in, if the limit on open files allows it. `is_near`: memory can be passed on to it.
    pub(super) fn admit(self: &Arc<Self>, is_near: bool) -> Result<Visitor, Violation> {
        let limit = open_files().unwrap_or(u64::MAX);
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        self.near.fetch_add(usize::from(is_near), Ordering::Relaxed);
        let visitor = Visitor {
            all: self.clone(),
            is_near,
            held: 0,
        };
        let reserve = RESERVE + shared_memory::most_descriptors();
        if before as u64 >= limit.saturating_sub(reserve).max(1) {
            return Err(Violation::Crowd {
                connections: before,
                open_files: limit,
            });
        }
        Ok(visitor)
    }
}

impl Visitor {
    /// Memory can be passed on to this or another one.
    pub(super) fn has_near_ones(&self) -> bool {
        self.all.near.load(Ordering::Relaxed) > 0
    }

    /// Takes note of how much of a message is here, the rest of which is still to come.
    pub(super) fn hold(&mut self, bytes: u64) -> Result<(), Violation> {
        let bytes = if bytes < FREE { 0 } else { bytes };
        if bytes == self.held {
            return Ok(());
        }
        let more = bytes.wrapping_sub(self.held);
        self.held = bytes;
        let before = self.all.held.fetch_add(more, Ordering::Relaxed);
        let limit = self.all.message_limit;
        if bytes > 0 && before.wrapping_add(more) > limit {
            return Err(Violation::NoMemory { limit });
        }
        Ok(())
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.all.count.fetch_sub(1, Ordering::Relaxed);
        let near = usize::from(self.is_near);
        self.all.near.fetch_sub(near, Ordering::Relaxed);
        self.all.held.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// The part of `limit` that each of those has who take a noticeable part of it.
pub(super) fn fair_share(limit: usize, taken: impl Iterator<Item = usize>) -> usize {
    let noticeable = FREE as usize;
    let takers = taken.filter(|bytes| *bytes > noticeable).count();
    (limit / takers.max(1)).max(noticeable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_messages_have_one_limit_together() {
        let all = Arc::new(Visitors::new(10 << 20));
        let mut visitors: Vec<_> = (0..3).map(|n| all.admit(n == 1).unwrap()).collect();
        visitors[0].hold(6 << 20).unwrap();
        visitors[1].hold(FREE - 1).unwrap();
        visitors[1].hold(3 << 20).unwrap();
        let limit = 10 << 20;
        assert_eq!(
            visitors[2].hold(2 << 20),
            Err(Violation::NoMemory { limit })
        );
        drop(visitors.pop());
        assert!(visitors[0].has_near_ones());
        // What is whole is no more of this concern.
        visitors[0].hold(0).unwrap();
        visitors[1].hold(10 << 20).unwrap();
        drop(visitors);
        assert_eq!(all.held.load(Ordering::Relaxed), 0);
        assert_eq!(all.count.load(Ordering::Relaxed), 0);
        assert_eq!(all.near.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_takes_much_shares_with_others_who_do() {
        let share = |taken: &[usize]| fair_share(64 << 20, taken.iter().copied());
        assert_eq!(share(&[]), 64 << 20);
        assert_eq!(share(&[5 << 20, 100, 0]), 64 << 20);
        assert_eq!(share(&[5 << 20, 9 << 20, 7]), 32 << 20);
        assert_eq!(share(&[2 << 20; 1000]), 1 << 20);
        // However many come one after the other, all together have not much more.
        let mut taken = Vec::new();
        for _ in 0..500 {
            taken.push(2 << 20);
            let last = taken.len() - 1;
            taken[last] = share(&taken).max(2 << 20);
        }
        assert!(taken.iter().sum::<usize>() < 20 * (64 << 20));
    }
}
