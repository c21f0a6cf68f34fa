//! `ipcluster restart`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::cli::Failure;
use crate::cli::args::levels::offering;
use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::output::FormatArgs;
use crate::cli::setup::Setup;
use crate::cli::target::{
    Controller, ended_meanwhile, engines_of, hub, running, runs_by_itself, set_up_for_existing,
    shut_down,
};
use crate::hubclient::{EngineState, Notification, ShutDown};
use crate::launch::background::Told;
use crate::launch::conduct::{say, say_progress};
use crate::launch::control::{Wish, ask};
use crate::launch::found::Found;
use crate::profile::cluster_file::RunFile;
use crate::protocol::EngineId;

#[derive(Args, Clone, Debug)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    format: FormatArgs,

    /// What to start again: `whole` is the cluster, as it was started; `engines` is all engines, with their Python; ids are
    /// those engines' kernels [default: whole]
    #[arg(value_name = "whole|engines|ID", value_parser = offering(&["whole", "engines"], part),
          hide_possible_values = true)]
    what: Vec<Part>,

    /// Seconds in which engines that are named by ids have to be there again
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    timeout: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Engines,
    Engine(EngineId),
}

fn part(text: &str) -> Result<Part, String> {
    match text {
        "whole" => Ok(Part::Whole),
        "engines" => Ok(Part::Engines),
        id => id
            .parse()
            .map(|id| Part::Engine(EngineId(id)))
            .map_err(|_| {
                "it is neither whole nor engines nor an engine's id; --cluster-id names a cluster"
                    .to_owned()
            }),
    }
}

pub(super) fn run(args: &RestartArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let timeout = Duration::try_from_secs_f64(args.timeout)
        .map_err(|error| Failure::usage(format!("--timeout: {error}")))?;
    let setup = set_up_for_existing(&args.common, rewritten, Vec::new())?;
    let found = running(&setup)?;
    let began = Instant::now();
    let what = match args.what[..] {
        [] | [Part::Whole] => {
            whole(&found)?;
            json!("whole")
        }
        [Part::Engines] => {
            engines(&found)?;
            json!("engines")
        }
        ref several => {
            let ids = several.iter().map(|part| match part {
                Part::Engine(id) => Ok(*id),
                Part::Whole | Part::Engines => Err(Failure::usage(
                    "either whole, or engines, or ids of engines can be started again",
                )),
            });
            let ids: BTreeSet<EngineId> = ids.collect::<Result<_, _>>()?;
            kernels(&setup, &ids, timeout)?;
            json!(ids)
        }
    };
    args.format.answer(&json!({
        "profile_dir": setup.profile.location(),
        "cluster_id": setup.cluster_id,
        "restarted": what,
        "seconds": began.elapsed().as_secs_f64(),
    }))
}

/// The supervisor ends everything, and then takes its own place.
fn whole(found: &Found) -> Result<(), Failure> {
    let of_cluster = found.supervised().find(|(_, run)| run.with_controller());
    let Some((path, _)) = of_cluster else {
        return Err(not_ours(found));
    };
    wish(path, Wish::RestartAll)
}

/// The engines of `ipcluster start`, and of each `ipcluster engines`.
fn engines(found: &Found) -> Result<(), Failure> {
    let mut any = false;
    for (path, _) in found.supervised() {
        wish(path, Wish::RestartEngines)?;
        any = true;
    }
    if any { Ok(()) } else { Err(not_ours(found)) }
}

fn not_ours(found: &Found) -> Failure {
    if let Some(controller) = found.lone_controller() {
        return Failure::failed(format!(
            "the controller of cluster {:?} of profile {} {}, and what started it has to start it again",
            found.cluster_id.0,
            found.profile.location().display(),
            runs_by_itself(&controller)
        ));
    }
    Failure::failed(format!(
        "cluster {:?} of profile {} was not started by `ipcluster start`: what started it has to start it again",
        found.cluster_id.0,
        found.profile.location().display()
    ))
}

