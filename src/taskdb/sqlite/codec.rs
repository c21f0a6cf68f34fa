//! Between records and rows.

use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::{FromSqlError, ToSqlOutput, ValueRef};

use crate::protocol::{EngineUuid, MsgId, Timestamp};
use crate::taskdb::record::{Key, KeySet, Kind, Queue, TaskRecord};

/// Bytes of buffers that a row holds itself. More would be written again with every change of the row.
pub(super) const INLINE: usize = 32 << 10;

/// The columns of some fields, `id` and `msg_id` first.
pub(super) fn columns(keys: KeySet) -> String {
    let mut columns = vec!["id", "msg_id"];
    for key in keys.without(Key::MsgId).iter() {
        if key.kind() == Kind::Buffers {
            columns.push(lens_column(key));
        }
        columns.push(key.as_str());
    }
    columns.join(", ")
}

pub(super) fn lens_column(key: Key) -> &'static str {
    match key {
        Key::Buffers => "buffer_lens",
        _ => "result_buffer_lens",
    }
}

/// The number that `T-buffers` has for a list of buffers.
pub(super) fn kind_number(key: Key) -> i64 {
    i64::from(key == Key::ResultBuffers)
}

/// The fields `wanted` of a row with the columns of `loaded`. `spilled` reads buffers from the other table.
pub(super) fn record(
    row: &Row<'_>,
    loaded: KeySet,
    wanted: KeySet,
    spilled: &mut dyn FnMut(i64, Key) -> Result<Vec<Bytes>, rusqlite::Error>,
) -> Result<TaskRecord, rusqlite::Error> {
    let mut record = TaskRecord::new(MsgId::from(text(row, 1)?.unwrap_or_default()));
    let mut column = 1;
    for key in loaded.without(Key::MsgId).iter() {
        column += 1;
        if key.kind() == Kind::Buffers {
            column += 1;
        }
        if !wanted.contains(key) {
            continue;
        }
        match key.kind() {
            Kind::Text => set_text(&mut record, key, text(row, column)?),
            Kind::Date => {
                let micros: Option<i64> = row.get(column)?;
                set_date(&mut record, key, micros.map(Timestamp::from_micros));
            }
            Kind::Json => {
                let json = row.get_ref(column)?.as_bytes_or_null();
                let json = json.map_err(|error| wrong_type(column, error))?;
                set_json(&mut record, key, json.map(Bytes::copy_from_slice));
            }
            Kind::Buffers => {
                let list = buffers(row, column, &mut |id| spilled(id, key))?;
                match key {
                    Key::Buffers => record.buffers = list,
                    _ => record.result_buffers = list,
                }
            }
        }
    }
    Ok(record)
}

fn buffers(
    row: &Row<'_>,
    column: usize,
    spilled: &mut dyn FnMut(i64) -> Result<Vec<Bytes>, rusqlite::Error>,
) -> Result<Option<Vec<Bytes>>, rusqlite::Error> {
    let Some(lens) = text(row, column - 1)? else {
        return Ok(None);
    };
    let lens: Vec<usize> = serde_json::from_str(lens).unwrap_or_default();
    let blob = row.get_ref(column)?.as_bytes_or_null();
    let Some(blob) = blob.map_err(|error| wrong_type(column, error))? else {
        return spilled(row.get(0)?).map(Some);
    };
    let mut rest = Bytes::copy_from_slice(blob);
    Ok(Some(
        lens.into_iter()
            .map(|len| rest.split_to(len.min(rest.len())))
            .collect(),
    ))
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<Option<&'a str>, rusqlite::Error> {
    let text = row.get_ref(column)?.as_str_or_null();
    text.map_err(|error| wrong_type(column, error))
}

fn wrong_type(column: usize, error: FromSqlError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

fn set_text(record: &mut TaskRecord, key: Key, text: Option<&str>) {
    match key {
        Key::ClientUuid => record.client_uuid = text.map(Into::into),
        Key::EngineUuid => record.engine_uuid = text.map(EngineUuid::from),
        Key::Resubmitted => record.resubmitted = text.map(MsgId::from),
        Key::Queue => record.queue = text.and_then(Queue::parse),
        Key::ExecuteInput => record.execute_input = text.map(Into::into),
        Key::Stdout => record.stdout = text.unwrap_or_default().to_owned(),
        Key::Stderr => record.stderr = text.unwrap_or_default().to_owned(),
        Key::Label => record.label = text.map(Into::into),
        _ => {}
    }
}

fn set_date(record: &mut TaskRecord, key: Key, date: Option<Timestamp>) {
    match key {
        Key::Submitted => record.submitted = date,
        Key::Started => record.started = date,
        Key::Completed => record.completed = date,
        Key::Received => record.received = date,
        _ => {}
    }
}

fn set_json(record: &mut TaskRecord, key: Key, json: Option<Bytes>) {
    match key {
        Key::Header => record.header = json,
        Key::Metadata => record.metadata = json,
        Key::Content => record.content = json,
        Key::ResultHeader => record.result_header = json,
        Key::ResultMetadata => record.result_metadata = json,
        Key::ResultContent => record.result_content = json,
        Key::ExecuteResult => record.execute_result = json,
        Key::Error => record.error = json,
        Key::DisplayData => record.display_data = json,
        _ => {}
    }
}

/// A text, date or JSON field as a parameter.
pub(super) fn parameter(record: &TaskRecord, key: Key) -> ToSqlOutput<'_> {
    let value = match key.kind() {
        Kind::Text => record.text(key).map(|text| ValueRef::Text(text.as_bytes())),
        Kind::Date => record
            .date(key)
            .map(|date| ValueRef::Integer(date.as_micros())),
        // Whatever bytes they are: what was received is what is kept.
        Kind::Json => record.json(key).map(|json| ValueRef::Text(json)),
        Kind::Buffers => None,
    };
    ToSqlOutput::Borrowed(value.unwrap_or(ValueRef::Null))
}

/// A list of buffers as a row holds it.
pub(super) struct Packed {
    pub(super) lens: Option<String>,
    /// [`None`] where there are none, or too many bytes.
    pub(super) inline: Option<Vec<u8>>,
    pub(super) spills: bool,
}

impl Packed {
    pub(super) fn new(list: Option<&[Bytes]>) -> Self {
        let Some(list) = list else {
            return Self {
                lens: None,
                inline: None,
                spills: false,
            };
        };
        let lens: Vec<usize> = list.iter().map(Bytes::len).collect();
        let spills = lens.iter().sum::<usize>() > INLINE;
        Self {
            lens: Some(format!("{lens:?}")),
            inline: (!spills).then(|| list.concat()),
            spills,
        }
    }
}
