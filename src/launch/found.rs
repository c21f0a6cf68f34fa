//! Clusters as their files describe them: ours, and those that ipyparallel's own programs started.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::os::files::remove_unfinished;
use crate::os::lock;
use crate::os::process::{ProcessRef, command, started_at};
use crate::profile::cluster_file::{ClusterFile, ClusterFileError, JobRef, LauncherState, RunFile};
use crate::profile::dir::checked_cluster_id;
use crate::profile::{ClientFile, ConnectionFiles, ProfileDir};
use crate::protocol::ClusterId;

/// What is known of a cluster.
#[derive(Debug)]
pub struct Found {
    pub profile: ProfileDir,
    pub cluster_id: ClusterId,
    pub cluster_path: PathBuf,
    /// Nothing without such a file.
    pub file: Option<Result<ClusterFile, ClusterFileError>>,
    /// What was started by us.
    pub runs: Vec<(PathBuf, RunFile)>,
}

/// A file is written after the processes that it names have started, and clocks differ a little.
const SLACK: Duration = Duration::from_secs(2);

/// A controller's machine answers within this time, or it is not there.
const PROBE: Duration = Duration::from_millis(500);

impl Found {
    /// The cluster with this id; it need not exist.
    pub fn of(profile: &ProfileDir, cluster_id: &ClusterId) -> Self {
        let runs = RunFile::all(&profile.pid_dir());
        Self::among(profile, cluster_id, &runs)
    }

    /// All clusters of a profile of which there are files, and controllers that run by themselves.
    pub fn all(profile: &ProfileDir) -> Vec<Self> {
        let runs = RunFile::all(&profile.pid_dir());
        let named = ClusterFile::all(&profile.security_dir());
        let mut ids: Vec<String> = named
            .iter()
            .filter_map(|path| {
                let stem = path.file_stem()?.to_str()?;
                Some(stem.strip_prefix("cluster-")?.to_owned())
            })
            .chain(runs.iter().map(|(_, run)| run.cluster_id.0.clone()))
            .filter(|id| checked_cluster_id(id).is_ok())
            .collect();
        let locked = ConnectionFiles::locked(&profile.security_dir());
        ids.extend(locked.into_iter().map(|id| id.0));
        ids.sort();
        ids.dedup();
        ids.into_iter()
            .map(|id| Self::among(profile, &ClusterId(id), &runs))
            .filter(|found| found.exists() || found.lone_controller().is_some())
            .collect()
    }

    fn among(profile: &ProfileDir, cluster_id: &ClusterId, runs: &[(PathBuf, RunFile)]) -> Self {
        let cluster_path = ClusterFile::path(&profile.security_dir(), cluster_id);
        let file = match ClusterFile::read(&cluster_path) {
            Err(ClusterFileError::Missing(_)) => None,
            read => Some(read),
        };
        Self {
            profile: profile.clone(),
            cluster_id: cluster_id.clone(),
            cluster_path,
            file,
            runs: runs
                .iter()
                .filter(|(_, run)| run.cluster_id == *cluster_id)
                .cloned()
                .collect(),
        }
    }

    /// Are there any files of it?
    pub fn exists(&self) -> bool {
        self.file.is_some() || !self.runs.is_empty()
    }

    /// Supervisors of ours that live: one of the cluster, and one for each addition of engines.
    pub fn supervisors(&self) -> Vec<ProcessRef> {
        self.runs
            .iter()
            .filter_map(|(_, run)| run.supervisor.clone())
            .filter(ProcessRef::is_alive)
            .collect()
    }

    /// The runs that they look after.
    pub fn supervised(&self) -> impl Iterator<Item = &(PathBuf, RunFile)> {
        let is_alive = |run: &RunFile| run.supervisor.as_ref().is_some_and(ProcessRef::is_alive);
        self.runs.iter().filter(move |(_, run)| is_alive(run))
    }

    /// Jobs of batch systems whose supervisor does not live any more. Whether they do, only the systems know.
    pub fn orphaned_jobs(&self) -> Vec<JobRef> {
        let orphaned = |run: &RunFile| !run.supervisor.as_ref().is_some_and(ProcessRef::is_alive);
        self.runs
            .iter()
            .filter(|(_, run)| orphaned(run))
            .flat_map(|(_, run)| run.jobs.clone())
            .collect()
    }

