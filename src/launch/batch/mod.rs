//! Jobs of batch systems: Slurm, PBS, Grid Engine, LSF and HTCondor, through their commands.
//!
//! | file | what it does |
//! |---|---|
//! | `system` \[p\] | what each system's commands and directives are |
//! | `template` \[p\] | fills in `{n}`, `{n//4}` |
//! | `script` \[p\] | settings, and the script that is made of them |
//! | `status` \[p\] | understands what the systems say of a job |
//! | `job` \[p\] | when a job is looked at, and what of its state is news |
//! | `command` | runs the commands |
//!
//! A job runs the engines' program once for each engine, or a controller, whose connection files are waited for. Engines
//! find the controller through the connection file in the profile's folder: what is in a job's environment, others can
//! ask the batch system for.

pub mod command;
pub mod job;
pub mod script;
pub mod status;
pub mod system;
pub mod template;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::arrival::Arrival;
use super::supervisor::{JobEnd, Member, SetNo, Status};
use super::{Job, LaunchError, LaunchEvent, Launcher, News, Place, Started};
use crate::os::files::{self, FileError};
use crate::os::log;
use crate::profile::cluster_file::JobRef;
use crate::profile::{ConnectionFiles, ProfileDir};
use crate::protocol::ClusterId;
use command::{CommandError, run};
use job::{JobNews, JobWatch};
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

/// A job that was told to end is given up after this time: the batch system does not answer, or cannot end it.
const ENDING: Duration = Duration::from_secs(60);

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

