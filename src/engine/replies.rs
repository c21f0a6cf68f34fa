//! Contents and metadata of an engine's replies (ipyparallel `IPythonParallelKernel.init_metadata`,
//! `finish_metadata`).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::protocol::engine_info::EngineInfo;
use crate::protocol::{EngineId, EngineUuid, RemoteError, Timestamp};

/// Who replies.
#[derive(Clone, Debug)]
pub(super) struct Identification {
    pub(super) uuid: EngineUuid,
    pub(super) id: EngineId,
}

impl Identification {
    pub(super) fn info(&self, method: Option<&str>) -> EngineInfo {
        EngineInfo {
            engine_uuid: self.uuid.clone(),
            engine_id: self.id,
            method: method.map(str::to_owned),
        }
    }
}

/// What a reply repeats of the request's metadata.
#[derive(Debug, Default, Deserialize)]
struct Repeated {
    #[serde(default)]
    is_broadcast: Option<Value>,
    #[serde(default)]
    is_coalescing: Option<Value>,
    #[serde(default)]
    original_msg_id: Option<Value>,
    #[serde(default)]
    label: Option<Value>,
}

/// What a scheduler and a client read of a reply's content.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Outcome {
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) ename: Option<String>,
}

/// Metadata of the reply to an apply or execute request.
pub(super) fn task_metadata(
    engine: &Identification,
    request_metadata: &[u8],
    started: Timestamp,
    outcome: &Outcome,
) -> Map<String, Value> {
    let repeated: Repeated = serde_json::from_slice(request_metadata).unwrap_or_default();
    let mut metadata = Map::new();
    let mut put = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
    put("started", json!(started));
    put(
        "dependencies_met",
        json!(outcome.ename.as_deref() != Some("UnmetDependency")),
    );
    put("engine", json!(engine.uuid));
    put(
        "is_broadcast",
        repeated.is_broadcast.unwrap_or(Value::Bool(false)),
    );
    put(
        "is_coalescing",
        repeated.is_coalescing.unwrap_or(Value::Bool(false)),
    );
    put(
        "original_msg_id",
        repeated.original_msg_id.unwrap_or_else(|| json!("")),
    );
    put("label", repeated.label.unwrap_or(Value::Null));
    put("status", json!(outcome.status));
    if outcome.status == "error" {
        put("engine_info", json!(engine.info(None)));
    }
    metadata
}

/// The content of an aborted request's reply.
pub(super) fn aborted(msg_id: &str) -> Value {
    let mut content =
        RemoteError::new("TaskAborted", format!("task {msg_id} was aborted")).to_content();
    content["status"] = json!("aborted");
    content
}

/// Metadata of the answer to what the kernel died of: the scheduler gives this engine nothing more.
pub(super) fn leaving() -> Map<String, Value> {
    Map::from_iter([("leaving".to_owned(), json!(true))])
}

/// A task that never reached the kernel goes back: the scheduler gives it to another engine.
///
/// A controller that does not know `returned` takes it for a dependency that this engine does not meet.
pub(super) fn returned() -> (Value, Map<String, Value>) {
    let error = RemoteError::new(
        "UnmetDependency",
        "the engine's kernel ended before the task began",
    );
    let mut metadata = Map::new();
    metadata.insert("returned".to_owned(), json!(true));
    (error.to_content(), metadata)
}
