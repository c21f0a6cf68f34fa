//! Looking for records in the file.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::codec::kind_number;
use super::pushdown::Condition;
use super::schema::Tables;
use super::{codec, fault};
use crate::protocol::MsgId;
use crate::taskdb::query::Query;
use crate::taskdb::record::{Key, KeySet, TaskRecord};
use crate::taskdb::store::{RecordReader, StoreError};

/// A connection to the file. It sees what is committed; with the write-ahead log, it neither waits for a writer nor
/// makes one wait.
#[derive(Debug)]
pub(super) struct SqliteReader {
    pub(super) db: Connection,
    pub(super) place: String,
    pub(super) tables: Tables,
}

impl SqliteReader {
    pub(super) fn open(path: &Path, tables: Tables) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        let db = connect(path).map_err(|error| fault(&place, error))?;
        Ok(Self { db, place, tables })
    }

    pub(super) fn wrong(&self, error: rusqlite::Error) -> StoreError {
        fault(&self.place, error)
    }

    /// Rows that match, in the order in which they were added, with the fields `keys`.
    pub(super) fn select(
        &self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(i64, TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), rusqlite::Error> {
        let condition = Condition::of(query);
        let looked_at = if condition.exact {
            KeySet::EMPTY
        } else {
            query.keys()
        };
        let loaded = keys.union(looked_at);
        let sql = format!(
            "SELECT {} FROM {} WHERE {} ORDER BY id",
            codec::columns(loaded),
            self.tables.records,
            condition.ordered(&self.tables.records),
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(&condition.params))?;
        while let Some(row) = rows.next()? {
            if !condition.exact {
                // Buffers are not looked at beyond their being there.
                let seen = codec::record(row, loaded, looked_at, &mut |_, _| Ok(Vec::new()))?;
                if !query.matches(&seen) {
                    continue;
                }
            }
            let record = codec::record(row, loaded, keys, &mut |id, kind| {
                self.spilled_buffers(id, kind)
            })?;
            if each(row.get(0)?, record).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Buffers that were written by [`SqliteStore`](super::SqliteStore).
    fn spilled_buffers(&self, task: i64, key: Key) -> Result<Vec<Bytes>, rusqlite::Error> {
        let sql = format!(
            "SELECT id FROM {} WHERE task = ? AND kind = ? ORDER BY n",
            self.tables.buffers
        );
        let mut statement = self.db.prepare_cached(&sql)?;
        let mut rows = statement.query((task, kind_number(key)))?;
        let mut list = Vec::new();
        while let Some(row) = rows.next()? {
            let name = self.tables.buffers_name.as_str();
            let blob = self.db.blob_open("main", name, "data", row.get(0)?, true)?;
            let mut buffer = vec![0; blob.size().try_into().unwrap_or_default()];
            blob.read_at_exact(&mut buffer, 0)?;
            list.push(buffer.into());
        }
        Ok(list)
    }
}

/// A connection to a file beside which nothing can be written, and so nobody else writes: SQLite would put its index of the
/// write-ahead log there.
pub(super) fn connect_to_unchanging(path: &Path) -> Result<Connection, rusqlite::Error> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = String::from("file://");
    for byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(char::from(*byte));
            }
            other => {
                let _ = write!(uri, "%{other:02X}");
            }
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(uri, flags)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// A connection that changes nothing.
pub(super) fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

impl RecordReader for SqliteReader {
    fn find(
        &mut self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.select(query, keys, &mut |_, record| each(record))
            .map_err(|error| self.wrong(error))
    }

    fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
        let sql = format!(
            "SELECT msg_id FROM {} WHERE submitted IS NOT NULL ORDER BY submitted, id",
            self.tables.records
        );
        let read = || -> Result<Vec<MsgId>, rusqlite::Error> {
            let mut statement = self.db.prepare_cached(&sql)?;
            let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
            ids.map(|id| id.map(MsgId::from)).collect()
        };
        read().map_err(|error| self.wrong(error))
    }
}
