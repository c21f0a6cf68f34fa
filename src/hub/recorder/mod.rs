//! The recorder: turns what happens on the queues into task records, and answers the hub's questions about them.
//!
//! Records are filled at the moments at which ipyparallel's hub fills them (`hub.save_*`). Which requests are pending is
//! kept here, so it is bounded by what is in flight; everything else is the store's.
//!
//! # Broadcasts
//!
//! A client knows a coalescing broadcast by its own msg_id, and any other by `MSG_ID_ENGINE` for each engine. So a
//! coalescing one leaves one record. Any other leaves a record for each engine, which holds the result and no request
//! buffers, and one under its own id, which holds the request, is completed with the last engine, and answers with the
//! first engine's result: ipyparallel's client takes no more from a broadcast that it asks the hub for.

mod answer;
mod lookup;
mod loose;
mod pending;
mod reply;
mod restore;
mod resubmit;
#[cfg(test)]
mod tests;
mod traffic;

use bytes::Bytes;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use self::loose::{OutputContent, ReplyContent, ReplyMetadata, read};
use self::pending::{Early, Part, Pending, PendingSet, Whole};
use crate::protocol::{EngineUuid, Header, MsgId, RemoteError, Timestamp};
use crate::taskdb::{Key, KeySet, Query, Queue, RecordUpdate, StoreError, TaskRecord, TaskStore};

pub use answer::QUESTIONS;
pub use lookup::Lookup;
pub use restore::{Ended, Restored, Unfinished, ends};
pub use traffic::{Answer, Ask, Behind, Delays, Resubmission, StoredMessage, Traffic};

/// Writes task records and answers questions about them.
#[derive(Debug)]
pub struct Recorder<S> {
    store: S,
    /// Zone of dates that name none.
    local: TimeZone,
    pending: PendingSet,
    early: Early,
}

impl<S: TaskStore> Recorder<S> {
    pub fn new(store: S, local: TimeZone) -> Self {
        Self {
            store,
            local,
            pending: PendingSet::default(),
            early: Early::default(),
        }
    }

    /// For flushing, maintenance and closing.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// `false` when it is no use to report traffic.
    pub fn keeps_records(&self) -> bool {
        self.store.keeps_records()
    }

    /// How many requests are recorded and unfinished.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes note. An error is the store's: the request goes on all the same, only its record is not what it should
    /// be.
    pub fn on_traffic(&mut self, traffic: Traffic) -> Result<(), StoreError> {
        if !self.store.keeps_records() {
            return Ok(());
        }
        match traffic {
            Traffic::Submitted {
                queue,
                engine,
                message,
            } => self.on_submitted(queue, engine, message),
            Traffic::Assigned { msg_id, engine } => self.on_assigned(&msg_id, engine),
            Traffic::Completed {
                engine,
                received,
                message,
            } => self.on_completed(engine, received, message),
            Traffic::Output { message } => self.on_output(&message),
            Traffic::EngineGone { engine, at } => self.on_engine_gone(&engine, at),
        }
    }

    fn on_submitted(
        &mut self,
        queue: Queue,
        engine: Option<EngineUuid>,
        message: StoredMessage,
    ) -> Result<(), StoreError> {
        let Some(mut record) = self.request(queue, message) else {
            return Ok(());
        };
        record.engine_uuid.clone_from(&engine);
        if let Some(early) = self.early.take(record.msg_id.as_str()) {
            record.fill_from(early);
        }
        if queue == Queue::Broadcast
            && let Some(targets) = targets_of(&record)
        {
            return self.on_broadcast(record, targets);
        }
        let waiting = Pending {
            engine: engine.filter(|_| queue != Queue::Task),
            part: Part::Whole,
        };
        self.pending.insert(record.msg_id.clone(), waiting);
        self.store.add(record)
    }

