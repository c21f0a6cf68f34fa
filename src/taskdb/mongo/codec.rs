//! Between records and documents.

use bytes::Bytes;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc};
use serde_json::{Map, Number, Value};

use super::MAX_BUFFERS;
use crate::protocol::{EngineUuid, MsgId, Timestamp};
use crate::taskdb::record::{Key, KeySet, Kind, Queue, RecordUpdate, TaskRecord, note_dropped};

/// Levels of a document; the server's limit is 100, and the record is one itself.
const MAX_DEPTH: usize = 80;

/// The fields to be loaded.
pub(super) fn projection(keys: KeySet) -> Document {
    let mut projection = doc! {"msg_id": 1};
    for key in keys.iter() {
        projection.insert(key.as_str(), 1);
    }
    projection
}

/// A whole record.
pub(super) fn document(record: &TaskRecord) -> Document {
    let mut document = Document::new();
    for key in Key::ALL.iter().copied() {
        // The original's records have no such field.
        if key != Key::DisplayData || record.display_data.is_some() {
            document.insert(key.as_str(), field(record, key));
        }
    }
    document
}

/// What an update sets; output is not among it.
pub(super) fn changes(update: &RecordUpdate) -> Document {
    let mut record = TaskRecord::new("".into());
    record.apply(update.clone());
    let mut set = Document::new();
    for key in Key::ALL.iter().copied() {
        if matches!(key, Key::MsgId | Key::Stdout | Key::Stderr) {
            continue;
        }
        let value = field(&record, key);
        if value != Bson::Null {
            set.insert(key.as_str(), value);
        }
    }
    set
}

fn field(record: &TaskRecord, key: Key) -> Bson {
    match key.kind() {
        Kind::Text => record.text(key).into(),
        Kind::Date => record.date(key).map(date).into(),
        Kind::Json => {
            let list = match key {
                Key::Metadata => record.buffer_list(Key::Buffers),
                Key::ResultMetadata => record.buffer_list(Key::ResultBuffers),
                _ => None,
            };
            let bytes = total(list);
            if bytes > MAX_BUFFERS {
                json(Some(&note_dropped(record.json(key), bytes)))
            } else {
                json(record.json(key))
            }
        }
        Kind::Buffers => {
            let list = record.buffer_list(key);
            let list = list.filter(|_| total(list) <= MAX_BUFFERS);
            list.map(|list| list.iter().map(binary).collect::<Vec<Bson>>())
                .into()
        }
    }
}

/// Bytes of what is kept of a record.
pub(super) fn size(record: &TaskRecord) -> u64 {
    let lists = [Key::Buffers, Key::ResultBuffers].map(|key| total(record.buffer_list(key)));
    let kept = lists.into_iter().filter(|bytes| *bytes <= MAX_BUFFERS);
    record.text_bytes() + kept.sum::<u64>()
}

fn total(list: Option<&[Bytes]>) -> u64 {
    list.into_iter().flatten().map(|b| b.len() as u64).sum()
}

fn binary(bytes: &Bytes) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    })
}

/// To the millisecond, downwards.
pub(super) fn date(date: Timestamp) -> Bson {
    Bson::DateTime(DateTime::from_millis(date.as_micros().div_euclid(1000)))
}

/// JSON as a document, or as it is where no document can hold it.
fn json(json: Option<&Bytes>) -> Bson {
    let Some(json) = json else {
        return Bson::Null;
    };
    let value: Option<Value> = serde_json::from_slice(json).ok();
    value
        .and_then(|value| to_bson(value, MAX_DEPTH))
        .unwrap_or_else(|| binary(json))
}

pub(super) fn to_bson(value: Value, depth: usize) -> Option<Bson> {
    let depth = depth.checked_sub(1)?;
    Some(match value {
        Value::Null => Bson::Null,
        Value::Bool(flag) => flag.into(),
        Value::Number(number) if number.is_f64() => fraction(number.as_f64()?)?.into(),
        Value::Number(number) => number.as_i64()?.into(),
        Value::String(text) => text.into(),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| to_bson(item, depth));
            Bson::Array(items.collect::<Option<_>>()?)
        }
        Value::Object(map) => {
            let mut document = Document::new();
            for (name, item) in map {
                if name.starts_with('$') || name.contains(['\0', '.']) {
                    return None;
                }
                document.insert(name, to_bson(item, depth)?);
            }
            document.into()
        }
    })
}

