//! Whether the task database takes what it is given, and who is told when it does not.
//!
//! The cluster goes on without: the fault is in the log at once and then once a minute, in the hub's figures as long as it
//! lasts, and what was lost is in the log when it ends. The controller's exit report has all of it.

use std::time::{Duration, Instant};

use crate::hub::StorageFault;
use crate::protocol::Timestamp;
use crate::taskdb::StoreError;
use crate::taskdb::store::Backlog;

/// Between two attempts to write.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// A full disk would fill another one with lines about it.
const REPEAT: Duration = Duration::from_secs(60);

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Error(String),
    Warning(String),
    Info(String),
}

#[derive(Debug, Default)]
pub(super) struct StorageHealth {
    fault: Option<Fault>,
    /// Changes that were lost before the fault.
    lost_before: u64,
    past: Past,
}

/// Faults that have ended.
#[derive(Debug, Default)]
struct Past {
    count: u64,
    time: Duration,
    last: Option<StoreError>,
}

/// What is to be said of the task database when the controller ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageReport {
    /// It has everything, after some faults.
    Complete(String),
    /// It does not have everything.
    Incomplete(String),
}

#[derive(Debug)]
struct Fault {
    error: StoreError,
    since: Timestamp,
    began: Instant,
    said: Instant,
}

impl StorageHealth {
    pub(super) fn is_faulty(&self) -> bool {
        self.fault.is_some()
    }

    /// A write failed. What it concerns waits, or is lost.
    pub(super) fn on_fault(
        &mut self,
        now: Instant,
        at: Timestamp,
        error: StoreError,
    ) -> Option<Line> {
        let known = self.fault.take();
        let is_said = known.as_ref().is_some_and(|known| {
            same_kind(&known.error, &error) && now.saturating_duration_since(known.said) < REPEAT
        });
        let line = (!is_said).then(|| {
            Line::Error(format!(
                "task records cannot be stored now; the cluster goes on, and what is recorded waits in memory: {error}"
            ))
        });
        let said = match &known {
            Some(known) if is_said => known.said,
            _ => now,
        };
        let (since, began) = known.map_or((at, now), |known| (known.since, known.began));
        self.fault = Some(Fault {
            error,
            since,
            began,
            said,
        });
        line
    }

    /// A write succeeded.
    pub(super) fn on_success(&mut self, now: Instant, backlog: Backlog) -> Option<Line> {
        let fault = self.fault.take()?;
        self.past.count += 1;
        self.past.time += now.saturating_duration_since(fault.began);
        self.past.last = Some(fault.error);
        let lost = backlog.refused.saturating_sub(self.lost_before);
        self.lost_before = backlog.refused;
        Some(match lost {
            0 => Line::Info("task records are stored again; none were lost".to_owned()),
            lost => Line::Warning(format!(
                "task records are stored again; {lost} changes of records were lost meanwhile"
            )),
        })
    }

    /// For the hub's figures.
    pub(super) fn figures(&self, backlog: Backlog) -> Option<StorageFault> {
        let fault = self.fault.as_ref()?;
        Some(StorageFault {
            error: fault.error.to_string(),
            remedy: fault.error.remedy(),
            since: fault.since,
            waiting: backlog.records,
            lost: backlog.refused.saturating_sub(self.lost_before),
        })
    }

    /// What is to be said when the controller ends, if anything; `closed` is how the last write went.
    pub(super) fn at_the_end(
        &self,
        backlog: Backlog,
        closed: Result<(), StoreError>,
    ) -> Option<StorageReport> {
        let lost = backlog.refused;
        let past = match (&self.past, &self.past.last) {
            (Past { count, time, .. }, Some(last)) => format!(
                "; it could not be written to {count} times before, for {:.1} s in all, the last time: {last}",
                time.as_secs_f64()
            ),
            (_, None) => String::new(),
        };
        match closed {
            Err(error) => Some(StorageReport::Incomplete(format!(
                "the task database does not have {} changes of records: {error}{past}",
                lost + backlog.records as u64
            ))),
            Ok(()) if lost > 0 => Some(StorageReport::Incomplete(format!(
                "the task database does not have {lost} changes of records, which it could not take{past}"
            ))),
            Ok(()) if !past.is_empty() => Some(StorageReport::Complete(format!(
                "the task database has everything{past}"
            ))),
            Ok(()) => None,
        }
    }
}

