//! The controller: the threads and sockets that carry out what the pure state machines decide.
//!
//! | thread | sockets (clients' side / engines' side) | state machine |
//! |---|---|---|
//! | `hub` | registration and queries ROUTER, notification XPUB | [`crate::hub::Hub`] |
//! | `task` | ROUTER / ROUTER | [`crate::scheduler::TaskScheduler`] |
//! | `mux`, `control` | ROUTER / ROUTER each | [`crate::scheduler::DirectScheduler`] |
//! | `broadcast` | ROUTER / ROUTER | [`crate::scheduler::BroadcastScheduler`] |
//! | `iopub` | XPUB / SUB | none: it verifies and relays |
//! | `heartbeat` | - / ping XPUB, pong ROUTER | [`crate::heartbeat::HeartMonitor`] |
//! | `recorder` | - | [`crate::hub::recorder::Recorder`], only with a database |
//! | `results`, `queries` | - | [`crate::hub::recorder::Lookup`], only with a database on disk or on a server |
//!
//! With a dashboard, each of them tells what it sees ([`Sighting`]) to the thread that serves it, which is
//! [`crate::web`]'s.
//!
//! They talk through mailboxes ([`mail`]); each message is verified once, at the [`Door`].

mod backlog;
mod broadcast_thread;
mod config;
mod dask;
mod delay;
mod direct_thread;
mod doubts;
mod endpoints;
mod engine_state;
mod heartbeat_thread;
mod held;
mod hub_thread;
mod inside;
mod iopub_thread;
mod late_joiners;
mod lookout;
mod mail;
mod questions;
mod reader_thread;
mod recorder_thread;
mod replies;
mod reports;
mod room;
mod storage_health;
mod task_thread;
mod this_process;

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::observe::Channel;
use crate::os::user;
use crate::protocol::digests::DigestHistory;
use crate::protocol::{Composer, Signer};
use crate::taskdb::{StoreError, TaskStore};
use crate::transport::{Context, Door, Security, Sender, mailbox};

pub use crate::hub::EngineState;
pub use config::{Config, Interface, PortPools};
pub use endpoints::{EndpointError, Ports};
pub use engine_state::EngineStateError;
pub use inside::Inside;
pub use lookout::Sighting;
pub use storage_health::StorageReport;

