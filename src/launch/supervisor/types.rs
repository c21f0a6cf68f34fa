//! What goes into the supervisor, and what comes out of it.

use std::time::Duration;

use crate::launch::elastic::Limits;
use crate::launch::report::Report;
use crate::protocol::EngineId;

/// What this supervisor starts and ends as one: a process, or a job of a batch system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    Controller,
    Engines(SetNo),
}

/// The number of a set of engines in its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetNo(pub u32);

/// How a process or a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Code(i32),
    Signal(i32),
    /// A batch system says so.
    Job(JobEnd),
}

/// How a job ended, in the words that batch systems have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Completed,
    /// By its owner or an administrator.
    Cancelled,
    Failed,
    TimeLimit,
    NodeFailure,
    Preempted,
    OutOfMemory,
    /// It is not among the system's jobs any more.
    Gone,
}

impl Status {
    /// Did it end by itself, or as it was told to?
    pub(super) fn is_orderly(self) -> bool {
        matches!(self, Self::Code(0) | Self::Job(JobEnd::Completed))
    }
}

impl std::fmt::Display for JobEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Completed => "its job is complete",
            Self::Cancelled => "its job was cancelled",
            Self::Failed => "its job has failed",
            Self::TimeLimit => "its job has reached its time limit",
            Self::NodeFailure => "a node of its job has failed",
            Self::Preempted => "its job had to make room for another one",
            Self::OutOfMemory => "its job was out of memory",
            Self::Gone => "its job is not in the queue any more",
        })
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Job(end) => end.fmt(f),
        }
    }
}

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Else the engines join a controller that runs already.
    pub with_controller: bool,
    /// The engines of each set.
    pub sets: Vec<u32>,
    /// With elastic ones: how many engines each machine has room for, where sets are machines.
    pub machines: Vec<u32>,
    /// The number of engines follows the queue.
    pub elastic: Option<Limits>,
    /// None of a set's engines can end without the others, as ranks of one MPI program: an elastic cluster keeps sets of
    /// several, and starts further engines one by one.
    pub inseparable: bool,
    /// Start a set again that has died.
    pub restart: bool,
    /// Between the controller and the engines.
    pub delay: Duration,
    /// In which all engines are to be registered.
    pub engine_timeout: Duration,
    /// What is done when they are not: end everything, or say so and go on.
    pub give_up: bool,
    /// Between the request to end and SIGKILL.
    pub grace: Duration,
    /// What its user does to end it, in words.
    pub end: String,
}

/// Why a cluster is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// SIGINT, by Ctrl-C or `ipcluster stop`. A second one kills.
    Interrupted,
    Terminated,
    /// The terminal was closed.
    HungUp,
    /// The command that waits for the cluster in the background has ended.
    FrontGone,
    /// The controller that these engines had joined has ended.
    ControllerGone,
    /// Everything is to be started again.
    ToStartAgain,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody wanted it.
    Stopped,
    /// Stopped before everything was up.
    Interrupted,
    /// With the exit code that says why.
    Failed(u8),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Spawn(Member),
    /// Ask it to end.
    Terminate(Member),
    /// End it.
    Kill(Member),
    /// Pass on a signal that was meant for the engines.
    Relay(SetNo, i32),
    /// The files that say what runs.
    WriteFiles,
    RemoveFiles,
    Report(Report),
    /// Show the end of what the process has written.
    ShowLog(Member),
    /// Everything that was asked for is there.
    Ready,
    /// A restart of the engines has come to its end.
    Restarted {
        complete: bool,
    },
    /// Ask these engines to end, unless they have work.
    Retire(Vec<EngineId>),
    /// Every process is gone.
    Exit(Outcome),
}