/// A number that is no integer of 64 bits. One that may be an integer of more bits has lost digits.
fn fraction(number: f64) -> Option<f64> {
    const LARGEST_EXACT: f64 = (1_u64 << 53) as f64;
    (number.fract() != 0.0 || number.abs() <= LARGEST_EXACT).then_some(number)
}

/// About how many bytes a document takes on the wire; rather too many.
pub(super) fn weight(document: &Document) -> usize {
    let fields = document.iter();
    fields
        .map(|(name, value)| name.len() + of_value(value))
        .sum()
}

fn of_value(value: &Bson) -> usize {
    // Type, lengths, a number, the name of an element in a list.
    const REST: usize = 24;
    REST + match value {
        Bson::String(text) => text.len(),
        Bson::Binary(binary) => binary.bytes.len(),
        Bson::Array(items) => items.iter().map(of_value).sum(),
        Bson::Document(document) => weight(document),
        _ => 0,
    }
}

/// The fields `keys` of a document.
pub(super) fn record(document: &Document, keys: KeySet) -> TaskRecord {
    let text = |key: Key| document.get_str(key.as_str()).ok();
    let mut record = TaskRecord::new(MsgId::from(text(Key::MsgId).unwrap_or_default()));
    for key in keys.iter() {
        let value = document.get(key.as_str());
        match key {
            Key::MsgId => {}
            Key::ClientUuid => record.client_uuid = text(key).map(Into::into),
            Key::EngineUuid => record.engine_uuid = text(key).map(EngineUuid::from),
            Key::Resubmitted => record.resubmitted = text(key).map(MsgId::from),
            Key::Queue => record.queue = text(key).and_then(Queue::parse),
            Key::ExecuteInput => record.execute_input = text(key).map(Into::into),
            Key::Stdout => record.stdout = text(key).unwrap_or_default().to_owned(),
            Key::Stderr => record.stderr = text(key).unwrap_or_default().to_owned(),
            Key::Label => record.label = text(key).map(Into::into),
            Key::Submitted => record.submitted = from_date(value),
            Key::Started => record.started = from_date(value),
            Key::Completed => record.completed = from_date(value),
            Key::Received => record.received = from_date(value),
            Key::Buffers => record.buffers = from_buffers(value),
            Key::ResultBuffers => record.result_buffers = from_buffers(value),
            Key::Header => record.header = from_json(value),
            Key::Metadata => record.metadata = from_json(value),
            Key::Content => record.content = from_json(value),
            Key::ResultHeader => record.result_header = from_json(value),
            Key::ResultMetadata => record.result_metadata = from_json(value),
            Key::ResultContent => record.result_content = from_json(value),
            Key::ExecuteResult => record.execute_result = from_json(value),
            Key::Error => record.error = from_json(value),
            Key::DisplayData => record.display_data = from_json(value),
        }
    }
    record
}

fn from_date(value: Option<&Bson>) -> Option<Timestamp> {
    let millis = value?.as_datetime()?.timestamp_millis();
    Some(Timestamp::from_micros(millis.saturating_mul(1000)))
}

fn from_buffers(value: Option<&Bson>) -> Option<Vec<Bytes>> {
    let list = value?.as_array()?;
    let bytes = |item: &Bson| match item {
        Bson::Binary(binary) => Bytes::from(binary.bytes.clone()),
        _ => Bytes::new(),
    };
    Some(list.iter().map(bytes).collect())
}

fn from_json(value: Option<&Bson>) -> Option<Bytes> {
    match value? {
        Bson::Null => None,
        Bson::Binary(raw) => Some(raw.bytes.clone().into()),
        value => Some(to_json(value).to_string().into()),
    }
}

fn to_json(value: &Bson) -> Value {
    match value {
        Bson::Boolean(flag) => (*flag).into(),
        Bson::Int32(number) => (*number).into(),
        Bson::Int64(number) => (*number).into(),
        Bson::Double(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        Bson::String(text) => text.as_str().into(),
        Bson::Array(items) => items.iter().map(to_json).collect(),
        Bson::Document(document) => {
            let fields = document.iter();
            let fields = fields.map(|(name, value)| (name.clone(), to_json(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        // The original keeps dates of headers as dates.
        Bson::DateTime(date) => {
            let date = Timestamp::from_micros(date.timestamp_millis().saturating_mul(1000));
            date.to_string().into()
        }
        _ => Value::Null,
    }
}