fn same_kind(a: &StoreError, b: &StoreError) -> bool {
    match (a, b) {
        (StoreError::Fault { fault: a, .. }, StoreError::Fault { fault: b, .. }) => a == b,
        _ => a == b,
    }
}

impl Line {
    pub(super) fn log(self) {
        match self {
            Self::Error(text) => tracing::error!("{text}"),
            Self::Warning(text) => tracing::warn!("{text}"),
            Self::Info(text) => tracing::info!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taskdb::store::Fault as Kind;

    fn error(fault: Kind) -> StoreError {
        StoreError::Fault {
            place: "tasks.db".to_owned(),
            fault,
            detail: "so it is".to_owned(),
        }
    }

    fn lost(refused: u64) -> Backlog {
        Backlog {
            records: 3,
            refused,
            ..Backlog::default()
        }
    }

    #[test]
    fn a_fault_is_told_at_once_and_then_once_a_minute() {
        let mut health = StorageHealth::default();
        let start = Instant::now();
        let mut told = Vec::new();
        for second in 0..150 {
            let now = start + Duration::from_secs(second);
            let at = Timestamp::from_micros(i64::try_from(second).unwrap());
            if health.on_fault(now, at, error(Kind::DiskFull)).is_some() {
                told.push(second);
            }
        }
        assert_eq!(told, [0, 60, 120]);
        let now = start + Duration::from_secs(150);
        let other = health.on_fault(now, Timestamp::from_micros(9), error(Kind::Locked));
        assert!(other.is_some(), "another fault is news");
        let figures = health.figures(lost(5)).unwrap();
        assert_eq!((figures.waiting, figures.lost), (3, 5));
        assert_eq!(figures.since, Timestamp::from_micros(0));
        assert!(figures.error.contains("tasks.db"));
    }

    #[test]
    fn its_end_is_told_with_what_was_lost() {
        let mut health = StorageHealth::default();
        assert_eq!(health.on_success(Instant::now(), lost(0)), None);
        for (refused, is_warning) in [(0, false), (7, true), (7, false)] {
            health.on_fault(
                Instant::now(),
                Timestamp::from_micros(0),
                error(Kind::DiskFull),
            );
            let line = health.on_success(Instant::now(), lost(refused)).unwrap();
            assert_eq!(matches!(line, Line::Warning(_)), is_warning, "{line:?}");
            assert_eq!(health.figures(lost(refused)), None);
        }
    }

    fn said(report: Option<StorageReport>) -> String {
        match report {
            Some(StorageReport::Incomplete(text)) => text,
            other => unreachable!("it lacks something: {other:?}"),
        }
    }

    #[test]
    fn the_end_says_what_the_database_does_not_have() {
        let health = StorageHealth::default();
        assert_eq!(health.at_the_end(lost(0), Ok(())), None);
        assert!(said(health.at_the_end(lost(2), Ok(()))).contains(" 2 changes"));
        let text = said(health.at_the_end(lost(2), Err(error(Kind::DiskFull))));
        assert!(
            text.contains(" 5 changes") && text.contains("disk is full"),
            "{text}"
        );
    }

    #[test]
    fn the_end_tells_of_faults_that_are_over() {
        let mut health = StorageHealth::default();
        let start = Instant::now();
        for fault in [Kind::Locked, Kind::DiskFull] {
            health.on_fault(start, Timestamp::from_micros(0), error(fault));
            health.on_success(start + Duration::from_secs(2), lost(0));
        }
        let Some(StorageReport::Complete(text)) = health.at_the_end(lost(0), Ok(())) else {
            unreachable!("it has everything");
        };
        assert!(text.contains("2 times") && text.contains("4.0 s"), "{text}");
        assert!(text.contains("disk is full"), "{text}");
        assert!(said(health.at_the_end(lost(1), Ok(()))).contains("2 times"));
    }
}
