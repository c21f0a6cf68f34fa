//! How long records are kept. Only finished ones are dropped, the oldest first.

use std::time::Duration;

use super::SqliteStore;
use crate::protocol::Timestamp;

/// Limits; [`None`] is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub records: Option<u64>,
    /// Of the file, its free pages not counted.
    pub bytes: Option<u64>,
    /// Since submission.
    pub age: Option<Duration>,
}

/// Records that one call drops at most, so that what waits to be written does not wait for long.
const PIECE: u64 = 2000;

/// Pages that one call gives back to the file system at most.
const PAGES: u64 = 2000;

impl SqliteStore {
    /// Bytes of the file's pages that hold something.
    pub(super) fn used_bytes(&self) -> Result<u64, rusqlite::Error> {
        let number = |name: &str| -> Result<u64, rusqlite::Error> {
            let number: i64 = self
                .file
                .db
                .pragma_query_value(None, name, |row| row.get(0))?;
            Ok(u64::try_from(number).unwrap_or_default())
        };
        let pages = number("page_count")?.saturating_sub(number("freelist_count")?);
        Ok(pages * number("page_size")?)
    }

    /// Drops a piece of what is over the limits.
    pub(super) fn retain(&mut self, now: Timestamp) -> Result<u64, rusqlite::Error> {
        let mut dropped = 0;
        if let Some(age) = self.retention.age {
            let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            let oldest = now.as_micros().saturating_sub(age);
            dropped += self.drop_finished(Some(oldest), PIECE)?;
        }
        if let Some(limit) = self.retention.records {
            let over = self.records.saturating_sub(dropped).saturating_sub(limit);
            dropped += self.drop_finished(None, over.min(PIECE))?;
        }
        if let Some(limit) = self.retention.bytes {
            let used = self.used_bytes()?;
            let records = self.records.saturating_sub(dropped);
            if used > limit && records > 0 {
                // As many as would do if all were of one size; the next call sees what came of it.
                let each = (used / records).max(1);
                let over = (used - limit).div_ceil(each);
                dropped += self.drop_finished(None, over.clamp(1, PIECE))?;
            }
        }
        if dropped > 0 {
            // Each step gives back one page.
            let sql = format!("PRAGMA incremental_vacuum({PAGES})");
            let mut statement = self.file.db.prepare_cached(&sql)?;
            let mut steps = statement.query([])?;
            while steps.next()?.is_some() {}
        }
        Ok(dropped)
    }

    fn drop_finished(&self, before: Option<i64>, count: u64) -> Result<u64, rusqlite::Error> {
        if count == 0 {
            return Ok(0);
        }
        let records = &self.file.tables.records;
        let before_clause = if before.is_some() {
            "AND submitted < ?2"
        } else {
            ""
        };
        let sql = format!(
            "DELETE FROM {records} WHERE id IN (SELECT id FROM {records}
                WHERE completed IS NOT NULL {before_clause} ORDER BY submitted, id LIMIT ?1)"
        );
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut statement = self.file.db.prepare_cached(&sql)?;
        let dropped = match before {
            Some(before) => statement.execute((count, before))?,
            None => statement.execute((count,))?,
        };
        Ok(dropped as u64)
    }
}
