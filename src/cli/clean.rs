//! `ipcluster clean`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::output::FormatArgs;
use crate::cli::setup::{ProfileMust, set_up};
use crate::launch::found::Found;
use crate::os::process::is_pid_alive;
use crate::profile::ProfileDir;
use crate::profile::traitlets::Program;
use crate::protocol::ClusterId;

#[derive(Args, Clone, Debug)]
pub(super) struct CleanArgs {
    #[command(flatten)]
    common: CommonArgs,

    #[command(flatten)]
    format: FormatArgs,

    /// Remove the files of clusters that run, too; their processes go on
    #[arg(long)]
    force: bool,

    /// Clean all profiles
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &CleanArgs, rewritten: Rewritten) -> Result<(), Failure> {
    let setup = set_up(
        Program::Cluster,
        "ipcluster",
        &args.common,
        rewritten,
        Vec::new(),
        ProfileMust::Exist,
    )?;
    let profiles = if args.all {
        ProfileDir::all(&setup.common.lookup.ipython_dir()?)
    } else {
        vec![setup.profile]
    };
    let cleaned: Vec<Cleaned> = profiles
        .iter()
        .map(|profile| clean(profile, args.force))
        .collect();
    args.format.answer(&json!({ "profiles": cleaned }))
}

/// What was done in a profile.
#[derive(Serialize)]
struct Cleaned {
    profile_dir: PathBuf,
    removed: Vec<PathBuf>,
    /// Ids of clusters that run, whose files stay.
    running: Vec<ClusterId>,
}

fn clean(profile: &ProfileDir, force: bool) -> Cleaned {
    let location = profile.location().display();
    let mut removed = Vec::new();
    let mut running = Vec::new();
    for found in clusters(profile) {
        if found.is_running() && !force {
            running.push(found.cluster_id.clone());
            tracing::info!(
                "cluster {:?} of {location} is running: its files stay",
                found.cluster_id.0
            );
        } else if found.controller_listens() && !force {
            running.push(found.cluster_id.clone());
            tracing::info!(
                "a controller with cluster id {:?} of {location} is running: its files stay",
                found.cluster_id.0
            );
        } else {
            removed.extend(found.remove_files(true));
        }
    }
    for path in entries(&profile.log_dir()) {
        if (force || is_stale_log(&path, !running.is_empty()))
            && std::fs::remove_file(&path).is_ok()
        {
            removed.push(path);
        }
    }
    for path in &removed {
        tracing::debug!("removed {}", path.display());
    }
    tracing::info!("{} files removed from {location}", removed.len());
    Cleaned {
        profile_dir: profile.location().to_owned(),
        removed,
        running,
    }
}

/// Clusters, and ids of which there is a connection file only.
fn clusters(profile: &ProfileDir) -> Vec<Found> {
    let mut found = Found::all(profile);
    for path in entries(&profile.security_dir()) {
        let id = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| {
                let id = name.strip_prefix("ipcontroller-")?;
                if matches!(id, "client.json" | "engine.json") {
                    return Some("");
                }
                id.strip_suffix("-client.json")
                    .or_else(|| id.strip_suffix("-engine.json"))
            });
        if let Some(id) = id
            && !found.iter().any(|known| known.cluster_id.0 == id)
        {
            found.push(Found::of(profile, &ClusterId(id.to_owned())));
        }
    }
    found
}

/// A log of a process that is gone. Other files count as such when nothing runs.
fn is_stale_log(path: &Path, running: bool) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    let is_alive = stem.and_then(pid_of_log).is_some_and(is_pid_alive);
    !is_alive && !running
}

/// Of a name such as `ipengine-ID-PID`. ipyparallel's engines have numbers of their own, behind the time of their start:
/// `ipengine-ID-1795294755-2`.
fn pid_of_log(stem: &str) -> Option<i32> {
    let (before, number) = stem.rsplit_once('-')?;
    let is_time = |text: &str| text.len() >= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_theirs = before
        .rsplit_once('-')
        .is_some_and(|(name, time)| name.starts_with("ipengine") && is_time(time));
    if is_theirs {
        return None;
    }
    number.parse().ok()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_engines_are_no_pids() {
        for (stem, pid) in [
            ("ipengine-7", Some(7)),
            ("ipcontroller-a-b-7", Some(7)),
            ("ipengine--1795294755-2", None),
            ("ipengine-a-1795294755-2", None),
            ("engines", None),
            ("test-x", None),
        ] {
            assert_eq!(pid_of_log(stem), pid, "{stem}");
        }
    }
}
