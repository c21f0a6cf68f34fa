//! Cluster files: what a cluster consists of, as ipyparallel's `Cluster.to_dict` writes it, so that its `ipcluster
//! list`, `Cluster.from_file` and what builds on them see our clusters and we see theirs.
//!
//! ipyparallel compares what it read with what it would write, and writes the file anew, without keys that it does not
//! know, when they differ. So the cluster file holds nothing of our own, and our own goes into a [`RunFile`] beside the
//! profile's pids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::os::files::{self, FileError};
use crate::os::process::{ProcessRef, is_pid_alive};
use crate::protocol::{ClusterId, Timestamp};

/// `security/cluster-[ID].json`. The order of the fields is ipyparallel's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterFile {
    pub cluster: ClusterInfo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ControllerEntry>,
    #[serde(default)]
    pub engines: EnginesEntry,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterInfo {
    #[serde(default)]
    pub cluster_id: ClusterId,
    #[serde(default)]
    pub controller_args: Vec<String>,
    #[serde(default)]
    pub controller_ip: String,
    #[serde(default)]
    pub controller_location: String,
    /// Seconds between the controller's start and that of the engines.
    #[serde(default)]
    pub delay: f64,
    /// Engines to start; all CPUs when absent.
    #[serde(default)]
    pub n: Option<u32>,
    pub profile_dir: PathBuf,
    #[serde(default = "cluster_class")]
    pub class: String,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// ipyparallel's own class.
pub fn cluster_class() -> String {
    "ipyparallel.cluster.cluster.Cluster".to_owned()
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControllerEntry {
    /// The launcher: `local`, `ssh`, `mpi`, `slurm` …, or the full name of a class.
    pub class: String,
    pub state: LauncherState,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnginesEntry {
    #[serde(default = "local")]
    pub class: String,
    #[serde(default)]
    pub sets: BTreeMap<String, EngineSet>,
}

impl Default for EnginesEntry {
    fn default() -> Self {
        Self {
            class: local(),
            sets: BTreeMap::new(),
        }
    }
}

fn local() -> String {
    "local".to_owned()
}

/// `Launcher.to_dict`. Launchers of batch systems add keys of theirs, which are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LauncherState {
    #[serde(default)]
    pub cluster_id: ClusterId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_file: Option<PathBuf>,
    /// -1 for what is no process of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    pub profile_dir: PathBuf,
    /// `before`, `running` or `after`.
    pub state: String,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl LauncherState {
    /// A process that runs on this host.
    pub fn running(
        profile_dir: &Path,
        cluster_id: &ClusterId,
        pid: i32,
        output_file: &Path,
    ) -> Self {
        Self {
            cluster_id: cluster_id.clone(),
            n: None,
            output_file: Some(output_file.to_owned()),
            pid: Some(pid),
            profile_dir: profile_dir.to_owned(),
            state: "running".to_owned(),
            unknown: Map::new(),
        }
    }

    /// Says the file that it runs, and does its pid, if it has one on this host, exist?
    pub fn is_running(&self) -> bool {
        self.state == "running" && self.pid.is_none_or(|pid| pid <= 0 || is_pid_alive(pid))
    }
}

/// A set of engines that were started together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineSet {
    #[serde(flatten)]
    pub state: LauncherState,
    /// The processes of a local or ssh set, by their number in the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engines: Option<BTreeMap<String, LauncherState>>,
}

impl EngineSet {
    /// A set of processes on this host, numbered in the order given. ipyparallel counts each as one engine, so a process
    /// that serves several kernels is to be given once for each.
    pub fn local(
        profile_dir: &Path,
        cluster_id: &ClusterId,
        engines: impl IntoIterator<Item = LauncherState>,
    ) -> Self {
        let engines: BTreeMap<String, LauncherState> = engines
            .into_iter()
            .enumerate()
            .map(|(number, engine)| {
                (
                    number.to_string(),
                    LauncherState {
                        n: Some(1),
                        ..engine
                    },
                )
            })
            .collect();
        let count = u32::try_from(engines.len()).unwrap_or(u32::MAX);
        let mut state = LauncherState::running(profile_dir, cluster_id, -1, Path::new(""));
        state.n = Some(count);
        state.output_file = None;
        Self {
            state,
            engines: Some(engines),
        }
    }

    /// How many of its engines run, as far as this host can tell.
    pub fn running(&self) -> usize {
        match &self.engines {
            Some(engines) => engines
                .values()
                .filter(|engine| engine.is_running())
                .count(),
            None if self.state.is_running() => self
                .state
                .n
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(0),
            None => 0,
        }
    }
}

impl ClusterFile {
    /// Where a cluster's file is: `cluster-.json` for the empty id.
    pub fn path(security_folder: &Path, cluster_id: &ClusterId) -> PathBuf {
        security_folder.join(format!("cluster-{cluster_id}.json"))
    }

    /// All cluster files of a profile, in the order of their names.
    pub fn all(security_folder: &Path) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = std::fs::read_dir(security_folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with("cluster-") && name.ends_with(".json"))
            })
            .collect();
        found.sort();
        found
    }

    pub fn read(path: &Path) -> Result<Self, ClusterFileError> {
        read(path)
    }

    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        write(path, self)
    }

    /// Runs anything of it, as far as this host can tell?
    pub fn is_running(&self) -> bool {
        let controller = self.controller.as_ref();
        controller.is_some_and(|controller| controller.state.is_running())
            || self.engines.sets.values().any(|set| set.running() > 0)
    }
}

