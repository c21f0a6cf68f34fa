//! The process that runs engines: it starts their threads and their kernels' processes, passes signals on, and learns
//! how kernels ended.

mod forking;
mod kernels;
mod usage;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use thiserror::Error;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use super::config::{Config, KernelProgram, StartMethod};
use super::engine_thread::{EngineThread, Shared};
use super::heart::{HeartMail, Hearts};
use super::jupyter::BridgeMail;
use super::kernel::fork_server::{ForkServer, ForkServerEvent};
use super::mail::{Ending, EngineMail, HostMail, Rank};
use super::memory::{IS_WATCHED, OomWatch, Used};
use super::placement::available_processors;
use super::post::PostBox;
use super::restarts::Restarts;
use super::starting::LastWords;
use crate::os::host::hostname;
use crate::os::shared_memory::SharedMemory;
use crate::profile::connection::Channel;
use crate::protocol::{EngineId, EngineUuid};
use crate::transport::{Context, Sender, mailbox};

/// Between two reports of what kernels use, to a controller that wants them.
const TELL_USAGE_EVERY: Duration = Duration::from_secs(3);

/// Between two looks at the memory of kernels, when there are limits.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Error)]
pub enum HostError {
    #[error("cannot start {python}: {source}")]
    Python { python: String, source: io::Error },
    #[error("{python} ended before it was ready ({status}){words}")]
    PythonEnded {
        python: String,
        status: String,
        words: LastWords,
    },
    #[error(
        "{python} was not ready to run kernels within {:.1} s (--start-timeout gives it longer){words}",
        limit.as_secs_f64()
    )]
    PythonLate {
        python: String,
        limit: Duration,
        words: LastWords,
    },
    #[error("the connection file names no heartbeat ports")]
    NoHeartbeat,
    #[error("cannot run engines: {0}")]
    System(#[from] io::Error),
}

/// What the process that runs engines is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End all engines in order.
    Stop,
    /// Interrupt what the kernels are running.
    Interrupt,
    /// Pass a signal on to the kernels.
    Signal(Signal),
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Asked,
    /// Every engine is gone, and those that were not asked left as the [restart policy](super::RestartPolicy) wants it:
    /// none of them is to be started again by anybody.
    KernelsDied(String),
    /// Every engine is gone, and at least one of them for a reason that is not its kernel's.
    Failed(String),
}

/// What whoever started the engines should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tidings {
    /// An engine has ended without having been asked to.
    Ended {
        /// If it was registered.
        engine: Option<EngineId>,
        why: String,
    },
    Warning(String),
}

#[derive(Debug)]
pub struct EngineHost {
    config: Arc<Config>,
    context: Context,
    mail: UnboundedSender<HostMail>,
    inbox: UnboundedReceiver<HostMail>,
    hearts: Sender<HeartMail>,
    post: Option<PostBox>,
    /// By which kernels find out whether they can map memory of this process: they know what it holds.
    sample: Option<SharedMemory>,
    threads: Vec<JoinHandle<()>>,
    engines: HashMap<Rank, RunningEngine>,
    started: u32,
    fork_server: Option<ForkServer>,
    /// Kernels that were spawned, until they end.
    spawned: JoinSet<(Rank, io::Result<std::process::ExitStatus>)>,
    restarts: Restarts,
    /// Engines that are to be started again, after a wait. They ask for their ids.
    comebacks: JoinSet<(Rank, Option<EngineId>)>,
    /// Those that have been registered before, and the last controller's time between two pings.
    registered: HashSet<Rank>,
    heartbeat_period: Duration,
    /// Engines that wait for the fork server to have imported everything.
    waiting: Vec<(Rank, Option<EngineId>)>,
    oom: OomWatch,
    processors: Vec<usize>,
    tidings: Option<UnboundedSender<Tidings>>,
    /// Warnings that were given.
    warned_of: HashSet<String>,
    /// How it would end if the engines that are left were asked to stop.
    outcome: Ended,
    stopping: bool,
    /// A controller wants to hear what kernels use.
    tells_usage: bool,
    host_name: String,
}

#[derive(Debug)]
struct RunningEngine {
    mail: Sender<EngineMail>,
    uuid: EngineUuid,
    id: Option<EngineId>,
    pid: Option<i32>,
    /// Of a kernel that is interrupted by a message.
    interrupts: Option<Sender<BridgeMail>>,
    /// Its controller wants to hear what the kernel uses.
    wants_usage: bool,
    /// What it had used when that was told last.
    used: Option<Used>,
    /// It was said in the log that the kernel uses much memory.
    warned: bool,
    /// Why this process has killed the kernel.
    killed: Option<String>,
}