    /// A broadcast that does not coalesce: its own record and one for each engine.
    fn on_broadcast(&mut self, whole: TaskRecord, targets: Targets) -> Result<(), StoreError> {
        let msg_id = whole.msg_id.clone();
        let mut outcome = Ok(());
        let parts: Vec<TaskRecord> = targets
            .engines
            .iter()
            .map(|engine| part_of(&whole, engine))
            .collect();
        let waiting = Whole {
            missing: parts.len(),
            targets: targets.json,
            failure: None,
        };
        let waiting = Part::Parts(Box::new(waiting));
        self.pending.insert(
            msg_id.clone(),
            Pending {
                engine: None,
                part: waiting,
            },
        );
        keep_first(&mut outcome, self.store.add(whole));
        for mut part in parts {
            if let Some(early) = self.early.take(part.msg_id.as_str()) {
                part.fill_from(early);
            }
            let waiting = Pending {
                engine: part.engine_uuid.clone(),
                part: Part::Of(msg_id.clone()),
            };
            self.pending.insert(part.msg_id.clone(), waiting);
            keep_first(&mut outcome, self.store.add(part));
        }
        outcome
    }

    /// A new record of a request (`hub.init_record`); [`None`] when the header has no msg_id.
    fn request(&self, queue: Queue, message: StoredMessage) -> Option<TaskRecord> {
        let header = Header::parse(&message.header).ok()?;
        let mut record = TaskRecord::new(MsgId::from(&*header.msg_id));
        record.submitted = self.date(&header.date);
        record.client_uuid = Some((*header.session).into());
        record.queue = Some(queue);
        record.label = label(&message.metadata);
        record.header = Some(message.header);
        record.metadata = Some(message.metadata);
        record.content = Some(message.content);
        record.buffers = Some(message.buffers);
        Some(record)
    }

    fn on_assigned(&mut self, msg_id: &MsgId, engine: EngineUuid) -> Result<(), StoreError> {
        let update = RecordUpdate {
            engine_uuid: Some(engine),
            ..Default::default()
        };
        self.change(msg_id, update)
    }

