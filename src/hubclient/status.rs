//! What a controller says of itself, its engines and its queues.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{HubClient, HubError};
use crate::protocol::{EngineId, EngineUuid};

/// The answer to a `status_request`. ipyparallel's hub knows no such request: of its answers to others, what is told
/// there is taken, and the rest is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    #[serde(default)]
    pub controller: Option<ControllerStatus>,
    pub engines: BTreeMap<EngineId, EngineStatus>,
    /// Tasks that no engine has yet.
    pub unassigned: u64,
    /// The task database does not take records now.
    #[serde(default)]
    pub database_fault: Option<Map<String, Value>>,
}

/// A controller's process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControllerStatus {
    pub pid: i64,
    pub host: String,
    pub version: String,
    /// ISO 8601.
    pub started: String,
    /// Since its start.
    pub seconds: f64,
    /// Bytes in memory, where the system says so.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Keeps it records of tasks?
    pub database: bool,
}

/// One engine. What is absent is not known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    pub uuid: EngineUuid,
    #[serde(default)]
    pub host: Option<String>,
    /// Of the process that runs it, which may run others.
    #[serde(default)]
    pub pid: Option<i64>,
    /// Names the engines that were started together.
    #[serde(default)]
    pub set: Option<String>,
    pub state: EngineState,
    /// Since its registration.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Requests of clients to this very engine that are not answered yet, and tasks likewise.
    pub queue: u64,
    pub tasks: u64,
    /// Requests that are answered, and those of them that failed.
    pub completed: u64,
    #[serde(default)]
    pub failed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineState {
    /// Clients see it.
    Registered,
    /// It has registered; its kernel is not ready yet.
    Starting,
}

impl EngineStatus {
    /// Requests that it has.
    pub fn load(&self) -> u64 {
        self.queue + self.tasks
    }

    /// One of them is run at a time.
    pub fn running(&self) -> u64 {
        self.load().min(1)
    }

    /// The others wait.
    pub fn queued(&self) -> u64 {
        self.load() - self.running()
    }
}

impl HubClient {
    /// Asks for everything at once.
    pub fn status(&mut self, timeout: Duration) -> Result<Status, HubError> {
        let content = match self.request("status_request", json!({}), timeout) {
            Err(HubError::Refused { .. }) => return self.status_by_queues(timeout),
            answered => answered?,
        };
        serde_json::from_value(content).map_err(|error| self.malformed(error))
    }

    fn status_by_queues(&mut self, timeout: Duration) -> Result<Status, HubError> {
        #[derive(Deserialize)]
        struct Connection {
            engines: BTreeMap<String, EngineUuid>,
        }
        #[derive(Default, Deserialize)]
        struct Queue {
            queue: u64,
            completed: u64,
            tasks: u64,
        }
        let known = self.request("connection_request", json!({}), timeout)?;
        let known: Connection =
            serde_json::from_value(known).map_err(|error| self.malformed(error))?;
        let queues = self.request("queue_request", json!({ "verbose": false }), timeout)?;
        let engines = known.engines.into_iter().map(|(id, uuid)| {
            let queue: Queue = serde_json::from_value(queues[&id].clone()).unwrap_or_default();
            let id = id.parse().map(EngineId);
            let status = EngineStatus {
                uuid,
                host: None,
                pid: None,
                set: None,
                state: EngineState::Registered,
                seconds: None,
                queue: queue.queue,
                tasks: queue.tasks,
                completed: queue.completed,
                failed: None,
            };
            Ok((id.map_err(|error| self.malformed(error))?, status))
        });
        Ok(Status {
            controller: None,
            engines: engines.collect::<Result<_, HubError>>()?,
            unassigned: queues["unassigned"].as_u64().unwrap_or_default(),
            database_fault: queues["database"].as_object().cloned(),
        })
    }
}
