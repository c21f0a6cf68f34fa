//! The questions that are about records: results, history, queries, purging and resubmission (`hub.get_results`,
//! `get_history`, `db_query`, `purge_results`, `resubmit_task`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::loose::{ReplyContent, read};
use super::reply::{Fields, ResultEntry, Row, write};
use super::{Answer, Ask, Recorder};
use crate::protocol::{EngineId, EngineUuid, Header, MsgId, RemoteError};
use crate::taskdb::python::repr;
use crate::taskdb::record::dropped_bytes;
use crate::taskdb::{Key, KeySet, Query, QueryError, Queue, StoreError, TaskRecord, TaskStore};

/// The requests that [`Recorder::answer`] answers.
pub const QUESTIONS: [&str; 5] = [
    "result_request",
    "history_request",
    "db_request",
    "purge_request",
    "resubmit_request",
];

/// The type of the reply to a request that could not be understood.
const HUB_ERROR: &str = "hub_error";

impl<S: TaskStore> Recorder<S> {
    /// Answers one of [`QUESTIONS`]; anything else, and what cannot be understood, with a `hub_error`.
    pub fn answer(&mut self, msg_type: &str, content: &[u8], ask: &mut Ask<'_>) -> Answer {
        let answer = match msg_type {
            "result_request" => parse(content).map(|request| self.results(&request)),
            "history_request" => Ok(self.history()),
            "db_request" => parse(content).map(|request| self.db_query(&request)),
            "purge_request" => parse(content).map(|request| self.purge(&request, ask)),
            "resubmit_request" => parse(content).and_then(|request: ResubmitRequest| {
                let msg_ids = request.msg_ids.list()?;
                Ok(self.resubmit(&msg_ids, ask))
            }),
            other => {
                let text = format!("Bad Message Type: {}", repr(other));
                Err(RemoteError::new("KeyError", repr(&text)))
            }
        };
        answer.unwrap_or_else(|error| Answer::error(HUB_ERROR, &error))
    }

    fn results(&mut self, request: &ResultRequest) -> Answer {
        const REPLY: &str = "result_reply";
        let answer = request
            .msg_ids
            .list()
            .and_then(|msg_ids| self.try_results(msg_ids, truthy(&request.status_only)));
        match answer {
            Ok((content, buffers)) => Answer {
                buffers,
                ..Answer::new(REPLY, content)
            },
            Err(error) => Answer::error(REPLY, &error),
        }
    }

