//! Why the scheduler itself ends a task, and what the client is told.

use std::time::Duration;

use thiserror::Error;

use crate::protocol::{EngineUuid, MsgId, RemoteError};

/// Why a task ends without a reply of an engine.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum TaskError {
    /// The engine that had the task is gone, and no retry is left.
    #[error("engine {engine} died while running task {msg_id}: {how}")]
    EngineDied {
        engine: EngineUuid,
        msg_id: MsgId,
        how: String,
    },
    /// The engine has answered, what it said was lost on its way, and no retry is left.
    #[error("the answer of engine {engine} to task {msg_id} was lost")]
    AnswerLost { engine: EngineUuid, msg_id: MsgId },
    /// No engine can ever be right for it, or what it depends on ended the wrong way.
    #[error("{0}")]
    Impossible(String),
    /// It depends on something that is no task of this scheduler.
    #[error("{0}")]
    Invalid(String),
    /// It waited longer than its `timeout` allows.
    #[error("the task waited longer than its timeout of {} s for {}", limit.as_secs_f64(), awaited(*.blocked))]
    Timeout {
        limit: Duration,
        /// For other tasks, and not yet for an engine.
        blocked: bool,
    },
    /// A client asked for it.
    #[error("the task was aborted while it waited in the scheduler")]
    Aborted,
    /// The request's metadata make no sense.
    #[error("{0}")]
    BadRequest(String),
    /// A task with the same msg_id has not ended yet.
    #[error(
        "a task with msg_id {0} is waiting or running already; every request needs an id of its own"
    )]
    Duplicate(MsgId),
}

fn awaited(blocked: bool) -> &'static str {
    if blocked {
        "the tasks that it depends on"
    } else {
        "an engine"
    }
}

impl TaskError {
    /// What the client raises. The names are those that ipyparallel's client knows.
    pub fn to_remote_error(&self) -> RemoteError {
        let ename = match self {
            Self::EngineDied {
                engine,
                msg_id,
                how,
            } => return RemoteError::engine_died(engine, msg_id.as_str(), how),
            Self::AnswerLost { engine, msg_id } => {
                return RemoteError::answer_lost(engine, msg_id.as_str());
            }
            Self::Impossible(_) => "ImpossibleDependency",
            Self::Invalid(_) => "InvalidDependency",
            Self::Timeout { .. } => "TaskTimeout",
            Self::Aborted => "TaskAborted",
            Self::BadRequest(_) | Self::Duplicate(_) => "ValueError",
        };
        RemoteError::new(ename, self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_knows_every_name() {
        let died = TaskError::EngineDied {
            engine: "e1".into(),
            msg_id: "m1".into(),
            how: "killed by signal 9".into(),
        };
        let cases = [
            (died, "EngineError", "killed by signal 9"),
            (
                TaskError::Impossible("why".into()),
                "ImpossibleDependency",
                "why",
            ),
            (TaskError::Invalid("why".into()), "InvalidDependency", "why"),
            (
                TaskError::Timeout {
                    limit: Duration::from_millis(1500),
                    blocked: false,
                },
                "TaskTimeout",
                "1.5 s for an engine",
            ),
            (
                TaskError::Timeout {
                    limit: Duration::from_secs(1),
                    blocked: true,
                },
                "TaskTimeout",
                "1 s for the tasks that it depends on",
            ),
            (TaskError::Aborted, "TaskAborted", "aborted"),
            (TaskError::BadRequest("why".into()), "ValueError", "why"),
            (TaskError::Duplicate("m1".into()), "ValueError", "m1"),
        ];
        for (error, ename, part) in cases {
            let remote = error.to_remote_error();
            assert_eq!(remote.ename, ename);
            assert!(remote.evalue.contains(part), "{}", remote.evalue);
        }
    }
}
