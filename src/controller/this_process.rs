//! What the controller's process says of itself.

use std::time::Instant;

use serde_json::{Value, json};

use crate::os::{host, memory};
use crate::protocol::Timestamp;

#[derive(Debug)]
pub(super) struct ThisProcess {
    began: Instant,
    started: Timestamp,
    /// Keeps it records of tasks?
    has_database: bool,
}

impl ThisProcess {
    pub(super) fn new(has_database: bool) -> Self {
        Self {
            began: Instant::now(),
            started: Timestamp::from(std::time::SystemTime::now()),
            has_database,
        }
    }

    /// `{pid, host, version, started, seconds, memory, database}`; seconds since the start, bytes of memory.
    pub(super) fn facts(&self) -> Value {
        json!({
            "pid": std::process::id(),
            "host": host::hostname(),
            "version": env!("CARGO_PKG_VERSION"),
            "started": self.started,
            "seconds": self.began.elapsed().as_secs_f64(),
            "memory": memory::taken(),
            "database": self.has_database,
        })
    }
}
