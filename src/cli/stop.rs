//! `ipcluster stop`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::json;

use crate::cli::args::{CommonArgs, Environment, Rewritten};
use crate::cli::output::FormatArgs;
use crate::cli::setup::{Setup, edit};
use crate::cli::target::{engines_of, hub, none_runs, running, set_up_for_existing, shut_down};
use crate::cli::{Failure, exit_code};
use crate::hubclient::{Notification, ShutDown};
use crate::launch::found::Found;
use crate::launch::lost::lost_clusters;
use crate::launch::stop::{Stopped, stop, stop_lost};
use crate::os::log::{file_name, warning_of};
use crate::os::process::ProcessRef;
use crate::profile::dir::checked_cluster_id;
use crate::protocol::{ClusterId, EngineId};

#[derive(Args, Clone, Debug)]
pub(super) struct StopArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    format: FormatArgs,

    /// Clusters to stop, by their ids [default: that of --cluster-id]
    #[arg(value_name = "CLUSTER_ID", conflicts_with = "all")]
    ids: Vec<String>,

    /// Stop all clusters of the profile
    #[arg(long)]
    all: bool,

    /// Stop these engines alone, by their ids, and let the cluster run
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',', conflicts_with_all = ["ids", "all", "signal"])]
    engines: Vec<u32>,

    /// Signal by which the cluster is asked to end, by its name or number [default: SIGINT]
    #[arg(long, value_name = "SIGNAL")]
    signal: Option<String>,
}

/// What became of one cluster.
#[derive(Serialize)]
struct Done {
    cluster_id: ClusterId,
    outcome: Stopped,
    seconds: f64,
}

pub(super) fn run(args: &StopArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let signal = args.signal.as_deref().map(parse_signal).transpose()?;
    if let Some(stopped) = stop_without_folder(args, signal)? {
        return Ok(stopped);
    }
    let number = signal.map(|signal| signal as i32);
    let edits = edit("cluster.stop_signal", "--signal", number);
    let setup = set_up_for_existing(&args.common, rewritten, edits.into_iter().collect())?;
    if !args.engines.is_empty() {
        return stop_engines(&setup, args);
    }
    let signal = match setup.settings.cluster.stop_signal {
        Some(number) => Some(parse_signal(&number.to_string())?),
        None => None,
    };
    let clusters = if args.all {
        Found::all(&setup.profile)
    } else if args.ids.is_empty() {
        vec![Found::of(&setup.profile, &setup.cluster_id)]
    } else {
        let ids = args.ids.iter().map(|id| checked_cluster_id(id));
        let ids: Vec<ClusterId> = ids.collect::<Result<_, _>>()?;
        ids.iter().map(|id| Found::of(&setup.profile, id)).collect()
    };
    let mut done = Vec::new();
    for found in &clusters {
        done.push(stop_one(&setup, found, signal)?);
    }
    answer(args, &setup.profile.location().display().to_string(), &done)?;
    let idle = |done: &&Done| done.outcome == Stopped::Already;
    if args.all {
        if done.iter().all(|done| idle(&done)) {
            tracing::info!("there are no clusters to stop");
        }
        return Ok(());
    }
    match done.iter().find(idle) {
        None => Ok(()),
        Some(done) => {
            let failure = none_runs(&setup, &done.cluster_id);
            let mut message = failure.message().unwrap_or_default().to_owned();
            let found = Found::of(&setup.profile, &done.cluster_id);
            if let Some(pid) = found.lone_controller() {
                message = format!("{message}; {}", goes_on(pid));
            }
            Err(Failure::new(exit_code::ALREADY_STOPPED, message))
        }
    }
}

fn goes_on(controller: i32) -> String {
    format!(
        "its controller (process {controller}) was not started by `ipcluster start`, and goes on with the engines that were \
         started by themselves: `kill {controller}` ends it"
    )
}

fn answer(args: &StopArgs, profile_dir: &str, done: &[Done]) -> Result<(), Failure> {
    args.format
        .answer(&json!({ "profile_dir": profile_dir, "clusters": done }))
}

/// A cluster whose profile's folder was deleted is known by its processes alone. Nothing if the folder is there, or nothing
/// of such a cluster runs.
fn stop_without_folder(args: &StopArgs, signal: Option<Signal>) -> Result<Option<()>, Failure> {
    let common = args.common.resolve(&Environment::of_process())?;
    let folder = common.lookup.location()?;
    if folder.join("security").is_dir() {
        return Ok(None);
    }
    let wanted: Vec<ClusterId> = match (&args.ids[..], common.cluster_id) {
        ([], Some(id)) => vec![id],
        ([], None) => vec![ClusterId::default()],
        (ids, _) => ids.iter().map(|id| ClusterId(id.clone())).collect(),
    };
    let lost = lost_clusters()
        .into_iter()
        .filter(|lost| lost.profile_dir == folder)
        .filter(|lost| args.all || wanted.contains(&lost.cluster_id));
    let mut done = Vec::new();
    for lost in lost {
        let began = Instant::now();
        let outcome = stop_lost(&lost, signal)?;
        done.push(Done {
            cluster_id: lost.cluster_id,
            outcome,
            seconds: began.elapsed().as_secs_f64(),
        });
    }
    if done.is_empty() {
        return Ok(None);
    }
    answer(args, &folder.display().to_string(), &done)?;
    eprintln!(
        "ipcluster: stopped what still ran of the profile {}, whose folder is gone",
        folder.display()
    );
    Ok(Some(()))
}

