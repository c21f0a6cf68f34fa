//! A task record: what the hub knows of one request.
//!
//! The fields are those of ipyparallel's `hub.empty_record`. JSON parts stay as the bytes in which they came, and are
//! parsed only when a query looks into them; buffers share the memory in which they were received.

use bytes::Bytes;

use crate::protocol::{EngineUuid, MsgId, Timestamp};

/// The way by which a request went to an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    Mux,
    Task,
    Broadcast,
}

impl Queue {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mux => "mux",
            Self::Task => "task",
            Self::Broadcast => "broadcast",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::Mux, Self::Task, Self::Broadcast]
            .into_iter()
            .find(|queue| queue.as_str() == name)
    }
}

/// What kind of value a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Date,
    Json,
    Buffers,
}

/// Defines [`Key`] from one table: variant, name, kind.
macro_rules! keys {
    ($($(#[$doc:meta])* $variant:ident $name:literal $kind:ident,)*) => {
        /// The name of a field.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Key {
            $($(#[$doc])* $variant,)*
        }

        impl Key {
            /// Every field, in the order of the record.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            pub fn kind(self) -> Kind {
                match self {
                    $(Self::$variant => Kind::$kind,)*
                }
            }
        }
    };
}

keys! {
    MsgId "msg_id" Text,
    Header "header" Json,
    Metadata "metadata" Json,
    Content "content" Json,
    Buffers "buffers" Buffers,
    /// When the client sent it, by the client's clock.
    Submitted "submitted" Date,
    /// The session of the client.
    ClientUuid "client_uuid" Text,
    EngineUuid "engine_uuid" Text,
    Started "started" Date,
    Completed "completed" Date,
    /// The msg_id of the request that repeats this one.
    Resubmitted "resubmitted" Text,
    /// When the controller had the result, by its own clock.
    Received "received" Date,
    ResultHeader "result_header" Json,
    ResultMetadata "result_metadata" Json,
    ResultContent "result_content" Json,
    ResultBuffers "result_buffers" Buffers,
    Queue "queue" Text,
    ExecuteInput "execute_input" Text,
    ExecuteResult "execute_result" Json,
    Error "error" Json,
    Stdout "stdout" Text,
    Stderr "stderr" Text,
    Label "label" Text,
    /// The newest `display_data` content; the original keeps it only with DictDB, in no documented field.
    DisplayData "display_data" Json,
}

/// Names that IPython before 1.0 gave to three fields.
const OLD_NAMES: [(&str, Key); 3] = [
    ("pyin", Key::ExecuteInput),
    ("pyout", Key::ExecuteResult),
    ("pyerr", Key::Error),
];

impl Key {
    /// The field of that name; old names count.
    pub fn parse(name: &str) -> Option<Self> {
        Self::parse_spelled(name).map(|(key, _)| key)
    }

    /// The field and the name by which it was asked for, which a reply repeats.
    pub fn parse_spelled(name: &str) -> Option<(Self, &'static str)> {
        let now = Self::ALL.iter().map(|key| (key.as_str(), *key));
        now.chain(OLD_NAMES)
            .find(|(known, _)| *known == name)
            .map(|(known, key)| (key, known))
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySet(u32);

impl KeySet {
    pub const EMPTY: Self = Self(0);
    pub const ALL: Self = Self((1 << Key::ALL.len()) - 1);

    /// What a query without `keys` gives: everything but the buffers.
    pub fn without_buffers() -> Self {
        Self::ALL.without(Key::Buffers).without(Key::ResultBuffers)
    }

    #[must_use]
    pub fn with(self, key: Key) -> Self {
        Self(self.0 | key.bit())
    }

    #[must_use]
    pub fn without(self, key: Key) -> Self {
        Self(self.0 & !key.bit())
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn contains(self, key: Key) -> bool {
        self.0 & key.bit() != 0
    }

    /// The fields of the set in the order of the record.
    pub fn iter(self) -> impl Iterator<Item = Key> {
        Key::ALL
            .iter()
            .copied()
            .filter(move |key| self.contains(*key))
    }
}

impl FromIterator<Key> for KeySet {
    fn from_iter<I: IntoIterator<Item = Key>>(keys: I) -> Self {
        keys.into_iter().fold(Self::EMPTY, Self::with)
    }
}

/// What is known of one request. `None` is JSON's `null`; text that accumulates is empty at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRecord {
    pub msg_id: MsgId,
    pub header: Option<Bytes>,
    pub metadata: Option<Bytes>,
    pub content: Option<Bytes>,
    pub buffers: Option<Vec<Bytes>>,
    pub submitted: Option<Timestamp>,
    pub client_uuid: Option<Box<str>>,
    pub engine_uuid: Option<EngineUuid>,
    pub started: Option<Timestamp>,
    pub completed: Option<Timestamp>,
    pub resubmitted: Option<MsgId>,
    pub received: Option<Timestamp>,
    pub result_header: Option<Bytes>,
    pub result_metadata: Option<Bytes>,
    pub result_content: Option<Bytes>,
    pub result_buffers: Option<Vec<Bytes>>,
    pub queue: Option<Queue>,
    pub execute_input: Option<Box<str>>,
    pub execute_result: Option<Bytes>,
    pub error: Option<Bytes>,
    pub stdout: String,
    pub stderr: String,
    /// The request's `metadata.label`; one that is no text is kept as its JSON.
    pub label: Option<Box<str>>,
    pub display_data: Option<Bytes>,
}

/// Applies a macro to every field that is an `Option`.
macro_rules! for_optional_fields {
    ($apply:ident) => {
        $apply! {
            header Header, metadata Metadata, content Content, buffers Buffers, submitted Submitted,
            client_uuid ClientUuid, engine_uuid EngineUuid, started Started, completed Completed,
            resubmitted Resubmitted, received Received, result_header ResultHeader,
            result_metadata ResultMetadata, result_content ResultContent,
            result_buffers ResultBuffers, queue Queue, execute_input ExecuteInput,
            execute_result ExecuteResult, error Error, label Label, display_data DisplayData
        }
    };
}

/// Applies a macro to every field of a [`RecordUpdate`] that replaces.
macro_rules! for_updated_fields {
    ($apply:ident) => {
        $apply!(
            engine_uuid,
            started,
            completed,
            resubmitted,
            received,
            result_header,
            result_metadata,
            result_content,
            result_buffers,
            execute_input,
            execute_result,
            error,
            label,
            display_data
        )
    };
}

impl TaskRecord {
    pub fn new(msg_id: MsgId) -> Self {
        Self {
            msg_id,
            header: None,
            metadata: None,
            content: None,
            buffers: None,
            submitted: None,
            client_uuid: None,
            engine_uuid: None,
            started: None,
            completed: None,
            resubmitted: None,
            received: None,
            result_header: None,
            result_metadata: None,
            result_content: None,
            result_buffers: None,
            queue: None,
            execute_input: None,
            execute_result: None,
            error: None,
            stdout: String::new(),
            stderr: String::new(),
            label: None,
            display_data: None,
        }
    }

    /// A text field's value. [`None`] also for a field of another kind.
    pub fn text(&self, key: Key) -> Option<&str> {
        match key {
            Key::MsgId => Some(self.msg_id.as_str()),
            Key::ClientUuid => self.client_uuid.as_deref(),
            Key::EngineUuid => self.engine_uuid.as_ref().map(EngineUuid::as_str),
            Key::Resubmitted => self.resubmitted.as_ref().map(MsgId::as_str),
            Key::Queue => self.queue.map(Queue::as_str),
            Key::ExecuteInput => self.execute_input.as_deref(),
            Key::Stdout => Some(&self.stdout),
            Key::Stderr => Some(&self.stderr),
            Key::Label => self.label.as_deref(),
            _ => None,
        }
    }

    /// A date field's value.
    pub fn date(&self, key: Key) -> Option<Timestamp> {
        match key {
            Key::Submitted => self.submitted,
            Key::Started => self.started,
            Key::Completed => self.completed,
            Key::Received => self.received,
            _ => None,
        }
    }

    /// The raw JSON of a field.
    pub fn json(&self, key: Key) -> Option<&Bytes> {
        match key {
            Key::Header => self.header.as_ref(),
            Key::Metadata => self.metadata.as_ref(),
            Key::Content => self.content.as_ref(),
            Key::ResultHeader => self.result_header.as_ref(),
            Key::ResultMetadata => self.result_metadata.as_ref(),
            Key::ResultContent => self.result_content.as_ref(),
            Key::ExecuteResult => self.execute_result.as_ref(),
            Key::Error => self.error.as_ref(),
            Key::DisplayData => self.display_data.as_ref(),
            _ => None,
        }
    }

    /// The buffers of the request or of the result.
    pub fn buffer_list(&self, key: Key) -> Option<&[Bytes]> {
        match key {
            Key::Buffers => self.buffers.as_deref(),
            Key::ResultBuffers => self.result_buffers.as_deref(),
            _ => None,
        }
    }

    /// A copy that has only the fields of `keys`, and its msg_id.
    pub fn project(&self, keys: KeySet) -> Self {
        if keys == KeySet::ALL {
            return self.clone();
        }
        let mut projected = Self::new(self.msg_id.clone());
        macro_rules! copy {
            ($($field:ident $key:ident),*) => {
                $(if keys.contains(Key::$key) {
                    projected.$field.clone_from(&self.$field);
                })*
            };
        }
        for_optional_fields!(copy);
        if keys.contains(Key::Stdout) {
            projected.stdout.clone_from(&self.stdout);
        }
        if keys.contains(Key::Stderr) {
            projected.stderr.clone_from(&self.stderr);
        }
        projected
    }

    /// Takes over what an earlier record of the same request has and this one lacks: output that came before the
    /// request, or a resubmission that was noted before it was queued.
    pub fn fill_from(&mut self, earlier: Self) {
        macro_rules! fill {
            ($($field:ident $key:ident),*) => {
                $(if self.$field.is_none() {
                    self.$field = earlier.$field;
                })*
            };
        }
        for_optional_fields!(fill);
        self.stdout.insert_str(0, &earlier.stdout);
        self.stderr.insert_str(0, &earlier.stderr);
    }

    /// Applies a change: what it names replaces, output is appended.
    pub fn apply(&mut self, update: RecordUpdate) {
        macro_rules! replace {
            ($($field:ident),*) => {
                $(if update.$field.is_some() {
                    self.$field = update.$field;
                })*
            };
        }
        for_updated_fields!(replace);
        append(&mut self.stdout, update.stdout);
        append(&mut self.stderr, update.stderr);
    }

    /// Bytes of the buffers of request and result.
    pub fn buffer_bytes(&self) -> u64 {
        let lists = [&self.buffers, &self.result_buffers];
        let all = lists.into_iter().flatten().flatten();
        all.map(|buffer| buffer.len() as u64).sum()
    }

    /// Bytes of everything that is neither a buffer nor of a fixed size.
    pub fn text_bytes(&self) -> u64 {
        let json = Key::ALL.iter().filter_map(|key| self.json(*key));
        let text = Key::ALL.iter().filter_map(|key| self.text(*key));
        (json.map(Bytes::len).sum::<usize>() + text.map(str::len).sum::<usize>()) as u64
    }
}

fn append(text: &mut String, more: String) {
    if text.is_empty() {
        *text = more;
    } else {
        text.push_str(&more);
    }
}

/// The name that metadata has for the bytes of buffers which a store refused to keep.
const DROPPED: &[u8] = b"\"buffers_dropped\":";

/// Metadata with a note that its buffers, so many bytes, are too big for the store.
pub(super) fn note_dropped(metadata: Option<&Bytes>, bytes: u64) -> Bytes {
    let rest = metadata.and_then(|json| json.strip_prefix(b"{"));
    let rest = rest.unwrap_or(b"}");
    let mut noted = b"{".to_vec();
    noted.extend_from_slice(DROPPED);
    noted.extend_from_slice(bytes.to_string().as_bytes());
    if rest != b"}" {
        noted.push(b',');
    }
    noted.extend_from_slice(rest);
    noted.into()
}

/// How many bytes of buffers a store refused to keep, by its note in the metadata.
pub fn dropped_bytes(metadata: &[u8]) -> Option<u64> {
    let rest = metadata.strip_prefix(b"{")?.strip_prefix(DROPPED)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |sum: u64, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

/// A change to a record. `None` leaves a field as it is; `stdout` and `stderr` are appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordUpdate {
    pub engine_uuid: Option<EngineUuid>,
    pub started: Option<Timestamp>,
    pub completed: Option<Timestamp>,
    pub resubmitted: Option<MsgId>,
    pub received: Option<Timestamp>,
    pub result_header: Option<Bytes>,
    pub result_metadata: Option<Bytes>,
    pub result_content: Option<Bytes>,
    pub result_buffers: Option<Vec<Bytes>>,
    pub execute_input: Option<Box<str>>,
    pub execute_result: Option<Bytes>,
    pub error: Option<Bytes>,
    pub stdout: String,
    pub stderr: String,
    pub label: Option<Box<str>>,
    pub display_data: Option<Bytes>,
}

impl RecordUpdate {
    /// Adds a later change to this one.
    pub(super) fn merge(&mut self, later: Self) {
        macro_rules! replace {
            ($($field:ident),*) => {
                $(if later.$field.is_some() {
                    self.$field = later.$field;
                })*
            };
        }
        for_updated_fields!(replace);
        append(&mut self.stdout, later.stdout);
        append(&mut self.stderr, later.stderr);
    }

    /// About how much memory it holds.
    pub(super) fn bytes(&self) -> u64 {
        let json = [
            &self.result_header,
            &self.result_metadata,
            &self.result_content,
            &self.execute_result,
            &self.error,
            &self.display_data,
        ];
        let json = json.into_iter().flatten().map(Bytes::len);
        let buffers = self.result_buffers.iter().flatten().map(Bytes::len);
        let text = self.stdout.len() + self.stderr.len();
        (json.chain(buffers).sum::<usize>() + text) as u64
    }

    /// Whether a record may grow by more than numbers and ids.
    pub(super) fn has_text(&self) -> bool {
        let json = [
            &self.result_header,
            &self.result_metadata,
            &self.result_content,
            &self.execute_result,
            &self.error,
            &self.display_data,
        ];
        let text = [&self.execute_input, &self.label];
        json.iter().any(|json| json.is_some())
            || text.iter().any(|text| text.is_some())
            || !(self.stdout.is_empty() && self.stderr.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_by_its_name_and_the_old_ones_are_aliases() {
        for key in Key::ALL {
            assert_eq!(Key::parse(key.as_str()), Some(*key));
        }
        assert_eq!(
            Key::parse_spelled("pyout"),
            Some((Key::ExecuteResult, "pyout"))
        );
        assert_eq!(Key::parse("complete"), None);
        assert_eq!(KeySet::ALL.iter().count(), Key::ALL.len());
    }

    #[test]
    fn output_accumulates_and_the_rest_is_replaced() {
        let mut record = TaskRecord::new("m".into());
        for text in ["a", "b"] {
            record.apply(RecordUpdate {
                stdout: text.into(),
                label: Some(text.into()),
                ..Default::default()
            });
        }
        assert_eq!(
            (record.stdout.as_str(), record.label.as_deref()),
            ("ab", Some("b"))
        );
    }

    #[test]
    fn what_came_before_the_request_is_kept() {
        let mut early = TaskRecord::new("m".into());
        early.stdout = "first ".into();
        early.error = Some(Bytes::from_static(b"{}"));
        let mut request = TaskRecord::new("m".into());
        request.stdout = "then".into();
        request.fill_from(early);
        assert_eq!(request.stdout, "first then");
        assert!(request.error.is_some());
    }

    #[test]
    fn a_note_of_dropped_buffers_can_be_read_again() {
        for metadata in [
            None,
            Some(&b"{}"[..]),
            Some(b"{\"a\": 1}"),
            Some(b"nonsense"),
        ] {
            let metadata = metadata.map(Bytes::from_static);
            let noted = note_dropped(metadata.as_ref(), 1234);
            assert_eq!(dropped_bytes(&noted), Some(1234));
            assert!(serde_json::from_slice::<serde_json::Value>(&noted).is_ok());
        }
        assert_eq!(dropped_bytes(b"{}"), None);
    }

    #[test]
    fn a_projection_has_what_was_asked_for() {
        let mut record = TaskRecord::new("m".into());
        record.stdout = "x".into();
        record.queue = Some(Queue::Mux);
        let projected = record.project([Key::Queue].into_iter().collect());
        assert_eq!(projected.queue, Some(Queue::Mux));
        assert_eq!(projected.stdout, "");
        assert_eq!(record.project(KeySet::ALL), record);
    }
}