fn wish(run_path: &std::path::Path, wish: Wish) -> Result<(), Failure> {
    let mut outcome = Ok(());
    let path = RunFile::control_path(run_path);
    let asked = ask(&path, wish, |told| match told {
        Told::Line { severity, text } => say(severity, &text),
        Told::Progress(text) => say_progress(&text),
        Told::Ready | Told::Watched => {}
        Told::Failed { code, message } => {
            outcome = Err(match message {
                Some(message) => Failure::new(code, message),
                None => Failure::silent(code),
            });
        }
    });
    asked.map_err(|error| {
        Failure::failed(format!(
            "the supervisor did not say how it went ({}: {error}); `ipcluster list` shows what runs, `ipcluster logs` \
             what it said",
            path.display()
        ))
    })?;
    outcome
}

/// Each of these engines ends its kernel and comes back with a fresh one, under its id.
fn kernels(setup: &Setup, ids: &BTreeSet<EngineId>, timeout: Duration) -> Result<(), Failure> {
    let mut hub = hub(setup)?;
    let before: BTreeSet<EngineId> = hub.engines(timeout)?.into_iter().collect();
    let engines = engines_of(&mut hub, ids)?;
    // One of ipyparallel would end and not come back.
    if let Some((id, _)) = engines.iter().find(|(_, engine)| engine.pid.is_none()) {
        return Err(Failure::failed(format!(
            "engine {id} is one of ipyparallel's, which cannot be started again: `ipcluster stop --engines {id}` ends it, \
             `ipcluster engines` adds others"
        )));
    }
    let deadline = Instant::now() + timeout;
    let controller = Controller::of(setup);
    shut_down(&mut hub, &engines, ShutDown::AndComeBack)?;
    let mut gone = BTreeSet::new();
    let mut back = BTreeSet::new();
    let mut elsewhere = BTreeSet::new();
    while back.len() + elsewhere.len() < ids.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        match hub.next_notification(left)? {
            Some(Notification::Left(id)) if ids.contains(&id) => {
                gone.insert(id);
            }
            Some(Notification::Registered(id)) if gone.contains(&id) => {
                tracing::info!("engine {id} is there again");
                back.insert(id);
            }
            // Somebody else may have got its id meanwhile.
            Some(Notification::Registered(id)) if !gone.is_empty() && !before.contains(&id) => {
                tracing::info!("an engine is there again, as engine {id}");
                elsewhere.insert(id);
            }
            Some(Notification::Shutdown) => return Err(ended_meanwhile()),
            Some(Notification::Disconnected) if controller.has_ended() => {
                return Err(ended_meanwhile());
            }
            Some(Notification::Disconnected) => {
                // What was told meanwhile is not told again. One that is there again has another identity.
                let left = deadline.saturating_duration_since(Instant::now());
                let there = hub.status(left)?.engines;
                for (id, engine) in &engines {
                    match there.get(id) {
                        None => drop(gone.insert(*id)),
                        Some(now) if now.uuid == engine.uuid => {}
                        Some(now) if now.state == EngineState::Registered => drop(back.insert(*id)),
                        Some(_) => drop(gone.insert(*id)),
                    }
                }
            }
            Some(_) => {}
            None => {
                let missing: Vec<String> = ids.difference(&back).map(ToString::to_string).collect();
                return Err(Failure::failed(format!(
                    "not there again within {:.1} s: engine {}; `ipcluster logs --engine {}` shows what it says",
                    timeout.as_secs_f64(),
                    missing.join(", "),
                    missing[0]
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_words_or_ids() {
        assert_eq!(part("whole"), Ok(Part::Whole));
        assert_eq!(part("engines"), Ok(Part::Engines));
        assert_eq!(part("17"), Ok(Part::Engine(EngineId(17))));
        assert!(part("-1").is_err() && part("engine").is_err());
    }
}