fn stop_one(setup: &Setup, found: &Found, signal: Option<Signal>) -> Result<Done, Failure> {
    let began = Instant::now();
    let logs = Logs::of(setup, found);
    let outcome = stop(found, signal)?;
    for warning in logs.warnings() {
        tracing::warn!("{warning}");
    }
    let seconds = began.elapsed().as_secs_f64();
    let name = format!(
        "cluster {:?} of profile {}",
        found.cluster_id.0,
        setup.profile.location().display()
    );
    match outcome {
        Stopped::InOrder => tracing::info!("{name} has stopped ({seconds:.2} s)"),
        Stopped::Killed => {
            tracing::warn!(
                "{name} did not end when it was asked to, and was killed ({seconds:.2} s)"
            );
        }
        Stopped::Already => {}
    }
    if outcome != Stopped::Already
        && let Some(pid) = found.lone_controller()
    {
        tracing::warn!("{}", goes_on(pid));
    }
    Ok(Done {
        cluster_id: found.cluster_id.clone(),
        outcome,
        seconds,
    })
}

/// In which an engine that says that it ends has to be gone.
const ENGINE_ENDS: Duration = Duration::from_secs(20);

/// Through the hub, so wherever they run and whoever started them.
fn stop_engines(setup: &Setup, args: &StopArgs) -> Result<(), Failure> {
    running(setup)?;
    let ids: BTreeSet<EngineId> = args.engines.iter().copied().map(EngineId).collect();
    let mut hub = hub(setup)?;
    let engines = engines_of(&mut hub, &ids)?;
    let deadline = Instant::now() + ENGINE_ENDS;
    shut_down(&mut hub, &engines, ShutDown::Now)?;
    let mut left = ids.clone();
    while !left.is_empty() {
        let time = deadline.saturating_duration_since(Instant::now());
        match hub.next_notification(time)? {
            Some(Notification::Left(id)) => {
                left.remove(&id);
            }
            Some(Notification::Shutdown | Notification::Disconnected) => {
                return Err(Failure::failed("the controller has ended meanwhile"));
            }
            Some(Notification::Registered(_)) => {}
            None => {
                let left: Vec<String> = left.iter().map(ToString::to_string).collect();
                return Err(Failure::failed(format!(
                    "still there after {:.0} s: engine {}",
                    ENGINE_ENDS.as_secs_f64(),
                    left.join(", ")
                )));
            }
        }
    }
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    tracing::info!("stopped: engine {}", names.join(", "));
    args.format.answer(&json!({
        "profile_dir": setup.profile.location(),
        "cluster_id": setup.cluster_id,
        "engines": ids,
    }))
}

/// The logs of supervisors that run in the background, and how long they were.
struct Logs(Vec<(PathBuf, u64)>);

impl Logs {
    fn of(setup: &Setup, found: &Found) -> Self {
        let folder = setup.profile.log_dir();
        let log = |supervisor: ProcessRef| {
            let pid = u32::try_from(supervisor.pid).ok()?;
            let path = folder.join(file_name("ipcluster", &found.cluster_id.0, pid));
            let length = std::fs::metadata(&path).ok()?.len();
            Some((path, length))
        };
        Self(found.supervisors().into_iter().filter_map(log).collect())
    }

    /// What they have warned of since. One that cannot be read is no reason to fail.
    fn warnings(&self) -> Vec<String> {
        let new = |(path, length): &(PathBuf, u64)| {
            let log = std::fs::read(path).unwrap_or_default();
            let new = log.get(usize::try_from(*length).ok()?..)?;
            Some(String::from_utf8_lossy(new).into_owned())
        };
        let new: Vec<String> = self.0.iter().filter_map(new).collect();
        let lines = new.iter().flat_map(|text| text.lines());
        lines.filter_map(warning_of).collect()
    }
}

/// `2`, `INT` or `SIGINT`.
fn parse_signal(text: &str) -> Result<Signal, Failure> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper.clone()
    } else {
        format!("SIG{upper}")
    };
    let by_number = text
        .parse()
        .ok()
        .and_then(|number: i32| Signal::try_from(number).ok());
    by_number.or_else(|| name.parse().ok()).ok_or_else(|| {
        Failure::usage(format!(
            "--signal={text}: no signal has this name or number; SIGINT, TERM and 9 are examples"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["2", "INT", "int", "SIGINT"] {
            assert_eq!(parse_signal(text).unwrap(), Signal::SIGINT, "{text}");
        }
        for text in ["", "0", "-1", "SIGNAL", "1000"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
