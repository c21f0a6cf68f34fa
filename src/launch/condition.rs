//! What can be said of a cluster from its files and this machine's processes alone, without asking its hub.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::found::Found;
use crate::os::ProcessRef;
use crate::os::process::started_at;

/// How a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Not all engines of its start are registered yet.
    Starting,
    Running,
    /// A controller runs by itself, without a cluster around it.
    ControllerAlone,
    /// Engines, a supervisor or jobs of a batch system are there, and no controller.
    ControllerLost,
    /// Nothing of it runs: its files were left behind.
    Stale,
    /// It runs, and its profile's folder is gone: nobody can connect any more.
    ProfileDeleted,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not `write_str`, which would leave the width out.
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::ControllerAlone => "controller alone",
            Self::ControllerLost => "controller lost",
            Self::Stale => "stale",
            Self::ProfileDeleted => "profile deleted",
        })
    }
}

/// A file's time is written a little before or after what it tells of.
const SLACK: Duration = Duration::from_secs(2);

impl Found {
    pub fn condition(&self) -> Condition {
        if !self.is_running() {
            return match self.lone_controller() {
                Some(_) => Condition::ControllerAlone,
                None => Condition::Stale,
            };
        }
        let controller = match &self.file {
            // One elsewhere cannot be looked at: it is believed.
            Some(Ok(_)) => {
                self.living().is_some_and(|file| file.controller.is_some())
                    || self.lone_controller().is_some()
            }
            // Engines may have joined a controller that nobody's cluster file names.
            _ => self.controller().is_some() || self.controller_listens(),
        };
        let of_ours = self.runs.iter().find(|(_, run)| run.with_controller());
        let starts = of_ours.is_some_and(|(_, run)| {
            !run.up && run.supervisor.as_ref().is_some_and(ProcessRef::is_alive)
        });
        match (starts, controller) {
            (true, _) => Condition::Starting,
            (false, true) => Condition::Running,
            (false, false) => Condition::ControllerLost,
        }
    }

    /// Engines that are registered, as the controller writes them down for `--restore`; as many as run according to the
    /// cluster file where it does not.
    pub fn living_engines(&self) -> u64 {
        let of_file = || {
            let sets = self.living().map(|file| file.engines.sets);
            let sets = sets.iter().flat_map(|sets| sets.values());
            sets.filter_map(|set| set.state.n).map(u64::from).sum()
        };
        let Some(controller) = self.controller() else {
            return of_file();
        };
        let path = self.engine_state_path();
        let written = fs::metadata(&path).and_then(|found| found.modified());
        let is_its_own = match (written, started_at(controller.pid)) {
            (Ok(written), Some(started)) => written + SLACK >= started,
            (Ok(_), None) => true,
            (Err(_), _) => false,
        };
        let text = is_its_own.then(|| fs::read_to_string(&path).ok()).flatten();
        let engines = text.and_then(|text| {
            let document: Value = serde_json::from_str(&text).ok()?;
            Some(document["engines"].as_object()?.len() as u64)
        });
        engines.unwrap_or_else(of_file)
    }

    /// When it was started; the time of its file where nothing else says so.
    pub fn started(&self) -> Option<SystemTime> {
        let ours = self.runs.iter().find(|(_, run)| run.with_controller());
        let ours = ours.and_then(|(_, run)| {
            let micros = u64::try_from(run.started.as_micros()).ok()?;
            UNIX_EPOCH.checked_add(Duration::from_micros(micros))
        });
        let of_controller = || started_at(self.controller()?.pid);
        let of_file = || fs::metadata(&self.cluster_path).ok()?.modified().ok();
        ours.or_else(of_controller).or_else(of_file)
    }

    /// The process to look at: the supervisor, else the controller.
    pub fn main_process(&self) -> Option<ProcessRef> {
        let of_cluster = self
            .runs
            .iter()
            .filter(|(_, run)| run.with_controller())
            .filter_map(|(_, run)| run.supervisor.clone())
            .find(ProcessRef::is_alive);
        of_cluster.or_else(|| self.controller())
    }
}
