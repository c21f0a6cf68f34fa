//! Which engine an error comes from, how engines leave, and which are to come.

use serde::{Deserialize, Serialize};

use super::ids::{EngineId, EngineUuid};

/// `engine_info` of an error's content (ipyparallel `IPythonParallelKernel.get_engine_info`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineInfo {
    pub engine_uuid: EngineUuid,
    pub engine_id: EngineId,
    /// `apply` or `execute`; absent in reply metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// How an engine leaves. Ours say it as they unregister.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leaving {
    /// By itself, and to be heard of no more.
    Died,
    /// To come back under the same id.
    Restarts,
    /// In order, as it was asked to.
    #[default]
    #[serde(other)]
    Left,
}

/// Engines that somebody starts as one, as the hub is told of them (`engines_expected`, ours).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedSet {
    /// The name that its engines give when they register.
    pub set: String,
    pub engines: u32,
    pub state: ExpectedState,
    /// Where it runs, or why it waits.
    pub note: String,
    /// Counts how often it was started.
    pub start: u32,
}

/// How far a set of engines is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpectedState {
    /// A batch system lets it wait.
    Queued,
    Starting,
    /// It has died, and will be started.
    Restarting,
}
