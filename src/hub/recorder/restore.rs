//! Taking over what a former controller left unfinished.

use std::ops::ControlFlow;

use bytes::Bytes;
use hashbrown::HashSet;
use serde_json::Value;

use super::loose::{ReplyMetadata, read};
use super::pending::{Part, Pending};
use super::{Recorder, StoredMessage, failure};
use crate::protocol::{EngineUuid, MsgId, RemoteError, TaskMetadata, Timestamp};
use crate::taskdb::{Key, KeySet, Query, Queue, RecordReader, StoreError, TaskRecord, TaskStore};

/// What a scheduler has to know of a former controller's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// A task on which unfinished ones depend.
    Ended(Ended),
    Unfinished(Unfinished),
}

/// A task that has ended, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub msg_id: MsgId,
    pub ok: bool,
    pub engine: Option<EngineUuid>,
}

/// Those of the ids that are tasks which have ended, whichever controller ran them. Requests to single engines and
/// broadcasts are none: nothing can depend on them.
pub fn ends<'a>(
    reader: &mut dyn RecordReader,
    msg_ids: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Ended>, StoreError> {
    let ended = Query::msg_ids(msg_ids).and(Query::completed(true));
    let keys = KeySet::EMPTY
        .with(Key::Queue)
        .with(Key::EngineUuid)
        .with(Key::ResultMetadata);
    let mut found = Vec::new();
    reader.find(&ended, keys, &mut |record| {
        let metadata = record.result_metadata.unwrap_or_default();
        if record.queue == Some(Queue::Task) {
            found.push(Ended {
                msg_id: record.msg_id,
                ok: read::<ReplyMetadata<'_>>(&metadata).status.get() == Some("ok"),
                engine: record.engine_uuid,
            });
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// A request that a former controller accepted and did not finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub msg_id: MsgId,
    /// `Mux` or `Task`.
    pub queue: Queue,
    /// The engine of a mux request, or the last one that a task was sent to.
    pub engine: Option<EngineUuid>,
    pub message: StoredMessage,
}

impl<S: TaskStore> Recorder<S> {
    /// Hands over what a former controller left unfinished, which is pending from now on: first the ends of tasks that it
    /// depends on, then the requests in the order in which they came. What cannot be queued again (a broadcast, a request
    /// whose buffers were too big to be kept) fails. How many requests were handed over.
    pub fn restore(
        &mut self,
        now: Timestamp,
        each: &mut dyn FnMut(Restored),
    ) -> Result<u64, StoreError> {
        let unfinished = Query::completed(false);
        let needed = self.needed_by(&unfinished)?;
        for ended in ends(&mut self.store, needed.iter().map(String::as_str))? {
            each(Restored::Ended(ended));
        }
        let mut lost = Vec::new();
        let mut count = 0;
        let pending = &mut self.pending;
        self.store.find(&unfinished, KeySet::ALL, &mut |record| {
            match again(record) {
                Ok(Some(again)) => {
                    let waiting = Pending {
                        engine: again.engine.clone().filter(|_| again.queue == Queue::Mux),
                        part: Part::Whole,
                    };
                    pending.insert(again.msg_id.clone(), waiting);
                    count += 1;
                    each(Restored::Unfinished(again));
                }
                Ok(None) => {}
                Err(why) => lost.push(why),
            }
            ControlFlow::Continue(())
        })?;
        for (msg_id, why) in lost {
            let update = failure(&RemoteError::new("EngineError", why), None, now);
            self.store.update(&msg_id, update)?;
        }
        Ok(count)
    }

    /// The tasks that the metadata of matching ones name as their dependencies.
    fn needed_by(&mut self, query: &Query) -> Result<HashSet<String>, StoreError> {
        let mut needed = HashSet::new();
        let keys = KeySet::EMPTY.with(Key::Metadata);
        self.store.find(query, keys, &mut |record| {
            let metadata = record.metadata.unwrap_or_default();
            if let Ok(metadata) = TaskMetadata::parse(&metadata) {
                for dependency in [&metadata.after, &metadata.follow].into_iter().flatten() {
                    named(dependency, &mut needed);
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(needed)
    }
}

/// A dependency is a msg_id, a list of them, or an object with such a list.
fn named(dependency: &Value, ids: &mut HashSet<String>) {
    match dependency {
        Value::String(id) => {
            ids.insert(id.clone());
        }
        Value::Array(list) => {
            let list = list.iter().filter_map(Value::as_str);
            ids.extend(list.map(str::to_owned));
        }
        Value::Object(fields) => {
            if let Some(list) = fields.get("dependencies") {
                named(list, ids);
            }
        }
        _ => {}
    }
}

/// The request of a record, or why it cannot be queued again; [`None`] for what never was a request, such as output
/// that nobody claimed.
fn again(record: TaskRecord) -> Result<Option<Unfinished>, (MsgId, String)> {
    let msg_id = record.msg_id;
    let (Some(queue), Some(header)) = (record.queue, record.header) else {
        return Ok(None);
    };
    if queue == Queue::Broadcast {
        let why = format!("The controller was restarted during broadcast {msg_id}");
        return Err((msg_id, why));
    }
    let Some(buffers) = record.buffers else {
        let why = format!(
            "The controller was restarted, and the buffers of {msg_id} were too big for its database"
        );
        return Err((msg_id, why));
    };
    Ok(Some(Unfinished {
        msg_id,
        queue,
        engine: record.engine_uuid,
        message: StoredMessage {
            header,
            parent_header: Bytes::from_static(b"{}"),
            metadata: record.metadata.unwrap_or_default(),
            content: record.content.unwrap_or_default(),
            buffers,
        },
    }))
}