/// The processes that were started together by us, with their start times: `pid/ipcluster[-ID].json` for a cluster,
/// `pid/ipengines-PID.json` for engines that were added by the process PID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFile {
    /// Of the program that wrote it.
    pub version: String,
    #[serde(default)]
    pub cluster_id: ClusterId,
    pub started: Timestamp,
    pub launcher: String,
    /// `ipcluster start` or `engines`, which stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<ProcessRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<ProcessRef>,
    /// Leads ports of this host to a controller elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<ProcessRef>,
    /// It is of engines that joined a controller, not of a cluster with its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// Everything that was asked for has been there.
    #[serde(default)]
    pub up: bool,
    /// The controller's connection files outlive it (`--reuse`).
    #[serde(default)]
    pub reuse: bool,
    /// One for each engine process of this host, which may serve several kernels.
    #[serde(default)]
    pub engines: Vec<ProcessRef>,
    /// Of batch systems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobRef>,
    /// Seconds that the parts have to end before they are killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<f64>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A job of a batch system, and how to end it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobRef {
    /// `slurm`, `pbs` …
    pub launcher: String,
    pub id: String,
    /// Without the id.
    pub delete_command: Vec<String>,
    /// Without the id, if it is not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_command: Option<Vec<String>>,
}

impl std::fmt::Display for JobRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} job {}", self.launcher, self.id)
    }
}

impl RunFile {
    pub fn path(pid_folder: &Path, cluster_id: &ClusterId) -> PathBuf {
        pid_folder.join(format!("{}.json", cluster_id.suffixed("ipcluster")))
    }

    /// For engines that the process `pid` adds.
    pub fn path_of_engines(pid_folder: &Path, pid: u32) -> PathBuf {
        pid_folder.join(format!("ipengines-{pid}.json"))
    }

    /// The socket of the process that keeps the file at `run_path`.
    pub fn control_path(run_path: &Path) -> PathBuf {
        run_path.with_extension("sock")
    }