    /// What is pending has a record: the store need not look whether it has one.
    fn change(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<(), StoreError> {
        if self.pending.contains(msg_id.as_str()) {
            self.store.change(msg_id, update)
        } else {
            self.store.update(msg_id, update).map(drop)
        }
    }

    fn on_completed(
        &mut self,
        engine: Option<EngineUuid>,
        received: Timestamp,
        message: StoredMessage,
    ) -> Result<(), StoreError> {
        let Ok(Some(parent)) = Header::parse_parent(&message.parent_header) else {
            return Ok(());
        };
        let Ok(header) = Header::parse(&message.header) else {
            return Ok(());
        };
        let metadata: ReplyMetadata<'_> = read(&message.metadata);
        // The parent of a joined reply may be the request of one of its engines.
        let joined = metadata.broadcast_targets.is_some();
        let original = metadata.original_msg_id.get().filter(|_| joined);
        let msg_id = MsgId::from(original.unwrap_or(&parent.msg_id));
        let completed = self.date(&header.date).unwrap_or(received);
        let engine = metadata.engine.get().map(EngineUuid::from).or(engine);
        let mut update = RecordUpdate {
            engine_uuid: engine.filter(|_| !joined),
            started: self.date(&metadata.started.0),
            completed: Some(completed),
            received: Some(received),
            ..Default::default()
        };
        let content = match metadata.status.get() {
            Some("ok" | "error") => message.content.clone(),
            _ => explain_abort(&message.content, &msg_id),
        };
        let failed = metadata.status.get() != Some("ok");
        update.result_header = Some(message.header.clone());
        update.result_content = Some(content);
        update.result_buffers = Some(message.buffers);
        // Clients index it: an object at least.
        update.result_metadata = Some(match message.metadata.first() {
            Some(b'{') => message.metadata.clone(),
            _ => Bytes::from_static(b"{}"),
        });
        self.complete(&msg_id, update, failed)
    }

    /// Stores a result, and that of the broadcast which it completes.
    fn complete(
        &mut self,
        msg_id: &MsgId,
        update: RecordUpdate,
        failed: bool,
    ) -> Result<(), StoreError> {
        let Some(waiting) = self.pending.remove(msg_id) else {
            return self.complete_late(msg_id, update);
        };
        match waiting.part {
            Part::Whole => self.store.change(msg_id, update),
            Part::Of(whole) => {
                let finished = self.pending.on_part(&whole, &update, failed);
                let mut outcome = self.store.change(msg_id, update.clone());
                if let Some(state) = finished {
                    let update = state.result(&whole, &update);
                    keep_first(&mut outcome, self.store.change(&whole, update));
                }
                outcome
            }
            // One reply for all: a scheduler refused the broadcast.
            Part::Parts(state) => {
                let mut outcome = Ok(());
                for part in state.parts(msg_id) {
                    if self.pending.remove(&part).is_some() {
                        keep_first(&mut outcome, self.store.change(&part, update.clone()));
                    }
                }
                keep_first(&mut outcome, self.store.change(msg_id, update));
                outcome
            }
        }
    }

    /// A result of a request that is not pending: of a former controller, or of an engine that was given up too soon.
    /// A task keeps its first result.
    fn complete_late(&mut self, msg_id: &MsgId, update: RecordUpdate) -> Result<(), StoreError> {
        let keys = KeySet::EMPTY.with(Key::Completed).with(Key::Queue);
        let mut takes = false;
        self.store.find(&Query::from(msg_id), keys, &mut |record| {
            takes = record.completed.is_none() || record.queue == Some(Queue::Mux);
            std::ops::ControlFlow::Break(())
        })?;
        if takes {
            self.store.update(msg_id, update)?;
        }
        Ok(())
    }

    fn on_output(&mut self, message: &StoredMessage) -> Result<(), StoreError> {
        let Ok(Some(parent)) = Header::parse_parent(&message.parent_header) else {
            return Ok(());
        };
        let Ok(header) = Header::parse(&message.header) else {
            return Ok(());
        };
        let Some(update) = output(&header.msg_type, &message.content) else {
            return Ok(());
        };
        let msg_id = MsgId::from(&*parent.msg_id);
        if self.pending.contains(msg_id.as_str()) {
            return self.store.change(&msg_id, update);
        }
        if self.store.update(&msg_id, update.clone())? {
            return Ok(());
        }
        // Output of one engine of a coalescing broadcast belongs to the broadcast.
        let sender = header.session;
        let whole = msg_id
            .as_str()
            .strip_suffix(&*sender)
            .and_then(|id| id.strip_suffix('_'))
            .filter(|id| !id.is_empty() && !sender.is_empty());
        if let Some(whole) = whole
            && self.store.update(&MsgId::from(whole), update.clone())?
        {
            return Ok(());
        }
        self.early.put(msg_id, update);
        Ok(())
    }

    fn on_engine_gone(&mut self, engine: &EngineUuid, at: Timestamp) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        for msg_id in self.pending.of_engine(engine) {
            let error = RemoteError::engine_died(engine, msg_id.as_str(), "");
            let update = failure(&error, Some(engine), at);
            keep_first(&mut outcome, self.complete(&msg_id, update, true));
        }
        outcome
    }

    fn date(&self, text: &str) -> Option<Timestamp> {
        if text.is_empty() {
            return None;
        }
        let date = Timestamp::parse(text, &self.local)?;
        // Every store keeps microseconds.
        Some(Timestamp::from_micros(date.as_micros()))
    }
}

/// The engines of a broadcast.
struct Targets {
    engines: Vec<EngineUuid>,
    /// `[[uuid, id], …]` as the client wrote it.
    json: Value,
}

