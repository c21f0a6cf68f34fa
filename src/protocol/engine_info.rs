//! Which engine an error comes from.

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
