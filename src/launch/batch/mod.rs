//! Jobs of batch systems: Slurm, PBS, Grid Engine, LSF and HTCondor, through their commands.
//!
//! | file | what it does |
//! |---|---|
//! | `system` \[p\] | what each system's commands and directives are |
//! | `template` \[p\] | fills in `{n}`, `{n//4}` |
//! | `script` \[p\] | settings, and the script that is made of them |
//! | `status` \[p\] | understands what the systems say of a job |
//! | `life` | one job, from its script to its end |
//! | `job` \[p\] | when a job is looked at, and what of its state is news |
//! | `command` | runs the commands |
//!
//! A job runs the engines' program once for each engine, or a controller, whose connection files are waited for. Engines
//! find the controller through the connection file in the profile's folder: what is in a job's environment, others can
//! ask the batch system for.

pub mod command;
pub mod job;
mod life;
pub mod script;
pub mod status;
pub mod system;
pub mod template;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use thiserror::Error;
use tokio::sync::mpsc::{self, UnboundedSender};

use super::arrival::{Arrival, AwaitedFiles};
use super::supervisor::{Member, SetNo};
use super::{Job, LaunchEvent, Launcher};
use crate::os::files::FileError;
use crate::os::log;
use crate::profile::cluster_file::JobRef;
use crate::profile::{ConnectionFiles, ProfileDir};
use crate::protocol::ClusterId;
use command::{CommandError, run};
use job::JobWatch;
use life::{ENDING, Life, Wish};
use script::{Script, ScriptError, Settings};
use status::JobState;
use system::System;

#[derive(Debug, Error)]
pub enum BatchError {
    #[error(transparent)]
    Script(#[from] ScriptError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{system} has refused the script {}: {said}", script.display())]
    Refused {
        system: &'static str,
        script: PathBuf,
        said: String,
    },
}

pub struct BatchLauncher {
    settings: Settings,
    cluster: Where,
    events: UnboundedSender<LaunchEvent>,
    jobs: HashMap<Member, UnboundedSender<Wish>>,
}

/// The cluster that jobs belong to.
#[derive(Clone, Debug)]
pub struct Where {
    pub profile: ProfileDir,
    pub cluster_id: ClusterId,
}

impl Where {
    /// The fields of a script that say where the cluster is.
    fn place(&self, member: Member, name: &str) -> script::Place {
        // Several sets have a log each.
        let name = match member {
            Member::Engines(SetNo(number)) if number > 0 => format!("{name}{number}"),
            _ => name.to_owned(),
        };
        let file = log::file_name(&name, &self.cluster_id.0, std::process::id());
        let text = |path: &Path| path.to_string_lossy().into_owned();
        script::Place {
            cluster_id: self.cluster_id.0.clone(),
            profile_dir: text(self.profile.location()),
            output: text(&self.profile.log_dir().join(file)),
        }
    }
}

impl BatchLauncher {
    pub fn new(settings: Settings, cluster: Where, events: UnboundedSender<LaunchEvent>) -> Self {
        Self {
            settings,
            cluster,
            events,
            jobs: HashMap::new(),
        }
    }
}

impl Launcher for BatchLauncher {
    fn name(&self) -> &'static str {
        self.settings.system.name()
    }

    fn start(&mut self, member: Member, job: Job) {
        let (sender, wishes) = mpsc::unbounded_channel();
        self.jobs.insert(member, sender);
        let arrival = (member == Member::Controller).then(|| {
            let files = AwaitedFiles {
                files: ConnectionFiles::paths(
                    &self.cluster.profile.security_dir(),
                    &self.cluster.cluster_id,
                ),
                within: self.settings.connection_info_timeout,
            };
            Arrival::expect(&files, self.settings.launcher())
        });
        let life = Life {
            arrival,
            settings: self.settings.clone(),
            cluster: self.cluster.clone(),
            member,
            events: self.events.clone(),
        };
        tokio::spawn(life.run(job, wishes));
    }

    fn signal(&mut self, member: Member, signal: i32) {
        if let Some(job) = self.jobs.get(&member) {
            // One that has ended hears nothing.
            let _ = job.send(Wish::Signal(signal));
        }
    }

    fn look(&mut self) {
        for job in self.jobs.values() {
            let _ = job.send(Wish::Look);
        }
    }
}

/// The script of a job, as it would be submitted.
pub fn script(
    settings: &Settings,
    cluster: &Where,
    member: Member,
    job: &Job,
) -> Result<Script, BatchError> {
    Ok(settings.script(job, &cluster.place(member, job.name))?)
}

/// What becomes of a job; an error when the batch system cannot be asked.
pub async fn state(job: &JobRef) -> Result<JobState, String> {
    let system = System::named(&job.launcher)
        .ok_or_else(|| format!("{:?} is no batch system that is known", job.launcher))?;
    let command = match &job.status_command {
        Some(command) => command.iter().chain([&job.id]).cloned().collect(),
        None => system.status_command(&job.id),
    };
    let answer = run(&command, &[], None)
        .await
        .map_err(|error| error.to_string())?;
    status::parse(system, &job.id, &answer)
}

/// Ends a job that nobody looks after any more, and waits until the batch system does not have it; an error says why
/// it still does.
pub async fn end(job: &JobRef) -> Result<(), String> {
    if matches!(state(job).await, Ok(JobState::Ended(_))) {
        return Ok(());
    }
    let command: Vec<String> = job
        .delete_command
        .iter()
        .chain([&job.id])
        .cloned()
        .collect();
    let answer = run(&command, &[], None)
        .await
        .map_err(|error| error.to_string())?;
    let mut watch = JobWatch::new(Instant::now());
    let deadline = Instant::now() + ENDING;
    while let Some(next) = watch.next_look() {
        tokio::time::sleep_until(next.into()).await;
        let now = Instant::now();
        match state(job).await {
            Ok(state) => drop(watch.on_state(now, state)),
            Err(why) => drop(watch.on_mute(now, why)),
        }
        watch.hurry(now);
        if now >= deadline {
            return Err(format!(
                "{job} does not end: `{}` said {:?}",
                command.join(" "),
                answer.stderr.trim()
            ));
        }
    }
    Ok(())
}
