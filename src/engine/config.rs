//! What engines are started with: resolved values, no layers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::profile::connection::EngineFile;

use super::kernel::python::Python;
use super::memory::MemoryLimits;
use super::restarts::RestartPolicy;

#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach the controller; addresses are those that can be connected to.
    pub connection: EngineFile,
    /// Engines in this process.
    pub count: u32,
    /// Ids to ask for, counting up from here.
    pub first_id: Option<u32>,
    /// The controller has so long to answer a registration.
    pub registration_timeout: Duration,
    /// A Python has so long to start, import what it needs and run the start-up code; without a limit if absent.
    pub start_timeout: Option<Duration>,
    /// Heartbeat periods without a ping after which the controller is taken for gone; 0 is never.
    pub max_heartbeat_misses: u32,
    /// Signatures that are remembered, so that no message is taken twice.
    pub digest_history: usize,
    pub restart: RestartPolicy,
    pub memory: MemoryLimits,
    /// Give each kernel processors of its own.
    pub pin: bool,
    pub kernel: KernelConfig,
}

/// What every kernel is started with.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    pub python: Python,
    pub start: StartMethod,
    /// Modules that the fork server imports for all of its kernels.
    pub preload: Vec<String>,
    /// Lines, then files, that run in the user's namespace before the first request.
    pub exec_lines: Vec<String>,
    pub exec_files: Vec<String>,
    /// Configuration for IPython's classes: class -> trait -> value.
    pub traits: BTreeMap<String, BTreeMap<String, Value>>,
    /// `{rank}` and `{n}` in values are replaced.
    pub environment: BTreeMap<String, String>,
    pub profile_dir: Option<PathBuf>,
    pub ipython_dir: Option<PathBuf>,
}

/// How kernels come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMethod {
    /// Forked from one process that has imported everything: the time and memory of one import for all.
    ForkServer,
    /// Each starts and imports for itself, where forking is not safe.
    Spawn,
}

impl Default for StartMethod {
    /// System libraries of macOS do not survive a fork.
    fn default() -> Self {
        if cfg!(target_os = "macos") {
            Self::Spawn
        } else {
            Self::ForkServer
        }
    }
}
