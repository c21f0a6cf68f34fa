//! The cluster that a command is about, and its hub.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::slice::from_ref;
use std::time::Duration;

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, Setup, set_up};
use crate::cli::{Failure, exit_code};
use crate::hubclient::{Answer, EngineStatus, HubClient, ShutDown};
use crate::launch::condition::Condition;
use crate::launch::found::Found;
use crate::os::process::{ProcessRef, wait_until_gone};
use crate::profile::settings::Edit;
use crate::profile::traitlets::Program;
use crate::profile::{ClientFile, ConnectionFiles, ProfileDir};
use crate::protocol::{ClusterId, EngineId, EngineUuid};

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

/// Of a controller that no `ipcluster start` looks after: that it runs so, and how it is ended.
pub(super) fn runs_by_itself(controller: &ProcessRef) -> String {
    format!(
        "runs by itself (process {controller}), not started by `ipcluster start`: `kill {controller}` ends it"
    )
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
            let alone = match found.condition() {
                Condition::ControllerAlone => " (a controller alone)",
                _ => "",
            };
            match found.cluster_id.0.as_str() {
                "" => format!("--profile={profile}{alone}"),
                id => format!("--profile={profile} --cluster-id={id}{alone}"),
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
    let file = ClientFile::read(&files.client)?;
    let found = Found::of(&setup.profile, &setup.cluster_id);
    // One of this machine is reached whatever its name is to others.
    let file = match found.controller() {
        Some(_) => file.on_this_machine(),
        None => file,
    };
    Ok(HubClient::connect(file)?)
}

/// How long a controller takes at most from closing its connections to its end.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// A hub's controller, as far as this machine knows it.
pub(super) struct Controller(Option<ProcessRef>);

impl Controller {
    pub(super) fn of(setup: &Setup) -> Self {
        Self(Found::of(&setup.profile, &setup.cluster_id).controller())
    }

    /// Whether it has ended, when its connection was lost; waits for one that may be about to. Of one elsewhere nothing is
    /// known.
    pub(super) fn has_ended(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|process| wait_until_gone(from_ref(process), LAST_STEPS).is_empty())
    }
}

/// Of a controller that ends while something is waited for.
pub(super) fn ended_meanwhile() -> Failure {
    Failure::failed("the controller has ended meanwhile")
}

/// How long a hub and engines have to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// What the hub says of these engines; all of them have to be there.
pub(super) fn engines_of(
    hub: &mut HubClient,
    ids: &BTreeSet<EngineId>,
) -> Result<BTreeMap<EngineId, EngineStatus>, Failure> {
    let mut there = hub.status(ANSWER)?.engines;
    let missing: Vec<String> = ids
        .iter()
        .filter(|id| !there.contains_key(id))
        .map(ToString::to_string)
        .collect();
    if !missing.is_empty() {
        let known: Vec<String> = there.keys().map(ToString::to_string).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return Err(Failure::failed(format!(
            "no such engine: {}; there are: {known}",
            missing.join(", ")
        )));
    }
    there.retain(|id, _| ids.contains(id));
    Ok(there)
}

/// Asks engines to end. All have to answer that they will.
pub(super) fn shut_down(
    hub: &mut HubClient,
    engines: &BTreeMap<EngineId, EngineStatus>,
    how: ShutDown,
) -> Result<(), Failure> {
    let uuids: Vec<EngineUuid> = engines.values().map(|engine| engine.uuid.clone()).collect();
    let answers = hub.shut_down(&uuids, how, ANSWER)?;
    let complaints: Vec<String> = engines
        .iter()
        .filter_map(|(id, engine)| match answers.get(&engine.uuid)? {
            Answer::Ends => None,
            Answer::Refuses(why) => Some(format!("engine {id}: {why}")),
            Answer::Silent => Some(format!(
                "engine {id} has not answered within {:.0} s",
                ANSWER.as_secs_f64()
            )),
        })
        .collect();
    if complaints.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(complaints.join("; ")))
}