/// What the event loop was woken by.
enum Woken {
    Command(Option<Command>),
    Mail(HostMail),
    ForkServer(ForkServerEvent),
    Comeback(Rank, Option<EngineId>),
    LookAtMemory,
    TellUsage,
    Exited(Rank, io::Result<std::process::ExitStatus>),
}

impl EngineHost {
    /// Prepares everything but the engines. Must be called within a tokio runtime.
    pub fn new(config: Config) -> Result<Self, HostError> {
        let connection = &config.connection;
        let (ping, pong) = connection
            .url(Channel::HeartbeatPing)
            .zip(connection.url(Channel::HeartbeatPong))
            .ok_or(HostError::NoHeartbeat)?;
        let key = connection.common.key.as_bytes();
        let context = Context::secured(config.security.clone()).with_nearby(key);
        let (mail, inbox) = mpsc::unbounded_channel();
        let (hearts, heart_mailbox) = mailbox()?;
        let beating = Hearts::new(
            context.clone(),
            ping,
            pong,
            config.max_heartbeat_misses,
            heart_mailbox,
            mail.clone(),
        );
        let thread = std::thread::Builder::new()
            .name("hearts".to_owned())
            .spawn(move || beating.run())?;
        // One engine alone takes its broadcasts itself.
        let post = match config.connection.broadcast_url(0) {
            Some(url) if config.count > 1 => Some(PostBox::open(&context, &config, &url)?),
            _ => None,
        };
        Ok(Self {
            post,
            sample: SharedMemory::holding(b"sample").ok(),
            config: Arc::new(config),
            context,
            mail,
            inbox,
            hearts,
            threads: vec![thread],
            engines: HashMap::new(),
            started: 0,
            fork_server: None,
            spawned: JoinSet::new(),
            restarts: Restarts::default(),
            comebacks: JoinSet::new(),
            registered: HashSet::new(),
            heartbeat_period: Duration::ZERO,
            waiting: Vec::new(),
            oom: OomWatch::new(),
            processors: available_processors(),
            tidings: None,
            warned_of: HashSet::new(),
            outcome: Ended::Asked,
            stopping: false,
            tells_usage: false,
            host_name: hostname(),
        })
    }

    /// Tells whoever started the engines what becomes of them.
    pub fn telling(mut self, tidings: UnboundedSender<Tidings>) -> Self {
        self.tidings = Some(tidings);
        self
    }

