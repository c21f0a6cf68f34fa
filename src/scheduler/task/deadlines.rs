//! Timeouts of tasks that wait, in as few bytes as they need: each of a million tasks may have one.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::ids::JobIx;

/// Nanoseconds, never none: a timeout, or the time since the scheduler's first deadline was set. Half the size of the
/// standard types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Nanos(NonZeroU64);

impl Nanos {
    /// None for nothing, and for centuries.
    pub(super) fn new(duration: Duration) -> Option<Self> {
        let nanos = u64::try_from(duration.as_nanos()).ok()?;
        NonZeroU64::new(nanos).map(Self)
    }

    pub(super) fn duration(self) -> Duration {
        Duration::from_nanos(self.0.get())
    }
}

/// When which job has waited long enough.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    start: Option<Instant>,
    list: BTreeSet<(Nanos, JobIx)>,
}

impl Deadlines {
    /// The deadline; none if no clock will ever show it.
    pub(super) fn add(&mut self, now: Instant, timeout: Nanos, job: JobIx) -> Option<Nanos> {
        let start = *self.start.get_or_insert(now);
        let since = now.saturating_duration_since(start);
        let deadline = Nanos::new(since.checked_add(timeout.duration())?)?;
        start.checked_add(deadline.duration())?;
        self.list.insert((deadline, job));
        Some(deadline)
    }

    pub(super) fn remove(&mut self, deadline: Nanos, job: JobIx) {
        self.list.remove(&(deadline, job));
    }

    pub(super) fn first(&self) -> Option<Instant> {
        let (deadline, _) = self.list.first()?;
        self.start?.checked_add(deadline.duration())
    }

    /// Takes out the next job whose deadline has passed.
    pub(super) fn pop_passed(&mut self, now: Instant) -> Option<JobIx> {
        let passed = self.first().is_some_and(|deadline| deadline <= now);
        if !passed {
            return None;
        }
        self.list.pop_first().map(|(_, job)| job)
    }
}

#[cfg(test)]
impl Deadlines {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn contains(&self, deadline: Nanos, job: JobIx) -> bool {
        self.list.contains(&(deadline, job))
    }
}
