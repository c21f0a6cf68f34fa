//! What a controller is started with: resolved values, no layers, no files.

use std::path::PathBuf;
use std::sync::Arc;

use crate::heartbeat;
use crate::scheduler::TaskConfig;
use crate::transport::KeyPair;

/// Where sockets listen, as ZeroMQ writes it without a port: `tcp://127.0.0.1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface(pub String);

impl Interface {
    /// Does it stand for all of this machine's?
    pub fn is_all(&self) -> bool {
        let address = self.0.strip_prefix("tcp://");
        matches!(address, Some("*" | "0.0.0.0" | "[::]" | "::"))
    }
}

/// Ports to be used, in order. A pool that is used up is followed by `common`, and that by ports of the system's choice.
#[derive(Clone, Debug, Default)]
pub struct PortPools {
    pub common: Vec<u16>,
    pub client: Vec<u16>,
    pub engine: Vec<u16>,
}

#[derive(Clone, Debug)]
pub struct Config {
    pub client_interface: Interface,
    pub engine_interface: Interface,
    /// For registration: this port or none.
    pub registration_port: Option<u16>,
    pub pools: PortPools,
    /// Exactly these ports, from connection files that are reused.
    pub fixed_ports: Option<super::Ports>,
    /// Signs and checks messages; empty switches that off.
    pub key: Vec<u8>,
    /// Signatures that are remembered, so that no message is taken twice.
    pub digest_history: usize,
    pub heartbeat: heartbeat::Config,
    /// A registration without a heartbeat is dropped after this time.
    pub registration_timeout: std::time::Duration,
    pub tasks: TaskConfig,
    /// Engines of a controller that has ended, which are expected to come back.
    pub restored: Option<super::EngineState>,
    /// Runs a dask.distributed scheduler, should a client ask for one.
    pub python: Option<PathBuf>,
    /// Encrypts all connections.
    pub curve: Option<Arc<KeyPair>>,
    /// Bytes of the largest message; also of all that have not come in whole, and of what waits for clients of one channel
    /// that do not read.
    pub message_limit: u64,
    /// Bytes of memory that the process may take before requests wait.
    pub memory_limit: u64,
    /// What a former controller left unfinished in the task database is queued again.
    pub restore_tasks: bool,
    /// Where the set of engines is written down, as `{engines: {id: uuid}, next_id}`.
    pub engine_state_file: Option<PathBuf>,
}