    /// Runs until every engine has ended.
    pub async fn run(
        mut self,
        mut commands: UnboundedReceiver<Command>,
    ) -> Result<Ended, HostError> {
        let result = self.serve(&mut commands).await;
        self.hearts.send(HeartMail::End);
        if let Some(post) = self.post.take() {
            post.close();
        }
        for engine in self.engines.values() {
            engine.mail.send(EngineMail::Stop);
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        if let Some(server) = self.fork_server.take() {
            // Whoever waits for this process waits for all of them.
            let (_, _) = server.end().await;
        }
        result?;
        Ok(if self.stopping {
            Ended::Asked
        } else {
            self.outcome
        })
    }

    async fn serve(&mut self, commands: &mut UnboundedReceiver<Command>) -> Result<(), HostError> {
        if self.config.memory.any() && !IS_WATCHED {
            tracing::warn!("limits of memory are not watched on this system");
        }
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut usage = tokio::time::interval(TELL_USAGE_EVERY);
        usage.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.begin_next()?;
        while !self.is_done() {
            match self.wait(commands, &mut look, &mut usage).await? {
                Woken::Command(Some(Command::Interrupt)) => self.signal_all(Signal::SIGINT, true),
                Woken::Command(Some(Command::Signal(signal))) => self.signal_all(signal, false),
                // Whoever could have given commands is gone: nobody would ever stop this.
                Woken::Command(Some(Command::Stop) | None) => self.stop(),
                Woken::Mail(mail) => self.on_mail(mail)?,
                Woken::ForkServer(event) => self.on_fork_server(event).await?,
                Woken::Exited(rank, status) => {
                    self.on_kernel_exit(rank, status.ok().map(forking::describe))
                }
                Woken::Comeback(rank, id) => self.begin(rank, id)?,
                Woken::LookAtMemory => self.look_at_memory(),
                Woken::TellUsage => {
                    let ranks: Vec<Rank> = self.engines.keys().copied().collect();
                    for rank in ranks {
                        self.tell_usage_of(rank);
                    }
                }
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.engines.is_empty()
            && (self.stopping || (self.waiting.is_empty() && self.comebacks.is_empty()))
    }

    async fn wait(
        &mut self,
        commands: &mut UnboundedReceiver<Command>,
        look: &mut tokio::time::Interval,
        usage: &mut tokio::time::Interval,
    ) -> Result<Woken, HostError> {
        let Self {
            inbox,
            fork_server,
            spawned,
            comebacks,
            stopping,
            tells_usage,
            ..
        } = self;
        let watches_memory = self.config.memory.any() && IS_WATCHED;
        let fork_server_says = async {
            match fork_server {
                Some(server) => server.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = commands.recv(), if !*stopping => Ok(Woken::Command(command)),
            Some(mail) = inbox.recv() => Ok(Woken::Mail(mail)),
            event = fork_server_says => Ok(Woken::ForkServer(event?)),
            Some(Ok((rank, status))) = spawned.join_next() => Ok(Woken::Exited(rank, status)),
            Some(Ok((rank, id))) = comebacks.join_next() => Ok(Woken::Comeback(rank, id)),
            _ = look.tick(), if watches_memory => Ok(Woken::LookAtMemory),
            _ = usage.tick(), if *tells_usage => Ok(Woken::TellUsage),
        }
    }

    fn on_mail(&mut self, mail: HostMail) -> Result<(), HostError> {
        match mail {
            HostMail::Registered {
                rank,
                id,
                wants_usage,
                heartbeat_period,
            } => {
                self.registered.insert(rank);
                self.heartbeat_period = heartbeat_period;
                self.tells_usage |= wants_usage;
                if let Some(engine) = self.engines.get_mut(&rank) {
                    engine.id = Some(id);
                    engine.wants_usage = wants_usage;
                }
                if let Err(error) = self.start_kernel(rank) {
                    self.tell(
                        rank,
                        EngineMail::KernelFailed(format!(
                            "its kernel cannot be started with {}: {error}",
                            self.program()
                        )),
                    );
                }
                // One after the other, so that ids are in the order of ranks.
                if !self.stopping {
                    self.begin_next()?;
                }
            }
            HostMail::Running { rank } => {
                if let Some(id) = self.engines.get(&rank).and_then(|engine| engine.id) {
                    // In ipengine's words: scripts look for them.
                    tracing::info!("Completed registration with id {id}");
                }
                self.tell_usage_of(rank);
            }
            HostMail::Signal {
                rank,
                signal,
                group,
            } => self.signal(rank, signal, group),
            HostMail::Ended { rank, how } => self.on_engine_end(rank, how),
            HostMail::Warning(text) => {
                if self.warned_of.insert(text.clone()) {
                    tracing::warn!("{text}");
                    self.tell_starter(Tidings::Warning(text));
                }
            }
            HostMail::ControllerLost => {
                for engine in self.engines.values() {
                    engine.mail.send(EngineMail::ControllerLost);
                }
            }
            HostMail::Unheard(which) => {
                for engine in self.engines.values() {
                    if which.as_ref().is_none_or(|it| *it == engine.uuid) {
                        engine.mail.send(EngineMail::Unheard);
                    }
                }
            }
        }
        Ok(())
    }

    fn tell_starter(&self, tidings: Tidings) {
        if let Some(starter) = &self.tidings {
            // Nobody needs to hear it.
            let _ = starter.send(tidings);
        }
    }

    fn on_engine_end(&mut self, rank: Rank, how: Ending) {
        let Some(engine) = self.engines.remove(&rank) else {
            return;
        };
        if let Some(post) = &self.post {
            post.forget(engine.uuid);
        }
        let name = engine.id.map_or_else(
            || format!("engine of rank {rank}"),
            |id| format!("engine {id}"),
        );
        let mode = self.config.restart.mode;
        let is_of_kernel = matches!(
            how,
            Ending::KernelEnded {
                was_ready: true,
                ..
            } | Ending::OutOfMemory { .. }
        );
        let comes_back = how.is_followed(mode);
        let why = match how {
            Ending::Asked => return tracing::info!("{name} has stopped"),
            Ending::ToComeBack if self.stopping => return,
            Ending::ToComeBack => {
                tracing::info!("{name} starts again, as it was asked to");
                self.comebacks.spawn(async move { (rank, engine.id) });
                return;
            }
            Ending::Failed(why)
            | Ending::OutOfMemory { how: why }
            | Ending::ForkServerLost { how: why }
            | Ending::KernelEnded { how: why, .. } => why,
        };
        tracing::error!("{name} has ended: {why}");
        self.tell_starter(Tidings::Ended {
            engine: engine.id,
            why: why.clone(),
        });
        let limit = self.config.restart.limit;
        if comes_back && !self.stopping {
            if let Some(wait) = self.restarts.next_wait(Instant::now(), rank, limit) {
                tracing::info!("{name} is started again in {} ms", wait.as_millis());
                self.comebacks.spawn(async move {
                    tokio::time::sleep(wait).await;
                    (rank, engine.id)
                });
                return;
            }
            tracing::error!(
                "{name} has ended {limit} times within a minute: it is not started again"
            );
        }
        let why = format!("{name}: {why}");
        match &self.outcome {
            _ if !is_of_kernel => self.outcome = Ended::Failed(why),
            Ended::Asked | Ended::KernelsDied(_) => self.outcome = Ended::KernelsDied(why),
            Ended::Failed(_) => {}
        }
        // The one that failed to register was to start the next.
        if engine.id.is_none() {
            self.started = self.config.count;
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.comebacks.abort_all();
        self.waiting.clear();
        for engine in self.engines.values() {
            engine.mail.send(EngineMail::Stop);
        }
    }

    fn signal_all(&mut self, signal: Signal, group: bool) {
        let ranks: Vec<Rank> = self.engines.keys().copied().collect();
        for rank in ranks {
            self.signal(rank, signal as i32, group);
        }
    }

    fn tell(&self, rank: Rank, mail: EngineMail) {
        if let Some(engine) = self.engines.get(&rank) {
            engine.mail.send(mail);
        }
    }

    /// One that comes back waits for a controller that is away as long as those that have stayed.
    fn patience_of(&self, rank: Rank) -> Option<Duration> {
        let timeout = self.config.registration_timeout;
        if !self.registered.contains(&rank) {
            return Some(timeout);
        }
        let patience =
            super::heart::patience(self.heartbeat_period, self.config.max_heartbeat_misses);
        patience.map(|patience| patience.max(timeout))
    }

    /// Starts the next of the engines, if not all have been started.
    fn begin_next(&mut self) -> Result<(), HostError> {
        if self.started >= self.config.count {
            return Ok(());
        }
        let rank = self.started;
        self.started += 1;
        self.begin(rank, wanted_id(self.config.first_id, rank))
    }

    /// Starts an engine, now or when the fork server is ready for it.
    fn begin(&mut self, rank: Rank, wanted: Option<EngineId>) -> Result<(), HostError> {
        let config = self.config.clone();
        let is_warm = match (&config.kernel.program, &self.fork_server) {
            (KernelProgram::Own(own), server) if own.start == StartMethod::ForkServer => {
                match server {
                    Some(server) => server.is_ready(),
                    None => {
                        self.start_fork_server(own)?;
                        false
                    }
                }
            }
            _ => true,
        };
        if !is_warm {
            self.waiting.push((rank, wanted));
            return Ok(());
        }
        let (sender, receiver) = mailbox()?;
        let shared = Shared {
            config: self.config.clone(),
            context: self.context.clone(),
            host: self.mail.clone(),
            hearts: self.hearts.clone(),
            post: self.post.as_ref().map(PostBox::address),
            sample: self.sample.as_ref().map(SharedMemory::path),
        };
        let patience = self.patience_of(rank);
        let thread = EngineThread::new(rank, wanted.map(|id| id.0), patience, receiver, shared);
        if let Some(post) = &self.post {
            post.deliver_to(thread.uuid().clone(), sender.clone());
        }
        let uuid = thread.uuid().clone();
        let handle = std::thread::Builder::new()
            .name(format!("engine-{rank}"))
            .spawn(move || thread.run())?;
        self.threads.push(handle);
        self.threads.retain(|thread| !thread.is_finished());
        self.engines.insert(
            rank,
            RunningEngine {
                mail: sender,
                uuid,
                id: None,
                pid: None,
                wants_usage: false,
                used: None,
                interrupts: None,
                warned: false,
                killed: None,
            },
        );
        Ok(())
    }
}

/// The id that an engine asks for. Beyond the highest there is, any will do.
fn wanted_id(first: Option<u32>, rank: Rank) -> Option<EngineId> {
    first?.checked_add(rank).map(EngineId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_the_highest_are_not_asked_for() {
        assert_eq!(wanted_id(None, 1), None);
        assert_eq!(wanted_id(Some(3), 1), Some(EngineId(4)));
        assert_eq!(wanted_id(Some(u32::MAX), 0), Some(EngineId(u32::MAX)));
        assert_eq!(wanted_id(Some(u32::MAX), 1), None);
    }
}
