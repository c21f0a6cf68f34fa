//! What the threads of an engine process tell each other.

use std::time::Duration;

use serde_json::Value;

use crate::protocol::{EngineId, EngineUuid, Identity, Leaving};

use super::engine_thread::requests::Request;
use super::kernel::link::Link;
use super::kernel::messages::ExitStatus;
use super::kernel::pipes::OutputPipe;
use super::restarts::RestartMode;

/// Numbers the engines of this process from 0.
pub(super) type Rank = u32;

/// To an engine's thread.
#[derive(Debug)]
pub(super) enum EngineMail {
    /// Its kernel's process is being started.
    KernelStarted(KernelIo),
    KernelExited {
        status: Option<ExitStatus>,
        why: Option<Killed>,
    },
    /// No kernel could be started.
    KernelFailed(String),
    /// No ping has come for too long.
    ControllerLost,
    /// Its heart was not heard for a while, in which the controller may have given the engine up.
    Unheard,
    /// A request that this process has received for it.
    Delivered(Box<Request>),
    /// The connection over which such requests come from this queue broke, and is there again.
    Recount(Identity),
    /// What its kernel uses, to be told to the controller.
    Usage(Value),
    /// End in order.
    Stop,
}

/// An engine's ends of what connects it to its kernel.
#[derive(Debug)]
pub(super) struct KernelIo {
    pub(super) link: Link,
    pub(super) stdout: OutputPipe,
    pub(super) stderr: OutputPipe,
}

/// From engines' threads to the process that runs them.
#[derive(Debug)]
pub(super) enum HostMail {
    /// The controller has given it an id; its kernel is wanted.
    Registered {
        rank: Rank,
        id: EngineId,
        /// The controller wants to hear what its kernel uses.
        wants_usage: bool,
        heartbeat_period: Duration,
    },
    /// Its kernel is ready and all its connections are there.
    Running {
        rank: Rank,
    },
    /// A signal for its kernel, or for the kernel's process group.
    Signal {
        rank: Rank,
        signal: i32,
        group: bool,
    },
    Ended {
        rank: Rank,
        how: Ending,
    },
    ControllerLost,
    /// No engine's heart was heard for a while, or only this one's was not.
    Unheard(Option<EngineUuid>),
    /// What whoever started the engines should know. Engines that say the same say it once.
    Warning(String),
}

/// How an engine came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It was asked to.
    Asked,
    /// It was asked to, and to come back with a fresh kernel.
    ToComeBack,
    /// Its kernel ended by itself; `ok`: with exit status 0; `was_ready`: it had been started.
    KernelEnded {
        how: String,
        ok: bool,
        was_ready: bool,
    },
    /// Its kernel was killed because it used too much memory.
    OutOfMemory { how: String },
    /// Its kernel died with the process that it was forked from, which is no doing of the user's code.
    ForkServerLost { how: String },
    /// It could not go on.
    Failed(String),
}

impl Ending {
    /// Does the engine start again? Unless it has done so too often, or everything is to end.
    pub(super) fn is_followed(&self, mode: RestartMode) -> bool {
        match self {
            Self::Asked | Self::Failed(_) => false,
            Self::ToComeBack | Self::OutOfMemory { .. } => true,
            Self::ForkServerLost { .. } => mode != RestartMode::Never,
            Self::KernelEnded { ok, .. } => {
                mode == RestartMode::Always || (mode == RestartMode::OnFailure && !ok)
            }
        }
    }

    /// As its controller is told.
    pub(super) fn leaving(&self, mode: RestartMode) -> Leaving {
        match self {
            Self::Asked => Leaving::Left,
            how if how.is_followed(mode) => Leaving::Restarts,
            _ => Leaving::Died,
        }
    }
}

/// Why a kernel was killed, where that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Killed {
    /// By this process, which says why.
    OverLimit(String),
    /// By the system, as it seems.
    OutOfMemory,
    /// Kernels die with the process that they were forked from.
    WithForkServer,
}
