//! How long records are kept.

use std::time::Duration;

/// Limits; [`None`] is no limit. Only finished records are dropped, the oldest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub records: Option<u64>,
    /// Of what the records take in the database.
    pub bytes: Option<u64>,
    /// Since submission.
    pub age: Option<Duration>,
}

impl Retention {
    /// In microseconds since 1970: what was submitted before is too old.
    pub(super) fn oldest(&self, now: i64) -> Option<i64> {
        let age = i64::try_from(self.age?.as_micros()).unwrap_or(i64::MAX);
        Some(now.saturating_sub(age))
    }

    /// How many of so many records, which take so many bytes, are too many: as many as would do if all were of one size.
    /// What came of it the next look shows.
    pub(super) fn excess(&self, records: u64, bytes: u64) -> u64 {
        let too_many = self
            .records
            .map_or(0, |limit| records.saturating_sub(limit));
        let too_large = match self.bytes {
            Some(limit) if bytes > limit && records > 0 => {
                let each = (bytes / records).max(1);
                (bytes - limit).div_ceil(each).min(records)
            }
            _ => 0,
        };
        too_many.max(too_large)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_limit_counts() {
        let limits = Retention {
            records: Some(90),
            bytes: Some(8000),
            age: Some(Duration::from_secs(1)),
        };
        assert_eq!(limits.excess(100, 5000), 10);
        assert_eq!(limits.excess(100, 10_000), 20);
        assert_eq!(limits.excess(50, 8000), 0);
        assert_eq!(limits.excess(1, u64::MAX), 1);
        assert_eq!(limits.excess(0, 9000), 0);
        assert_eq!(limits.oldest(3_000_000), Some(2_000_000));
        let none = Retention::default();
        assert_eq!((none.excess(u64::MAX, u64::MAX), none.oldest(0)), (0, None));
    }
}
