//! Errors as clients receive them: the content that ipyparallel's `error.unwrap_exception` turns into a `RemoteError`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::engine_info::EngineInfo;
use super::python::repr;

/// An exception that happened on the other side of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteError {
    /// The class by which the client names it, such as `EngineError` or `KeyError`.
    pub ename: String,
    pub evalue: String,
    /// Lines of a traceback, as IPython formats them.
    #[serde(default)]
    pub traceback: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_info: Option<EngineInfo>,
}

impl RemoteError {
    pub fn new(ename: &str, evalue: impl Into<String>) -> Self {
        let evalue = evalue.into();
        // The client prints the traceback in place of the value, so it must not be empty.
        let traceback = vec![format!("{ename}: {evalue}")];
        Self {
            ename: ename.to_owned(),
            evalue,
            traceback,
            engine_info: None,
        }
    }

    /// Python shows a KeyError's message as its `repr`.
    pub fn key_error(message: &str) -> Self {
        Self::new("KeyError", repr(message))
    }

    pub fn with_engine(mut self, info: EngineInfo) -> Self {
        self.engine_info = Some(info);
        self
    }

    /// The engine that ran, or was about to run, the request is gone.
    pub fn engine_died(engine: impl std::fmt::Display, msg_id: &str, how: &str) -> Self {
        let how = if how.is_empty() {
            String::new()
        } else {
            format!(" ({how})")
        };
        Self::new(
            "EngineError",
            format!("Engine {engine} died while running task {msg_id:?}{how}"),
        )
    }

    /// The engine lives, and has run the request: what it said is lost.
    pub fn answer_lost(engine: impl std::fmt::Display, msg_id: &str) -> Self {
        Self::new(
            "EngineError",
            format!(
                "Engine {engine} has run task {msg_id:?}, and its answer was lost when the connection between it and the \
                 controller broke"
            ),
        )
    }

    /// The engine lives, and has never seen the request.
    pub fn request_lost(engine: impl std::fmt::Display, msg_id: &str) -> Self {
        Self::new(
            "EngineError",
            format!(
                "Task {msg_id:?} was lost on its way to engine {engine} when the connection between it and the controller \
                 broke: it has not run"
            ),
        )
    }

    /// `content` of the reply. `engine_info` is there even when empty: the client asks it for nothing, but older ones
    /// index it.
    pub fn to_content(&self) -> Value {
        let engine_info = self
            .engine_info
            .as_ref()
            .map_or_else(|| json!({}), |info| json!(info));
        json!({
            "status": "error",
            "ename": self.ename,
            "evalue": self.evalue,
            "traceback": self.traceback,
            "engine_info": engine_info,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_has_what_unwrap_exception_indexes() {
        let content = RemoteError::new("KeyError", "'no'").to_content();
        for key in ["status", "ename", "evalue", "traceback", "engine_info"] {
            assert!(content.get(key).is_some(), "{key}");
        }
        assert_eq!(content["traceback"][0], "KeyError: 'no'");
    }
}
