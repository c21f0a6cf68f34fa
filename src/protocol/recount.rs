//! Ours: what an engine says first on a connection to a queue that is made again.
//!
//! What was written to the old connection may have arrived or not, in either direction, and nobody is told. So the engine
//! recounts what it has of this queue and what it has answered, and the queue finds out what was lost.

use serde::{Deserialize, Serialize};

pub const RECOUNT: &str = "recount";

/// Message ids, those of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recount {
    /// The engine has them, and will answer.
    pub has: Vec<String>,
    /// The last ones that it has answered, oldest first.
    pub answered: Vec<String>,
    /// The connection is that over which its process takes broadcasts for all of its engines, not the engine's own.
    #[serde(default)]
    pub of_host: bool,
}
