//! One job, from its script to its end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::command::run;
use super::job::{JobNews, JobWatch};
use super::script::Settings;
use super::status::JobState;
use super::{BatchError, Where, script, state};
use crate::launch::arrival::Arrival;
use crate::launch::supervisor::{JobEnd, Member, Status};
use crate::launch::{Job, LaunchError, LaunchEvent, News, Place, Started};
use crate::os::{files, log};
use crate::profile::cluster_file::JobRef;

/// A job that was told to end is given up after this time: the batch system does not answer, or cannot end it.
pub(super) const ENDING: Duration = Duration::from_secs(60);

/// What is wanted of a job.
pub(super) enum Wish {
    Signal(i32),
    /// Something seems to have happened to it.
    Look,
}

pub(super) struct Life {
    pub(super) settings: Settings,
    pub(super) cluster: Where,
    pub(super) member: Member,
    pub(super) events: UnboundedSender<LaunchEvent>,
    /// The files of a controller that is not ready yet.
    pub(super) arrival: Option<Arrival>,
}

impl Life {
    pub(super) async fn run(mut self, job: Job, wishes: UnboundedReceiver<Wish>) {
        match self.submit(&job).await {
            Ok(started) => {
                let job = started.place.job().expect("a job was submitted").clone();
                self.tell(LaunchEvent::Started(self.member, started));
                let watch = Watch {
                    looks: JobWatch::new(Instant::now()),
                    give_up: None,
                    life: &mut self,
                    job: &job,
                };
                let end = watch.run(wishes).await;
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
    async fn order(&self, command: &[String], arguments: &[String]) {
        let whole = [command, arguments].concat();
        let said = match run(&whole, &[], None).await {
            Ok(answer) if answer.succeeded => return,
            Ok(answer) => answer.stderr.trim().to_owned(),
            Err(error) => error.to_string(),
        };
        self.warn(format!("`{}` has failed: {said}", whole.join(" ")));
    }
}

/// A job that was submitted.
struct Watch<'a> {
    life: &'a mut Life,
    job: &'a JobRef,
    looks: JobWatch,
    /// When it was told to end: it has so long.
    give_up: Option<Instant>,
}

impl Watch<'_> {
    async fn run(mut self, mut wishes: UnboundedReceiver<Wish>) -> JobEnd {
        while let Some(next) = self.looks.next_look() {
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {
                    let state = state(self.job).await;
                    if let Some(end) = self.on_look(state).await {
                        return end;
                    }
                }
                arrived = arrive(&mut self.life.arrival) => self.on_arrival(arrived),
                Some(wish) = wishes.recv() => self.on_wish(wish).await,
            }
        }
        JobEnd::Gone
    }

    /// What the batch system says of it; how it ended, if it did.
    async fn on_look(&mut self, state: Result<JobState, String>) -> Option<JobEnd> {
        let now = Instant::now();
        let news = match state {
            Ok(state) => self.looks.on_state(now, state),
            Err(why) => self.looks.on_mute(now, why),
        };
        match (&news, &mut self.life.arrival) {
            (Some(JobNews::Runs(_)), Some(arrival)) => arrival.on_runs(),
            // No engine has been started.
            (Some(JobNews::Requeued(_)), Some(arrival)) => arrival.on_requeued(),
            (Some(JobNews::Requeued(_)), None) if self.life.member == Member::Controller => {
                self.life.warn(format!(
                    "{} is taken back: a controller that begins anew knows no engines",
                    self.job
                ));
                self.end().await;
            }
            _ => {}
        }
        if self.give_up.is_some() {
            self.looks.hurry(now);
        }
        let end = news.and_then(|news| self.life.pass_on(self.job, news));
        if end.is_none() && self.give_up.is_some_and(|at| at <= now) {
            self.life.warn(format!(
                "{} was told to end, but {} still has it: look after it with `{} {}`",
                self.job,
                self.life.settings.system.title(),
                self.job.delete_command.join(" "),
                self.job.id
            ));
            return Some(JobEnd::Cancelled);
        }
        end
    }

    /// The files of a controller are there, or late.
    fn on_arrival(&mut self, arrived: Result<(), String>) {
        let event = match arrived {
            Ok(()) => {
                self.life.arrival = None;
                LaunchEvent::Said(self.life.member, News::Ready)
            }
            Err(why) => LaunchEvent::NotReached(why),
        };
        self.life.tell(event);
    }

    async fn on_wish(&mut self, wish: Wish) {
        self.looks.hurry(Instant::now());
        let Wish::Signal(signal) = wish else {
            return;
        };
        let settings = &self.life.settings;
        if matches!(
            Signal::try_from(signal),
            Ok(Signal::SIGTERM | Signal::SIGKILL)
        ) {
            self.end().await;
        } else if settings.signal_command.is_empty() {
            self.life.warn(format!(
                "{} has no command for signals to jobs: signal {signal} is not passed on",
                settings.system.title()
            ));
        } else {
            let arguments = [signal.to_string(), self.job.id.clone()];
            self.life.order(&settings.signal_command, &arguments).await;
        }
    }

    async fn end(&mut self) {
        self.give_up.get_or_insert_with(|| Instant::now() + ENDING);
        let job = std::slice::from_ref(&self.job.id);
        self.life.order(&self.job.delete_command, job).await;
    }
}

/// Resolves when the files of a controller are there that is to write some, or late.
async fn arrive(arrival: &mut Option<Arrival>) -> Result<(), String> {
    match arrival {
        Some(arrival) => arrival.wait().await,
        None => std::future::pending().await,
    }
}
