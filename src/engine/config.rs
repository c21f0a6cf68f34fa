//! What engines are started with: resolved values, no layers.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::os::python::Python;
use crate::profile::connection::EngineFile;
use crate::transport::Security;

use super::jupyter::KernelSpec;
use super::memory::MemoryLimits;
use super::restarts::RestartPolicy;

#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach the controller; addresses are those that can be connected to.
    pub connection: EngineFile,
    /// Whether, and with which keys, what goes to the controller is encrypted.
    pub security: Security,
    /// Engines in this process.
    pub count: u32,
    /// Ids to ask for, counting up from here.
    pub first_id: Option<u32>,
    /// Names the engines that were started together, to whoever looks after them.
    pub set: Option<String>,
    /// The controller's ports are led here by ssh.
    pub is_tunneled: bool,
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

/// Configuration of IPython's classes: class -> trait -> value.
pub(super) type Traits = BTreeMap<String, BTreeMap<String, Value>>;

/// What every kernel is started with.
#[derive(Clone, Debug)]
pub struct KernelConfig {
    pub program: KernelProgram,
    /// The limit on open files that kernels are to have: this process's own is as high as it can be.
    pub open_files: Option<u64>,
    /// Code that runs before any other and must not fail: it makes the kernel a part of an MPI job.
    pub mpi_init: Option<String>,
    /// Lines, then files, that run in the user's namespace before the first request.
    pub exec_lines: Vec<String>,
    pub exec_files: Vec<String>,
    pub traits: Traits,
    /// `{rank}` and `{n}` in values are replaced.
    pub environment: BTreeMap<String, String>,
    pub profile_dir: Option<PathBuf>,
    pub ipython_dir: Option<PathBuf>,
}

/// What a kernel is.
#[derive(Clone, Debug)]
pub enum KernelProgram {
    /// This project's own, in the user's Python.
    Own(OwnKernel),
    /// An installed Jupyter kernel. A `python` in its command is this one.
    Jupyter {
        spec: KernelSpec,
        python: Option<Python>,
    },
}

#[derive(Clone, Debug)]
pub struct OwnKernel {
    pub python: Python,
    pub start: StartMethod,
    /// Modules that the fork server imports for all of its kernels.
    pub preload: Vec<String>,
}

/// As messages name it.
impl fmt::Display for KernelProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(own) => own.python.path.display().fmt(f),
            Self::Jupyter { spec, .. } => {
                let program = spec.argv.first().map_or("", String::as_str);
                write!(f, "{program}, the Jupyter kernel {}", spec.name)
            }
        }
    }
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
