//! `resubmit_request`: finished or not, a request is queued again under a new id, with its old header otherwise, its
//! metadata (label, retries, dependencies) and its buffers (`hub.resubmit_task`).

use std::ops::ControlFlow;

use bytes::Bytes;
use hashbrown::HashSet;
use serde_json::{Map, Value, json};

use super::pending::{Part, Pending};
use super::{Answer, Ask, Recorder, Resubmission, StoredMessage};
use crate::protocol::python::repr_list;
use crate::protocol::{MsgId, RemoteError, Timestamp};
use crate::taskdb::{KeySet, Query, Queue, RecordUpdate, TaskRecord, TaskStore};

const REPLY: &str = "resubmit_reply";

impl<S: TaskStore> Recorder<S> {
    pub(super) fn resubmit(&mut self, msg_ids: &[String], ask: &mut Ask<'_>) -> Answer {
        match self.try_resubmit(msg_ids, ask) {
            Ok(resubmit) => {
                let mapping: Map<String, Value> = resubmit
                    .iter()
                    .map(|again| (again.original.to_string(), json!(again.msg_id)))
                    .collect();
                let content = json!({"status": "ok", "resubmitted": mapping});
                Answer {
                    resubmit,
                    ..Answer::json(REPLY, &content)
                }
            }
            Err(error) => Answer::error(REPLY, &error),
        }
    }

    fn try_resubmit(
        &mut self,
        msg_ids: &[String],
        ask: &mut Ask<'_>,
    ) -> Result<Vec<Resubmission>, RemoteError> {
        let mut originals = Vec::new();
        let query = Query::msg_ids(msg_ids.iter().map(String::as_str));
        let keys = KeySet::ALL;
        self.store
            .find(&query, keys, &mut |record| {
                originals.push(record);
                ControlFlow::Continue(())
            })
            .map_err(|error| error.to_remote())?;
        let missing: Vec<&str> = {
            let found: HashSet<&str> = originals.iter().map(|it| it.msg_id.as_str()).collect();
            let msg_ids = msg_ids.iter().map(String::as_str);
            msg_ids.filter(|id| !found.contains(id)).collect()
        };
        if !missing.is_empty() {
            let text = format!("No such msg(s): {}", repr_list(missing));
            return Err(RemoteError::key_error(&text));
        }
        let mut prepared = Vec::new();
        for original in originals {
            prepared.push(self.prepare(original, ask)?);
        }
        let mut resubmissions = Vec::new();
        for (record, resubmission) in prepared {
            self.note(record, &resubmission)
                .map_err(|error| error.to_remote())?;
            resubmissions.push(resubmission);
        }
        Ok(resubmissions)
    }

    fn prepare(
        &mut self,
        original: TaskRecord,
        ask: &mut Ask<'_>,
    ) -> Result<(TaskRecord, Resubmission), RemoteError> {
        let msg_id = (ask.new_id)();
        let header = original.header.as_ref();
        let header = header.and_then(|header| with_msg_id(header, &msg_id, Some(ask.now)));
        let Some(header) = header else {
            let text = format!("{} is not the record of a request", original.msg_id);
            return Err(RemoteError::new("ValueError", text));
        };
        let buffers = self.request_buffers(&original)?;
        let metadata = match original.queue {
            Some(Queue::Broadcast) => without_broadcast(original.metadata.as_ref()),
            _ => original.metadata.clone(),
        };
        let mut record = TaskRecord::new(msg_id.clone());
        record.header = Some(header.clone());
        record.metadata.clone_from(&metadata);
        record.content.clone_from(&original.content);
        record.buffers = Some(buffers.clone());
        record.submitted = Some(ask.now);
        record.client_uuid = original.client_uuid;
        record.queue = Some(Queue::Task);
        record.label = original.label;
        let message = StoredMessage {
            header,
            parent_header: Bytes::from_static(b"{}"),
            metadata: metadata.unwrap_or_else(|| Bytes::from_static(b"{}")),
            content: original
                .content
                .unwrap_or_else(|| Bytes::from_static(b"{}")),
            buffers,
        };
        let resubmission = Resubmission {
            msg_id,
            original: original.msg_id,
            message,
        };
        Ok((record, resubmission))
    }

    /// The buffers of a request; one engine's part in a broadcast has them from the broadcast.
    fn request_buffers(&mut self, original: &TaskRecord) -> Result<Vec<Bytes>, RemoteError> {
        if let Some(buffers) = &original.buffers {
            return Ok(buffers.clone());
        }
        let engine = original.engine_uuid.as_ref();
        let whole = engine
            .and_then(|engine| original.msg_id.as_str().strip_suffix(engine.as_str()))
            .and_then(|id| id.strip_suffix('_'));
        let whole = match whole {
            Some(whole) => self.store.get(whole).map_err(|error| error.to_remote())?,
            None => None,
        };
        whole.and_then(|record| record.buffers).ok_or_else(|| {
            let text = format!("The buffers of {} were not kept", original.msg_id);
            RemoteError::key_error(&text)
        })
    }

    /// The new record is there before anyone hears of its id.
    fn note(
        &mut self,
        record: TaskRecord,
        resubmission: &Resubmission,
    ) -> Result<(), crate::taskdb::StoreError> {
        let pending = Pending {
            engine: None,
            part: Part::Whole,
        };
        self.store.add(record)?;
        self.pending.insert(resubmission.msg_id.clone(), pending);
        let update = RecordUpdate {
            resubmitted: Some(resubmission.msg_id.clone()),
            ..Default::default()
        };
        self.store.update(&resubmission.original, update).map(drop)
    }
}

/// A header with another id and, if given, another date; [`None`] when it is no JSON object.
pub(super) fn with_msg_id(header: &[u8], msg_id: &MsgId, date: Option<Timestamp>) -> Option<Bytes> {
    let mut header: Map<String, Value> = serde_json::from_slice(header).ok()?;
    header.insert("msg_id".to_owned(), json!(msg_id));
    if let Some(date) = date {
        header.insert("date".to_owned(), json!(date));
    }
    Some(Value::Object(header).to_string().into())
}

/// What makes a broadcast of a request would confuse the task queue and the readers of its result.
fn without_broadcast(metadata: Option<&Bytes>) -> Option<Bytes> {
    let mut metadata: Map<String, Value> = serde_json::from_slice(metadata?).ok()?;
    for name in [
        "is_broadcast",
        "is_coalescing",
        "original_msg_id",
        "targets",
    ] {
        metadata.remove(name);
    }
    Some(Value::Object(metadata).to_string().into())
}
