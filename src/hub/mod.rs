//! The registry of engines and the answers to clients' queries. Pure: requests and events go in, [`Action`]s come out.
//!
//! What the schedulers know (queues, loads, which task is where) stays with them: a query about it asks each of them for
//! an answer and puts the answers together. So the hub is never behind, and costs nothing per task.

mod content;
mod dask;
mod inspection;
mod queries;
pub mod recorder;
mod registry;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::protocol::{
    EngineId, EngineUuid, ExpectedSet, Identity, Leaving, MsgId, RemoteError, Timestamp,
};

pub use inspection::{EngineQueue, Inspection, Listing, QueueReport, Report, ReportedStatus};
pub use registry::{Departure, EngineState};

use dask::DaskScheduler;
use inspection::Inspections;
use registry::{Exit, Registry};

/// Names one question that was put to all schedulers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

#[derive(Clone, Debug)]
pub struct Config {
    /// Told to engines, in milliseconds.
    pub heartbeat_period_ms: u64,
    /// A registration that shows no heartbeat for so long is dropped.
    pub registration_timeout: Duration,
    /// Schedulers that answer to changes of the registry and to inspections.
    pub schedulers: usize,
    /// What an engine's connection file says; part of the registration reply.
    pub connection_info: Value,
    pub database: Database,
    /// Engines are asked to tell now and then what they use.
    pub wants_usage: bool,
}

/// Who answers queries about task records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// NoDB: nobody, and nothing is stored.
    None,
    /// The recorder, in its own thread.
    Recorder,
}

/// The task database does not take records now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StorageFault {
    pub error: String,
    /// What ends it.
    pub remedy: &'static str,
    pub since: Timestamp,
    /// Records whose changes wait in memory.
    pub waiting: usize,
    /// Changes for which there was no room.
    pub lost: u64,
}

/// A request, as it came from a client or an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub from: Identity,
    pub msg_type: String,
    /// Raw JSON; the reply's parent.
    pub header: Bytes,
    pub content: Bytes,
}

/// What the hub's thread has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Answer a request.
    Reply {
        to: Identity,
        msg_type: String,
        parent: Bytes,
        content: Value,
    },
    /// Publish to all clients.
    Notify {
        msg_type: &'static str,
        content: Value,
    },
    /// An engine of this uuid registers: report its heart, even if it has been beating for long.
    ExpectHeart(EngineUuid),
    /// Report that engine's heart from now on.
    AcceptHeart {
        uuid: EngineUuid,
        is_tunneled: bool,
    },
    ForgetHeart(EngineUuid),
    /// Every scheduler takes the engine into service, and then says so with [`Hub::on_scheduler_done`].
    TakeIn {
        token: Token,
        engine: EngineUuid,
        /// The process that takes broadcasts for the engine.
        host: Option<Identity>,
        /// What it has from a former controller and has not answered.
        unanswered: Arc<HashSet<MsgId>>,
    },
    /// Every scheduler lets go of the engine, and then says so.
    LetGo {
        token: Token,
        engine: EngineUuid,
        id: EngineId,
        how: String,
        /// The engine has sent a last word to the task queue, after all of its answers.
        farewell: bool,
    },
    /// Every scheduler answers with [`Hub::on_report`].
    Inspect {
        token: Token,
        what: Inspection,
    },
    /// The recorder answers the client.
    AskRecorder {
        request: Request,
        engines: Vec<(EngineId, EngineUuid)>,
    },
    /// The set of engines has changed: [`Hub::engine_state`] is to be written down for a later `--restore`.
    SaveEngines,
    /// Start a dask.distributed scheduler, and say so with [`Hub::on_dask_started`] and [`Hub::on_dask_ended`].
    StartDask {
        run: u64,
        arguments: Map<String, Value>,
    },
    StopDask,
    /// An engine tells what it uses, as JSON that nobody has looked at.
    Usage {
        uuid: EngineUuid,
        content: Bytes,
    },
    /// The sets that somebody starts: all of them, and those told before are forgotten.
    Expected {
        by: String,
        sets: Vec<ExpectedSet>,
    },
    /// A line for the log.
    Log(Event),
    /// A client asked for the end of the controller.
    ShutDown,
}

/// What happened, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    EngineRegistering {
        id: EngineId,
        uuid: EngineUuid,
        /// As it says, and below.
        host: Option<String>,
        /// The name of those that were started together.
        set: Option<String>,
    },
    EngineRegistered {
        id: EngineId,
        uuid: EngineUuid,
        took: Duration,
    },
    EngineRefused {
        client: Identity,
        uuid: String,
        why: String,
    },
    EngineLeft {
        id: EngineId,
        uuid: EngineUuid,
        how: String,
        leaving: Leaving,
    },
    RegistrationStalled {
        id: EngineId,
        uuid: EngineUuid,
    },
    ClientConnected {
        client: Identity,
    },
    BadRequest {
        client: Identity,
        why: String,
    },
    ShutdownRequested {
        client: Identity,
    },
}