    /// How long the parts have to end before they are killed.
    pub fn grace(&self) -> Option<Duration> {
        let graces = self.runs.iter().filter_map(|(_, run)| run.grace);
        let longest = graces.fold(None, |longest: Option<f64>, grace| {
            Some(longest.map_or(grace, |longest| longest.max(grace)))
        });
        longest.and_then(|grace| Duration::try_from_secs_f64(grace).ok())
    }

    /// Every process of ours that lives, supervisors included.
    pub fn ours(&self) -> Vec<ProcessRef> {
        self.runs
            .iter()
            .flat_map(|(_, run)| run.alive())
            .cloned()
            .collect()
    }

    /// The living processes of this host that only the cluster file names: ipyparallel started them.
    pub fn theirs(&self) -> Vec<ProcessRef> {
        let Some(Ok(file)) = &self.file else {
            return Vec::new();
        };
        let written = std::fs::metadata(&self.cluster_path).and_then(|found| found.modified());
        let ours: Vec<i32> = self
            .runs
            .iter()
            .flat_map(|(_, run)| run.controller.iter().chain(&run.engines))
            .map(|process| process.pid)
            .collect();
        let mut pids: Vec<i32> = states(file)
            .filter(|state| state.state == "running")
            .filter_map(|state| state.pid)
            .filter(|pid| *pid > 0 && !ours.contains(pid))
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter()
            .filter_map(ProcessRef::of)
            .filter(|process| existed(process.pid, written.as_ref().ok().copied()))
            .collect()
    }

    /// The controller, if it is a process of this host that lives: the cluster's, or one that runs by itself.
    pub fn controller(&self) -> Option<ProcessRef> {
        self.own_controller().or_else(|| self.lone_controller())
    }

    fn own_controller(&self) -> Option<ProcessRef> {
        let ours = self
            .runs
            .iter()
            .filter_map(|(_, run)| run.controller.clone())
            .find(ProcessRef::is_alive);
        ours.or_else(|| {
            let Some(Ok(file)) = &self.file else {
                return None;
            };
            let pid = file.controller.as_ref()?.state.pid?;
            self.theirs().into_iter().find(|process| process.pid == pid)
        })
    }

    /// A controller of this host that belongs to no cluster: it was started by itself, and ends by itself.
    pub fn lone_controller(&self) -> Option<ProcessRef> {
        // Before a supervisor has noted its controller, that one holds the lock already; so does a job, on its node.
        let is_expected = |run: &RunFile| {
            let supervised = run.supervisor.as_ref().is_some_and(ProcessRef::is_alive);
            run.with_controller() && (supervised || !run.jobs.is_empty())
        };
        if self.runs.iter().any(|(_, run)| is_expected(run)) {
            return None;
        }
        // What ipyparallel has started may be a script around the controller, which is another process.
        if self.own_controller().is_some() {
            return None;
        }
        let lock = ConnectionFiles::lock(&self.profile.security_dir(), &self.cluster_id);
        // In a folder that machines share, it may be held on another one: that number is somebody else's here.
        let holder = ProcessRef::of(lock::holder(&lock)?)?;
        let is_controller =
            |argv: &[String]| argv.iter().take(2).any(|word| word.contains("controller"));
        let other = command(holder.pid).is_some_and(|command| !is_controller(&command.argv));
        (!other).then_some(holder)
    }

    /// Does a controller run, or anything else that would have to be stopped?
    pub fn is_running(&self) -> bool {
        self.lives() || !self.orphaned_jobs().is_empty()
    }

    /// The same without jobs that nobody looks after.
    pub fn lives(&self) -> bool {
        !self.ours().is_empty() || !self.theirs().is_empty() || self.runs_elsewhere().is_some()
    }

    /// The launcher of a part that is no process of this host, which the file says to run, and which is not ours.
    pub fn runs_elsewhere(&self) -> Option<&str> {
        if self.runs.iter().any(|(_, run)| !run.jobs.is_empty()) {
            return None;
        }
        let Some(Ok(file)) = &self.file else {
            return None;
        };
        let elsewhere = |state: &LauncherState| {
            state.state == "running" && state.pid.is_none_or(|pid| pid <= 0)
        };
        if let Some(controller) = &file.controller
            && elsewhere(&controller.state)
        {
            return Some(&controller.class);
        }
        file.engines
            .sets
            .values()
            .any(|set| match &set.engines {
                Some(engines) => engines.values().any(elsewhere),
                None => elsewhere(&set.state),
            })
            .then_some(file.engines.class.as_str())
    }