    /// All such files of a profile that can be read, in the order of their names.
    pub fn all(pid_folder: &Path) -> Vec<(PathBuf, Self)> {
        let mut found: Vec<(PathBuf, Self)> = std::fs::read_dir(pid_folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| {
                    (name.starts_with("ipcluster") || name.starts_with("ipengines-"))
                        && name.ends_with(".json")
                })
            })
            .filter_map(|path| {
                let run = Self::read(&path).ok()??;
                Some((path, run))
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Nothing if there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>, ClusterFileError> {
        match read(path) {
            Ok(found) => Ok(Some(found)),
            Err(ClusterFileError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        write(path, self)
    }

    /// Is it a whole cluster's?
    pub fn with_controller(&self) -> bool {
        !self.joined
    }

    /// Those of its processes that are still there, and still the same.
    pub fn alive(&self) -> Vec<&ProcessRef> {
        let one = self.supervisor.iter().chain(&self.controller);
        one.chain(&self.tunnel)
            .chain(&self.engines)
            .filter(|process| process.is_alive())
            .collect()
    }
}

#[derive(Debug, Error)]
pub enum ClusterFileError {
    #[error("there is no cluster file {}: no such cluster was started, or it was stopped", .0.display())]
    Missing(PathBuf),
    #[error(transparent)]
    Unreadable(FileError),
    #[error("{} is no cluster file: {reason}; remove it with `ipcluster clean` when the cluster has stopped", path.display())]
    Malformed { path: PathBuf, reason: String },
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ClusterFileError> {
    let malformed = |reason: String| ClusterFileError::Malformed {
        path: path.to_owned(),
        reason,
    };
    let text = files::read_text(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ClusterFileError::Missing(path.to_owned()),
        std::io::ErrorKind::InvalidData => malformed("it is not text".to_owned()),
        _ => ClusterFileError::Unreadable(error),
    })?;
    serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))
}

fn write(path: &Path, document: &impl Serialize) -> Result<(), FileError> {
    let text = serde_json::to_string(document).expect("a cluster file has text keys only");
    files::write_private(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ipyparallel 9.2 writes it.
    const THEIRS: &str = include_str!("../../tests/data/cluster.json");

    #[test]
    fn theirs_is_read_and_written_to_the_letter() {
        let file: ClusterFile = serde_json::from_str(THEIRS).unwrap();
        assert_eq!(serde_json::to_string(&file).unwrap(), THEIRS);
        assert!(file.is_running(), "the controller's pid is alive");
        assert_eq!(file.engines.sets["1795294755"].running(), 0);
    }

    #[test]
    fn ours_has_the_same_form() {
        let (profile, id) = (Path::new("/p"), ClusterId::default());
        let engine = LauncherState::running(
            profile,
            &id,
            i32::MAX,
            Path::new("/p/log/ipengine--1795294755-0.log"),
        );
        let controller =
            LauncherState::running(profile, &id, 1, Path::new("/p/log/ipcontroller-1.log"));
        let file = ClusterFile {
            cluster: ClusterInfo {
                cluster_id: id.clone(),
                controller_args: Vec::new(),
                controller_ip: String::new(),
                controller_location: String::new(),
                delay: 1.0,
                n: Some(2),
                profile_dir: profile.to_owned(),
                class: cluster_class(),
                unknown: Map::new(),
            },
            controller: Some(ControllerEntry {
                class: local(),
                state: controller,
            }),
            engines: EnginesEntry {
                class: local(),
                sets: BTreeMap::from([(
                    "1795294755".to_owned(),
                    EngineSet::local(profile, &id, [engine]),
                )]),
            },
            unknown: Map::new(),
        };
        assert_eq!(serde_json::to_string(&file).unwrap(), THEIRS);
    }

    #[test]
    fn a_batch_system_s_keys_are_kept() {
        let text = r#"{"cluster":{"profile_dir":"/p"},"engines":{"class":"slurm","sets":{"1":{"profile_dir":"/p","state":"running","n":4,"job_id":"17"}}}}"#;
        let file: ClusterFile = serde_json::from_str(text).unwrap();
        let set = &file.engines.sets["1"];
        assert_eq!(set.state.unknown["job_id"], "17");
        assert_eq!(set.running(), 4);
        assert!(
            serde_json::to_string(&file)
                .unwrap()
                .contains("\"job_id\":\"17\"")
        );
    }

    #[test]
    fn files_are_found_and_broken_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let id = ClusterId("x".into());
        let path = ClusterFile::path(folder.path(), &id);
        assert!(matches!(
            ClusterFile::read(&path),
            Err(ClusterFileError::Missing(_))
        ));
        let file: ClusterFile = serde_json::from_str(THEIRS).unwrap();
        file.write(&path).unwrap();
        std::fs::write(folder.path().join("ipcontroller-client.json"), "").unwrap();
        let first = ClusterFile::path(folder.path(), &ClusterId::default());
        std::fs::write(&first, "{").unwrap();
        assert_eq!(
            ClusterFile::all(folder.path()),
            [first.clone(), path.clone()]
        );
        assert_eq!(ClusterFile::read(&path).unwrap(), file);
        let error = ClusterFile::read(&first).unwrap_err();
        assert!(error.to_string().contains("cluster-.json"), "{error}");
    }

    #[test]
    fn a_run_file_knows_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = RunFile::path(folder.path(), &ClusterId::default());
        assert!(RunFile::read(&path).unwrap().is_none());
        let this = ProcessRef::current();
        let gone = ProcessRef {
            pid: i32::MAX,
            ..this.clone()
        };
        let file = RunFile {
            version: "0.1.0".into(),
            cluster_id: ClusterId::default(),
            started: Timestamp::from_micros(0),
            launcher: local(),
            supervisor: None,
            controller: Some(this.clone()),
            tunnel: None,
            joined: false,
            up: true,
            reuse: false,
            engines: vec![gone],
            jobs: vec![JobRef {
                launcher: "slurm".into(),
                id: "7".into(),
                delete_command: vec!["scancel".into()],
                status_command: None,
            }],
            grace: Some(4.0),
            unknown: Map::new(),
        };
        file.write(&path).unwrap();
        let read = RunFile::read(&path).unwrap().unwrap();
        assert_eq!(read, file);
        assert_eq!(read.alive(), [&this]);
        let added = RunFile::path_of_engines(folder.path(), 7);
        file.write(&added).unwrap();
        std::fs::write(folder.path().join("ipcluster-x.json"), "{").unwrap();
        let paths: Vec<PathBuf> = RunFile::all(folder.path())
            .into_iter()
            .map(|found| found.0)
            .collect();
        assert_eq!(paths, [path, added]);
    }
}
