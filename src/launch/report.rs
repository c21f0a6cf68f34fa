//! What a person is told while a cluster runs: one line for each event.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::supervisor::{Member, Status, StopReason};
use crate::protocol::EngineId;

#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    ControllerReady {
        place: String,
        took: Duration,
    },
    Dashboard(String),
    EnginesStarting {
        count: u32,
        place: String,
    },
    /// A batch system lets it wait.
    Queued {
        member: Member,
        why: String,
    },
    /// After it has waited.
    Runs {
        member: Member,
        place: String,
    },
    StillQueued(Member),
    EngineRegistered {
        engine: EngineId,
        count: usize,
        of: u32,
        took: Duration,
    },
    Up {
        engines: u32,
        with_controller: bool,
        took: Duration,
        /// What its user does to end it.
        end: String,
    },
    /// After the cluster was up.
    EngineCame {
        engine: EngineId,
        count: usize,
    },
    EngineLeft {
        engine: EngineId,
        count: usize,
        /// It was asked to.
        wanted: bool,
    },
    EngineEnded {
        engine: Option<EngineId>,
        why: String,
    },
    CannotStart {
        member: Member,
        why: String,
    },
    Warning(String),
    HubFailed(String),
    ControllerEnded,
    ControllerDied {
        status: Status,
        up: bool,
    },
    EnginesFailed {
        status: Status,
    },
    EnginesEnded,
    /// They have died, and are not started again.
    EnginesLost {
        status: Status,
        /// Others are started when there is work for them.
        elastic: bool,
    },
    /// An elastic cluster starts more.
    Growing {
        count: u32,
        waiting: u64,
    },
    /// An elastic cluster asks engines to end that have had nothing to do for long.
    Retiring(Vec<EngineId>),
    /// An elastic cluster takes a job back that waits for so many engines.
    Withdrawing(u32),
    Restarting,
    EnginesRestarted {
        count: u32,
        took: Duration,
    },
    /// All kernels have died, and the engines' restart policy wants no others.
    KernelsDied,
    EnginesDied {
        status: Status,
        pause: Option<Duration>,
    },
    TooFew {
        count: usize,
        of: u32,
        seconds: f64,
    },
    Relaying {
        signal: i32,
    },
    Stopping {
        reason: StopReason,
    },
    TooSlow {
        seconds: f64,
    },
    Killing,
    Over {
        with_controller: bool,
    },
}

/// How loud a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

impl Report {
    pub fn severity(&self) -> Severity {
        match self {
            Self::CannotStart { .. }
            | Self::HubFailed(_)
            | Self::ControllerDied { .. }
            | Self::EnginesFailed { .. }
            | Self::TooFew { .. } => Severity::Error,
            Self::EnginesDied { pause, .. } => match pause {
                Some(_) => Severity::Warning,
                None => Severity::Error,
            },
            Self::EngineLeft { wanted: false, .. }
            | Self::EngineEnded { .. }
            | Self::EnginesLost { .. }
            | Self::KernelsDied
            | Self::TooSlow { .. }
            | Self::Warning(_)
            | Self::Killing => Severity::Warning,
            _ => Severity::Info,
        }
    }
}

