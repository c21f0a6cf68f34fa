//! The files that say what runs: ipyparallel's cluster file, and our own with the processes' start times.
//!
//! Several processes write them (`ipcluster start`, and each `ipcluster engines`), so the folder is held meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use tokio::sync::mpsc::UnboundedSender;

use super::control::{self, Wished};
use super::found::Found;
use super::stop::end_jobs;
use super::supervisor::SetNo;
use super::{Place, Reached, Started};
use crate::os::files::{self, FileError};
use crate::os::local_socket::LocalListener;
use crate::os::lock::{self, FolderLock};
use crate::os::process::{ProcessRef, wait_until_gone};
use crate::profile::cluster_file::{
    ClusterFile, ClusterInfo, ControllerEntry, EngineSet, EnginesEntry, LauncherState, RunFile,
};
use crate::profile::{ConnectionFiles, ProfileDir};
use crate::protocol::{ClusterId, Timestamp};

/// Why a cluster cannot be started.
#[derive(Debug, Error)]
pub enum ClaimError {
    #[error(
        "a cluster of profile {profile}{} is running already: process {pid}; stop it with `{stop}`, or give this one \
         another --cluster-id",
        of_id(cluster_id)
    )]
    Running {
        profile: String,
        cluster_id: ClusterId,
        pid: String,
        stop: String,
    },
    #[error("of an earlier cluster, {0}")]
    Job(String),
    #[error(transparent)]
    File(#[from] FileError),
}

fn of_id(cluster_id: &ClusterId) -> String {
    if cluster_id.0.is_empty() {
        String::new()
    } else {
        format!(" with cluster id {:?}", cluster_id.0)
    }
}

/// What a cluster file says of the cluster as a whole, and who keeps it.
#[derive(Debug)]
pub struct Ledger {
    profile: ProfileDir,
    run_path: PathBuf,
    run: RunFile,
    info: ClusterInfo,
    with_controller: bool,
    set_id: String,
    launchers: Launchers,
    /// A controller of ours has served, so that the connection files are ours.
    had_controller: bool,
}

/// What starts the parts, by the names that `--controller` and `--engines` take.
#[derive(Clone, Copy, Debug)]
pub struct Launchers {
    pub controller: &'static str,
    pub engines: &'static str,
}

/// Processes whose supervisor was killed end by themselves within this time.
const DYING: Duration = Duration::from_secs(3);

impl Ledger {
    /// Claims the profile and cluster id for a new cluster, whose connection files are to stay if `reuse`. Whatever an
    /// earlier one left behind is cleared away.
    pub fn claim(
        profile: &ProfileDir,
        info: ClusterInfo,
        launchers: Launchers,
        grace: Duration,
        reuse: bool,
    ) -> Result<Self, ClaimError> {
        let _held = FolderLock::hold(&profile.pid_dir());
        let found = Found::of(profile, &info.cluster_id);
        end_orphans(&found);
        end_orphaned_jobs(&found)?;
        if found.lives() {
            let pid = found
                .supervisors()
                .into_iter()
                .chain(found.theirs())
                .next()
                .map_or_else(|| "unknown".to_owned(), |process| process.to_string());
            return Err(ClaimError::Running {
                profile: profile.location().display().to_string(),
                stop: stop_command(profile, &info.cluster_id),
                cluster_id: info.cluster_id,
                pid,
            });
        }
        for (path, _) in &found.runs {
            files::remove_if_there(path)?;
            files::remove_if_there(&RunFile::control_path(path))?;
        }
        files::remove_if_there(&found.cluster_path)?;
        let run_path = RunFile::path(&profile.pid_dir(), &info.cluster_id);
        Self::open(profile, info, launchers, grace, run_path, Some(reuse))
    }

    /// For engines that join the cluster that `info` describes.
    pub fn join(
        profile: &ProfileDir,
        info: ClusterInfo,
        launcher: &'static str,
        grace: Duration,
    ) -> Result<Self, ClaimError> {
        let _held = FolderLock::hold(&profile.pid_dir());
        let run_path = RunFile::path_of_engines(&profile.pid_dir(), std::process::id());
        let launchers = Launchers {
            controller: "local",
            engines: launcher,
        };
        Self::open(profile, info, launchers, grace, run_path, None)
    }

