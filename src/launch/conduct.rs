//! Runs a cluster: hears of processes, signals, the hub and the clock, asks the [`Supervisor`] what follows, and does
//! it. One thread, beside that which listens to the hub.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::background::{Link, Told};
use super::batch::BatchLauncher;
use super::ledger::Ledger;
use super::local::{LocalLauncher, Mpi};
use super::report::{Report, Severity};
use super::ssh::SshLauncher;
use super::ssh::hosts::Host;
use super::supervisor::{Action, Member, Outcome, Plan, SetNo, StopReason, Supervisor};
use super::tail::tail;
use super::watch::{HubEvent, watch};
use super::{Job, LaunchError, LaunchEvent, Launcher, News, Started, batch};
use crate::os::hang_up::HangUp;
use crate::os::process::{ProcessRef, wait_until_gone};
use crate::profile::ProfileDir;
use crate::profile::connection::{ConnectionFiles, EngineFile};
use crate::protocol::ClusterId;

/// Everything that a cluster is made of.
#[derive(Debug)]
pub struct Cluster {
    pub profile: ProfileDir,
    pub cluster_id: ClusterId,
    pub plan: Plan,
    pub ledger: Ledger,
    pub engines: Job,
    pub engines_by: EnginesBy,
    /// Hand the connection information to the engines, so that they need no file.
    pub send_connection_info: bool,
    pub controller: Controller,
}

/// How engines are started.
#[derive(Debug)]
pub enum EnginesBy {
    Local,
    Mpi(Mpi),
    /// One set on each.
    Ssh(Vec<Host>),
    Batch(Box<batch::script::Settings>),
}

/// Where the controller comes from.
#[derive(Debug)]
pub enum Controller {
    Start(Job),
    /// It runs already; the process is known if it is one of this machine.
    Join(Option<ProcessRef>),
}

#[derive(Debug, Error)]
pub enum ConductError {
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    #[error("{0}")]
    Hub(String),
}

/// Lines of a log that are shown when something has failed.
const SHOWN: usize = 20;

/// How a cluster ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub outcome: Outcome,
    /// The first thing that went wrong.
    pub reason: Option<String>,
}

/// Runs until every process has ended. The front, if one waits, hears of everything until the cluster is up.
pub async fn conduct(cluster: Cluster, link: Option<Link>) -> Result<Ended, ConductError> {
    let (launched, mut launch_events) = mpsc::unbounded_channel();
    let (hub, mut hub_events) = mpsc::unbounded_channel();
    let (gone, mut gone_events) = mpsc::unbounded_channel();
    let mut wishes = Wishes::new().map_err(ConductError::Signals)?;
    let local = || {
        let (folder, id) = (cluster.profile.log_dir(), cluster.cluster_id.clone());
        LocalLauncher::new(folder, id, launched.clone())
    };
    let engines: Box<dyn Launcher> = match &cluster.engines_by {
        EnginesBy::Local => Box::new(local()?),
        EnginesBy::Mpi(mpi) => Box::new(local()?.under_mpi(mpi.clone())),
        EnginesBy::Ssh(hosts) => Box::new(SshLauncher::new(
            hosts.clone(),
            cluster.profile.log_dir(),
            cluster.cluster_id.clone(),
            launched.clone(),
        )),
        EnginesBy::Batch(settings) => Box::new(BatchLauncher::new(
            settings.as_ref().clone(),
            batch::Where {
                profile: cluster.profile.clone(),
                cluster_id: cluster.cluster_id.clone(),
            },
            launched.clone(),
        )),
    };
    let controller: Box<dyn Launcher> = Box::new(local()?);
    let mut conductor = Conductor {
        supervisor: Supervisor::new(cluster.plan.clone(), Instant::now()),
        cluster,
        controller,
        engines,
        hub,
        actions: Vec::new(),
        running: HashMap::new(),
        logs: HashMap::new(),
        link,
        outcome: None,
        reason: None,
    };
    conductor.begin(gone)?;
    conductor.perform().await;
    loop {
        if let Some(outcome) = conductor.outcome {
            let reason = conductor.reason;
            return Ok(Ended { outcome, reason });
        }
        conductor
            .step(
                &mut launch_events,
                &mut hub_events,
                &mut gone_events,
                &mut wishes,
            )
            .await;
        conductor.perform().await;
    }
}

struct Conductor {
    supervisor: Supervisor,
    cluster: Cluster,
    controller: Box<dyn Launcher>,
    engines: Box<dyn Launcher>,
    hub: UnboundedSender<HubEvent>,
    actions: Vec<Action>,
    running: HashMap<Member, Started>,
    /// Also of what has ended.
    logs: HashMap<Member, std::path::PathBuf>,
    link: Option<Link>,
    outcome: Option<Outcome>,
    reason: Option<String>,
}

