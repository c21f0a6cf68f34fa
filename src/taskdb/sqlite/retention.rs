//! Applies the limits, the oldest finished records first.

use super::SqliteStore;
use crate::protocol::Timestamp;

/// Records that are dropped at once at most, so that what waits to be written does not wait for long.
pub(super) const PIECE: u64 = 2000;

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
        if let Some(oldest) = self.retention.oldest(now.as_micros()) {
            dropped += self.drop_finished(Some(oldest), PIECE)?;
        }
        let records = self.records.saturating_sub(dropped);
        let bytes = match self.retention.bytes {
            Some(_) => self.used_bytes()?,
            None => 0,
        };
        let excess = self.retention.excess(records, bytes);
        dropped += self.drop_finished(None, excess.min(PIECE))?;
        if dropped > 0 {
            self.shrink()?;
        }
        Ok(dropped)
    }

    /// Gives pages that hold nothing back to the file system.
    pub(super) fn shrink(&self) -> Result<(), rusqlite::Error> {
        let sql = format!("PRAGMA incremental_vacuum({PAGES})");
        let mut statement = self.file.db.prepare_cached(&sql)?;
        let mut steps = statement.query([])?;
        // Each gives back one page.
        while steps.next()?.is_some() {}
        Ok(())
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