    fn open(
        profile: &ProfileDir,
        info: ClusterInfo,
        launchers: Launchers,
        grace: Duration,
        run_path: PathBuf,
        controller_reuses: Option<bool>,
    ) -> Result<Self, ClaimError> {
        let now = SystemTime::now();
        let seconds = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        let run = RunFile {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: info.cluster_id.clone(),
            started: Timestamp::from(now),
            launcher: launchers.engines.to_owned(),
            supervisor: Some(ProcessRef::current()),
            controller: None,
            tunnel: None,
            joined: controller_reuses.is_none(),
            up: false,
            reuse: controller_reuses.unwrap_or(false),
            engines: Vec::new(),
            jobs: Vec::new(),
            grace: Some(grace.as_secs_f64()),
            unknown: serde_json::Map::new(),
        };
        run.write(&run_path)?;
        let with_controller = controller_reuses.is_some();
        let set_id = if with_controller {
            seconds.to_string()
        } else {
            format!("{seconds}-{}", std::process::id())
        };
        Ok(Self {
            profile: profile.clone(),
            run_path,
            run,
            info,
            with_controller,
            set_id,
            launchers,
            had_controller: false,
        })
    }

    /// The socket beside this cluster's file, through which other commands tell their wishes. Without it the cluster
    /// runs as well, but cannot be asked to start again.
    pub(super) fn control_socket(&self, wishes: UnboundedSender<Wished>) -> Option<LocalListener> {
        let path = RunFile::control_path(&self.run_path);
        let listening = LocalListener::bind(&path).and_then(|listener| {
            control::listen(&listener, wishes)?;
            Ok(listener)
        });
        listening
            .inspect_err(|error| {
                tracing::warn!(
                    "no socket can be made at {} ({error}): `ipcluster restart` will not reach this cluster",
                    path.display()
                );
            })
            .ok()
    }

    /// Names a set to its engines, so that the hub tells of them whose they are.
    pub(super) fn set_name(&self, number: SetNo) -> String {
        self.set_id(number)
    }

    /// The set of this name, if it is one of this supervisor's.
    pub(super) fn set_of(&self, name: &str) -> Option<SetNo> {
        let rest = name.strip_prefix(self.set_id.as_str())?;
        if rest.is_empty() {
            return Some(SetNo(0));
        }
        rest.strip_prefix('.')?.parse().ok().map(SetNo)
    }

    /// Writes what runs now, and whether everything that was asked for has been there. A cluster that is listed has a
    /// controller.
    pub fn write(
        &mut self,
        up: bool,
        controller: Option<&Started>,
        engines: &[(SetNo, &Started, u32)],
    ) -> Result<(), FileError> {
        let _held = FolderLock::hold(&self.profile.pid_dir());
        self.run.up = up;
        self.had_controller |= self.with_controller && controller.is_some();
        self.run.controller = controller.and_then(|started| started.place.process().cloned());
        let places = || engines.iter().map(|(_, started, _)| &started.place);
        self.run.engines = places().filter_map(Place::process).cloned().collect();
        let of_controller = controller.map(|started| &started.place);
        let jobs = of_controller.into_iter().chain(places());
        self.run.jobs = jobs.filter_map(Place::job).cloned().collect();
        self.run.write(&self.run_path)?;

        let path = self.cluster_path();
        let earlier = ClusterFile::read(&path).ok();
        if earlier.is_none() && !self.with_controller {
            // The cluster was not started by `ipcluster start`, or it has just ended.
            return Ok(());
        }
        let mut file = earlier.unwrap_or_else(|| ClusterFile {
            cluster: self.info.clone(),
            controller: None,
            engines: EnginesEntry {
                class: class_of(self.launchers.engines).to_owned(),
                sets: BTreeMap::new(),
            },
            unknown: serde_json::Map::new(),
        });
        if self.with_controller {
            file.controller = controller.map(|started| ControllerEntry {
                class: class_of(self.launchers.controller).to_owned(),
                state: self.state_of(started),
            });
        }
        self.remove_sets(&mut file);
        // ipyparallel reads all sets with one class, that of the first.
        if file.engines.sets.is_empty() {
            file.engines.class = class_of(self.launchers.engines).to_owned();
        }
        if file.engines.class == class_of(self.launchers.engines) {
            for (number, started, count) in engines {
                let set = self.engine_set(started, *count);
                file.engines.sets.insert(self.set_id(*number), set);
            }
        }
        file.write(&path)
    }

    /// Writes the connection files of a controller on another machine, which has no way to this one's file system.
    pub(super) fn keep_files(&mut self, reached: &Reached) -> Result<(), FileError> {
        self.had_controller = true;
        self.run.tunnel.clone_from(&reached.tunnel);
        let security = self.profile.security_dir();
        let files = ConnectionFiles::paths(&security, &self.info.cluster_id);
        files.write(&reached.client, &reached.engine)
    }

