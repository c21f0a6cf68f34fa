//! `ipcluster stop`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::Signal;
use serde::Serialize;
use serde_json::json;

use crate::cli::args::{CommonArgs, Environment, Rewritten};
use crate::cli::output::FormatArgs;
use crate::cli::setup::{Setup, edit};
use crate::cli::target::{
    Controller, ended_meanwhile, engines_of, hub, none_runs, running, runs_by_itself,
    set_up_for_existing, shut_down,
};
use crate::cli::{Failure, exit_code};
use crate::hubclient::{HubClient, Notification, ShutDown};
use crate::launch::found::Found;
use crate::launch::lost::lost_clusters;
use crate::launch::stop::{Stopped, stop, stop_lost};
use crate::launch::watcher::Watcher;
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
    /// A controller that runs by itself, and goes on.
    controller_pid: Option<i32>,
}

pub(super) fn run(args: &StopArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let signal = args.signal.as_deref().map(parse_signal).transpose()?;
    if let Some(stopped) = stop_without_folder(args, signal)? {
        return Ok(stopped);
    }
    let number = signal.map(|signal| signal as i32);
    let edits = edit("cluster.stop_signal", "--signal", number);
    let setup = set_up_for_existing(&args.common, rewritten, edits.into_iter().collect());
    let setup = setup.map_err(|failure| match failure.code() {
        exit_code::NO_CLUSTER if args.engines.is_empty() => Failure::new(
            exit_code::ALREADY_STOPPED,
            failure.message().unwrap_or_default(),
        ),
        _ => failure,
    })?;
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
        done.push(stop_one(&setup, found, signal, args.all)?);
    }
    answer(args, &setup.profile.location().display().to_string(), &done)?;
    if done.iter().any(|done| done.outcome == Stopped::RecordsLost) {
        return Err(Failure::silent(exit_code::RECORDS_LOST));
    }
    let idle = |done: &&Done| done.outcome == Stopped::Already;
    if args.all {
        if done.iter().all(|done| idle(&done)) {
            tracing::info!(
                "there are no clusters to stop in profile {}",
                setup.profile.location().display()
            );
        }
        return Ok(());
    }
    let Some(done) = done.iter().find(idle) else {
        return Ok(());
    };
    let found = Found::of(&setup.profile, &done.cluster_id);
    let message = match found.lone_controller() {
        Some(controller) => goes_on(&setup, &done.cluster_id, &controller),
        None => {
            let failure = none_runs(&setup, &done.cluster_id);
            failure.message().unwrap_or_default().to_owned()
        }
    };
    Err(Failure::new(exit_code::ALREADY_STOPPED, message))
}

fn goes_on(setup: &Setup, cluster_id: &ClusterId, controller: &ProcessRef) -> String {
    format!(
        "the controller of cluster {:?} of profile {} {}; until then it goes on, with the engines that were started by \
         themselves",
        cluster_id.0,
        setup.profile.location().display(),
        runs_by_itself(controller)
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
            controller_pid: None,
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

fn stop_one(
    setup: &Setup,
    found: &Found,
    signal: Option<Signal>,
    all: bool,
) -> Result<Done, Failure> {
    let began = Instant::now();
    let watchers: Vec<Watcher> = found
        .supervised()
        .map(|(path, _)| Watcher::of(path))
        .collect();
    let mut outcome = stop(found, signal)?;
    for watcher in watchers {
        let end = watcher.end();
        for warning in end.warnings {
            tracing::warn!("{warning}");
        }
        if end.code == Some(exit_code::RECORDS_LOST) && outcome == Stopped::InOrder {
            outcome = Stopped::RecordsLost;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let name = format!(
        "cluster {:?} of profile {}",
        found.cluster_id.0,
        setup.profile.location().display()
    );
    match outcome {
        Stopped::InOrder => tracing::info!("{name} has stopped ({seconds:.2} s)"),
        Stopped::RecordsLost => tracing::warn!(
            "{name} has stopped ({seconds:.2} s), and its task database does not have everything"
        ),
        Stopped::Killed => {
            tracing::warn!(
                "{name} did not end when it was asked to, and was killed ({seconds:.2} s)"
            );
        }
        Stopped::Already => {}
    }
    let controller = found.lone_controller();
    // What was named alone and did not run is a failure, which says it.
    if let Some(controller) = &controller
        && (all || outcome != Stopped::Already)
    {
        tracing::warn!("{}", goes_on(setup, &found.cluster_id, controller));
    }
    Ok(Done {
        cluster_id: found.cluster_id.clone(),
        outcome,
        seconds,
        controller_pid: controller.map(|controller| controller.pid),
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
    let controller = Controller::of(setup);
    wait_until_left(&mut hub, ids.clone(), deadline, || controller.has_ended())?;
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    tracing::info!("stopped: engine {}", names.join(", "));
    args.format.answer(&json!({
        "profile_dir": setup.profile.location(),
        "cluster_id": setup.cluster_id,
        "engines": ids,
    }))
}

/// Waits until these engines have left. A connection that was lost is made again; `has_ended` says whether there is anything
/// to connect to.
fn wait_until_left(
    hub: &mut HubClient,
    mut left: BTreeSet<EngineId>,
    deadline: Instant,
    has_ended: impl Fn() -> bool,
) -> Result<(), Failure> {
    while !left.is_empty() {
        let time = deadline.saturating_duration_since(Instant::now());
        match hub.next_notification(time)? {
            Some(Notification::Left(id)) => {
                left.remove(&id);
            }
            Some(Notification::Shutdown) => return Err(ended_meanwhile()),
            Some(Notification::Disconnected) if has_ended() => return Err(ended_meanwhile()),
            Some(Notification::Disconnected) => {
                // What was told meanwhile is not told again.
                let there = hub.engines(deadline.saturating_duration_since(Instant::now()))?;
                left.retain(|id| there.contains(id));
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
    Ok(())
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
    use crate::hubclient::tests::hub_and_client;

    #[test]
    fn engines_that_leave_while_a_connection_is_broken_are_missed_by_nobody() {
        let (mut hub, mut client) = hub_and_client();
        let ids: BTreeSet<EngineId> = [EngineId(1), EngineId(2)].into();
        let waiting = std::thread::spawn(move || {
            let limit = Duration::from_secs(20);
            // By a connection that is there.
            client.engines(limit).unwrap();
            wait_until_left(&mut client, ids, Instant::now() + limit, || false)
        });
        hub.answer(&[json!({ "status": "ok", "engines": { "1": "a", "2": "b" } })]);
        let mut hub = hub.with_broken_queries();
        hub.answer(&[json!({ "status": "ok", "engines": { "3": "c" } })]);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn an_end_of_the_controller_is_no_end_of_engines() {
        let (mut hub, mut client) = hub_and_client();
        let waiting = std::thread::spawn(move || {
            let limit = Duration::from_secs(20);
            client.engines(limit).unwrap();
            let ids = [EngineId(1)].into();
            wait_until_left(&mut client, ids, Instant::now() + limit, || true)
        });
        hub.answer(&[json!({ "status": "ok", "engines": { "1": "a" } })]);
        drop(hub);
        let failure = waiting.join().unwrap().unwrap_err();
        assert_eq!(
            failure.message(),
            Some("the controller has ended meanwhile")
        );
    }

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
