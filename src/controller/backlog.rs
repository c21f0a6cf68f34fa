//! How far the task database is behind, and what is done about it.
//!
//! When storage does not keep up, new requests wait in their sockets, and so with the clients, and queued tasks in the
//! scheduler; replies, control messages and heartbeats go on. Nothing is dropped, and memory stays bounded.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::controller::mail::SchedulerMail;
use crate::transport::Sender;

/// Reports that wait at most; about as much as a second of a fast cluster.
const FULL: usize = 40_000;

/// Reports at which requests are taken in again.
const CAUGHT_UP: usize = FULL / 2;

/// Bytes of messages that wait at most, one report more or less.
const FULL_BYTES: u64 = 256 << 20;

const CAUGHT_UP_BYTES: u64 = FULL_BYTES / 2;

/// How long a report may wait. What has come by then takes about as long again, or a few times as long.
const FULL_AGE: Duration = Duration::from_millis(500);

const CAUGHT_UP_AGE: Duration = Duration::from_millis(250);

/// Between two lines in the log.
const REPEAT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Backlog {
    /// From which times are counted.
    start: Instant,
    reports: AtomicUsize,
    bytes: AtomicU64,
    /// When about the oldest that waits was handed over, in microseconds.
    oldest: AtomicU64,
    /// Records whose changes were taken and are not stored.
    unwritten: AtomicUsize,
    /// While the database is at fault, only memory counts: the cluster goes on.
    at_fault: AtomicBool,
    full: AtomicBool,
    /// When the log was told, in microseconds; 0 if never.
    said: AtomicU64,
    /// Who is told when requests can be taken in again.
    held_back: Vec<Sender<SchedulerMail>>,
}

impl Backlog {
    pub(super) fn new(held_back: Vec<Sender<SchedulerMail>>) -> Self {
        Self {
            start: Instant::now(),
            reports: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            unwritten: AtomicUsize::new(0),
            at_fault: AtomicBool::new(false),
            full: AtomicBool::new(false),
            said: AtomicU64::new(0),
            held_back,
        }
    }

    /// To be called before the reports are sent; the first of them came at `since`.
    ///
    /// Whoever makes the backlog full looks at the counts once more, and whoever takes from it looks at `full` after: in
    /// one order of all these steps, at least one of the two sees the other's.
    pub(super) fn on_handed_over(&self, now: Instant, since: Instant, reports: usize, bytes: u64) {
        let before = self.reports.fetch_add(reports, Ordering::SeqCst);
        if before == 0 {
            self.oldest.store(self.micros(since), Ordering::SeqCst);
        }
        let reports = before + reports;
        let bytes = self.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let is_full = reports >= FULL || bytes >= FULL_BYTES || self.age(now) >= FULL_AGE;
        if is_full && !self.full.swap(true, Ordering::SeqCst) {
            self.say(now);
            // The recorder may have taken everything in the meantime: then nothing would tell it to look again.
            self.let_on(now);
        }
    }

    /// So many are in the store; the last of them was handed over at `last`.
    pub(super) fn on_taken(&self, now: Instant, last: Option<Instant>, reports: usize, bytes: u64) {
        if let Some(last) = last {
            self.oldest.store(self.micros(last), Ordering::SeqCst);
        }
        self.reports.fetch_sub(reports, Ordering::SeqCst);
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.let_on(now);
    }

    /// Requests are taken in again if there is room.
    fn let_on(&self, now: Instant) {
        let has_room = self.reports.load(Ordering::SeqCst) <= CAUGHT_UP
            && self.bytes.load(Ordering::SeqCst) <= CAUGHT_UP_BYTES
            && self.age(now) <= CAUGHT_UP_AGE;
        if has_room && self.full.load(Ordering::SeqCst) && self.full.swap(false, Ordering::SeqCst) {
            tracing::debug!("the task database has caught up");
            for scheduler in &self.held_back {
                scheduler.send(SchedulerMail::StorageCaughtUp);
            }
        }
    }

    fn age(&self, now: Instant) -> Duration {
        if self.reports.load(Ordering::SeqCst) == 0 || self.at_fault.load(Ordering::SeqCst) {
            return Duration::ZERO;
        }
        let oldest = Duration::from_micros(self.oldest.load(Ordering::SeqCst));
        now.saturating_duration_since(self.start + oldest)
    }

    fn micros(&self, at: Instant) -> u64 {
        let micros = at.saturating_duration_since(self.start).as_micros();
        u64::try_from(micros).unwrap_or(u64::MAX)
    }

    fn say(&self, now: Instant) {
        let now = self.micros(now);
        let said = self.said.swap(now.max(1), Ordering::Relaxed);
        if said == 0 || Duration::from_micros(now.saturating_sub(said)) >= REPEAT {
            tracing::warn!(
                "the task database does not keep up: new requests wait whenever it is behind (ipcluster db stats)"
            );
        }
    }

    /// How many reports wait.
    pub(super) fn reports(&self) -> usize {
        self.reports.load(Ordering::SeqCst)
    }

    pub(super) fn set_unwritten(&self, records: usize) {
        self.unwritten.store(records, Ordering::Relaxed);
    }

    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    pub(super) fn set_at_fault(&self, at_fault: bool) {
        self.at_fault.store(at_fault, Ordering::SeqCst);
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
        let now = backlog.start;
        backlog.on_handed_over(now, now, FULL - 1, 0);
        assert!(!backlog.is_full());
        backlog.on_handed_over(now, now, 1, 0);
        assert!(backlog.is_full());
        backlog.on_taken(now, None, CAUGHT_UP - 1, 0);
        assert!(backlog.is_full());
        backlog.on_taken(now, None, 1, 0);
        assert!(!backlog.is_full());
        let mut mail = Vec::new();
        assert!(receiver.take(&mut mail) && mail.len() == 1);
    }

    #[test]
    fn few_reports_with_much_in_them_hold_requests_back_too() {
        let (sender, _receiver) = mailbox().unwrap();
        let backlog = Backlog::new(vec![sender]);
        let now = backlog.start;
        for _ in 0..3 {
            backlog.on_handed_over(now, now, 1, FULL_BYTES / 2);
        }
        assert!(backlog.is_full());
        backlog.on_taken(now, None, 1, FULL_BYTES / 2);
        assert!(backlog.is_full());
        backlog.on_taken(now, None, 1, FULL_BYTES / 2);
        assert!(!backlog.is_full());
    }

    #[test]
    fn reports_that_wait_for_long_hold_requests_back() {
        let (sender, _receiver) = mailbox().unwrap();
        let backlog = Backlog::new(vec![sender]);
        let at = |millis| backlog.start + Duration::from_millis(millis);
        backlog.on_handed_over(at(10_000), at(9_990), 2, 0);
        assert!(!backlog.is_full(), "nothing waited before");
        backlog.on_handed_over(at(10_490), at(10_490), 1, 0);
        assert!(backlog.is_full());
        backlog.on_taken(at(10_500), Some(at(10_000)), 1, 0);
        assert!(backlog.is_full(), "it is still half a second behind");
        backlog.on_taken(at(10_510), Some(at(10_490)), 1, 0);
        assert!(!backlog.is_full());
        // A database that is at fault is not waited for.
        backlog.set_at_fault(true);
        backlog.on_handed_over(at(20_000), at(20_000), 1, 0);
        assert!(!backlog.is_full());
        backlog.set_at_fault(false);
        backlog.on_taken(at(20_010), None, 2, 0);
        backlog.on_handed_over(at(30_000), at(30_000), 1, 0);
        assert!(!backlog.is_full());
    }
}
