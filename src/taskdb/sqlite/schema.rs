//! The tables of a file: making them, finding them, refusing those of another version.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::write::{insert_statement, merge_statement};
use super::{SqliteConfig, Sync, fault};
use crate::taskdb::store::{Fault, StoreError};

/// The layout that this program reads and writes.
const VERSION: i64 = 1;

/// The names of one table and of what belongs to it, quoted.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// Unquoted.
    pub(super) name: String,
    pub(super) records: String,
    pub(super) buffers: String,
    /// Unquoted, for incremental reads and writes.
    pub(super) buffers_name: String,
    /// The statement that adds a record.
    pub(super) insert: String,
    /// The statement that adds to one.
    pub(super) merge: String,
}

impl Tables {
    pub(super) fn new(name: &str) -> Self {
        let buffers_name = format!("{name}-buffers");
        Self {
            insert: insert_statement(&quote(name)),
            merge: merge_statement(&quote(name)),
            name: name.to_owned(),
            records: quote(name),
            buffers: quote(&buffers_name),
            buffers_name,
        }
    }
}

/// The tables to be used, and what the user should know of them.
pub(super) struct Found {
    pub(super) tables: Tables,
    pub(super) notice: Option<String>,
}

impl Found {
    fn new(place: &str, wanted: &str, name: &str) -> Self {
        let notice = (name != wanted).then(|| {
            format!("{place}: table {wanted:?} was made by another program; records are kept in {name:?}")
        });
        Self {
            tables: Tables::new(name),
            notice,
        }
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn configure(db: &Connection, sync: Sync) -> Result<(), rusqlite::Error> {
    db.busy_timeout(Duration::from_secs(2))?;
    // Only a new file takes these. Records of some 2 KB leave many of SQLite's pages of 4 KB half empty; larger ones than
    // this cost more where an index is touched in many places, as by a thousand engines.
    db.pragma_update(None, "page_size", 8192)?;
    // It can then give back what is deleted.
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // Pages: 64 MB. Most of it has been carried over by then; this makes the log begin anew.
    db.pragma_update(None, "wal_autocheckpoint", 8000)?;
    // After a reader has held up the checkpoints, the log shrinks again.
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    // 32 MB. More is no faster, and neither is a mapped file (`mmap_size`), through which a disk that fails would end the
    // process.
    db.pragma_update(None, "cache_size", -32_768)?;
    configure_connection(db, sync)
}

/// What every connection that writes has to know.
pub(super) fn configure_connection(db: &Connection, sync: Sync) -> Result<(), rusqlite::Error> {
    db.busy_timeout(Duration::from_secs(2))?;
    let sync = match sync {
        Sync::Normal => "NORMAL",
        Sync::Full => "FULL",
    };
    db.pragma_update(None, "synchronous", sync)
}

/// Finds or makes the tables.
pub(super) fn prepare(
    db: &Connection,
    config: &SqliteConfig,
    place: &str,
) -> Result<Found, StoreError> {
    let wrong = |error| fault(place, error);
    db.execute_batch("BEGIN IMMEDIATE").map_err(wrong)?;
    let found = choose(db, config, place).and_then(|found| {
        create(db, &found.tables).map_err(wrong)?;
        Ok(found)
    });
    let end = if found.is_ok() { "COMMIT" } else { "ROLLBACK" };
    db.execute_batch(end).map_err(wrong)?;
    found
}

/// Finds the tables of a file that is only read: those of the name that is configured, as [`choose`] has made them;
/// where every run has its own, the last one's.
pub(super) fn existing(
    db: &Connection,
    config: &SqliteConfig,
    place: &str,
) -> Result<Found, StoreError> {
    let wrong = |error| fault(place, error);
    let known = names(db).map_err(wrong)?;
    let wanted = if config.table.is_empty() {
        known.last().cloned().unwrap_or_default()
    } else {
        config.table.clone()
    };
    let (name, version) = search(db, &wanted).map_err(wrong)?;
    match version {
        Some(VERSION) => Ok(Found::new(place, &wanted, &name)),
        Some(other) => Err(other_version(place, &name, other)),
        None => Err(StoreError::Fault {
            place: place.to_owned(),
            fault: Fault::Unreachable,
            detail: none_of(&wanted, &known, name != wanted),
        }),
    }
}

fn none_of(wanted: &str, known: &[String], of_another: bool) -> String {
    if known.is_empty() && of_another {
        format!("table {wanted:?} was made by another program, and there is none of this one's")
    } else if known.is_empty() {
        "there are no task records in it".to_owned()
    } else {
        format!("no table {wanted:?}; there is {}", known.join(", "))
    }
}

/// The tables of this program, the newest last.
fn names(db: &Connection) -> Result<Vec<String>, rusqlite::Error> {
    if !is_taken(db, "ipcluster-tables")? {
        return Ok(Vec::new());
    }
    db.prepare("SELECT name FROM \"ipcluster-tables\" ORDER BY rowid")?
        .query_map([], |row| row.get(0))?
        .collect()
}

fn wanted(config: &SqliteConfig) -> String {
    if config.table.is_empty() {
        // As the original names it: a leading digit would need quotes in every shell.
        format!("_{}", config.session.replace('-', "_"))
    } else {
        config.table.clone()
    }
}

/// The table of that name, or, where something else has the name (the original's table of old records, say), one with
/// a number behind it.
fn choose(db: &Connection, config: &SqliteConfig, place: &str) -> Result<Found, StoreError> {
    let wrong = |error| fault(place, error);
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS \"ipcluster-tables\" (name TEXT PRIMARY KEY, version INTEGER NOT NULL)",
    )
    .map_err(wrong)?;
    let wanted = wanted(config);
    let (name, version) = search(db, &wanted).map_err(wrong)?;
    match version {
        Some(VERSION) | None => Ok(Found::new(place, &wanted, &name)),
        Some(other) => Err(other_version(place, &name, other)),
    }
}

/// The first name that another program has not taken, and the version of the table that has it, if there is one.
fn search(db: &Connection, wanted: &str) -> Result<(String, Option<i64>), rusqlite::Error> {
    let mut name = wanted.to_owned();
    let mut number = 0;
    loop {
        let version = version(db, &name)?;
        if version.is_some() || !is_taken(db, &name)? {
            return Ok((name, version));
        }
        number += 1;
        name = format!("{wanted}_{number}");
    }
}

fn other_version(place: &str, table: &str, version: i64) -> StoreError {
    StoreError::Fault {
        place: place.to_owned(),
        fault: Fault::OtherVersion,
        detail: format!("table {table:?} has version {version}, this program knows {VERSION}"),
    }
}

fn version(db: &Connection, table: &str) -> Result<Option<i64>, rusqlite::Error> {
    if !is_taken(db, "ipcluster-tables")? {
        return Ok(None);
    }
    let sql = "SELECT version FROM \"ipcluster-tables\" WHERE name = ?";
    db.query_row(sql, [table], |row| row.get(0)).optional()
}

fn is_taken(db: &Connection, name: &str) -> Result<bool, rusqlite::Error> {
    // Names of tables know no case.
    let sql = "SELECT 1 FROM sqlite_schema WHERE name = ? COLLATE NOCASE";
    let found = db.query_row(sql, [name], |_| Ok(())).optional()?;
    Ok(found.is_some())
}

fn create(db: &Connection, tables: &Tables) -> Result<(), rusqlite::Error> {
    let Tables {
        name,
        records,
        buffers,
        ..
    } = tables;
    let index = |of: &str| quote(&format!("{name}-{of}"));
    let view = quote(&format!("{name}-readable"));
    let trigger = quote(&format!("{name}-drop-buffers"));
    let time = |column: &str| {
        format!("strftime('%Y-%m-%dT%H:%M:%fZ', {column} / 1e6, 'unixepoch') AS {column}")
    };
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS {records} (
            id INTEGER PRIMARY KEY,
            msg_id TEXT NOT NULL UNIQUE,
            queue TEXT,
            client_uuid TEXT,
            engine_uuid TEXT,
            label TEXT,
            submitted INTEGER,
            started INTEGER,
            completed INTEGER,
            received INTEGER,
            resubmitted TEXT,
            header TEXT,
            metadata TEXT,
            content TEXT,
            result_header TEXT,
            result_metadata TEXT,
            result_content TEXT,
            execute_input TEXT,
            execute_result TEXT,
            error TEXT,
            display_data TEXT,
            stdout TEXT NOT NULL DEFAULT '',
            stderr TEXT NOT NULL DEFAULT '',
            buffer_lens TEXT,
            result_buffer_lens TEXT,
            buffers BLOB,
            result_buffers BLOB
        );
        CREATE TABLE IF NOT EXISTS {buffers} (
            id INTEGER PRIMARY KEY,
            task INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            n INTEGER NOT NULL,
            data BLOB NOT NULL
        );
        CREATE INDEX IF NOT EXISTS {by_task} ON {buffers} (task, kind, n);
        CREATE INDEX IF NOT EXISTS {by_submitted} ON {records} (submitted);
        CREATE INDEX IF NOT EXISTS {by_engine} ON {records} (engine_uuid);
        CREATE INDEX IF NOT EXISTS {by_label} ON {records} (label) WHERE label IS NOT NULL;
        CREATE INDEX IF NOT EXISTS {unfinished} ON {records} (submitted) WHERE completed IS NULL;
        CREATE TRIGGER IF NOT EXISTS {trigger} AFTER DELETE ON {records}
            WHEN (OLD.buffers IS NULL AND OLD.buffer_lens IS NOT NULL)
                OR (OLD.result_buffers IS NULL AND OLD.result_buffer_lens IS NOT NULL)
            BEGIN DELETE FROM {buffers} WHERE task = OLD.id; END;
        CREATE VIEW IF NOT EXISTS {view} AS SELECT
            id, msg_id, queue, label, client_uuid, engine_uuid, {submitted}, {started}, {completed}, {received},
            resubmitted, execute_input, stdout, stderr, header, metadata, content, result_header, result_metadata,
            result_content, execute_result, error, buffer_lens, result_buffer_lens
            FROM {records};",
        by_task = index("by-task"),
        by_submitted = index("by-submitted"),
        by_engine = index("by-engine"),
        by_label = index("by-label"),
        unfinished = index("unfinished"),
        submitted = time("submitted"),
        started = time("started"),
        completed = time("completed"),
        received = time("received"),
    );
    db.execute_batch(&sql)?;
    db.execute(
        "INSERT OR IGNORE INTO \"ipcluster-tables\" VALUES (?, ?)",
        (name, VERSION),
    )?;
    Ok(())
}