    /// The cluster file without what has ended, as ipyparallel would write it now; nothing when nothing is left.
    pub fn living(&self) -> Option<ClusterFile> {
        let Some(Ok(file)) = &self.file else {
            return None;
        };
        let mut file = file.clone();
        let alive: Vec<i32> = self
            .ours()
            .iter()
            .chain(&self.theirs())
            .map(|process| process.pid)
            .collect();
        let lives = |state: &LauncherState| {
            state.state == "running" && state.pid.is_none_or(|pid| pid <= 0 || alive.contains(&pid))
        };
        file.controller = file
            .controller
            .filter(|controller| lives(&controller.state));
        file.engines.sets.retain(|_, set| {
            let Some(engines) = &mut set.engines else {
                return lives(&set.state);
            };
            engines.retain(|_, engine| lives(engine));
            set.state.n = u32::try_from(engines.len()).ok();
            !engines.is_empty()
        });
        (file.controller.is_some() || !file.engines.sets.is_empty()).then_some(file)
    }

    /// Does anybody listen where the connection file says? There are controllers without a cluster.
    pub fn controller_listens(&self) -> bool {
        let paths = ConnectionFiles::paths(&self.profile.security_dir(), &self.cluster_id);
        let Ok(file) = ClientFile::read(&paths.client) else {
            return false;
        };
        let file = file.connectable();
        let Some((_, address)) = file.interface.split_once("://") else {
            return false;
        };
        let addresses = (address.trim_matches(['[', ']']), file.registration).to_socket_addrs();
        addresses
            .into_iter()
            .flatten()
            .any(|address| TcpStream::connect_timeout(&address, PROBE).is_ok())
    }

    /// Where its controller writes down which engines there are.
    pub(super) fn engine_state_path(&self) -> PathBuf {
        let name = format!("engines{}.json", self.cluster_id);
        self.profile.log_dir().join(name)
    }

    /// Removes the files of a cluster of which nothing runs; connection files only if no controller uses them, and
    /// those that are kept to be used again only if `all`. Returns which.
    pub fn remove_files(&self, all: bool) -> Vec<PathBuf> {
        let security = self.profile.security_dir();
        let mut paths: Vec<PathBuf> = self.runs.iter().map(|(path, _)| path.clone()).collect();
        paths.extend(
            self.runs
                .iter()
                .map(|(path, _)| RunFile::control_path(path)),
        );
        paths.push(self.cluster_path.clone());
        let connection = ConnectionFiles::paths(&security, &self.cluster_id);
        let ours = self.runs.iter().any(|(_, run)| run.controller.is_some());
        let reused = self.runs.iter().any(|(_, run)| run.reuse);
        if (all || (ours && !reused)) && !self.controller_listens() {
            paths.extend([
                connection.client,
                connection.engine,
                connection.curve_key,
                self.engine_state_path(),
            ]);
        }
        paths.iter().for_each(|path| remove_unfinished(path));
        paths.retain(|path| std::fs::remove_file(path).is_ok());
        lock::remove_stale(&ConnectionFiles::lock(&security, &self.cluster_id));
        paths
    }
}

/// All processes that a cluster file names.
fn states(file: &ClusterFile) -> impl Iterator<Item = &LauncherState> {
    let sets = file.engines.sets.values();
    let engines = sets.flat_map(|set| {
        let members = set.engines.iter().flat_map(|engines| engines.values());
        std::iter::once(&set.state).chain(members)
    });
    let controller = file.controller.iter().map(|controller| &controller.state);
    controller.chain(engines)
}