impl Conductor {
    /// Engines that join must know first who is there.
    fn begin(&mut self, gone: UnboundedSender<()>) -> Result<(), ConductError> {
        match &self.cluster.controller {
            Controller::Start(_) => {
                self.supervisor
                    .on_begin(Instant::now(), [], &mut self.actions);
            }
            Controller::Join(process) => {
                if let Some(process) = process.clone() {
                    std::thread::spawn(move || {
                        const FOR_EVER: Duration = Duration::from_secs(3600);
                        let process = [process];
                        while !wait_until_gone(&process, FOR_EVER).is_empty() {}
                        let _ = gone.send(());
                    });
                }
                self.watch_hub().map_err(ConductError::Hub)?;
            }
        }
        Ok(())
    }

    async fn step(
        &mut self,
        launched: &mut UnboundedReceiver<LaunchEvent>,
        hub: &mut UnboundedReceiver<HubEvent>,
        gone: &mut UnboundedReceiver<()>,
        wishes: &mut Wishes,
    ) {
        let timer = sleep_until(self.supervisor.next_deadline());
        let front = async {
            match &mut self.link {
                Some(link) => link.gone().await,
                None => std::future::pending().await,
            }
        };
        let out = &mut self.actions;
        tokio::select! {
            Some(event) = launched.recv() => self.on_launch(event),
            Some(event) = hub.recv() => self.on_hub(event),
            Some(()) = gone.recv() => {
                self.supervisor.on_stop_requested(Instant::now(), StopReason::ControllerGone, out);
            }
            wish = wishes.next() => match wish {
                Wish::Stop(reason) => self.supervisor.on_stop_requested(Instant::now(), reason, out),
                Wish::Relay(signal) => self.supervisor.on_relay(signal as i32, out),
            },
            () = front => {
                self.link = None;
                self.supervisor.on_stop_requested(Instant::now(), StopReason::FrontGone, out);
            }
            () = timer => self.supervisor.on_time(Instant::now(), out),
        }
    }

    fn on_launch(&mut self, event: LaunchEvent) {
        let (now, out) = (Instant::now(), &mut self.actions);
        match event {
            LaunchEvent::Started(member, started) => {
                let place = started.place.to_string();
                self.logs.insert(member, started.log.clone());
                self.running.insert(member, started);
                self.supervisor.on_started(member, place, out);
            }
            LaunchEvent::NotStarted(member, error) => {
                self.supervisor
                    .on_spawn_failed(now, member, error.to_string(), out);
            }
            LaunchEvent::Queued(member, why) => self.supervisor.on_queued(member, why, out),
            LaunchEvent::Runs(member, place) => self.supervisor.on_runs(now, member, place, out),
            LaunchEvent::Said(_, news) => self.on_news(news),
            LaunchEvent::Exited(member, status) => {
                self.running.remove(&member);
                self.supervisor.on_exited(now, member, status, out);
            }
        }
    }

    fn launcher(&mut self, member: Member) -> &mut dyn Launcher {
        match member {
            Member::Controller => self.controller.as_mut(),
            Member::Engines(_) => self.engines.as_mut(),
        }
    }

