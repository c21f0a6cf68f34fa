//! Records in an SQLite file.
//!
//! # What lasts
//!
//! Changes are collected in memory and written in one transaction by [`TaskStore::flush_due`], which the owner calls
//! every [`COMMIT_INTERVAL`]; 4,000 changes or 16 MB are written at once. A request that came since the last time and is
//! unfinished may wait for the next, so that a task which is done in less than that costs one insert. What this means:
//!
//! * When the controller is killed, what was reported within twice [`COMMIT_INTERVAL`] is lost, and nothing else.
//! * When the machine goes down, [`Sync::Normal`] may also lose what was written since the last checkpoint of the
//!   write-ahead log: one is made after 16 MB of changes, or within some seconds. [`Sync::Full`] loses no more than a
//!   kill does. The file is intact either way.
//! * A query sees everything that was reported before it.
//! * While the file cannot be written to (a full disk, a lock), changes stay in memory, up to
//!   [`SqliteConfig::backlog_limit`], and are written when it can. Beyond that limit they are refused with an error.
//!
//! # The tables
//!
//! For a table `T` (`ipython-tasks` unless configured) the file has
//!
//! * `T`: one row for each record. Columns are the fields of the record; times are integers, microseconds since
//!   1970-01-01 UTC; `header`, `metadata`, `content`, `result_*`, `execute_result`, `error` and `display_data` are JSON
//!   text. `buffer_lens` and `result_buffer_lens` are JSON lists of the lengths of the buffers, NULL where there are
//!   none; `buffers` and `result_buffers` are the buffers one after the other, or NULL where they are in `T-buffers`.
//! * `T-buffers`: buffers of requests and results with more than 32 KB of them, one row each, in order: `task` (the
//!   `id` in `T`), `kind` (0 request, 1 result), `n`, `data`.
//! * `T-readable`: a view with times as text, for people.
//! * `ipcluster-tables`: names of the tables and the version of their layout.
//!
//! Any program may read the file while the controller runs.

mod checkpoint;
mod codec;
mod pushdown;
mod reader;
mod retention;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use rusqlite::{Connection, ErrorCode, OptionalExtension};

use self::checkpoint::Checkpointer;
use self::reader::SqliteReader;
use super::changes::Changes;
use super::query::Query;
use super::record::{KeySet, RecordUpdate, TaskRecord};
use super::retention::Retention;
use super::store::{Backlog, Fault, RecordReader, StoreError, StoreStats, TaskStore};
use crate::os::files::free_space;
use crate::protocol::{MsgId, Timestamp};

/// How long a change may wait in memory.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(50);

/// SQLite's own limit is 10^9 bytes for one value.
const MAX_BUFFERS: u64 = 900_000_000;

/// When SQLite waits for the disk (`PRAGMA synchronous`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sync {
    /// At checkpoints: a crash of the machine may lose the newest transactions.
    #[default]
    Normal,
    /// At every transaction.
    Full,
}

/// Where and how records are kept.
#[derive(Clone, Debug)]
pub struct SqliteConfig {
    pub path: PathBuf,
    /// Records of earlier runs are in the table of that name. Empty: a fresh one, named after `session`.
    pub table: String,
    /// The controller's session id.
    pub session: String,
    pub sync: Sync,
    pub retention: Retention,
    /// Bytes of buffers of one request or result beyond which they are not kept; the record says so.
    pub buffer_limit: u64,
    /// Bytes of changes that wait while the file cannot be written to.
    pub backlog_limit: u64,
}

impl SqliteConfig {
    /// The original's table name and file name are `ipython-tasks` and `tasks.db`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            table: "ipython-tasks".to_owned(),
            session: String::new(),
            sync: Sync::default(),
            retention: Retention::default(),
            buffer_limit: MAX_BUFFERS,
            backlog_limit: 256 << 20,
        }
    }
}

/// The store.
#[derive(Debug)]
pub struct SqliteStore {
    file: SqliteReader,
    /// None for what is only read, or in memory.
    checkpointer: Option<Checkpointer>,
    path: PathBuf,
    notice: Option<String>,
    buffer_limit: u64,
    backlog_limit: u64,
    retention: Retention,
    changes: Changes,
    /// Why the file cannot be written to now.
    fault: Option<StoreError>,
    refused: u64,
    /// Rows; kept up to date so that a limit on them need not count.
    records: u64,
}

/// Makes the file if it is not there, for this user alone: records hold what people compute with. SQLite gives the files
/// that it puts beside it the same mode, and says what is wrong with the path.
fn make_private(path: &Path) {
    if path == Path::new(":memory:") {
        return;
    }
    let _ = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
}

