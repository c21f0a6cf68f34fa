//! Which engine an error comes from, and how engines leave.

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
