//! Runs a cluster: hears of processes, signals, the hub and the clock, asks the [`Supervisor`] what follows, and does
//! it. One thread, beside that which listens to the hub.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::announce::announce;
use super::background::{Link, Told};
use super::cluster::{By, Cluster, Controller, Starter};
use super::control::{Wish as Asked, Wished};
use super::elastic::{Look, Seen};
use super::hub_file::HubFile;
use super::ledger::Ledger;
use super::look::look;
use super::report::{Report, Severity};
use super::ssh::hosts::Host;
use super::supervisor::{Action, Member, Outcome, SetNo, StopReason, Supervisor};
use super::tail::tail;
use super::watch::{HubEvent, watch};
use super::wishes::{Wish, Wishes};
use super::{Connection, Job, LaunchError, LaunchEvent, Launcher, News, Started, sleep_until};
use crate::hubclient::{EngineState, Status};
use crate::os::process::wait_until_gone;
use crate::os::progress;
use crate::profile::connection::{ClientFile, ConnectionFiles, EngineFile};
use crate::protocol::{EngineId, ExpectedSet};

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
#[derive(Debug)]
pub struct Ended {
    pub outcome: Outcome,
    /// The first thing that went wrong.
    pub reason: Option<String>,
    /// Somebody wants it to be started again, and waits for that.
    pub again: Option<Link>,
}