impl SqliteStore {
    /// Opens or makes the file and the table.
    pub fn open(config: &SqliteConfig) -> Result<Self, StoreError> {
        let place = config.path.display().to_string();
        let wrong = |error| fault(&place, error);
        make_private(&config.path);
        let db = Connection::open(&config.path).map_err(wrong)?;
        // SQLite opens such a file all the same, and complains in odd words later.
        if db.is_readonly("main").map_err(wrong)? {
            return Err(StoreError::Fault {
                detail: "the file or its file system is read-only".to_owned(),
                fault: Fault::ReadOnly,
                place,
            });
        }
        schema::configure(&db, config.sync).map_err(wrong)?;
        let found = schema::prepare(&db, config, &place)?;
        let mut store = Self::with(db, place, found, config)?;
        if store.is_on_disk() {
            let checkpointer = Checkpointer::start(&config.path, config.sync);
            store.checkpointer = Some(checkpointer.map_err(|error| store.file.wrong(error))?);
        }
        Ok(store)
    }

    /// Opens a table that is there already; the newest where none is configured.
    pub fn open_existing(config: &SqliteConfig) -> Result<Self, StoreError> {
        // Found before anything is made. Where nothing can be written, it is at least read.
        let reader = Self::open_to_read(config)?;
        let found = SqliteConfig {
            table: reader.table().to_owned(),
            ..config.clone()
        };
        match Self::open(&found) {
            Err(StoreError::Fault {
                fault: Fault::ReadOnly | Fault::Unreachable | Fault::Io,
                ..
            }) => Ok(reader),
            opened => opened,
        }
    }

    /// Opens a file to look into it, whether a controller uses it or not.
    pub fn open_to_read(config: &SqliteConfig) -> Result<Self, StoreError> {
        let read = Self::read_by(config, reader::connect);
        let is_closed = matches!(
            read,
            Err(StoreError::Fault {
                fault: Fault::ReadOnly | Fault::Unreachable | Fault::Io,
                ..
            })
        );
        if !is_closed || can_write_beside(&config.path) {
            return read;
        }
        if let Some(log) = log_beside(&config.path) {
            return Err(StoreError::Fault {
                place: config.path.display().to_string(),
                fault: Fault::ReadOnly,
                detail: format!(
                    "its newest records are still in {}, which cannot be read where nothing can be written: copy both files \
                     to one folder elsewhere",
                    log.display()
                ),
            });
        }
        Self::read_by(config, reader::connect_to_unchanging)
    }

    fn read_by(
        config: &SqliteConfig,
        connect: impl FnOnce(&Path) -> Result<Connection, rusqlite::Error>,
    ) -> Result<Self, StoreError> {
        let place = config.path.display().to_string();
        let db = connect(&config.path).map_err(|error| fault(&place, error))?;
        let found = schema::existing(&db, config, &place)?;
        Self::with(db, place, found, config)
    }

    fn with(
        db: Connection,
        place: String,
        found: schema::Found,
        config: &SqliteConfig,
    ) -> Result<Self, StoreError> {
        db.set_prepared_statement_cache_capacity(64);
        let count = format!("SELECT count(*) FROM {}", found.tables.records);
        let records: i64 = db
            .query_row(&count, [], |row| row.get(0))
            .map_err(|error| fault(&place, error))?;
        Ok(Self {
            file: SqliteReader {
                db,
                place,
                tables: found.tables,
            },
            checkpointer: None,
            path: config.path.clone(),
            notice: found.notice,
            buffer_limit: config.buffer_limit.min(MAX_BUFFERS),
            backlog_limit: config.backlog_limit,
            retention: config.retention,
            changes: Changes::default(),
            fault: None,
            refused: 0,
            records: u64::try_from(records).unwrap_or_default(),
        })
    }

    /// The table in use.
    pub fn table(&self) -> &str {
        &self.file.tables.name
    }

    fn is_on_disk(&self) -> bool {
        self.file.db.path().is_some_and(|path| !path.is_empty())
    }

    /// What the user should know of the choice of the table.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }
}

impl RecordReader for SqliteStore {
    fn find(
        &mut self,
        query: &Query,
        keys: KeySet,
        each: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.flush()?;
        self.file.find(query, keys, each)
    }

    fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
        self.flush()?;
        self.file.history()
    }
}

impl TaskStore for SqliteStore {
    fn add(&mut self, record: TaskRecord) -> Result<(), StoreError> {
        self.room()?;
        self.changes.add(record);
        self.grown();
        Ok(())
    }