use backlog::Backlog;
use endpoints::Endpoints;
use held::HeldRequests;
use lookout::{Lookout, OutputTap};
use mail::{HeartbeatMail, HubMail, SchedulerMail, SchedulerSenders};
use reader_thread::{ReaderMail, ReaderThread};
use recorder_thread::{Readers, RecorderMail, RecorderThread, Reporter};
use room::Room;

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("cannot start the controller's threads: {0}")]
    Threads(#[from] io::Error),
    #[error("what was left unfinished cannot be read: {0}")]
    Restore(StoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A controller whose ports are bound and whose threads run.
#[derive(Debug)]
pub struct Controller {
    pub ports: Ports,
    /// Resolves when a client has asked for the controller's end.
    pub shutdown_requested: oneshot::Receiver<()>,
    hub: Sender<HubMail>,
    threads: Vec<JoinHandle<()>>,
    recording: Option<Recording>,
}

/// The recorder's thread and its readers', which end last.
#[derive(Debug)]
struct Recording {
    recorder: Sender<RecorderMail>,
    backlog: Arc<Backlog>,
    /// The recorder's last words.
    report: mpsc::Receiver<Option<StorageReport>>,
    threads: Vec<JoinHandle<()>>,
}

/// Who stops the controller hears so often that the database is still being written to.
const STILL_WRITING: Duration = Duration::from_secs(1);

impl Controller {
    /// Binds every port, then starts the threads. When it fails, nothing is left behind.
    /// `store` keeps task records; without one, nothing is recorded. Whoever shows what happens is told by `sightings`.
    pub fn start(
        config: Config,
        store: Option<Box<dyn TaskStore>>,
        sightings: Option<Sender<Sighting>>,
    ) -> Result<Self, StartError> {
        let security = match &config.curve {
            Some(keys) => Security::Server(keys.clone()),
            None => Security::Null,
        };
        let context = Context::limited(security, config.message_limit).with_nearby(&config.key);
        let endpoints = Endpoints::bind(&context, &config)?;
        let ports = endpoints.ports.clone();

        let (hub, hub_mailbox) = mailbox()?;
        let (heartbeat, heartbeat_mailbox) = mailbox()?;
        let (task, task_mailbox) = mailbox()?;
        let (mux, mux_mailbox) = mailbox()?;
        let (control, control_mailbox) = mailbox()?;
        let (broadcast, broadcast_mailbox) = mailbox()?;
        let (iopub, iopub_mailbox) = mailbox()?;
        let (recorder, recorder_mailbox) = store.is_some().then(mailbox).transpose()?.unzip();
        let backlog = Arc::new(Backlog::new(vec![
            task.clone(),
            mux.clone(),
            broadcast.clone(),
            iopub.clone(),
        ]));
        let reporter = recorder
            .clone()
            .map(|recorder| Reporter::new(recorder, backlog.clone()));
        let schedulers = SchedulerSenders {
            all: vec![
                task.clone(),
                mux.clone(),
                control.clone(),
                broadcast.clone(),
            ],
            task,
            control: control.clone(),
            iopub: iopub.clone(),
            recorder,
        };
        let (request_shutdown, shutdown_requested) = oneshot::channel();

        let parts = Parts::new(&config);
        // Before any new request: the schedulers find this in their mailboxes when they begin.
        for (_, engine) in config.restored.iter().flat_map(|state| &state.engines) {
            for scheduler in &schedulers.all {
                scheduler.send(SchedulerMail::Expect(engine.clone()));
            }
        }
        let mut keeper = store.zip(recorder_mailbox).map(|(store, mailbox)| {
            RecorderThread::new(
                store,
                parts.composer(),
                hub.clone(),
                schedulers.task.clone(),
                mailbox,
                backlog.clone(),
            )
        });
        if let Some(keeper) = &mut keeper
            && config.restore_tasks
        {
            let count = keeper.restore(&mux).map_err(StartError::Restore)?;
            tracing::info!("requests that were left unfinished and are queued again: {count}");
        }
        let mut threads = Threads::default();
        let mut recording = Threads::default();
        let mut held = None;
        if let Some(keeper) = &mut keeper {
            let by_id = Self::reader("results", keeper, &hub, &mut recording)?;
            let queries = Self::reader("queries", keeper, &hub, &mut recording)?;
            if let Some((by_id, queries)) = by_id.zip(queries) {
                held = Some(HeldRequests::new(by_id.clone(), schedulers.task.clone()));
                keeper.ask_readers(Readers { by_id, queries });
            }
        }
        threads.spawn("iopub", &iopub, SchedulerMail::Stop, {
            let door = parts.door("iopub");
            let relay = iopub_thread::IopubThread::new(
                endpoints.iopub,
                door,
                hub.clone(),
                iopub_mailbox,
                reporter.clone(),
                sightings.clone().map(OutputTap::new),
            );
            move || relay.run()
        })?;
        let memory_limit = config.memory_limit;
        let witnesses = |channel: Option<Channel>| Witnesses {
            room: channel.map(|channel| Room::new(channel.name(), memory_limit)),
            reporter: reporter.clone().filter(|_| channel.is_some()),
            lookout: channel
                .zip(sightings.clone())
                .map(|(channel, sightings)| Lookout::new(channel, sightings)),
        };
        threads.spawn("heartbeat", &heartbeat, HeartbeatMail::Stop, {
            let pulse = heartbeat_thread::HeartbeatThread::new(
                endpoints.heartbeat,
                &config,
                hub.clone(),
                heartbeat_mailbox,
            );
            move || pulse.run()
        })?;
        for (name, pair, mail, mailbox) in [
            ("mux", endpoints.mux, &mux, mux_mailbox),
            ("control", endpoints.control, &control, control_mailbox),
        ] {
            let door = parts.door(name);
            let is_control = name == "control";
            let abort = is_control.then(|| schedulers.task.clone());
            let relay = direct_thread::DirectThread::new(
                pair,
                door,
                parts.composer(),
                hub.clone(),
                mailbox,
                abort,
                witnesses((!is_control).then_some(Channel::Mux)),
            );
            threads.spawn(name, mail, SchedulerMail::Stop, move || relay.run())?;
        }
        threads.spawn("broadcast", &broadcast, SchedulerMail::Stop, {
            let door = parts.door("broadcast");
            let fan = broadcast_thread::BroadcastThread::new(
                endpoints.broadcast,
                door,
                parts.composer(),
                hub.clone(),
                broadcast_mailbox,
                witnesses(Some(Channel::Broadcast)),
            );
            move || fan.run()
        })?;
        threads.spawn("task", &schedulers.task, SchedulerMail::Stop, {
            let door = parts.door("task");
            let tasks = task_thread::TaskThread::new(
                endpoints.task,
                door,
                parts.composer(),
                hub.clone(),
                task_mailbox,
                config.tasks.clone(),
                witnesses(Some(Channel::Task)),
                held,
            );
            move || tasks.run()
        })?;
        let (last_words, report) = mpsc::channel();
        if let Some((keeper, mail)) = keeper.zip(schedulers.recorder.as_ref()) {
            recording.spawn("recorder", mail, RecorderMail::Stop, move || {
                // Where nobody waits for it, nobody wants to know.
                let _ = last_words.send(keeper.run());
            })?;
        }
        let recorder = schedulers.recorder.clone();
        let hub_mail = hub.clone();
        threads.spawn("hub", &hub_mail, HubMail::Stop, {
            let door = parts.door("hub");
            let hub = hub_thread::HubThread::new(
                endpoints.hub,
                door,
                parts.composer(),
                &config,
                &ports,
                schedulers,
                heartbeat,
                dask::Dask::new(config.python.clone(), hub.clone()),
                hub_mailbox,
                request_shutdown,
                sightings,
            );
            move || hub.run()
        })?;
        Ok(Self {
            ports,
            shutdown_requested,
            hub,
            threads: threads.keep(),
            recording: recorder.map(|recorder| Recording {
                recorder,
                backlog,
                report,
                threads: recording.keep(),
            }),
        })
    }

    /// Starts a thread that answers questions about records, if the store has readers.
    fn reader(
        name: &str,
        keeper: &mut RecorderThread<Box<dyn TaskStore>>,
        hub: &Sender<HubMail>,
        threads: &mut Threads,
    ) -> Result<Option<Sender<ReaderMail>>, StartError> {
        let Some(reader) = keeper.store().reader()? else {
            return Ok(None);
        };
        let (sender, mailbox) = mailbox()?;
        let reader = ReaderThread::new(reader, hub.clone(), mailbox);
        threads.spawn(name, &sender, ReaderMail::Stop, move || reader.run())?;
        Ok(Some(sender))
    }

    /// A way to ask the hub from within this process.
    pub fn inside(&self) -> Inside {
        Inside::new(self.hub.clone())
    }

    /// Ends all threads, after what is on its way to clients has been sent, and recorded. What is to be said of the task
    /// database.
    pub fn stop(self) -> Option<StorageReport> {
        self.hub.send(HubMail::Stop);
        join(self.threads);
        let recording = self.recording?;
        recording.recorder.send(RecorderMail::Stop);
        let report = recording.last_words();
        join(recording.threads);
        report
    }
}

impl Recording {
    fn last_words(&self) -> Option<StorageReport> {
        loop {
            match self.report.recv_timeout(STILL_WRITING) {
                Ok(report) => return report,
                // It has panicked, and said so.
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                // Whoever loses patience leaves this as the last line.
                Err(mpsc::RecvTimeoutError::Timeout) => tracing::warn!(
                    "the task database is still being written to: {} reports and the changes of {} records wait for it, \
                     and are lost if the controller is killed now",
                    self.backlog.reports(),
                    self.backlog.unwritten(),
                ),
            }
        }
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A thread that panicked has said so; the others still end in order.
        let _ = thread.join();
    }
}

/// Whom a scheduler's thread tells of what passes it.
struct Witnesses {
    /// Of a queue in which requests may gather.
    room: Option<Room>,
    /// With a task database.
    reporter: Option<Reporter>,
    /// With a dashboard.
    lookout: Option<Lookout>,
}

/// What every thread gets its own copy of.
struct Parts {
    signer: Signer,
    digests: Arc<Mutex<DigestHistory>>,
    username: String,
}

impl Parts {
    fn new(config: &Config) -> Self {
        Self {
            signer: Signer::new(&config.key),
            digests: Arc::new(Mutex::new(DigestHistory::new(config.digest_history))),
            username: user::name(),
        }
    }

    fn door(&self, channel: &'static str) -> Door {
        Door::new(channel, self.signer.clone(), self.digests.clone())
    }

    /// Each thread is a session of its own, so that their message ids differ.
    fn composer(&self) -> Composer {
        Composer::new(
            Uuid::new_v4().to_string(),
            &self.username,
            std::process::id(),
            self.signer.clone(),
        )
    }
}

/// Threads of a controller that is being started. If that fails, they are told to end, and waited for.
#[derive(Default)]
struct Threads {
    started: Vec<JoinHandle<()>>,
    stops: Vec<Box<dyn FnOnce()>>,
}

impl Threads {
    /// `mail` with `stop` ends the thread.
    fn spawn<M: 'static>(
        &mut self,
        name: &str,
        mail: &Sender<M>,
        stop: M,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned());
        self.started.push(thread.spawn(body)?);
        let mail = mail.clone();
        self.stops.push(Box::new(move || {
            // One that has ended by itself needs no telling.
            mail.send(stop);
        }));
        Ok(())
    }

    /// The controller is there: its hub ends them.
    fn keep(mut self) -> Vec<JoinHandle<()>> {
        self.stops.clear();
        std::mem::take(&mut self.started)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for stop in self.stops.drain(..) {
            stop();
        }
        join(std::mem::take(&mut self.started));
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use bytes::Bytes;

    use super::*;
    use crate::heartbeat;
    use crate::hub::recorder::{StoredMessage, Traffic};
    use crate::protocol::MsgId;
    use crate::scheduler::TaskConfig;
    use crate::taskdb::query::Query;
    use crate::taskdb::record::{KeySet, RecordUpdate, TaskRecord};
    use crate::taskdb::store::StoreStats;
    use crate::taskdb::{Queue, RecordReader};

    fn config() -> Config {
        Config {
            client_interface: Interface("tcp://127.0.0.1".to_owned()),
            engine_interface: Interface("tcp://127.0.0.1".to_owned()),
            registration_port: None,
            pools: PortPools::default(),
            fixed_ports: None,
            key: b"key".to_vec(),
            digest_history: 100,
            heartbeat: heartbeat::Config {
                period: Duration::from_secs(3),
                max_misses: 10,
            },
            registration_timeout: Duration::from_secs(10),
            tasks: TaskConfig::default(),
            restored: None,
            python: None,
            curve: None,
            message_limit: 1 << 30,
            memory_limit: u64::MAX,
            restore_tasks: false,
            engine_state_file: None,
        }
    }

    /// Keeps the ids of what was added.
    #[derive(Clone, Default)]
    struct Ids {
        added: Arc<Mutex<Vec<MsgId>>>,
        refuses_readers: bool,
    }

    impl RecordReader for Ids {
        fn find(
            &mut self,
            _: &Query,
            _: KeySet,
            _: &mut dyn FnMut(TaskRecord) -> ControlFlow<()>,
        ) -> Result<(), StoreError> {
            Ok(())
        }

        fn history(&mut self) -> Result<Vec<MsgId>, StoreError> {
            Ok(Vec::new())
        }
    }

    impl TaskStore for Ids {
        fn add(&mut self, record: TaskRecord) -> Result<(), StoreError> {
            self.added.lock().unwrap().push(record.msg_id);
            Ok(())
        }

        fn update(&mut self, _: &MsgId, _: RecordUpdate) -> Result<bool, StoreError> {
            Ok(true)
        }

        fn remove(&mut self, _: &Query) -> Result<u64, StoreError> {
            Ok(0)
        }

        fn reader(&self) -> Result<Option<Box<dyn RecordReader>>, StoreError> {
            if self.refuses_readers {
                return Err(StoreError::NoData);
            }
            Ok(None)
        }

        fn place(&self) -> String {
            "a list".to_owned()
        }

        fn stats(&mut self) -> Result<StoreStats, StoreError> {
            Ok(StoreStats::default())
        }
    }

    #[test]
    fn a_start_that_fails_midway_leaves_no_thread() {
        let controller = Controller::start(config(), None, None).unwrap();
        let fixed_ports = Some(controller.ports.clone());
        controller.stop();
        let again = || Config {
            fixed_ports: fixed_ports.clone(),
            ..config()
        };
        let store = Ids {
            refuses_readers: true,
            ..Ids::default()
        };
        assert!(Controller::start(again(), Some(Box::new(store)), None).is_err());
        // A thread that went on would still have its sockets, and the ports would be in use.
        Controller::start(again(), None, None).unwrap().stop();
    }

    #[test]
    fn what_a_scheduler_reports_as_it_ends_is_recorded() {
        let store = Ids::default();
        let mut controller =
            Controller::start(config(), Some(Box::new(store.clone())), None).unwrap();
        let recorder = controller.recording.as_ref().unwrap().recorder.clone();
        let hub = controller.hub.clone();
        let backlog = Arc::new(Backlog::new(Vec::new()));
        // A scheduler that is busy while the controller is being stopped, and reports when the hub has gone already.
        controller.threads.push(std::thread::spawn(move || {
            let mut reporter = Reporter::new(recorder, backlog);
            while hub.send(HubMail::Storage(None)) {
                std::thread::yield_now();
            }
            reporter.report(Traffic::Submitted {
                queue: Queue::Task,
                engine: None,
                message: StoredMessage {
                    header: Bytes::from_static(
                        br#"{"msg_id":"last","msg_type":"apply_request","session":"s","username":"u","date":"2026-01-01T00:00:00Z","version":"5.3"}"#,
                    ),
                    parent_header: Bytes::from_static(b"{}"),
                    metadata: Bytes::from_static(b"{}"),
                    content: Bytes::from_static(b"{}"),
                    buffers: Vec::new(),
                },
            });
        }));
        controller.stop();
        assert_eq!(*store.added.lock().unwrap(), [MsgId::from("last")]);
    }
}
