//! Records as JSON. What was received as JSON goes out as it came; only whether it is JSON is checked, so that one bad
//! frame does not spoil a reply with a thousand records.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use crate::taskdb::{Key, KeySet, TaskRecord};

/// A record, or some of its fields, as `db_reply` has them.
pub(super) struct Row<'a> {
    pub(super) record: &'a TaskRecord,
    pub(super) fields: &'a Fields,
}

/// The fields of a row, under the names by which they were asked for.
pub(super) struct Fields {
    named: Vec<(Key, &'static str)>,
    keys: KeySet,
    /// Undocumented fields stay away where they are empty.
    all: bool,
}

impl Fields {
    /// What a query without `keys` gives.
    pub(super) fn all() -> Self {
        let keys = KeySet::without_buffers();
        Self {
            named: keys.iter().map(|key| (key, key.as_str())).collect(),
            keys,
            all: true,
        }
    }

    /// The msg_id and what was asked for.
    pub(super) fn named(asked: impl IntoIterator<Item = (Key, &'static str)>) -> Self {
        let mut named = vec![(Key::MsgId, Key::MsgId.as_str())];
        for field in asked {
            if !named.contains(&field) {
                named.push(field);
            }
        }
        Self {
            keys: named.iter().map(|(key, _)| *key).collect(),
            named,
            all: false,
        }
    }

    pub(super) fn keys(&self) -> KeySet {
        self.keys
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, name) in &self.fields.named {
            match key {
                // Buffers travel as frames.
                Key::Buffers | Key::ResultBuffers => {}
                Key::DisplayData if self.fields.all && self.record.display_data.is_none() => {}
                key => map.serialize_entry(name, &Field(self.record, *key))?,
            }
        }
        map.end()
    }
}

/// One field.
struct Field<'a>(&'a TaskRecord, Key);

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(record, key) = *self;
        if let Some(text) = record.text(key) {
            serializer.serialize_str(text)
        } else if let Some(date) = record.date(key) {
            date.serialize(serializer)
        } else {
            raw(record.json(key)).serialize(serializer)
        }
    }
}

/// The JSON of a part as it is; null when it is none.
fn raw(json: Option<&Bytes>) -> Option<&RawValue> {
    serde_json::from_slice(json?).ok()
}

/// One result of `result_reply` (`hub._extract_record`).
pub(super) struct ResultEntry<'a>(pub(super) &'a TaskRecord);

impl Serialize for ResultEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(7))?;
        for key in [Key::Header, Key::Metadata] {
            map.serialize_entry(key.as_str(), &Field(self.0, key))?;
        }
        // Clients index it, so that null will not do.
        match raw(self.0.result_metadata.as_ref()) {
            Some(metadata) => map.serialize_entry("result_metadata", metadata)?,
            None => map.serialize_entry("result_metadata", &serde_json::Map::new())?,
        }
        for key in [Key::ResultHeader, Key::ResultContent, Key::Received] {
            map.serialize_entry(key.as_str(), &Field(self.0, key))?;
        }
        map.serialize_entry("io", &Io(self.0))?;
        map.end()
    }
}

struct Io<'a>(&'a TaskRecord);

impl Serialize for Io<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let keys = [
            Key::ExecuteInput,
            Key::ExecuteResult,
            Key::Error,
            Key::Stdout,
            Key::Stderr,
        ];
        serializer.collect_map(keys.map(|key| (key.as_str(), Field(self.0, key))))
    }
}

/// Appends JSON. Nothing that is written here can fail: keys are text, and the target is memory.
pub(super) fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("records serialize and memory takes them");
}