    fn try_results(
        &mut self,
        mut msg_ids: Vec<String>,
        status_only: bool,
    ) -> Result<(Vec<u8>, Vec<Bytes>), RemoteError> {
        // The client takes the buffers in this order.
        msg_ids.sort_unstable();
        msg_ids.dedup();
        let keys = if status_only {
            KeySet::EMPTY.with(Key::Completed)
        } else {
            KeySet::ALL.without(Key::Buffers).without(Key::Content)
        };
        let finished = msg_ids.iter().map(String::as_str);
        let finished = finished.filter(|id| !self.pending.contains(id));
        let mut records: BTreeMap<MsgId, TaskRecord> = BTreeMap::new();
        self.store
            .find(&Query::msg_ids(finished), keys, &mut |record| {
                records.insert(record.msg_id.clone(), record);
                ControlFlow::Continue(())
            })
            .map_err(|error| error.to_remote())?;
        let (mut pending, mut completed) = (Vec::new(), Vec::new());
        for msg_id in &msg_ids {
            let known = records.get(msg_id.as_str());
            if self.pending.contains(msg_id) {
                pending.push(msg_id);
            } else if let Some(record) = known {
                let list = match record.completed {
                    Some(_) => &mut completed,
                    None => &mut pending,
                };
                list.push(msg_id);
            } else {
                let text = format!("No such message: {msg_id}");
                return Err(RemoteError::new("KeyError", repr(&text)));
            }
        }
        let mut content = br#"{"status":"ok","pending":"#.to_vec();
        write(&mut content, &pending);
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
                    let of_record = self.result_buffers(record);
                    buffers.extend(of_record.map_err(|error| error.to_remote())?);
                }
            }
        }
        content.push(b'}');
        Ok((content, buffers))
    }

    /// The buffers of a result. Of a broadcast that did not coalesce they are those of its first engine: the client
    /// takes one object for each id, and would take what followed for the next id's.
    fn result_buffers(&mut self, record: TaskRecord) -> Result<Vec<Bytes>, StoreError> {
        if let Some(buffers) = record.result_buffers {
            return Ok(buffers);
        }
        let Some(part) = first_part(&record) else {
            return Ok(Vec::new());
        };
        let mut buffers = Vec::new();
        let keys = KeySet::EMPTY.with(Key::ResultBuffers);
        self.store.find(&Query::from(&part), keys, &mut |part| {
            buffers = part.result_buffers.unwrap_or_default();
            ControlFlow::Break(())
        })?;
        Ok(buffers)
    }

    fn history(&mut self) -> Answer {
        const REPLY: &str = "history_reply";
        match self.store.history() {
            Ok(history) => {
                let mut content = br#"{"status":"ok","history":"#.to_vec();
                write(&mut content, &history);
                content.push(b'}');
                Answer::new(REPLY, content)
            }
            Err(error) => Answer::error(REPLY, &error.to_remote()),
        }
    }

    fn db_query(&mut self, request: &DbRequest) -> Answer {
        const REPLY: &str = "db_reply";
        match self.try_db_query(request) {
            Ok((content, buffers)) => Answer {
                buffers,
                ..Answer::new(REPLY, content)
            },
            Err(error) => Answer::error(REPLY, &error),
        }
    }

    fn try_db_query(&mut self, request: &DbRequest) -> Result<(Vec<u8>, Vec<Bytes>), RemoteError> {
        let empty = json!({});
        let query = match &request.query {
            Value::Null => &empty,
            query => query,
        };
        let query = Query::parse(query, &self.local).map_err(|error| error.to_remote())?;
        let fields = fields(&request.keys)?;
        let keys = fields.keys();
        let lens = |key| (!request.keys.is_null() && keys.contains(key)).then(Vec::new);
        let mut buffer_lens: Option<Vec<usize>> = lens(Key::Buffers);
        let mut result_buffer_lens: Option<Vec<usize>> = lens(Key::ResultBuffers);
        let mut content = br#"{"status":"ok","records":["#.to_vec();
        let mut buffers = Vec::new();
        let mut first = true;
        self.store
            .find(&query, keys, &mut |mut record| {
                if !std::mem::take(&mut first) {
                    content.push(b',');
                }
                let row = Row {
                    record: &record,
                    fields: &fields,
                };
                write(&mut content, &row);
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
                ControlFlow::Continue(())
            })
            .map_err(|error| error.to_remote())?;
        content.extend_from_slice(br#"],"buffer_lens":"#);
        write(&mut content, &buffer_lens);
        content.extend_from_slice(br#","result_buffer_lens":"#);
        write(&mut content, &result_buffer_lens);
        content.push(b'}');
        Ok((content, buffers))
    }

    fn purge(&mut self, request: &PurgeRequest, ask: &Ask<'_>) -> Answer {
        let outcome = self.try_purge(request, ask);
        match outcome {
            Ok(()) => Answer::json("purge_reply", &json!({"status": "ok"})),
            Err(error) => Answer::error("purge_reply", &error),
        }
    }

    fn try_purge(&mut self, request: &PurgeRequest, ask: &Ask<'_>) -> Result<(), RemoteError> {
        let remote = |error: StoreError| error.to_remote();
        if request.msg_ids.0 == "all" {
            let finished = Query::completed(true);
            return self.store.remove(&finished).map(drop).map_err(remote);
        }
        let msg_ids = request.msg_ids.list()?;
        if let Some(pending) = msg_ids.iter().find(|id| self.pending.contains(id)) {
            let text = format!("msg pending: {}", repr(pending));
            return Err(RemoteError::new("IndexError", text));
        }
        if !msg_ids.is_empty() {
            let query = Query::msg_ids(msg_ids.iter().map(String::as_str));
            self.store.remove(&query).map_err(remote)?;
        }
        let engines = match &request.engine_ids {
            Value::Null => &[],
            Value::Array(engines) => engines.as_slice(),
            one => std::slice::from_ref(one),
        };
        for id in engines {
            let uuid = engine(id, ask)
                .ok_or_else(|| RemoteError::new("IndexError", format!("No such engine: {id}")))?;
            let results = Query::text(Key::EngineUuid, uuid.as_str());
            self.store
                .remove(&results.and(Query::completed(true)))
                .map_err(remote)?;
        }
        Ok(())
    }
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

fn engine(id: &Value, ask: &Ask<'_>) -> Option<EngineUuid> {
    let id = u32::try_from(id.as_u64()?).ok()?;
    (ask.engine)(EngineId(id))
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

#[derive(Deserialize)]
struct DbRequest {
    #[serde(default)]
    query: Value,
    #[serde(default)]
    keys: Value,
}

#[derive(Deserialize)]
struct PurgeRequest {
    #[serde(default)]
    msg_ids: MsgIds,
    #[serde(default)]
    engine_ids: Value,
}

#[derive(Deserialize)]
struct ResubmitRequest {
    msg_ids: MsgIds,
}

/// A list of msg_ids, or one of them.
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct MsgIds(Value);

impl MsgIds {
    fn list(&self) -> Result<Vec<String>, RemoteError> {
        let wrong = || RemoteError::new("TypeError", "msg_ids is a list of texts");
        match &self.0 {
            Value::Null => Ok(Vec::new()),
            Value::String(one) => Ok(vec![one.clone()]),
            Value::Array(ids) => ids
                .iter()
                .map(|id| id.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect(),
            _ => Err(wrong()),
        }
    }
}

fn truthy(flag: &Value) -> bool {
    match flag {
        Value::Bool(flag) => *flag,
        Value::Null => false,
        other => other.as_f64() != Some(0.0),
    }
}

/// A request's content. What lacks a field is a KeyError, as it is in the original.
fn parse<'a, T: Deserialize<'a>>(content: &'a [u8]) -> Result<T, RemoteError> {
    serde_json::from_slice(content).map_err(|error| {
        if error.is_data() {
            RemoteError::new("KeyError", repr(&error.to_string()))
        } else {
            RemoteError::new("ValueError", format!("content is no JSON: {error}"))
        }
    })
}
