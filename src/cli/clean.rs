//! `ipcluster clean`.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::Failure;
use crate::cli::args::{CommonArgs, Rewritten};
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
    for profile in &profiles {
        clean(profile, args.force);
    }
    Ok(())
}

fn clean(profile: &ProfileDir, force: bool) {
    let location = profile.location().display();
    let mut removed = Vec::new();
    let mut running = false;
    for found in clusters(profile) {
        if found.is_running() && !force {
            running = true;
            tracing::info!(
                "cluster {:?} of {location} is running: its files stay",
                found.cluster_id.0
            );
        } else if found.controller_listens() && !force {
            running = true;
            tracing::info!(
                "a controller with cluster id {:?} of {location} is running: its files stay",
                found.cluster_id.0
            );
        } else {
            removed.extend(found.remove_files(true));
        }
    }
    for path in entries(&profile.log_dir()) {
        if (force || is_stale_log(&path, running)) && std::fs::remove_file(&path).is_ok() {
            removed.push(path);
        }
    }
    for path in &removed {
        tracing::debug!("removed {}", path.display());
    }
    tracing::info!("{} files removed from {location}", removed.len());
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
    let pid = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .and_then(|stem| stem.rsplit_once('-'))
        .and_then(|(_, pid)| pid.parse().ok());
    match pid {
        Some(pid) if is_pid_alive(pid) => false,
        _ => !running,
    }
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