enum Wish {
    Signal(i32),
    Look,
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
        let files = ConnectionFiles::paths(
            &self.cluster.profile.security_dir(),
            &self.cluster.cluster_id,
        );
        let life = Life {
            arrival: (member == Member::Controller).then(|| Arrival::expect(&files)),
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

/// One job, from its script to its end.
struct Life {
    settings: Settings,
    cluster: Where,
    member: Member,
    events: UnboundedSender<LaunchEvent>,
    /// The files of a controller that is not ready yet.
    arrival: Option<Arrival>,
}

impl Life {
    async fn run(mut self, job: Job, wishes: UnboundedReceiver<Wish>) {
        match self.submit(&job).await {
            Ok(started) => {
                let job = started.place.job().expect("a job was submitted").clone();
                self.tell(LaunchEvent::Started(self.member, started));
                let end = self.watch(&job, wishes).await;
                self.tell(LaunchEvent::Exited(self.member, Status::Job(end)));
            }
            Err(error) => {
                let error = LaunchError::Batch(error);
                self.tell(LaunchEvent::NotStarted(self.member, error));
            }
        }
    }

    fn tell(&self, event: LaunchEvent) {
        // Nobody hears it when this process is about to end.
        let _ = self.events.send(event);
    }

    fn warn(&self, text: String) {
        self.tell(LaunchEvent::Said(self.member, News::Warning(text)));
    }

    async fn submit(&self, job: &Job) -> Result<Started, BatchError> {
        let settings = &self.settings;
        let script = script(settings, &self.cluster, self.member, job)?;
        let path = self
            .cluster
            .profile
            .log_dir()
            .join(&settings.batch_file_name);
        files::write_private(&path, script.text.as_bytes())?;
        tracing::debug!("the script {}:\n{}", path.display(), script.text);
        let mut command = settings.submit_command.clone();
        let input = if settings.system.submits_by_input() {
            Some(script.text)
        } else {
            command.push(path.to_string_lossy().into_owned());
            None
        };
        let mut environment = job.environment.clone();
        let needed = settings.system.environment().iter();
        environment.extend(needed.map(|(name, value)| (name.into(), value.into())));
        // Where the system writes into the file itself, the job rotates it.
        let logs = self.cluster.profile.log_dir();
        environment.push((log::ROTATED_VARIABLE.into(), logs.into()));
        let answer = run(&command, &environment, input.as_deref()).await?;
        if !answer.succeeded {
            let said = [answer.stderr.trim(), answer.stdout.trim()];
            return Err(BatchError::Refused {
                system: settings.system.title(),
                script: path,
                said: said.join(" ").trim().to_owned(),
            });
        }
        let id = settings.job_id(&answer.stdout)?;
        Ok(Started {
            place: Place::Job(JobRef {
                launcher: settings.system.name().to_owned(),
                id,
                delete_command: settings.delete_command.clone(),
                status_command: settings.status_command.clone(),
            }),
            log: PathBuf::from(script.output),
        })
    }

    async fn watch(&mut self, job: &JobRef, mut wishes: UnboundedReceiver<Wish>) -> JobEnd {
        let mut watch = JobWatch::new(Instant::now());
        let mut give_up: Option<Instant> = None;
        // In which a controller that runs has to be ready.
        let mut ready_by: Option<Instant> = None;
        while let Some(next) = watch.next_look() {
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {
                    let state = state(job).await;
                    let now = Instant::now();
                    let news = match state {
                        Ok(state) => watch.on_state(now, state),
                        Err(why) => watch.on_mute(now, why),
                    };
                    if give_up.is_some() {
                        watch.hurry(now);
                    }
                    match &news {
                        Some(JobNews::Runs(_)) => if let Some(arrival) = &mut self.arrival {
                            arrival.hurry();
                            ready_by = self.settings.connection_info_timeout.and_then(|limit| now.checked_add(limit));
                        }
                        // No engine has been started.
                        Some(JobNews::Requeued(_)) if self.arrival.is_some() => {
                            self.arrival.iter_mut().for_each(Arrival::begin_anew);
                            ready_by = None;
                        }
                        Some(JobNews::Requeued(_)) if self.member == Member::Controller => {
                            self.warn(format!("{job} is taken back: a controller that begins anew knows no engines"));
                            give_up.get_or_insert(now + ENDING);
                            watch.hurry(now);
                            self.order(&job.delete_command, &[&job.id]).await;
                        }
                        _ => {}
                    }
                    if let Some(end) = news.and_then(|news| self.pass_on(job, news)) {
                        return end;
                    }
                    if give_up.is_some_and(|at| at <= now) {
                        self.warn(format!(
                            "{job} was told to end, but {} still has it: look after it with `{} {}`",
                            self.settings.system.title(),
                            job.delete_command.join(" "),
                            job.id
                        ));
                        return JobEnd::Cancelled;
                    }
                }
                () = come(self.arrival.as_mut()) => {
                    (self.arrival, ready_by) = (None, None);
                    self.tell(LaunchEvent::Said(self.member, News::Ready));
                }
                () = until(ready_by) => {
                    ready_by = None;
                    self.tell(LaunchEvent::NotReached(self.not_ready(job)));
                }
                Some(wish) = wishes.recv() => {
                    watch.hurry(Instant::now());
                    if let Wish::Signal(signal) = wish {
                        let ends = matches!(Signal::try_from(signal), Ok(Signal::SIGTERM | Signal::SIGKILL));
                        if ends {
                            give_up.get_or_insert_with(|| Instant::now() + ENDING);
                            self.order(&job.delete_command, &[&job.id]).await;
                        } else if self.settings.signal_command.is_empty() {
                            self.warn(format!(
                                "{} has no command for signals to jobs: signal {signal} is not passed on",
                                self.settings.system.title()
                            ));
                        } else {
                            self.order(&self.settings.signal_command, &[&signal.to_string(), &job.id]).await;
                        }
                    }
                }
            }
        }
        JobEnd::Gone
    }

    fn not_ready(&self, job: &JobRef) -> String {
        let path = self.arrival.as_ref().map(Arrival::path);
        let seconds = self.settings.connection_info_timeout.unwrap_or_default();
        format!(
            "{job} runs, but the controller's connection file {} is not there after {:.0} s: the profile's folder has to be on \
             a file system that the nodes share; {}.connection_info_timeout allows more time",
            path.map(|path| path.display().to_string())
                .unwrap_or_default(),
            seconds.as_secs_f64(),
            self.settings.launcher()
        )
    }

    /// Tells what has become of the job; its end is returned.
    fn pass_on(&self, job: &JobRef, news: JobNews) -> Option<JobEnd> {
        match news {
            JobNews::Queued(why) => self.tell(LaunchEvent::Queued(self.member, why)),
            JobNews::Requeued(why) => {
                self.warn(format!(
                    "{job} was stopped by {} and put back into the queue ({why})",
                    self.settings.system.title()
                ));
                self.tell(LaunchEvent::Queued(self.member, why));
            }
            JobNews::Runs(place) => {
                let place = if place.is_empty() {
                    job.to_string()
                } else {
                    format!("{place} ({job})")
                };
                self.tell(LaunchEvent::Runs(self.member, place));
            }
            JobNews::Mute(why) => self.warn(format!(
                "what becomes of {job} cannot be learned at the moment: {why}"
            )),
            JobNews::Ended(end) => return Some(end),
        }
        None
    }

    /// What it cannot do shows when the job goes on.
    async fn order(&self, command: &[String], arguments: &[&str]) {
        let whole: Vec<String> = command
            .iter()
            .map(String::as_str)
            .chain(arguments.iter().copied())
            .map(str::to_owned)
            .collect();
        let said = match run(&whole, &[], None).await {
            Ok(answer) if answer.succeeded => return,
            Ok(answer) => answer.stderr.trim().to_owned(),
            Err(error) => error.to_string(),
        };
        self.warn(format!("`{}` has failed: {said}", whole.join(" ")));
    }
}

/// Resolves when the files of a controller are there that is to write some.
async fn come(arrival: Option<&mut Arrival>) {
    match arrival {
        Some(arrival) => arrival.wait().await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
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
