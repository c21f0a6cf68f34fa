//! The questions that change nothing: results, history, queries. A thread that has a reader of its own answers them beside
//! the recording, so that a query which looks at a million records holds nothing up.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use hashbrown::HashSet;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::answer::MsgIds;
use super::loose::{ReplyContent, read};
use super::pending::PendingSet;
use super::reply::{Fields, ResultEntry, Row, write};
use crate::hub::content::parse;
use crate::protocol::{Header, MsgId, RemoteError};
use crate::taskdb::record::dropped_bytes;
use crate::taskdb::{Key, KeySet, Query, QueryError, Queue, RecordReader, StoreError, TaskRecord};

/// Bytes of JSON and buffers that one answer may have: it is one message, which has to be in memory as a whole.
const MAX_ANSWER: usize = 2 << 30;

/// A question that was understood.
#[derive(Debug)]
pub struct Lookup {
    question: Question,
    /// Zone of dates that name none.
    local: TimeZone,
    limit: usize,
}

#[derive(Debug)]
enum Question {
    Results {
        /// Sorted: the client takes the buffers in this order.
        msg_ids: Vec<String>,
        status_only: bool,
        /// Those of the ids that were unfinished when the question came.
        pending: HashSet<String>,
    },
    History,
    Query(DbRequest),
}

impl Lookup {
    /// [`None`] for a request of another type. The error is what the client is told.
    pub(super) fn of(
        msg_type: &str,
        content: &[u8],
        pending: &PendingSet,
        local: &TimeZone,
    ) -> Option<Result<Self, Answer>> {
        let question = match msg_type {
            "result_request" => results(content, pending),
            "history_request" => Ok(Question::History),
            "db_request" => parse(content)
                .map(Question::Query)
                .map_err(|error| Answer::hub_error(&error)),
            _ => return None,
        };
        Some(question.map(|question| Self {
            question,
            local: local.clone(),
            limit: MAX_ANSWER,
        }))
    }

    #[cfg(test)]
    pub(super) fn with_limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Whether it is a matter of microseconds for each of its ids, and better answered on the spot.
    pub fn is_quick(&self) -> bool {
        matches!(
            self.question,
            Question::Results {
                status_only: true,
                ..
            }
        )
    }

    /// Whether it is about requests that are named, as opposed to all that match something.
    pub fn is_by_id(&self) -> bool {
        matches!(self.question, Question::Results { .. })
    }

    pub fn answer(&self, reader: &mut dyn RecordReader) -> Answer {
        let answer = match &self.question {
            Question::Results {
                msg_ids,
                status_only,
                pending,
            } => self.results(reader, msg_ids, *status_only, pending),
            Question::History => history(reader),
            Question::Query(request) => self.query(reader, request),
        };
        let reply = self.reply_type();
        match answer {
            Ok((content, buffers)) => Answer {
                buffers,
                ..Answer::new(reply, content)
            },
            Err(error) => Answer::error(reply, &error),
        }
    }

    /// The answer when the store is at fault.
    pub fn refused(&self, error: &StoreError) -> Answer {
        Answer::error(self.reply_type(), &error.to_remote())
    }

