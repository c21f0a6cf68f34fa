//! How far the task database is behind, and what is done about it.
//!
//! When storage does not keep up, requests wait in their sockets, and so with the clients; replies, control messages and
//! heartbeats go on. Nothing is dropped, and memory stays bounded.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::controller::mail::SchedulerMail;
use crate::transport::Sender;

/// Reports that wait at most; about as much as a second of a fast cluster.
const FULL: usize = 40_000;

/// Reports at which requests are taken in again.
const CAUGHT_UP: usize = FULL / 2;

/// Bytes of messages that wait at most, one report more or less.
const FULL_BYTES: u64 = 256 << 20;

const CAUGHT_UP_BYTES: u64 = FULL_BYTES / 2;

#[derive(Debug)]
pub(super) struct Backlog {
    reports: AtomicUsize,
    bytes: AtomicU64,
    /// Records whose changes were taken and are not stored.
    unwritten: AtomicUsize,
    full: AtomicBool,
    /// Who is told when requests can be taken in again.
    held_back: Vec<Sender<SchedulerMail>>,
}

impl Backlog {
    pub(super) fn new(held_back: Vec<Sender<SchedulerMail>>) -> Self {
        Self {
            reports: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            unwritten: AtomicUsize::new(0),
            full: AtomicBool::new(false),
            held_back,
        }
    }

    /// To be called before the reports are sent.
    ///
    /// Whoever makes the backlog full looks at the counts once more, and whoever takes from it looks at `full` after: in
    /// one order of all these steps, at least one of the two sees the other's.
    pub(super) fn on_handed_over(&self, reports: usize, bytes: u64) {
        let reports = self.reports.fetch_add(reports, Ordering::SeqCst) + reports;
        let bytes = self.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if (reports >= FULL || bytes >= FULL_BYTES) && !self.full.swap(true, Ordering::SeqCst) {
            tracing::warn!(
                "the task database does not keep up: new requests wait until it has caught up"
            );
            // The recorder may have taken everything in the meantime: then nothing would tell it to look again.
            self.on_taken(0, 0);
        }
    }

    pub(super) fn on_taken(&self, reports: usize, bytes: u64) {
        let reports = self.reports.fetch_sub(reports, Ordering::SeqCst) - reports;
        let bytes = self.bytes.fetch_sub(bytes, Ordering::SeqCst) - bytes;
        if reports <= CAUGHT_UP
            && bytes <= CAUGHT_UP_BYTES
            && self.full.load(Ordering::SeqCst)
            && self.full.swap(false, Ordering::SeqCst)
        {
            tracing::info!("the task database has caught up");
            for scheduler in &self.held_back {
                scheduler.send(SchedulerMail::StorageCaughtUp);
            }
        }
    }

    /// How many reports wait.
    pub(super) fn reports(&self) -> usize {
        self.reports.load(Ordering::SeqCst)
    }

    pub(super) fn on_unwritten(&self, records: usize) {
        self.unwritten.store(records, Ordering::Relaxed);
    }

    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::mailbox;

    #[test]
    fn requests_are_held_back_until_half_of_the_backlog_is_gone() {
        let (sender, mut receiver) = mailbox().unwrap();
        let backlog = Backlog::new(vec![sender]);
        backlog.on_handed_over(FULL - 1, 0);
        assert!(!backlog.is_full());
        backlog.on_handed_over(1, 0);
        assert!(backlog.is_full());
        backlog.on_taken(CAUGHT_UP - 1, 0);
        assert!(backlog.is_full());
        backlog.on_taken(1, 0);
        assert!(!backlog.is_full());
        let mut mail = Vec::new();
        assert!(receiver.take(&mut mail) && mail.len() == 1);
    }

    #[test]
    fn few_reports_with_much_in_them_hold_requests_back_too() {
        let (sender, _receiver) = mailbox().unwrap();
        let backlog = Backlog::new(vec![sender]);
        for _ in 0..3 {
            backlog.on_handed_over(1, FULL_BYTES / 2);
        }
        assert!(backlog.is_full());
        backlog.on_taken(1, FULL_BYTES / 2);
        assert!(backlog.is_full());
        backlog.on_taken(1, FULL_BYTES / 2);
        assert!(!backlog.is_full());
    }
}