/// Runs until every process has ended. The front, if one waits, hears of everything until the cluster is up.
pub async fn conduct(
    cluster: Cluster,
    link: Option<Link>,
    starter: Option<Starter>,
) -> Result<Ended, ConductError> {
    let (launched, mut launch_events) = mpsc::unbounded_channel();
    let (hub, mut hub_events) = mpsc::unbounded_channel();
    let (gone, mut gone_events) = mpsc::unbounded_channel();
    let (wishes_told, mut asked) = mpsc::unbounded_channel();
    let (orders, listener) = match starter {
        Some(starter) => (Some(starter.orders), Some(starter.news)),
        None => (None, None),
    };
    let mut wishes = Wishes::new(orders).map_err(ConductError::Signals)?;
    let engines = cluster.launcher(&cluster.engines_by, &launched)?;
    let controller = match &cluster.controller {
        Controller::Start(_, by) => cluster.launcher(by, &launched)?,
        Controller::Join(_) => cluster.launcher(&By::Local, &launched)?,
    };
    let control = cluster.ledger.control_socket(wishes_told);
    let mut conductor = Conductor {
        supervisor: Supervisor::new(cluster.plan.clone(), Instant::now()),
        cluster,
        controller,
        engines,
        elsewhere: None,
        hub,
        actions: Vec::new(),
        running: HashMap::new(),
        logs: HashMap::new(),
        link,
        is_front_gone: false,
        starter: listener,
        waiting: Vec::new(),
        watching: Vec::new(),
        again: None,
        leaving: None,
        outcome: None,
        reason: None,
        announced: None,
    };
    conductor.begin(gone)?;
    conductor.perform().await;
    loop {
        if let Some(outcome) = conductor.outcome {
            drop(control);
            conductor.tell_watching(outcome).await;
            return Ok(Ended {
                outcome,
                reason: conductor.reason,
                again: conductor.again,
            });
        }
        conductor
            .step(
                &mut launch_events,
                &mut hub_events,
                &mut gone_events,
                &mut asked,
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
    /// What engines have to know that do not reach the controller as this machine does.
    elsewhere: Option<(ClientFile, EngineFile)>,
    hub: UnboundedSender<HubEvent>,
    actions: Vec<Action>,
    running: HashMap<Member, Started>,
    /// Also of what has ended.
    logs: HashMap<Member, std::path::PathBuf>,
    link: Option<Link>,
    is_front_gone: bool,
    /// Another `ipcluster` that has started this one.
    starter: Option<std::sync::mpsc::Sender<News>>,
    /// Those who wait for the engines to be started again.
    waiting: Vec<Link>,
    /// Those who want to hear how it ends.
    watching: Vec<Link>,
    again: Option<Link>,
    /// Engines of an elastic cluster that are to end.
    leaving: Option<std::sync::mpsc::Sender<Vec<EngineId>>>,
    outcome: Option<Outcome>,
    reason: Option<String>,
    /// Who tells the hub which engines are to come, and what was told last.
    announced: Option<(std::sync::mpsc::Sender<Vec<ExpectedSet>>, Vec<ExpectedSet>)>,
}

impl Conductor {
    /// Engines that join must know first who is there.
    fn begin(&mut self, gone: UnboundedSender<()>) -> Result<(), ConductError> {
        match &self.cluster.controller {
            Controller::Start(..) => {
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
        asked: &mut UnboundedReceiver<Wished>,
        wishes: &mut Wishes,
    ) {
        let timer = sleep_until(self.supervisor.next_deadline());
        let front = async {
            match &mut self.link {
                Some(link) if !self.is_front_gone => link.gone().await,
                _ => std::future::pending().await,
            }
        };
        let out = &mut self.actions;
        tokio::select! {
            Some(event) = launched.recv() => self.on_launch(event),
            Some(event) = hub.recv() => self.on_hub(event),
            Some(()) = gone.recv() => {
                self.supervisor.on_stop_requested(Instant::now(), StopReason::ControllerGone, out);
            }
            Some(wished) = asked.recv() => self.on_wish(wished).await,
            wish = wishes.next() => match wish {
                Wish::Stop(reason) => self.supervisor.on_stop_requested(Instant::now(), reason, out),
                Wish::Relay(signal) => self.supervisor.on_relay(signal as i32, out),
            },
            () = front => {
                // One that was interrupted still hears how it ends.
                self.is_front_gone = true;
                self.supervisor.on_stop_requested(Instant::now(), StopReason::FrontGone, out);
            }
            () = timer => self.supervisor.on_time(Instant::now(), out),
        }
    }

    async fn on_wish(&mut self, Wished { wish, by }: Wished) {
        let now = Instant::now();
        let mut link = Link::of(by);
        match wish {
            Asked::RestartEngines => {
                match self.supervisor.on_restart_requested(now, &mut self.actions) {
                    Ok(()) => self.waiting.push(link),
                    Err(why) => link.tell(&refusal(why)).await,
                }
            }
            Asked::RestartAll => {
                let starts_it = matches!(self.cluster.controller, Controller::Start(..));
                if !starts_it {
                    return link.tell(&refusal("it has joined a controller")).await;
                }
                let reason = StopReason::ToStartAgain;
                self.supervisor
                    .on_stop_requested(now, reason, &mut self.actions);
                self.again = Some(link);
            }
            Asked::Watch => {
                link.tell(&Told::Watched).await;
                self.watching.push(link);
            }
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
            LaunchEvent::Queued(member, why) => self.supervisor.on_queued(now, member, why, out),
            LaunchEvent::Runs(member, place) => self.supervisor.on_runs(now, member, place, out),
            LaunchEvent::Said(member, news) => self.on_news(member, news),
            LaunchEvent::Reached(files) => {
                if let Err(error) = self.cluster.ledger.keep_files(&files) {
                    self.supervisor.on_hub_failed(now, error.to_string(), out);
                }
                if self.elsewhere.is_some() {
                    out.push(Action::WriteFiles);
                }
                self.elsewhere = Some((files.client_elsewhere, files.engine_elsewhere));
            }
            LaunchEvent::NotReached(why) => self.supervisor.on_hub_failed(now, why, out),
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

    fn on_news(&mut self, member: Member, news: News) {
        let now = Instant::now();
        match news {
            News::Ready => match self.watch_hub().and_then(|()| self.look_at_hub()) {
                Ok(()) => self.supervisor.on_controller_ready(now, &mut self.actions),
                Err(why) => self.supervisor.on_hub_failed(now, why, &mut self.actions),
            },
            News::EngineEnded { engine, why } => {
                self.supervisor
                    .on_engine_ended(engine, why, &mut self.actions);
            }
            // Launchers that hear of it see to it themselves.
            News::Connection { .. } => {}
            News::Dashboard(address) => self.supervisor.on_dashboard(address, &mut self.actions),
            News::Warning(text) => self.supervisor.on_warning(text, &mut self.actions),
            News::Queued(why) => {
                let out = &mut self.actions;
                self.supervisor.on_queued(now, member, why, out);
            }
            News::Runs(place) => {
                let out = &mut self.actions;
                self.supervisor.on_runs(now, member, place, out);
            }
        }
    }

    fn on_hub(&mut self, event: HubEvent) {
        let (now, out) = (Instant::now(), &mut self.actions);
        match event {
            HubEvent::There(engines) => match self.cluster.controller {
                Controller::Start(..) => {
                    for engine in engines {
                        self.supervisor.on_registered(now, engine, out);
                    }
                }
                Controller::Join(_) => self.supervisor.on_begin(now, engines, out),
            },
            HubEvent::Looked(status) => {
                let look = seen(&status, &self.cluster.ledger);
                self.supervisor.on_look(now, &look, out);
            }
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

    fn hub_file(&self) -> HubFile {
        HubFile {
            path: self.files().client,
            is_here: matches!(self.cluster.controller, Controller::Start(_, By::Local)),
        }
    }

    /// Does another `ipcluster` start the engines, in sets of its own?
    fn by_another(&self) -> bool {
        match &self.cluster.engines_by {
            By::Ssh(hosts) => hosts.iter().any(Host::is_proxy),
            By::Local | By::Mpi(_) | By::Batch(_) => false,
        }
    }

    fn watch_hub(&mut self) -> Result<(), String> {
        let source = self.hub_file();
        let file = source.read().map_err(|error| error.to_string())?;
        watch(source, file.clone(), self.hub.clone())?;
        // Another `ipcluster` tells of its own sets.
        if self.by_another() {
            return Ok(());
        }
        let (teller, expected) = std::sync::mpsc::channel();
        announce(file, expected);
        self.announced = Some((teller, Vec::new()));
        Ok(())
    }

    /// An elastic cluster's queue.
    fn look_at_hub(&mut self) -> Result<(), String> {
        if self.cluster.plan.elastic.is_none() {
            return Ok(());
        }
        let file = self.hub_file().read().map_err(|error| error.to_string())?;
        let (leaving, leave) = std::sync::mpsc::channel();
        self.leaving = Some(leaving);
        look(file, leave, self.hub.clone())
    }

    fn retire(&self, engines: Vec<EngineId>) {
        if let Some(leaving) = &self.leaving {
            // A thread that has ended has said why.
            let _ = leaving.send(engines);
        }
    }

    async fn perform(&mut self) {
        // Performing may lead to more.
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                self.perform_one(action).await;
            }
        }
        self.announce();
    }

    /// Tells the hub which engines are to come, if that has changed.
    fn announce(&mut self) {
        let Some((teller, last)) = &mut self.announced else {
            return;
        };
        let ledger = &self.cluster.ledger;
        let expected = self.supervisor.expected(|set| ledger.set_name(set));
        if expected != *last {
            // A thread that has ended has nobody to tell.
            let _ = teller.send(expected.clone());
            *last = expected;
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
            Action::Restarted { complete } => {
                let told = if complete {
                    Told::Ready
                } else {
                    refusal("not all engines are there again")
                };
                for mut link in std::mem::take(&mut self.waiting) {
                    link.tell(&told).await;
                }
            }
            Action::Retire(engines) => self.retire(engines),
            Action::Exit(outcome) => self.outcome = Some(outcome),
        }
    }

    fn spawn(&mut self, member: Member) {
        let job = match (member, &self.cluster.controller) {
            (Member::Controller, Controller::Start(job, _)) => Ok(job.as_ref().clone()),
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
        let over_ssh = matches!(self.cluster.engines_by, By::Ssh(_));
        if !self.by_another() {
            job.argv
                .push(format!("--set={}", self.cluster.ledger.set_name(set)).into());
        }
        job.engines = Some(self.supervisor.engines_of(set));
        job.machine = self.supervisor.machine_of(set);
        if self.cluster.send_connection_info || over_ssh {
            let (client, engine) = self.files().read().map_err(|error| error.to_string())?;
            let here = engine.to_variable();
            let (client, engine) = self.elsewhere.clone().unwrap_or((client, engine));
            job.connection = Some(Connection {
                here,
                elsewhere: engine.to_variable(),
                client_elsewhere: client.to_text(),
            });
        }
        Ok(job)
    }

    async fn write_files(&mut self) {
        let mut engines: Vec<(SetNo, &Started, u32)> = self
            .running
            .iter()
            .filter_map(|(member, started)| match member {
                Member::Engines(set) => Some((*set, started, self.supervisor.engines_of(*set))),
                Member::Controller => None,
            })
            .collect();
        engines.sort_by_key(|(set, _, _)| *set);
        let controller = self.running.get(&Member::Controller);
        let written =
            self.cluster
                .ledger
                .write(self.supervisor.has_been_up(), controller, &engines);
        if let Err(error) = written {
            self.say(Severity::Warning, error.to_string()).await;
        }
    }

    /// What another `ipcluster` has to know that has started this one: the rest it hears from the hub.
    fn tell_starter(&self, report: &Report) {
        let Some(starter) = &self.starter else {
            return;
        };
        let news = match report {
            Report::Queued { why, .. } => News::Queued(why.clone()),
            Report::Runs { place, .. } => News::Runs(place.clone()),
            Report::EngineEnded { engine, why } => News::EngineEnded {
                engine: *engine,
                why: why.clone(),
            },
            // The hub tells of engines that leave.
            Report::EngineLeft { .. } => return,
            report if report.severity() != Severity::Info => News::Warning(report.to_string()),
            _ => return,
        };
        // It is gone, which shows elsewhere.
        let _ = starter.send(news);
    }

    async fn report(&mut self, report: &Report) {
        self.tell_starter(report);
        let (severity, text) = (report.severity(), report.to_string());
        if severity == Severity::Error && self.reason.is_none() {
            self.reason = Some(text.clone());
        }
        if let Report::EngineRegistered { count, of, .. } = report {
            let is_last = u32::try_from(*count).is_ok_and(|count| count >= *of);
            if !is_last {
                say_progress(&text);
                return self.tell_all(Told::Progress(text)).await;
            }
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
        self.tell_all(Told::Line { severity, text }).await;
    }

    /// To everybody who waits for something.
    async fn tell_all(&mut self, told: Told) {
        let links = self.link.iter_mut().chain(&mut self.waiting);
        for link in links.chain(&mut self.watching).chain(&mut self.again) {
            link.tell(&told).await;
        }
    }

    async fn tell_watching(&mut self, outcome: Outcome) {
        let told = match outcome {
            Outcome::Stopped | Outcome::Interrupted => Told::Ready,
            Outcome::Failed(code) => Told::Failed {
                code,
                message: self.reason.clone(),
            },
        };
        for mut link in std::mem::take(&mut self.watching) {
            link.tell(&told).await;
        }
    }
}

/// What of the hub's answer an elastic cluster goes by.
fn seen(status: &Status, ledger: &Ledger) -> Look {
    let engines = status.engines.iter().map(|(id, engine)| Seen {
        id: *id,
        set: engine.set.as_deref().and_then(|name| ledger.set_of(name)),
        load: engine.load(),
        completed: engine.completed,
        starting: engine.state == EngineState::Starting,
    });
    Look {
        waiting: status.unassigned,
        engines: engines.collect(),
    }
}

fn refusal(why: &str) -> Told {
    Told::Failed {
        code: 1,
        message: Some(why.to_owned()),
    }
}

/// To the terminal, or into the log.
pub fn say_progress(text: &str) {
    if !progress::show(text) {
        tracing::info!("{text}");
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
