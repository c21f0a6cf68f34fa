//! Whether there is memory for more requests.
//!
//! A client may submit faster than engines work, for as long as it likes. What is queued lies in memory; when the controller
//! has taken so much of it, new requests wait in their sockets, and so with the clients. Replies, control messages and
//! heartbeats go on, and make room.

use std::time::{Duration, Instant};

use crate::os::memory;

/// Between two looks, as long as requests are queued.
const LOOK: Duration = Duration::from_millis(100);

/// Between two lines in the log.
const REPEAT: Duration = Duration::from_secs(60);

fn taken() -> u64 {
    memory::taken().map_or(0, |bytes| bytes as u64)
}

/// What one queue knows of the memory.
#[derive(Debug)]
pub(super) struct Room {
    queue: &'static str,
    /// Bytes that the process may take.
    limit: u64,
    next_look: Option<Instant>,
    is_full: bool,
    /// When the log was told.
    said: Option<Instant>,
}

impl Room {
    pub(super) fn new(queue: &'static str, limit: u64) -> Self {
        Self {
            queue,
            limit,
            next_look: None,
            is_full: false,
            said: None,
        }
    }

    /// May more requests be taken in? They may in any case when no other `is_pending`, whose end would make room.
    pub(super) fn takes_requests(&mut self, is_pending: bool) -> bool {
        if !is_pending {
            self.is_full = false;
            return true;
        }
        let now = Instant::now();
        if self.next_look.is_none_or(|when| when <= now) {
            self.next_look = Some(now + LOOK);
            let mut bytes = taken();
            if bytes > self.limit - self.limit / 8 {
                // What ended requests have left counts only if the allocator keeps it.
                memory::give_back();
                bytes = taken();
            }
            self.look(bytes, now);
        }
        !self.is_full
    }

    fn look(&mut self, taken: u64, now: Instant) {
        let was_full = self.is_full;
        // Somewhat less, so that it does not begin and end with every request.
        let limit = if was_full {
            self.limit - self.limit / 8
        } else {
            self.limit
        };
        self.is_full = taken > limit;
        if self.is_full && !was_full && self.said.is_none_or(|said| now - said >= REPEAT) {
            self.said = Some(now);
            tracing::warn!(
                "{}: {taken} bytes of memory are in use, of {} that may be: new requests wait with the clients until some \
                 have ended; max_memory of [controller] sets the limit",
                self.queue,
                self.limit,
            );
        }
    }

    /// When to look again, while requests wait.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next_look.filter(|_| self.is_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_wait_until_there_is_room_again() {
        let now = Instant::now();
        let mut room = Room::new("task", 800);
        for (taken, is_full) in [
            (800, false),
            (801, true),
            (750, true),
            (700, false),
            (750, false),
        ] {
            room.look(taken, now);
            assert_eq!(room.is_full, is_full, "{taken}");
        }
        // Of this process.
        let mut room = Room::new("task", 1);
        assert_eq!(room.takes_requests(true), memory::taken().is_none());
        assert_eq!(room.next_deadline().is_some(), room.is_full);
        assert!(room.takes_requests(false));
        assert_eq!(room.next_deadline(), None);
        assert!(Room::new("task", u64::MAX).takes_requests(true));
    }
}