/// A process that started after the file was written is not the one that the file means.
fn existed(pid: i32, written: Option<SystemTime>) -> bool {
    match (started_at(pid), written) {
        (Some(started), Some(written)) => started <= written + SLACK,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use crate::profile::dir::Lookup;
    use crate::protocol::Timestamp;

    fn profile(folder: &Path) -> ProfileDir {
        let lookup = Lookup {
            profile_dir: Some(folder.join("profile_x")),
            ..Lookup::default()
        };
        ProfileDir::find_or_create(&lookup).unwrap().0
    }

    fn write_cluster(profile: &ProfileDir, id: &str, controller: i32, engines: &[i32]) {
        let state = |pid: i32| format!(r#"{{"pid":{pid},"profile_dir":"/p","state":"running"}}"#);
        let engines: Vec<String> = engines
            .iter()
            .enumerate()
            .map(|(n, pid)| format!(r#""{n}":{}"#, state(*pid)))
            .collect();
        let text = format!(
            r#"{{"cluster":{{"profile_dir":"/p"}},"controller":{{"class":"local","state":{}}},"engines":{{"class":"local","sets":{{"1":{{"n":{},"pid":-1,"profile_dir":"/p","state":"running","engines":{{{}}}}}}}}}}}"#,
            state(controller),
            engines.len(),
            engines.join(",")
        );
        let path = ClusterFile::path(&profile.security_dir(), &ClusterId(id.into()));
        std::fs::write(path, text).unwrap();
    }

    fn run(id: &str, supervisor: ProcessRef, controller: ProcessRef) -> RunFile {
        RunFile {
            version: "0".into(),
            cluster_id: ClusterId(id.into()),
            started: Timestamp::from_micros(0),
            launcher: "local".into(),
            supervisor: Some(supervisor),
            controller: Some(controller),
            tunnel: None,
            joined: false,
            up: true,
            reuse: false,
            engines: Vec::new(),
            jobs: Vec::new(),
            grace: None,
            unknown: serde_json::Map::new(),
        }
    }

    #[test]
    fn what_ended_does_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let profile = profile(folder.path());
        write_cluster(&profile, "", i32::MAX, &[i32::MAX]);
        let found = Found::of(&profile, &ClusterId::default());
        assert!(found.exists() && !found.is_running());
        assert_eq!(found.living(), None);
        assert_eq!(
            found.remove_files(false),
            std::slice::from_ref(&found.cluster_path)
        );
        assert!(!Found::of(&profile, &ClusterId::default()).exists());
    }

    #[test]
    fn a_living_pid_of_an_unknown_starter_is_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let profile = profile(folder.path());
        let this = ProcessRef::current();
        write_cluster(&profile, "a", i32::MAX, &[this.pid, i32::MAX, this.pid]);
        let found = Found::all(&profile).pop().unwrap();
        assert_eq!(found.cluster_id.0, "a");
        assert_eq!(found.theirs(), std::slice::from_ref(&this));
        assert!(found.is_running());
        let living = found.living().unwrap();
        assert!(living.controller.is_none());
        assert_eq!(living.engines.sets["1"].state.n, Some(2));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pid_that_was_used_again_is_not_theirs() {
        let folder = tempfile::tempdir().unwrap();
        let profile = profile(folder.path());
        write_cluster(&profile, "", std::process::id().cast_signed(), &[]);
        let path = ClusterFile::path(&profile.security_dir(), &ClusterId::default());
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1))
            .unwrap();
        assert!(!Found::of(&profile, &ClusterId::default()).is_running());
    }

    #[test]
    fn our_own_start_times_are_believed_before_pids() {
        let folder = tempfile::tempdir().unwrap();
        let profile = profile(folder.path());
        let pid = std::process::id().cast_signed();
        write_cluster(&profile, "", pid, &[]);
        let stale = run("", ProcessRef::gone(pid), ProcessRef::gone(pid));
        stale
            .write(&RunFile::path(&profile.pid_dir(), &ClusterId::default()))
            .unwrap();
        assert!(!Found::of(&profile, &ClusterId::default()).is_running());
        let this = ProcessRef::current();
        let living = run("b", this.clone(), ProcessRef::gone(pid));
        let id = ClusterId("b".into());
        living
            .write(&RunFile::path(&profile.pid_dir(), &id))
            .unwrap();
        let found = Found::of(&profile, &id);
        assert_eq!(found.supervisors(), std::slice::from_ref(&this));
        assert_eq!(found.ours(), [this]);
        assert_eq!(Found::all(&profile).len(), 2);
    }
}