/// The engines to which a broadcast goes one by one; [`None`] when it coalesces or when it is a part of one.
fn targets_of(record: &TaskRecord) -> Option<Targets> {
    let metadata: Value = serde_json::from_slice(record.metadata.as_ref()?).ok()?;
    if metadata["is_coalescing"] == true {
        return None;
    }
    let original = metadata["original_msg_id"].as_str();
    if original.is_some_and(|original| !original.is_empty() && original != record.msg_id.as_str()) {
        return None;
    }
    let json = metadata.get("targets")?.clone();
    let uuid = |target: &Value| target.get(0)?.as_str().map(EngineUuid::from);
    let mut engines: Vec<EngineUuid> = json.as_array()?.iter().filter_map(uuid).collect();
    // One that is named twice gets the request once.
    let mut seen = hashbrown::HashSet::with_capacity(engines.len());
    engines.retain(|engine| seen.insert(engine.clone()));
    (!engines.is_empty()).then_some(Targets { engines, json })
}

/// The record of one engine's part in a broadcast.
fn part_of(whole: &TaskRecord, engine: &EngineUuid) -> TaskRecord {
    let msg_id = MsgId::from(format!("{}_{engine}", whole.msg_id));
    let mut part = whole.project(KeySet::without_buffers());
    part.header = whole
        .header
        .as_ref()
        .and_then(|header| resubmit::with_msg_id(header, &msg_id, None));
    part.msg_id = msg_id;
    part.engine_uuid = Some(engine.clone());
    part
}

/// A result for a request that no engine answered.
fn failure(error: &RemoteError, engine: Option<&EngineUuid>, at: Timestamp) -> RecordUpdate {
    let bytes = |json: Value| Some(Bytes::from(json.to_string()));
    let (header, metadata) = match engine {
        Some(engine) => (
            json!({"engine": engine, "date": at}),
            json!({"engine": engine, "status": "error"}),
        ),
        None => (json!({"date": at}), json!({"status": "error"})),
    };
    RecordUpdate {
        engine_uuid: engine.cloned(),
        completed: Some(at),
        received: Some(at),
        result_header: bytes(header),
        result_metadata: bytes(metadata),
        result_content: bytes(error.to_content()),
        result_buffers: Some(Vec::new()),
        ..Default::default()
    }
}

/// The content of an aborted request says `aborted` and nothing more, where clients look for an exception.
fn explain_abort(content: &Bytes, msg_id: &MsgId) -> Bytes {
    let read: ReplyContent<'_> = read(content);
    if read.status.get() != Some("aborted") || read.ename.get().is_some() {
        return content.clone();
    }
    let mut aborted = RemoteError::new("TaskAborted", msg_id.as_str()).to_content();
    aborted["status"] = "aborted".into();
    aborted.to_string().into()
}

/// `metadata.label` of a request.
fn label(metadata: &[u8]) -> Option<Box<str>> {
    #[derive(Default, serde::Deserialize)]
    struct Labelled<'a> {
        #[serde(borrow, default)]
        label: Option<&'a serde_json::value::RawValue>,
    }
    let raw = read::<Labelled<'_>>(metadata).label?.get();
    if raw == "null" {
        return None;
    }
    let text: Option<String> = serde_json::from_str(raw).ok();
    Some(text.map_or_else(|| raw.into(), String::into_boxed_str))
}

/// What a message on iopub changes (`hub.save_iopub_message`).
fn output(msg_type: &str, content: &Bytes) -> Option<RecordUpdate> {
    let mut update = RecordUpdate::default();
    match msg_type {
        "stream" => {
            let content: OutputContent<'_> = read(content);
            let text = content.text.get()?.to_owned();
            match content.name.get()? {
                "stdout" => update.stdout = text,
                "stderr" => update.stderr = text,
                _ => return None,
            }
        }
        "execute_input" | "pyin" => {
            let content: OutputContent<'_> = read(content);
            update.execute_input = Some((*content.code.0).into());
        }
        "execute_result" | "pyout" => update.execute_result = Some(content.clone()),
        "error" | "pyerr" => update.error = Some(content.clone()),
        "display_data" => update.display_data = Some(content.clone()),
        _ => return None,
    }
    Some(update)
}

fn keep_first(outcome: &mut Result<(), StoreError>, next: Result<(), StoreError>) {
    if outcome.is_ok() {
        *outcome = next;
    }
}
