//! Starting, watching and stopping the processes of a cluster.
//!
//! | file | what it does |
//! |---|---|
//! | `supervisor` \[p\] | decides: events and the time in, actions out |
//! | `elastic` \[p\] | decides how many engines there are, by the queue |
//! | `report` \[p\] | the line that is shown for each event |
//! | `cluster` | what a cluster is made of, and which launcher starts each part |
//! | `conduct` | one tokio thread that hears of events and performs actions |
//! | `local` | processes of this machine, and those that mpiexec starts |
//! | `role` \[p\] | the two parts that launchers start |
//! | `ssh` | engines and controllers on other machines |
//! | `batch` | jobs of batch systems |
//! | `shell` \[p\] | words for a shell |
//! | `wishes` | signals to the supervisor |
//! | `child` | logs, news and ends of processes of this machine |
//! | `channel` \[p\] | what launcher and engines say through standard input and output |
//! | `watch`, `look`, `announce` | threads that listen to the hub, look at its queue, and tell it which engines are to come |
//! | `hub_file` | how those threads find the hub |
//! | `ledger` | the files that say what runs |
//! | `arrival` | the connection files of a controller that cannot say when it is ready |
//! | `condition` | how a cluster is, by its files and processes |
//! | `logs` | the logs of a cluster |
//! | `lost` | clusters whose folder is gone |
//! | `found`, `stop` | clusters that run, of ours and of ipyparallel's, and how to end them |
//! | `control` | wishes of other commands, told to the supervisor that runs |
//! | `watcher` | hearing from outside how a supervisor ends |
//! | `background` | the two ends of `--daemonize` |

mod announce;
pub mod arrival;
pub mod background;
pub mod batch;
pub mod channel;
mod child;
pub mod cluster;
pub mod condition;
pub mod conduct;
pub mod control;
pub mod elastic;
pub mod found;
mod hub_file;
pub mod ledger;
pub mod local;
pub mod logs;
mod look;
pub mod lost;
pub mod report;
pub mod role;
mod shell;
pub mod ssh;
pub mod stop;
pub mod supervisor;
mod tail;
mod watch;
pub mod watcher;
mod wishes;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::os::ProcessRef;
use crate::profile::cluster_file::JobRef;
use crate::profile::connection::{ClientFile, EngineFile};
use crate::protocol::EngineId;
use supervisor::{Member, Status};

/// Launchers of engines, by the names that `--engines` takes.
pub const LAUNCHERS: &[&str] = &[
    "local", "ssh", "sshproxy", "mpi", "slurm", "pbs", "sge", "lsf", "htcondor",
];

/// Launchers of a controller.
pub const CONTROLLER_LAUNCHERS: &[&str] = &[
    "local", "ssh", "mpi", "slurm", "pbs", "sge", "lsf", "htcondor",
];

/// A program to be started.
#[derive(Clone, Debug)]
pub struct Job {
    /// `ipcontroller` or `ipengine`: the beginning of its log's name.
    pub name: &'static str,
    /// With the program itself.
    pub argv: Vec<OsString>,
    /// Beside what this process has in its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Engines that are to be run; nothing for a controller.
    pub engines: Option<u32>,
    /// Where, of the launcher's machines, if it has some.
    pub machine: Option<usize>,
    /// It holds the key, so it is never part of an argument list, nor of anything else that others can read.
    pub connection: Option<Connection>,
}

/// The content of the engines' connection file.
#[derive(Clone, Debug)]
pub struct Connection {
    /// For this machine.
    pub here: String,
    /// For others. It differs where a controller elsewhere is reached from here through a tunnel.
    pub elsewhere: String,
    /// The content of the clients' file, for others.
    pub client_elsewhere: String,
}

/// What was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub place: Place,
    /// Where its output goes.
    pub log: PathBuf,
}

/// Where something runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Process(ProcessRef),
    /// On another machine, to which a process of this one leads.
    Host { host: String, process: ProcessRef },
    /// Wherever a batch system lets it run.
    Job(JobRef),
}

impl Place {
    /// The process of this machine, if it is one, or that which leads there.
    pub fn process(&self) -> Option<&ProcessRef> {
        match self {
            Self::Process(process) | Self::Host { process, .. } => Some(process),
            Self::Job(_) => None,
        }
    }

    pub fn job(&self) -> Option<&JobRef> {
        match self {
            Self::Process(_) | Self::Host { .. } => None,
            Self::Job(job) => Some(job),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => write!(f, "process {}", process.pid),
            Self::Host { host, process } => write!(f, "{host}, by process {}", process.pid),
            Self::Job(job) => job.fmt(f),
        }
    }
}

/// What a launcher tells of what it was asked to start.
#[derive(Debug)]
pub enum LaunchEvent {
    Started(Member, Started),
    NotStarted(Member, LaunchError),
    /// A batch system lets it wait.
    Queued(Member, String),
    /// It has waited, and runs.
    Runs(Member, String),
    Said(Member, News),
    /// How a controller on another machine is reached. Told again when that changes.
    Reached(Box<Reached>),
    /// The controller runs, and cannot be reached from here, or has not said where it is.
    NotReached(String),
    Exited(Member, Status),
}

/// The connection files of a controller on another machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Reached {
    /// As this machine has to have them.
    pub client: ClientFile,
    pub engine: EngineFile,
    /// As the controller has them.
    pub client_elsewhere: ClientFile,
    pub engine_elsewhere: EngineFile,
    /// What leads there, if that is needed.
    pub tunnel: Option<ProcessRef>,
}

/// What a program tells the supervisor that has started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// The controller's status page is at this address. Told before it is ready.
    Dashboard(String),
    /// A controller's connection files, for a starter on another machine. Told before it is ready.
    Connection {
        client: String,
        engine: String,
        /// Of the controller, on its machine.
        pid: u32,
    },
    /// A controller listens, and its connection files are there.
    Ready,
    /// An engine has ended by itself. It has no id if it was not registered.
    EngineEnded {
        engine: Option<EngineId>,
        why: String,
    },
    Warning(String),
    /// A batch system lets engines wait that are started by another `ipcluster`.
    Queued(String),
    /// They have waited, and run.
    Runs(String),
}

#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("{}: {source}", program.display())]
    Program { program: PathBuf, source: io::Error },
    #[error("its log {} cannot be written: {source}; see --profile-dir", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("no pipe to it can be made: {0}")]
    Pipe(io::Error),
    #[error("{0}")]
    Connection(String),
    #[error(transparent)]
    Batch(#[from] batch::BatchError),
}

/// A way to start processes. Events go to the channel that the launcher was made with.
pub trait Launcher {
    /// The name by which it is chosen, and which the cluster file names.
    fn name(&self) -> &'static str;

    /// Begins to start a program: that it has started is an event, and so is that it has not. What is started under the
    /// same name must have ended.
    fn start(&mut self, member: Member, job: Job);

    /// Sends a signal. What is gone already does not matter.
    fn signal(&mut self, member: Member, signal: i32);

    /// Something seems to have happened to what it has started.
    fn look(&mut self) {}
}

/// Never resolves without an instant.
async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
