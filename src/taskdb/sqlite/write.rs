//! Changes on their way into the file.

use bytes::Bytes;
use rusqlite::blob::ZeroBlob;
use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{ErrorCode, OptionalExtension};

use super::SqliteStore;
use super::codec::{self, Packed, kind_number};
use crate::protocol::MsgId;
use crate::taskdb::changes::Change;
use crate::taskdb::record::{Key, KeySet, Kind, RecordUpdate, TaskRecord, note_dropped};
use crate::taskdb::store::StoreError;

impl SqliteStore {
    /// While the file is at fault, what waits is bounded. Whether it has healed shows the next flush.
    pub(super) fn room(&mut self) -> Result<(), StoreError> {
        match &self.fault {
            Some(fault) if self.changes.bytes() > self.backlog_limit => {
                self.refused += 1;
                Err(fault.clone())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn grown(&mut self) {
        if self.changes.is_batch() && self.fault.is_none() {
            // An error is found again, and told, by the next flush.
            let due = self.changes.due();
            // Where nothing is due, memory is what counts.
            let _ = self.write_changes(if due > 0 { due } else { self.changes.len() });
        }
    }

    /// Writes the first `count` changes in one transaction. On an error they wait for the next.
    pub(super) fn write_changes(&mut self, count: usize) -> Result<(), StoreError> {
        if count == 0 {
            return Ok(());
        }
        match self.try_write(count) {
            Ok((added, refused)) => {
                self.fault = None;
                let bytes = self.changes.drop_first(count);
                if let Some(checkpointer) = &mut self.checkpointer {
                    checkpointer.on_written(bytes);
                }
                self.records += added;
                self.refused += refused;
                Ok(())
            }
            Err(error) => {
                if !self.file.db.is_autocommit() {
                    let _ = self.file.db.execute_batch("ROLLBACK");
                }
                let error = self.file.wrong(error);
                self.fault = Some(error.clone());
                Err(error)
            }
        }
    }

    /// How many records were added, and how many changes the database will never take.
    fn try_write(&self, count: usize) -> Result<(u64, u64), rusqlite::Error> {
        self.file.db.execute_batch("BEGIN IMMEDIATE")?;
        let (mut added, mut refused) = (0, 0);
        for (msg_id, change) in self.changes.first(count) {
            let outcome = match change {
                Change::Add(record) => self.insert(record),
                Change::Update(update) => self.update_row(msg_id, update).map(|()| false),
            };
            match outcome {
                Ok(new) => added += u64::from(new),
                Err(error) if is_hopeless(&error) && !self.file.db.is_autocommit() => refused += 1,
                Err(error) => return Err(error),
            }
        }
        self.file.db.execute_batch("COMMIT")?;
        Ok((added, refused))
    }

    /// Whether the record is a new one. Of one that is there already, what the new one lacks is kept.
    fn insert(&self, record: &TaskRecord) -> Result<bool, rusqlite::Error> {
        let request = self.fit(record.buffers.as_deref());
        let result = self.fit(record.result_buffers.as_deref());
        let new = self.run_insert(&self.file.tables.insert, record, &request, &result)? > 0;
        let id = if new {
            Some(self.file.db.last_insert_rowid())
        } else {
            self.run_insert(&self.file.tables.merge, record, &request, &result)?;
            self.id_of(record.msg_id.as_str())?
        };
        for (key, packed, list) in [
            (Key::Buffers, &request.packed, &record.buffers),
            (Key::ResultBuffers, &result.packed, &record.result_buffers),
        ] {
            if let Some(id) = id.filter(|_| packed.spills) {
                self.spill(id, key, list.as_deref().unwrap_or_default())?;
            }
        }
        Ok(new)
    }

    fn run_insert(
        &self,
        sql: &str,
        record: &TaskRecord,
        request: &Fitted,
        result: &Fitted,
    ) -> Result<usize, rusqlite::Error> {
        let mut statement = self.file.db.prepare_cached(sql)?;
        let mut at = 0;
        let mut bind = |value: ToSqlOutput<'_>| {
            at += 1;
            statement.raw_bind_parameter(at, value)
        };
        for key in plain_keys() {
            let dropped = match key {
                Key::Metadata => request.dropped,
                Key::ResultMetadata => result.dropped,
                _ => None,
            };
            match dropped {
                Some(bytes) => bind(text(&note_dropped(record.json(key), bytes)))?,
                None => bind(codec::parameter(record, key))?,
            }
        }
        for packed in [&request.packed, &result.packed] {
            bind(lens(packed))?;
            bind(blob(packed))?;
        }
        statement.raw_execute()
    }

    fn id_of(&self, msg_id: &str) -> Result<Option<i64>, rusqlite::Error> {
        let sql = format!(
            "SELECT id FROM {} WHERE msg_id = ?",
            self.file.tables.records
        );
        let mut statement = self.file.db.prepare_cached(&sql)?;
        statement.query_row([msg_id], |row| row.get(0)).optional()
    }

    fn update_row(&self, msg_id: &MsgId, update: &RecordUpdate) -> Result<(), rusqlite::Error> {
        let mut record = TaskRecord::new(msg_id.clone());
        record.apply(update.clone());
        let result = self.fit(record.result_buffers.as_deref());
        if let Some(bytes) = result.dropped {
            record.result_metadata = Some(note_dropped(record.result_metadata.as_ref(), bytes));
        }
        let mut sets = Vec::new();
        let mut values: Vec<ToSqlOutput<'_>> = Vec::new();
        for key in plain_keys() {
            let name = key.as_str();
            match key {
                Key::MsgId => {}
                Key::Stdout | Key::Stderr => {
                    if record.text(key) != Some("") {
                        sets.push(format!("{name} = {name} || ?"));
                        values.push(codec::parameter(&record, key));
                    }
                }
                key => {
                    let value = codec::parameter(&record, key);
                    if !matches!(value, ToSqlOutput::Borrowed(ValueRef::Null)) {
                        sets.push(format!("{name} = ?"));
                        values.push(value);
                    }
                }
            }
        }
        if record.result_buffers.is_some() {
            sets.push("result_buffer_lens = ?, result_buffers = ?".to_owned());
            values.push(lens(&result.packed));
            values.push(blob(&result.packed));
        }
        if sets.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE {} SET {} WHERE msg_id = ?",
            self.file.tables.records,
            sets.join(", ")
        );
        values.push(text(msg_id.as_str().as_bytes()));
        let mut statement = self.file.db.prepare_cached(&sql)?;
        let changed = statement.execute(rusqlite::params_from_iter(values))?;
        if changed > 0
            && result.packed.spills
            && let Some(id) = self.id_of(msg_id.as_str())?
        {
            let list = record.result_buffers.as_deref();
            self.spill(id, Key::ResultBuffers, list.unwrap_or_default())?;
        }
        Ok(())
    }

    /// Writes buffers into their own table, in pieces: SQLite would copy each as a whole otherwise.
    fn spill(&self, task: i64, key: Key, list: &[Bytes]) -> Result<(), rusqlite::Error> {
        let kind = kind_number(key);
        let buffers = &self.file.tables.buffers;
        let delete = format!("DELETE FROM {buffers} WHERE task = ? AND kind = ?");
        self.file
            .db
            .prepare_cached(&delete)?
            .execute((task, kind))?;
        let insert = format!("INSERT INTO {buffers} (task, kind, n, data) VALUES (?, ?, ?, ?)");
        for (n, buffer) in (0_i64..).zip(list) {
            let size = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
            self.file
                .db
                .prepare_cached(&insert)?
                .execute((task, kind, n, ZeroBlob(size)))?;
            let row = self.file.db.last_insert_rowid();
            let name = self.file.tables.buffers_name.as_str();
            let mut blob = self.file.db.blob_open("main", name, "data", row, false)?;
            for (piece, bytes) in buffer.chunks(1 << 20).enumerate() {
                blob.write_at(bytes, piece << 20)?;
            }
            blob.close()?;
        }
        Ok(())
    }

    /// Buffers as they are kept, unless they are too big to be.
    fn fit(&self, list: Option<&[Bytes]>) -> Fitted {
        let bytes: u64 = list.into_iter().flatten().map(|b| b.len() as u64).sum();
        let fits = bytes <= self.buffer_limit;
        Fitted {
            packed: Packed::new(list.filter(|_| fits)),
            dropped: (!fits).then_some(bytes),
        }
    }
}

struct Fitted {
    packed: Packed,
    dropped: Option<u64>,
}

/// The fields that are one column, in the order of the insert statement.
fn plain_keys() -> impl Iterator<Item = Key> {
    let keys = KeySet::without_buffers();
    keys.iter()
}

/// The statement that adds a record unless there is one of its id. One that could also merge would keep a journal of
/// its own, which costs a sixth more.
pub(super) fn insert_statement(records: &str) -> String {
    let columns = insert_columns();
    let places = vec!["?"; columns.len()].join(", ");
    format!(
        "INSERT OR IGNORE INTO {records} ({}) VALUES ({places})",
        columns.join(", ")
    )
}

/// The statement that adds a record to what an earlier one has; see [`TaskRecord::fill_from`].
pub(super) fn merge_statement(records: &str) -> String {
    let mut merges = Vec::new();
    for key in Key::ALL.iter().copied().filter(|key| *key != Key::MsgId) {
        let name = key.as_str();
        if key.kind() == Kind::Buffers {
            // Both columns come from the same record.
            let lens = codec::lens_column(key);
            merges.push(format!(
                "{name} = iif(excluded.{lens} IS NULL, {name}, excluded.{name})"
            ));
            merges.push(format!("{lens} = COALESCE(excluded.{lens}, {lens})"));
        } else if matches!(key, Key::Stdout | Key::Stderr) {
            merges.push(format!("{name} = {name} || excluded.{name}"));
        } else {
            merges.push(format!("{name} = COALESCE(excluded.{name}, {name})"));
        }
    }
    let columns = insert_columns();
    let places = vec!["?"; columns.len()].join(", ");
    format!(
        "INSERT INTO {records} ({}) VALUES ({places}) ON CONFLICT (msg_id) DO UPDATE SET {}",
        columns.join(", "),
        merges.join(", ")
    )
}

fn insert_columns() -> Vec<&'static str> {
    let mut columns: Vec<&str> = plain_keys().map(Key::as_str).collect();
    for key in [Key::Buffers, Key::ResultBuffers] {
        columns.extend([codec::lens_column(key), key.as_str()]);
    }
    columns
}

fn text(bytes: &[u8]) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(ValueRef::Text(bytes))
}

fn lens(packed: &Packed) -> ToSqlOutput<'_> {
    match &packed.lens {
        Some(lens) => text(lens.as_bytes()),
        None => ToSqlOutput::Owned(SqlValue::Null),
    }
}

fn blob(packed: &Packed) -> ToSqlOutput<'_> {
    match &packed.inline {
        Some(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        None => ToSqlOutput::Owned(SqlValue::Null),
    }
}

/// Whether the fault lies in the change and not in the file: it would hold up all others for ever.
fn is_hopeless(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch)
    )
}