    /// Removes what this cluster wrote.
    pub fn remove(&self) -> Result<(), FileError> {
        let _held = FolderLock::hold(&self.profile.pid_dir());
        files::remove_if_there(&self.run_path)?;
        let path = self.cluster_path();
        if self.with_controller {
            files::remove_if_there(&path)?;
            let security = self.profile.security_dir();
            // The controller removes these itself, unless it was killed.
            if self.had_controller && !self.run.reuse {
                ConnectionFiles::paths(&security, &self.info.cluster_id).remove()?;
            }
            lock::remove_stale(&ConnectionFiles::lock(&security, &self.info.cluster_id));
            return Ok(());
        }
        let Ok(mut file) = ClusterFile::read(&path) else {
            return Ok(());
        };
        if self.remove_sets(&mut file) {
            file.write(&path)?;
        }
        Ok(())
    }

    fn set_id(&self, number: SetNo) -> String {
        match number {
            SetNo(0) => self.set_id.clone(),
            SetNo(number) => format!("{}.{number}", self.set_id),
        }
    }

    /// Takes our sets out. Were there any?
    fn remove_sets(&self, file: &mut ClusterFile) -> bool {
        let before = file.engines.sets.len();
        let ours = |id: &str| id.split('.').next() == Some(self.set_id.as_str());
        file.engines.sets.retain(|id, _| !ours(id));
        file.engines.sets.len() < before
    }

    fn cluster_path(&self) -> PathBuf {
        ClusterFile::path(&self.profile.security_dir(), &self.info.cluster_id)
    }

    fn state_of(&self, started: &Started) -> LauncherState {
        let mut state = LauncherState::running(
            self.profile.location(),
            &self.info.cluster_id,
            started.place.process().map_or(-1, |process| process.pid),
            &started.log,
        );
        if let Some(job) = started.place.job() {
            state.pid = None;
            let id = job.id.clone().into();
            state.unknown.insert("job_id".to_owned(), id);
        }
        state
    }

    /// ipyparallel counts an engine for each process of a set, so the one process that runs all is named for each.
    fn engine_set(&self, started: &Started, count: u32) -> EngineSet {
        let mut state = self.state_of(started);
        if started.place.job().is_some() || self.launchers.engines == "mpi" {
            state.n = Some(count);
            return EngineSet {
                state,
                engines: None,
            };
        }
        let engines = (0..count).map(|_| state.clone());
        EngineSet::local(self.profile.location(), &self.info.cluster_id, engines)
    }
}

/// The class with which ipyparallel is to look at what was started. What it would do over ssh is done by processes of this
/// machine, which its local launcher can look after.
fn class_of(launcher: &str) -> &str {
    if matches!(launcher, "ssh" | "sshproxy") {
        "local"
    } else {
        launcher
    }
}

/// The command that stops this cluster.
pub fn stop_command(profile: &ProfileDir, cluster_id: &ClusterId) -> String {
    let of_profile = match profile.name() {
        Some("default") => String::new(),
        Some(name) => format!(" --profile={name}"),
        None => format!(" --profile-dir={}", profile.location().display()),
    };
    let of_id = if cluster_id.0.is_empty() {
        String::new()
    } else {
        format!(" --cluster-id={}", cluster_id.0)
    };
    format!("ipcluster stop{of_profile}{of_id}")
}

/// Controllers and engines whose supervisor was killed are about to end; those that do not are ended.
fn end_orphans(found: &Found) {
    let orphans: Vec<ProcessRef> = found
        .runs
        .iter()
        .filter(|(_, run)| !run.supervisor.as_ref().is_some_and(ProcessRef::is_alive))
        .flat_map(|(_, run)| run.alive())
        .cloned()
        .collect();
    let left = wait_until_gone(&orphans, DYING);
    for process in &left {
        tracing::warn!("process {process} of an earlier cluster does not end: killing it");
        let _ = process.signal(nix::sys::signal::Signal::SIGKILL);
    }
    wait_until_gone(&left, DYING);
}

/// Jobs whose supervisor was killed have engines of a controller that is gone.
fn end_orphaned_jobs(found: &Found) -> Result<(), ClaimError> {
    let orphans = found.orphaned_jobs();
    for job in &orphans {
        tracing::warn!("{job} of an earlier cluster is still there: cancelling it");
    }
    end_jobs(&orphans).map_err(ClaimError::Job)
}
