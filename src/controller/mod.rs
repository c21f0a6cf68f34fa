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
//! They talk through mailboxes ([`mail`]); each message is verified once, at the [`Door`].

mod backlog;
mod broadcast_thread;
mod config;
mod dask;
mod direct_thread;
mod endpoints;
mod engine_state;
mod heartbeat_thread;
mod hub_thread;
mod iopub_thread;
mod late_joiners;
mod mail;
mod reader_thread;
mod recorder_thread;
mod replies;
mod reports;
mod storage_health;
mod task_thread;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use thiserror::Error;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::os::user;
use crate::protocol::digests::DigestHistory;
use crate::protocol::{Composer, Signer};
use crate::taskdb::{StoreError, TaskStore};
use crate::transport::{Context, Door, Security, Sender, mailbox};

pub use config::{Config, Interface, PortPools};
pub use endpoints::{EndpointError, Ports};
pub use engine_state::{EngineState, EngineStateError};

use backlog::Backlog;
use endpoints::Endpoints;
use mail::{HubMail, SchedulerMail, SchedulerSenders};
use reader_thread::{ReaderMail, ReaderThread};
use recorder_thread::{Readers, RecorderMail, RecorderThread, Reporter};

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
    threads: Vec<JoinHandle<()>>,
}

impl Controller {
    /// Binds every port, then starts the threads. When it fails, nothing is left behind.
    /// `store` keeps task records; without one, nothing is recorded.
    pub fn start(config: Config, store: Option<Box<dyn TaskStore>>) -> Result<Self, StartError> {
        let context = Context::secured(match &config.curve {
            Some(keys) => Security::Server(keys.clone()),
            None => Security::Null,
        });
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
        ]));
        let reporter = recorder
            .clone()
            .map(|recorder| Reporter::new(recorder, backlog.clone()));
        let schedulers = SchedulerSenders {
            all: vec![task.clone(), mux.clone(), control, broadcast],
            task,
            iopub,
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
                backlog,
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
        threads.spawn("iopub", {
            let door = parts.door("iopub");
            let relay = iopub_thread::IopubThread::new(
                endpoints.iopub,
                door,
                hub.clone(),
                iopub_mailbox,
                reporter.clone(),
            );
            move || relay.run()
        })?;
        threads.spawn("heartbeat", {
            let pulse = heartbeat_thread::HeartbeatThread::new(
                endpoints.heartbeat,
                &config,
                hub.clone(),
                heartbeat_mailbox,
            );
            move || pulse.run()
        })?;
        for (name, pair, mailbox) in [
            ("mux", endpoints.mux, mux_mailbox),
            ("control", endpoints.control, control_mailbox),
        ] {
            let door = parts.door(name);
            let is_control = name == "control";
            let abort = is_control.then(|| schedulers.task.clone());
            let reporter = reporter.clone().filter(|_| !is_control);
            let relay = direct_thread::DirectThread::new(
                pair,
                door,
                parts.composer(),
                hub.clone(),
                mailbox,
                abort,
                reporter,
            );
            threads.spawn(name, move || relay.run())?;
        }
        threads.spawn("broadcast", {
            let door = parts.door("broadcast");
            let fan = broadcast_thread::BroadcastThread::new(
                endpoints.broadcast,
                door,
                parts.composer(),
                hub.clone(),
                broadcast_mailbox,
                reporter.clone(),
            );
            move || fan.run()
        })?;
        threads.spawn("task", {
            let door = parts.door("task");
            let tasks = task_thread::TaskThread::new(
                endpoints.task,
                door,
                parts.composer(),
                hub.clone(),
                task_mailbox,
                config.tasks.clone(),
                reporter,
            );
            move || tasks.run()
        })?;
        if let Some(mut keeper) = keeper {
            let by_id = Self::reader("results", &mut keeper, &hub, &mut recording)?;
            let queries = Self::reader("queries", &mut keeper, &hub, &mut recording)?;
            if let Some((by_id, queries)) = by_id.zip(queries) {
                keeper.ask_readers(Readers { by_id, queries });
            }
            recording.spawn("recorder", move || keeper.run())?;
        }
        let recording = schedulers.recorder.clone().map(|recorder| Recording {
            recorder,
            threads: recording.started,
        });
        threads.spawn("hub", {
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
            );
            move || hub.run()
        })?;
        Ok(Self {
            ports,
            shutdown_requested,
            hub,
            threads: threads.started,
            recording,
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
        threads.spawn(name, move || reader.run())?;
        Ok(Some(sender))
    }

    /// Ends all threads, after what is on its way to clients has been sent, and recorded.
    pub fn stop(self) {
        self.hub.send(HubMail::Stop);
        join(self.threads);
        if let Some(Recording { recorder, threads }) = self.recording {
            recorder.send(RecorderMail::Stop);
            join(threads);
        }
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A thread that panicked has said so; the others still end in order.
        let _ = thread.join();
    }
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

#[derive(Default)]
struct Threads {
    started: Vec<JoinHandle<()>>,
}

impl Threads {
    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.started.push(
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(body)?,
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::time::Duration;

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
            restore_tasks: false,
            engine_state_file: None,
        }
    }

    /// Keeps the ids of what was added.
    #[derive(Clone, Default)]
    struct Ids(Arc<Mutex<Vec<MsgId>>>);

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
            self.0.lock().unwrap().push(record.msg_id);
            Ok(())
        }

        fn update(&mut self, _: &MsgId, _: RecordUpdate) -> Result<bool, StoreError> {
            Ok(true)
        }

        fn remove(&mut self, _: &Query) -> Result<u64, StoreError> {
            Ok(0)
        }

        fn place(&self) -> String {
            "a list".to_owned()
        }

        fn stats(&mut self) -> Result<StoreStats, StoreError> {
            Ok(StoreStats::default())
        }
    }

    #[test]
    fn what_a_scheduler_reports_as_it_ends_is_recorded() {
        let store = Ids::default();
        let mut controller = Controller::start(config(), Some(Box::new(store.clone()))).unwrap();
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
        assert_eq!(*store.0.lock().unwrap(), [MsgId::from("last")]);
    }
}