    fn on_news(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Ready => match self.watch_hub() {
                Ok(()) => self.supervisor.on_controller_ready(now, &mut self.actions),
                Err(why) => self.supervisor.on_hub_failed(now, why, &mut self.actions),
            },
            News::EngineEnded { engine, why } => {
                self.supervisor
                    .on_engine_ended(engine, why, &mut self.actions);
            }
            News::Dashboard(address) => self.supervisor.on_dashboard(address, &mut self.actions),
            News::Warning(text) => self.supervisor.on_warning(text, &mut self.actions),
        }
    }

    fn on_hub(&mut self, event: HubEvent) {
        let (now, out) = (Instant::now(), &mut self.actions);
        match event {
            HubEvent::There(engines) => match self.cluster.controller {
                Controller::Start(_) => {
                    for engine in engines {
                        self.supervisor.on_registered(now, engine, out);
                    }
                }
                Controller::Join(_) => self.supervisor.on_begin(now, engines, out),
            },
            HubEvent::Registered(engine) => self.supervisor.on_registered(now, engine, out),
            HubEvent::Left(engine) => {
                self.supervisor.on_left(engine, out);
                self.engines.look();
            }
            HubEvent::Ended => {
                // Our own controller is waited for.
                if matches!(self.cluster.controller, Controller::Join(_)) {
                    let reason = StopReason::ControllerGone;
                    self.supervisor.on_stop_requested(now, reason, out);
                }
            }
            HubEvent::Failed(why) => self.supervisor.on_hub_failed(now, why, out),
        }
    }

    fn files(&self) -> ConnectionFiles {
        ConnectionFiles::paths(
            &self.cluster.profile.security_dir(),
            &self.cluster.cluster_id,
        )
    }

    fn watch_hub(&self) -> Result<(), String> {
        watch(self.files().client, self.hub.clone())
    }

    async fn perform(&mut self) {
        // Performing may lead to more.
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.perform_one(action).await;
            }
        }
    }

    async fn perform_one(&mut self, action: Action) {
        match action {
            Action::Spawn(member) => self.spawn(member),
            Action::Terminate(member) => {
                self.launcher(member).signal(member, Signal::SIGTERM as i32);
            }
            Action::Kill(member) => {
                self.launcher(member).signal(member, Signal::SIGKILL as i32);
            }
            Action::Relay(set, signal) => self.engines.signal(Member::Engines(set), signal),
            Action::WriteFiles => self.write_files().await,
            Action::RemoveFiles => {
                if let Err(error) = self.cluster.ledger.remove() {
                    self.say(Severity::Warning, error.to_string()).await;
                }
            }
            Action::Report(report) => self.report(&report).await,
            Action::ShowLog(member) => self.show_log(member).await,
            Action::Ready => {
                if let Some(mut link) = self.link.take() {
                    link.tell(&Told::Ready).await;
                }
            }
            Action::Exit(outcome) => self.outcome = Some(outcome),
        }
    }

    fn spawn(&mut self, member: Member) {
        let job = match (member, &self.cluster.controller) {
            (Member::Controller, Controller::Start(job)) => Ok(job.clone()),
            (Member::Controller, Controller::Join(_)) => {
                unreachable!("the supervisor of engines that join starts no controller")
            }
            (Member::Engines(set), _) => self.engines_job(set),
        };
        match job {
            Ok(job) => self.launcher(member).start(member, job),
            Err(why) => {
                self.supervisor
                    .on_spawn_failed(Instant::now(), member, why, &mut self.actions);
            }
        }
    }

    /// The engines' job with what they need to find the controller.
    fn engines_job(&self, set: SetNo) -> Result<Job, String> {
        let mut job = self.cluster.engines.clone();
        job.engines = Some(self.engines_of(set));
        let elsewhere = matches!(self.cluster.engines_by, EnginesBy::Ssh(_));
        if self.cluster.send_connection_info || elsewhere {
            let file = EngineFile::read(&self.files().engine).map_err(|error| error.to_string())?;
            job.connection = Some(file.to_variable());
        }
        Ok(job)
    }

    fn engines_of(&self, set: SetNo) -> u32 {
        let sets = &self.cluster.plan.sets;
        let number = usize::try_from(set.0).unwrap_or(usize::MAX);
        sets.get(number).copied().unwrap_or(0)
    }

    async fn write_files(&mut self) {
        let mut engines: Vec<(SetNo, &Started, u32)> = self
            .running
            .iter()
            .filter_map(|(member, started)| match member {
                Member::Engines(set) => Some((*set, started, self.engines_of(*set))),
                Member::Controller => None,
            })
            .collect();
        engines.sort_by_key(|(set, _, _)| *set);
        let controller = self.running.get(&Member::Controller);
        let written = self.cluster.ledger.write(controller, &engines);
        if let Err(error) = written {
            self.say(Severity::Warning, error.to_string()).await;
        }
    }

    async fn report(&mut self, report: &Report) {
        let (severity, text) = (report.severity(), report.to_string());
        if severity == Severity::Error && self.reason.is_none() {
            self.reason = Some(text.clone());
        }
        self.say(severity, text).await;
    }

    async fn show_log(&mut self, member: Member) {
        let Some(path) = self.logs.get(&member) else {
            return;
        };
        let lines = tail(path, SHOWN).unwrap_or_default();
        let shown = if lines.is_empty() {
            format!("{} has nothing to say about it", path.display())
        } else {
            format!(
                "the end of {}:\n    {}",
                path.display(),
                lines.join("\n    ")
            )
        };
        self.say(Severity::Error, shown).await;
    }

    /// Into the log, and to the front, if one waits.
    async fn say(&mut self, severity: Severity, text: String) {
        say(severity, &text);
        if let Some(link) = &mut self.link {
            link.tell(&Told::Line { severity, text }).await;
        }
    }
}

/// Into this process's log.
pub fn say(severity: Severity, text: &str) {
    match severity {
        Severity::Info => tracing::info!("{text}"),
        Severity::Warning => tracing::warn!("{text}"),
        Severity::Error => tracing::error!("{text}"),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// What people and other programs want of this process.
enum Wish {
    Stop(StopReason),
    Relay(Signal),
}

struct Wishes {
    interrupt: Signals,
    terminate: Signals,
    hang_up: HangUp,
    user1: Signals,
    user2: Signals,
}

impl Wishes {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: HangUp::new()?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop(StopReason::Interrupted),
            _ = self.terminate.recv() => Wish::Stop(StopReason::Terminated),
            () = self.hang_up.recv() => Wish::Stop(StopReason::HungUp),
            _ = self.user1.recv() => Wish::Relay(Signal::SIGUSR1),
            _ = self.user2.recv() => Wish::Relay(Signal::SIGUSR2),
        }
    }
}
