//! The cluster that a command is about, and its hub.

use std::path::Path;

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, Setup, set_up};
use crate::cli::{Failure, exit_code};
use crate::hubclient::HubClient;
use crate::launch::condition::Condition;
use crate::launch::found::Found;
use crate::profile::settings::Edit;
use crate::profile::traitlets::Program;
use crate::profile::{ClientFile, ConnectionFiles, ProfileDir};
use crate::protocol::ClusterId;

/// The settings of a profile that must exist. When it does not, it is said what runs.
pub(super) fn set_up_for_existing(
    common: &CommonArgs,
    rewritten: Rewritten,
    edits: Vec<Edit>,
) -> Result<Setup, Failure> {
    let must = ProfileMust::Exist;
    set_up(
        Program::Cluster,
        "ipcluster",
        common,
        rewritten,
        edits,
        must,
    )
    .map_err(|failure| {
        let environment = crate::cli::args::Environment::of_process();
        let resolved = common.resolve(&environment).ok();
        let ipython_dir = resolved
            .as_ref()
            .and_then(|common| common.lookup.ipython_dir().ok());
        let is_missing = resolved
            .and_then(|common| common.lookup.location().ok())
            .is_some_and(|location| !location.exists());
        match (ipython_dir, failure.message()) {
            (Some(folder), Some(message)) if is_missing => {
                Failure::new(failure.code(), format!("{message}; {}", what_runs(&folder)))
            }
            _ => failure,
        }
    })
}

/// The cluster, if anything of it runs.
pub(super) fn running(setup: &Setup) -> Result<Found, Failure> {
    let found = Found::of(&setup.profile, &setup.cluster_id);
    if found.lives() || found.controller_listens() {
        return Ok(found);
    }
    Err(none_runs(setup, &setup.cluster_id))
}

/// No such cluster runs.
pub(super) fn none_runs(setup: &Setup, cluster_id: &ClusterId) -> Failure {
    let others = setup.common.lookup.ipython_dir();
    let others = others.map_or_else(|_| String::new(), |folder| what_runs(&folder));
    Failure::new(
        exit_code::NO_CLUSTER,
        format!(
            "no cluster {:?} of profile {} is running; {others}",
            cluster_id.0,
            setup.profile.location().display()
        ),
    )
}

/// Which clusters run, in the words of the arguments that name them.
pub(super) fn what_runs(ipython_dir: &Path) -> String {
    let clusters = ProfileDir::all(ipython_dir);
    let clusters = clusters.iter().flat_map(Found::all);
    let named: Vec<String> = clusters
        .filter(|found| found.condition() != Condition::Stale)
        .map(|found| {
            let profile = found.profile.abbreviated(ipython_dir);
            match found.cluster_id.0.as_str() {
                "" => format!("--profile={profile}"),
                id => format!("--profile={profile} --cluster-id={id}"),
            }
        })
        .collect();
    if named.is_empty() {
        format!("no cluster runs in {}", ipython_dir.display())
    } else {
        format!("there are: {}", named.join(", "))
    }
}

/// A connection to the cluster's hub. Whether it answers shows the first question.
pub(super) fn hub(setup: &Setup) -> Result<HubClient, Failure> {
    let files = ConnectionFiles::paths(&setup.profile.security_dir(), &setup.cluster_id);
    Ok(HubClient::connect(ClientFile::read(&files.client)?)?)
}