fn engines(count: impl Into<u64>) -> String {
    match count.into() {
        0 => "no engines".to_owned(),
        1 => "1 engine".to_owned(),
        count => format!("{count} engines"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControllerReady { place, took } => write!(
                f,
                "the controller is ready ({place}, {:.2} s)",
                took.as_secs_f64()
            ),
            Self::Dashboard(address) => write!(f, "the status page is at {address}"),
            Self::EnginesStarting { count, place } => {
                write!(f, "starting {} ({place})", engines(*count))
            }
            Self::Queued { member, why } => write!(f, "{member}: waiting in the queue ({why})"),
            Self::Runs { member, place } => write!(f, "{member}: running on {place}"),
            Self::StillQueued(Member::Controller) => f.write_str(
                "the controller still waits in the queue; everything else follows when the batch system lets it run",
            ),
            Self::StillQueued(Member::Engines(_)) => f.write_str(
                "the engines still wait in the queue; they register when the batch system lets them run",
            ),
            Self::EngineRegistered {
                engine,
                count,
                of,
                took,
            } => write!(
                f,
                "engine {engine} is registered: {count} of {of} ({:.2} s)",
                took.as_secs_f64()
            ),
            Self::Up {
                engines: count,
                with_controller: true,
                took,
                end,
            } => write!(
                f,
                "the cluster is up with {} ({:.2} s); {end} ends it",
                engines(*count),
                took.as_secs_f64()
            ),
            Self::Up {
                engines: count,
                took,
                ..
            } => write!(f, "{} added ({:.2} s)", engines(*count), took.as_secs_f64()),
            Self::EngineCame { engine, count } => {
                write!(f, "engine {engine} has come: {count} in all")
            }
            Self::EngineLeft { engine, count, .. } => {
                write!(f, "engine {engine} has left: {count} remain")
            }
            Self::EngineEnded {
                engine: Some(engine),
                why,
            } => write!(f, "engine {engine} has ended: {why}"),
            Self::EngineEnded { why, .. } => write!(f, "an engine could not start: {why}"),
            Self::CannotStart { member, why } => write!(f, "cannot start {member}: {why}"),
            Self::HubFailed(why) | Self::Warning(why) => f.write_str(why),
            Self::ControllerEnded => {
                f.write_str("the controller has ended as it was asked to: the cluster ends")
            }
            Self::ControllerDied { status, up: true } => {
                write!(f, "the controller has died ({status}): the cluster ends")
            }
            Self::ControllerDied { status, .. } => {
                write!(f, "the controller could not start ({status})")
            }
            Self::EnginesFailed { status } => write!(
                f,
                "the engines ended before all of them were registered ({status})"
            ),
            Self::EnginesEnded => f.write_str(
                "the engines have ended as they were asked to; `ipcluster engines` adds new ones",
            ),
            Self::EnginesLost {
                status,
                elastic: true,
            } => write!(
                f,
                "engines have ended ({status}); others are started when they are needed"
            ),
            Self::Growing { count, waiting: 0 } => {
                write!(f, "starting {} that are missing", engines(*count))
            }
            Self::Growing { count, waiting } => write!(
                f,
                "{waiting} tasks wait and no engine is idle: starting {count} more"
            ),
            Self::Retiring(ids) => {
                let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
                let ids = ids.join(", ");
                write!(f, "without work for long, and asked to end: engine {ids}")
            }
            Self::Withdrawing(count) => write!(
                f,
                "{} that wait in the queue are not needed any more",
                engines(*count)
            ),
            Self::Restarting => f.write_str("the engines end, to be started again"),
            Self::EnginesRestarted { count, took } => write!(
                f,
                "{} started again ({:.2} s)",
                engines(*count),
                took.as_secs_f64()
            ),
            Self::EnginesLost { status, .. } => write!(
                f,
                "the engines have ended ({status}); `ipcluster engines` adds new ones"
            ),
            Self::KernelsDied => f.write_str(
                "the engines have ended because their kernels died (`restart` of [engine] decides that); \
                 `ipcluster engines` adds new ones",
            ),
            Self::EnginesDied {
                status,
                pause: Some(pause),
            } => write!(
                f,
                "the engines have died ({status}): starting them again in {:.1} s",
                pause.as_secs_f64()
            ),
            Self::EnginesDied { status, .. } => write!(
                f,
                "the engines have died again ({status}), too often within a minute: giving up"
            ),
            Self::TooFew { count, of, seconds } => write!(
                f,
                "{count} of {} registered within {seconds:.0} s; --engine-timeout allows more time",
                engines(*of)
            ),
            Self::Relaying { signal } => write!(f, "passing signal {signal} on to the engines"),
            Self::Stopping { reason } => write!(f, "stopping: {reason}"),
            Self::TooSlow { seconds } => write!(
                f,
                "not everything has ended within {seconds:.0} s: killing what is left"
            ),
            Self::Killing => f.write_str("killing what is left"),
            Self::Over {
                with_controller: true,
            } => f.write_str("the cluster has stopped"),
            Self::Over { .. } => f.write_str("the engines have stopped"),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Controller => "the controller",
            Self::Engines(_) => "the engines",
        })
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupted => "interrupted (a second time kills)",
            Self::Terminated => "told to by SIGTERM",
            Self::HungUp => "the terminal was closed",
            Self::FrontGone => "nobody waits for it any more",
            Self::ControllerGone => "the controller has ended",
            Self::ToStartAgain => "to be started again",
        })
    }
}