/// The hub of one controller.
#[derive(Debug)]
pub struct Hub {
    config: Config,
    registry: Registry,
    inspections: Inspections,
    dask: DaskScheduler,
    storage: Option<StorageFault>,
    next_token: u64,
}

impl Hub {
    pub fn new(config: Config) -> Self {
        Self {
            config,
            registry: Registry::default(),
            inspections: Inspections::default(),
            dask: DaskScheduler::default(),
            storage: None,
            next_token: 0,
        }
    }

    /// Takes over the engines of a controller that has ended: they are taken in when their hearts beat, those that
    /// return when they have asked besides. Schedulers expect them as well; of those that do not come in time they are told
    /// with [`Action::LetGo`].
    pub fn restore(&mut self, now: Instant, state: EngineState) {
        self.registry.restore(now, state);
    }

    /// A request of a client or an engine. Every request gets exactly one reply, now or after an inspection.
    pub fn on_request(&mut self, now: Instant, request: Request, out: &mut Vec<Action>) {
        self.answer(now, request, out);
    }

    /// A heart beats for the first time: if an engine is registering under this uuid, it is alive.
    pub fn on_heart_started(&mut self, heart: &Identity, out: &mut Vec<Action>) {
        let Some(uuid) = self.registry.registering(heart) else {
            return;
        };
        out.push(Action::AcceptHeart {
            is_tunneled: self.registry.is_tunneled(&uuid),
            uuid: uuid.clone(),
        });
        let token = self.token();
        self.registry
            .on_alive(&uuid, token, self.config.schedulers, out);
    }

    pub fn on_heart_stopped(
        &mut self,
        now: Instant,
        heart: &Identity,
        how: &str,
        out: &mut Vec<Action>,
    ) {
        if let Some(id) = self.registry.id_of(heart) {
            self.on_engine_gone(now, id, &Exit::died(how), out);
        }
    }

    /// An engine said on its iopub channel that it shuts down.
    pub fn on_engine_shutdown(
        &mut self,
        now: Instant,
        session: &str,
        leaving: Leaving,
        out: &mut Vec<Action>,
    ) {
        if let Some(id) = self.registry.id_of(&Identity::from(session.as_bytes())) {
            let exit = Exit {
                how: "it shut down",
                leaving,
                farewell: false,
            };
            self.on_engine_gone(now, id, &exit, out);
        }
    }

    fn on_engine_gone(
        &mut self,
        now: Instant,
        id: EngineId,
        exit: &Exit<'_>,
        out: &mut Vec<Action>,
    ) {
        let change = (self.token(), self.config.schedulers);
        self.registry.on_gone(now, id, exit, change, out);
    }

    /// A scheduler has carried out [`Action::TakeIn`] or [`Action::LetGo`].
    pub fn on_scheduler_done(&mut self, now: Instant, token: Token, out: &mut Vec<Action>) {
        self.registry.on_scheduler_done(now, token, out);
    }

    /// A scheduler's answer to [`Action::Inspect`].
    pub fn on_report(&mut self, token: Token, report: Report, out: &mut Vec<Action>) {
        self.inspections
            .on_report(token, report, self.config.schedulers, out);
    }

    /// The task database has a fault, or none any more: answers about queues say so.
    pub fn on_storage(&mut self, fault: Option<StorageFault>) {
        self.storage = fault;
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.registry
            .next_deadline(self.config.registration_timeout)
    }

    /// The dask.distributed scheduler of this run says where it is, or why it cannot be.
    pub fn on_dask_started(
        &mut self,
        run: u64,
        result: Result<Map<String, Value>, RemoteError>,
        out: &mut Vec<Action>,
    ) {
        self.dask.on_started(run, result, out);
    }

    pub fn on_dask_ended(&mut self, run: u64, out: &mut Vec<Action>) {
        self.dask.on_ended(run, out);
    }

    pub fn on_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        let timeout = self.config.registration_timeout;
        for id in self.registry.overdue(now, timeout) {
            let how = "it did not come back after the controller's restart";
            self.on_engine_gone(now, id, &Exit::died(how), out);
        }
        self.registry
            .on_time(now, self.config.registration_timeout, out);
    }

    /// Engines that a controller that takes over has to expect.
    pub fn engine_state(&self) -> EngineState {
        self.registry.state()
    }

    /// Engines that clients know of.
    pub fn engines(&self) -> Vec<(EngineId, EngineUuid)> {
        self.registry.published()
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }
}

#[cfg(test)]
mod tests;
