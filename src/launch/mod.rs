//! Starting, watching and stopping the processes of a cluster.
//!
//! | file | what it does |
//! |---|---|
//! | `supervisor` \[p\] | decides: events and the time in, actions out |
//! | `report` \[p\] | the line that is shown for each event |
//! | `conduct` | one tokio thread that hears of events and performs actions |
//! | `local` | processes of this machine; other launchers stand beside it |
//! | `watch` | a thread that listens to the hub |
//! | `ledger` | the files that say what runs |
//! | `found`, `stop` | clusters that run, of ours and of ipyparallel's, and how to end them |
//! | `background` | the two ends of `--daemonize` |

pub mod background;
pub mod conduct;
pub mod found;
pub mod ledger;
pub mod local;
pub mod report;
pub mod stop;
pub mod supervisor;
mod tail;
mod watch;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::os::ProcessRef;
use crate::protocol::EngineId;
use supervisor::{Member, Status};

/// Launchers that there are, by the names that `--engines` and `--controller` take.
pub const LAUNCHERS: &[&str] = &["local"];

/// A program to be started.
#[derive(Clone, Debug)]
pub struct Job {
    /// `ipcontroller` or `ipengine`: the beginning of its log's name.
    pub name: &'static str,
    /// With the program itself.
    pub argv: Vec<OsString>,
    /// Beside what this process has in its environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// What was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub process: ProcessRef,
    /// Where its output goes.
    pub log: PathBuf,
}

/// What a launcher tells of what it has started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchEvent {
    Said(Member, News),
    Exited(Member, Status),
}

/// What a program tells the supervisor that has started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    /// A controller listens, and its connection files are there.
    Ready,
    /// An engine has ended by itself. It has no id if it was not registered.
    EngineEnded {
        engine: Option<EngineId>,
        why: String,
    },
    Warning(String),
}

#[derive(Debug, Error)]
pub enum LaunchError {
    #[error("{}: {source}", program.display())]
    Program { program: PathBuf, source: io::Error },
    #[error("its log {} cannot be written: {source}; see --profile-dir", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("no pipe to it can be made: {0}")]
    Pipe(io::Error),
}

/// A way to start processes. Events go to the channel that the launcher was made with.
pub trait Launcher {
    /// The name by which it is chosen, and which the cluster file names.
    fn name(&self) -> &'static str;

    /// Starts a program; what is started under the same name must have ended.
    fn start(&mut self, member: Member, job: &Job) -> Result<Started, LaunchError>;

    /// Sends a signal. What is gone already does not matter.
    fn signal(&mut self, member: Member, signal: i32);
}