    fn update(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<bool, StoreError> {
        if !self.changes.contains(msg_id) && !self.is_stored(msg_id.as_str()) {
            return Ok(false);
        }
        self.change(msg_id, update)?;
        Ok(true)
    }

    fn change(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<(), StoreError> {
        self.room()?;
        self.changes.update(msg_id, update);
        self.grown();
        Ok(())
    }

    fn remove(&mut self, query: &Query) -> Result<u64, StoreError> {
        self.flush()?;
        let mut ids = Vec::new();
        let found = self.file.select(query, KeySet::EMPTY, &mut |id, _| {
            ids.push(id);
            ControlFlow::Continue(())
        });
        found.map_err(|error| self.file.wrong(error))?;
        for piece in ids.chunks(retention::PIECE as usize) {
            self.delete(piece).map_err(|error| self.file.wrong(error))?;
            self.records = self.records.saturating_sub(piece.len() as u64);
        }
        Ok(ids.len() as u64)
    }

    fn reader(&self) -> Result<Option<Box<dyn RecordReader>>, StoreError> {
        // One in memory has no other door.
        if !self.is_on_disk() {
            return Ok(None);
        }
        let reader = SqliteReader::open(&self.path, self.file.tables.clone())?;
        Ok(Some(Box::new(reader)))
    }

    fn place(&self) -> String {
        format!("{}, table {}", self.file.place, self.file.tables.name)
    }

    fn stats(&mut self) -> Result<StoreStats, StoreError> {
        self.flush()?;
        Ok(StoreStats {
            records: self.records,
            bytes: self.used_bytes().map_err(|error| self.file.wrong(error))?,
        })
    }

    fn backlog(&self) -> Backlog {
        Backlog {
            records: self.changes.len(),
            bytes: self.changes.bytes(),
            refused: self.refused,
        }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.write_changes(self.changes.len())
    }

    fn flush_due(&mut self) -> Result<(), StoreError> {
        let due = self.changes.due();
        self.write_changes(due)
    }

    fn maintain(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        self.flush()?;
        if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.carry_over();
        }
        let dropped = self.retain(now).map_err(|error| self.file.wrong(error))?;
        self.records = self.records.saturating_sub(dropped);
        Ok(dropped)
    }

    fn close(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.checkpointer = None;
        // Statistics for the planner of the next run; cheap, and no harm if it cannot be done.
        let _ = self
            .file
            .db
            .execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)");
        Ok(())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

impl SqliteStore {
    fn is_stored(&self, msg_id: &str) -> bool {
        let sql = format!(
            "SELECT 1 FROM {} WHERE msg_id = ?",
            self.file.tables.records
        );
        let find = || -> Result<bool, rusqlite::Error> {
            let mut statement = self.file.db.prepare_cached(&sql)?;
            let found = statement.query_row([msg_id], |_| Ok(())).optional()?;
            Ok(found.is_some())
        };
        // Where the file cannot be read now, the change waits until it can be.
        find().unwrap_or(true)
    }

    /// Deletes rows in one transaction: many of them at once would make the file's log as large as they are.
    fn delete(&self, ids: &[i64]) -> Result<(), rusqlite::Error> {
        let transaction = self.file.db.unchecked_transaction()?;
        let sql = format!("DELETE FROM {} WHERE id = ?", self.file.tables.records);
        let mut statement = self.file.db.prepare_cached(&sql)?;
        for id in ids {
            statement.execute([id])?;
        }
        transaction.commit()?;
        self.shrink()
    }
}

/// Storage that is only read, or a folder of somebody else's.
fn can_write_beside(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    access(folder.unwrap_or_else(|| Path::new(".")), AccessFlags::W_OK).is_ok()
}

/// What a controller that was killed had written last.
fn log_beside(path: &Path) -> Option<PathBuf> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    let has_content = std::fs::metadata(&log).is_ok_and(|found| found.len() > 0);
    has_content.then_some(log)
}

/// As much as SQLite asks for at a time, and a little more: with less there is no room.
const NO_ROOM: u64 = 128 << 10;

/// What SQLite's error means to the user.
fn fault(place: &str, error: rusqlite::Error) -> StoreError {
    // For some of its files, it does not tell a full disk from one that fails.
    let is_full = || free_space(Path::new(place)).is_some_and(|free| free < NO_ROOM);
    let fault = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Fault::Corrupt,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::Locked,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Fault::ReadOnly,
        Some(ErrorCode::DiskFull) => Fault::DiskFull,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if is_full() => Fault::DiskFull,
        Some(ErrorCode::CannotOpen) => Fault::Unreachable,
        Some(ErrorCode::SystemIoFailure) => Fault::Io,
        _ => Fault::Refused,
    };
    StoreError::Fault {
        place: place.to_owned(),
        fault,
        detail: error.to_string(),
    }
}

/// Where a profile keeps its database unless told otherwise.
pub fn default_path(location: &Path) -> PathBuf {
    location.join("tasks.db")
}