    fn reply_type(&self) -> &'static str {
        match self.question {
            Question::Results { .. } => "result_reply",
            Question::History => "history_reply",
            Question::Query(_) => "db_reply",
        }
    }

    fn results(
        &self,
        reader: &mut dyn RecordReader,
        msg_ids: &[String],
        status_only: bool,
        pending: &HashSet<String>,
    ) -> Result<(Vec<u8>, Vec<Bytes>), RemoteError> {
        let keys = if status_only {
            KeySet::EMPTY.with(Key::Completed)
        } else {
            KeySet::ALL.without(Key::Buffers).without(Key::Content)
        };
        let finished = msg_ids.iter().map(String::as_str);
        let finished = finished.filter(|id| !pending.contains(*id));
        let mut records: BTreeMap<MsgId, TaskRecord> = BTreeMap::new();
        let mut size = Size::new(self.limit);
        reader
            .find(&Query::msg_ids(finished), keys, &mut |record| {
                size.add_record(&record);
                records.insert(record.msg_id.clone(), record);
                size.go_on()
            })
            .map_err(|error| error.to_remote())?;
        size.check()?;
        let (mut unfinished, mut completed) = (Vec::new(), Vec::new());
        for msg_id in msg_ids {
            let known = records.get(msg_id.as_str());
            if pending.contains(msg_id) {
                unfinished.push(msg_id);
            } else if let Some(record) = known {
                let list = match record.completed {
                    Some(_) => &mut completed,
                    None => &mut unfinished,
                };
                list.push(msg_id);
            } else {
                let text = format!("No such message: {msg_id}");
                return Err(RemoteError::key_error(&text));
            }
        }
        let mut content = br#"{"status":"ok","pending":"#.to_vec();
        write(&mut content, &unfinished);
        content.extend_from_slice(br#","completed":"#);
        write(&mut content, &completed);
        let mut buffers = Vec::new();
        if !status_only {
            for msg_id in completed {
                let Some(mut record) = records.remove(msg_id.as_str()) else {
                    continue;
                };
                explain_dropped(&mut record);
                content.push(b',');
                write(&mut content, msg_id);
                content.push(b':');
                write(&mut content, &ResultEntry(&record));
                if is_apply_result(&record) {
                    let of_record = result_buffers(reader, record);
                    buffers.extend(of_record.map_err(|error| error.to_remote())?);
                }
            }
        }
        content.push(b'}');
        Ok((content, buffers))
    }

    fn query(
        &self,
        reader: &mut dyn RecordReader,
        request: &DbRequest,
    ) -> Result<(Vec<u8>, Vec<Bytes>), RemoteError> {
        let query = Query::parse(&request.query, &self.local).map_err(|error| error.to_remote())?;
        let fields = fields(&request.keys)?;
        let keys = fields.keys();
        let lens = |key| (!request.keys.is_null() && keys.contains(key)).then(Vec::new);
        let mut buffer_lens: Option<Vec<usize>> = lens(Key::Buffers);
        let mut result_buffer_lens: Option<Vec<usize>> = lens(Key::ResultBuffers);
        let mut content = br#"{"status":"ok","records":["#.to_vec();
        let mut buffers = Vec::new();
        let mut first = true;
        let mut size = Size::new(self.limit);
        reader
            .find(&query, keys, &mut |mut record| {
                if !std::mem::take(&mut first) {
                    content.push(b',');
                }
                let row = Row {
                    record: &record,
                    fields: &fields,
                };
                let before = content.len();
                write(&mut content, &row);
                size.add((content.len() - before) as u64 + record.buffer_bytes());
                for (lens, list) in [
                    (&mut buffer_lens, record.buffers.take()),
                    (&mut result_buffer_lens, record.result_buffers.take()),
                ] {
                    if let Some(lens) = lens {
                        let list = list.unwrap_or_default();
                        lens.push(list.len());
                        buffers.extend(list);
                    }
                }
                size.go_on()
            })
            .map_err(|error| error.to_remote())?;
        size.check()?;
        content.extend_from_slice(br#"],"buffer_lens":"#);
        write(&mut content, &buffer_lens);
        content.extend_from_slice(br#","result_buffer_lens":"#);
        write(&mut content, &result_buffer_lens);
        content.push(b'}');
        Ok((content, buffers))
    }
}

fn history(reader: &mut dyn RecordReader) -> Result<(Vec<u8>, Vec<Bytes>), RemoteError> {
    let history = reader.history().map_err(|error| error.to_remote())?;
    let mut content = br#"{"status":"ok","history":"#.to_vec();
    write(&mut content, &history);
    content.push(b'}');
    Ok((content, Vec::new()))
}

/// How large an answer has become.
struct Size {
    bytes: u64,
    limit: usize,
}

impl Size {
    fn new(limit: usize) -> Self {
        Self { bytes: 0, limit }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn add_record(&mut self, record: &TaskRecord) {
        self.add(record.text_bytes() + record.buffer_bytes());
    }

    fn go_on(&self) -> ControlFlow<()> {
        if self.bytes > self.limit as u64 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn check(&self) -> Result<(), RemoteError> {
        if self.go_on().is_continue() {
            return Ok(());
        }
        let text = format!(
            "the answer would have more than {} bytes: ask for fewer records at a time, or for fewer keys",
            self.limit
        );
        Err(RemoteError::new("MemoryError", text))
    }
}

fn results(content: &[u8], pending: &PendingSet) -> Result<Question, Answer> {
    let request: ResultRequest = parse(content).map_err(|error| Answer::hub_error(&error))?;
    let msg_ids = request.msg_ids.list();
    let mut msg_ids = msg_ids.map_err(|error| Answer::error("result_reply", &error))?;
    msg_ids.sort_unstable();
    msg_ids.dedup();
    let pending = msg_ids.iter().filter(|id| pending.contains(id));
    Ok(Question::Results {
        pending: pending.cloned().collect(),
        status_only: truthy(&request.status_only),
        msg_ids,
    })
}

/// The buffers of a result. Of a broadcast that did not coalesce they are those of its first engine: the client takes one
/// object for each id, and would take what followed for the next id's.
fn result_buffers(
    reader: &mut dyn RecordReader,
    record: TaskRecord,
) -> Result<Vec<Bytes>, StoreError> {
    if let Some(buffers) = record.result_buffers {
        return Ok(buffers);
    }
    let Some(part) = first_part(&record) else {
        return Ok(Vec::new());
    };
    let mut buffers = Vec::new();
    let keys = KeySet::EMPTY.with(Key::ResultBuffers);
    reader.find(&Query::from(&part), keys, &mut |part| {
        buffers = part.result_buffers.unwrap_or_default();
        ControlFlow::Break(())
    })?;
    Ok(buffers)
}

/// A result whose buffers were too big for the database is an error, not a result without buffers.
fn explain_dropped(record: &mut TaskRecord) {
    let metadata = record.result_metadata.as_deref().unwrap_or_default();
    if let Some(bytes) = dropped_bytes(metadata) {
        let text = format!(
            "The result of {} was not kept: its {bytes} bytes exceed the limit of the database",
            record.msg_id
        );
        let error = RemoteError::new("RuntimeError", text);
        record.result_content = Some(error.to_content().to_string().into());
    }
}

/// Whether the client takes buffers for the result: of nothing else than a successful apply.
fn is_apply_result(record: &TaskRecord) -> bool {
    let header = record.result_header.as_deref().unwrap_or_default();
    let content = record.result_content.as_deref().unwrap_or_default();
    Header::parse(header).is_ok_and(|header| header.msg_type == "apply_reply")
        && read::<ReplyContent<'_>>(content).status.get() == Some("ok")
}

/// The record of the first part of a broadcast that did not coalesce.
fn first_part(whole: &TaskRecord) -> Option<MsgId> {
    if whole.queue != Some(Queue::Broadcast) {
        return None;
    }
    let metadata: Value = serde_json::from_slice(whole.result_metadata.as_deref()?).ok()?;
    let engine = metadata["broadcast_targets"].get(0)?.get(0)?.as_str()?;
    Some(MsgId::from(format!("{}_{engine}", whole.msg_id)))
}

/// `keys` of a query: null for everything but the buffers, a list, or one name.
fn fields(keys: &Value) -> Result<Fields, RemoteError> {
    let name = |name: &str| {
        Key::parse_spelled(name)
            .ok_or_else(|| QueryError::UnknownRecordKey(name.to_owned()).to_remote())
    };
    match keys {
        Value::Null => Ok(Fields::all()),
        Value::String(one) => Ok(Fields::named([name(one)?])),
        Value::Array(names) => {
            let names = names.iter().map(|key| match key {
                Value::String(key) => name(key),
                other => Err(QueryError::UnknownRecordKey(other.to_string()).to_remote()),
            });
            Ok(Fields::named(names.collect::<Result<Vec<_>, _>>()?))
        }
        _ => Err(RemoteError::new("TypeError", "keys is a list of names")),
    }
}

#[derive(Deserialize)]
struct ResultRequest {
    msg_ids: MsgIds,
    #[serde(default)]
    status_only: Value,
}

#[derive(Debug, Deserialize)]
struct DbRequest {
    #[serde(default = "everything")]
    query: Value,
    #[serde(default)]
    keys: Value,
}

fn everything() -> Value {
    json!({})
}

fn truthy(flag: &Value) -> bool {
    match flag {
        Value::Bool(flag) => *flag,
        Value::Null => false,
        other => other.as_f64() != Some(0.0),
    }
}
