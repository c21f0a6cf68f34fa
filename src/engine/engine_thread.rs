//! One engine: registration, then requests from the controller to the kernel and what comes back.

pub(super) mod requests;
mod serving;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::config::Config;
use super::heart::HeartMail;
use super::mail::{Ending, EngineMail, HostMail, KernelIo, Rank};
use super::replies::Identification;
use super::sockets::{ControllerNews, EngineSockets, Registrar};
use crate::os::{host, user};
use crate::protocol::digests::DigestHistory;
use crate::protocol::header::FAREWELL;
use crate::protocol::{
    Composer, EngineId, EngineUuid, Header, Leaving, Outgoing, Signer, Timestamp, Wire,
};
use crate::transport::{Context, Door, Frame, Mailbox, Poller, Sender, time_left};

use serving::Serving;

pub(super) struct EngineThread {
    rank: Rank,
    config: Arc<Config>,
    context: Context,
    mailbox: Mailbox<EngineMail>,
    /// What came together with the kernel, and is about it: it may have ended already.
    mail: Vec<EngineMail>,
    host: UnboundedSender<HostMail>,
    hearts: Sender<HeartMail>,
    uuid: EngineUuid,
    /// The id to ask for.
    wanted: Option<u32>,
    /// The controller has so long to answer the registration; without a limit if absent.
    patience: Option<Duration>,
    composer: Composer,
    post: Option<EngineUuid>,
    sample: Option<String>,
}

/// What all engines of a process are given.
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) context: Context,
    pub(super) host: UnboundedSender<HostMail>,
    pub(super) hearts: Sender<HeartMail>,
    /// The routing id of the process, if it takes broadcasts for its engines.
    pub(super) post: Option<EngineUuid>,
    /// The path of some memory of the process, by which kernels find out whether they can map any.
    pub(super) sample: Option<String>,
}

/// What the controller says to a registration.
struct Registered {
    id: EngineId,
    heartbeat_period: Duration,
    /// The task queue understands an engine's last word; ipyparallel's does not.
    farewells: bool,
    /// Its queues understand what an engine says first when a connection is there again.
    recounts: bool,
    /// The controller shows what engines use.
    wants_usage: bool,
}

impl EngineThread {
    pub(super) fn new(
        rank: Rank,
        wanted: Option<u32>,
        patience: Option<Duration>,
        mailbox: Mailbox<EngineMail>,
        shared: Shared,
    ) -> Self {
        let Shared {
            config,
            context,
            host,
            hearts,
            post,
            sample,
        } = shared;
        let uuid = EngineUuid::from(uuid::Uuid::new_v4().to_string());
        let signer = Signer::new(config.connection.common.key.as_bytes());
        let composer = Composer::new(uuid.as_str(), user::name(), std::process::id(), signer);
        Self {
            rank,
            config,
            context,
            mailbox,
            mail: Vec::new(),
            host,
            hearts,
            uuid,
            wanted,
            patience,
            composer,
            post,
            sample,
        }
    }

    pub(super) fn uuid(&self) -> &EngineUuid {
        &self.uuid
    }

    pub(super) fn run(self) {
        let (rank, host) = (self.rank, self.host.clone());
        let how = self.live();
        // The host is gone only when the process ends.
        let _ = host.send(HostMail::Ended { rank, how });
    }

    fn live(mut self) -> Ending {
        let mut registrar =
            match Registrar::connect(&self.context, &self.uuid, &self.config.connection) {
                Ok(registrar) => registrar,
                Err(error) => {
                    return Ending::Failed(format!("cannot connect to the controller: {error}"));
                }
            };
        let registered = match self.register(&mut registrar) {
            Ok(registered) => registered,
            Err(how) => return how,
        };
        let id = registered.id;
        let sockets =
            match EngineSockets::connect(&self.context, &self.uuid, id, &self.config.connection) {
                Ok(sockets) => sockets,
                Err(error) => {
                    return Ending::Failed(format!("cannot connect to the controller: {error}"));
                }
            };
        let _ = self.host.send(HostMail::Registered {
            rank: self.rank,
            id,
            wants_usage: registered.wants_usage,
            heartbeat_period: registered.heartbeat_period,
        });
        let kernel = match self.await_kernel() {
            Ok(kernel) => kernel,
            Err(how) => {
                let mut farewell = unregistration(
                    &mut self.composer,
                    &self.uuid,
                    id,
                    "its kernel did not start",
                    how.leaving(self.config.restart.mode),
                    false,
                );
                let _ = registrar.socket.send(&mut farewell);
                return how;
            }
        };
        let who = Identification {
            uuid: self.uuid.clone(),
            id,
        };
        Serving::new(self, who, &registered, registrar, sockets, kernel).run()
    }

    fn register(&mut self, registrar: &mut Registrar) -> Result<Registered, Ending> {
        let mut frames = Vec::new();
        self.ask_for_registration(registrar)?;

        let digests = Arc::new(Mutex::new(DigestHistory::new(self.config.digest_history)));
        let mut door = Door::new("registration", self.composer.signer().clone(), digests);
        let deadline = self.patience.map(|patience| Instant::now() + patience);
        let mut poller = Poller::new();
        poller.add_socket(&mut registrar.socket);
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        loop {
            self.mailbox.take(&mut mail);
            if mail
                .drain(..)
                .any(|message| matches!(message, EngineMail::Stop))
            {
                return Err(Ending::Asked);
            }
            // What was asked over a connection that broke may not have arrived.
            if registrar.news() == Some(ControllerNews::Back) {
                self.ask_for_registration(registrar)?;
            }
            while registrar.socket.receive(&mut frames) {
                if let Some(wire) = door.admit(&frames) {
                    if !is_registration_reply(&wire) {
                        door.refuse(&frames, "it is no answer to the registration");
                        continue;
                    }
                    let registered = read_registration(&wire).map_err(|why| {
                        Ending::Failed(format!("the controller refused the registration: {why}"))
                    })?;
                    if let Some(wanted) = self.wanted.filter(|wanted| *wanted != registered.id.0) {
                        let id = registered.id;
                        tracing::warn!(
                            "did not get the requested id {wanted}, which is in use: this is engine {id}"
                        );
                    }
                    return Ok(registered);
                }
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Ending::Failed(format!(
                    "the controller at {} did not answer the registration within {:.1} s; is it running, and can this \
                     machine reach it? (--timeout gives it longer)",
                    self.config.connection.interface,
                    self.patience.unwrap_or_default().as_secs_f64(),
                )));
            }
            poller.wait(time_left([deadline])).map_err(|error| {
                Ending::Failed(format!("cannot wait for the controller: {error}"))
            })?;
        }
    }

    fn ask_for_registration(&mut self, registrar: &mut Registrar) -> Result<(), Ending> {
        let mut frames = registration(
            &mut self.composer,
            &self.uuid,
            self.wanted,
            self.post.as_ref(),
            &self.config,
            None,
        );
        registrar
            .socket
            .send(&mut frames)
            .map_err(|error| Ending::Failed(format!("cannot register: {error}")))
    }

    fn await_kernel(&mut self) -> Result<KernelIo, Ending> {
        let mut poller = Poller::new();
        poller.add_fd(self.mailbox.fd());
        loop {
            let mut mail = Vec::new();
            self.mailbox.take(&mut mail);
            let mut mail = mail.into_iter();
            while let Some(message) = mail.next() {
                match message {
                    EngineMail::KernelStarted(io) => {
                        self.mail = mail.collect();
                        return Ok(io);
                    }
                    EngineMail::KernelFailed(why) => return Err(Ending::Failed(why)),
                    EngineMail::Stop => return Err(Ending::Asked),
                    EngineMail::KernelExited { .. }
                    | EngineMail::Usage(_)
                    | EngineMail::ControllerLost
                    | EngineMail::Unheard
                    | EngineMail::Recount(_)
                    | EngineMail::Delivered(_) => {}
                }
            }
            poller
                .wait(None)
                .map_err(|error| Ending::Failed(format!("cannot wait for the kernel: {error}")))?;
        }
    }
}

/// Nothing else is sent to an engine's registration socket by a hub.
fn is_registration_reply(wire: &Wire<'_, Frame>) -> bool {
    Header::parse(wire.header()).is_ok_and(|header| header.msg_type == "registration_reply")
}

/// The hub's answer, or why it refused.
fn read_registration(wire: &Wire<'_, Frame>) -> Result<Registered, String> {
    #[derive(Deserialize)]
    struct Content {
        status: String,
        #[serde(default)]
        id: Option<EngineId>,
        /// Milliseconds.
        #[serde(default)]
        hb_period: Option<u64>,
        #[serde(default)]
        evalue: Option<String>,
        #[serde(default)]
        farewells: bool,
        #[serde(default)]
        recounts: bool,
        /// Ours.
        #[serde(default)]
        wants_usage: bool,
    }
    let content: Content =
        serde_json::from_slice(wire.content()).map_err(|error| format!("no answer: {error}"))?;
    match content {
        Content {
            status,
            id: Some(id),
            hb_period,
            farewells,
            recounts,
            wants_usage,
            ..
        } if status == "ok" => {
            let heartbeat_period = Duration::from_millis(hb_period.unwrap_or(3000));
            Ok(Registered {
                id,
                heartbeat_period,
                farewells,
                recounts,
                wants_usage,
            })
        }
        Content { evalue, .. } => Err(evalue.unwrap_or_default()),
    }
}

/// Asks the hub to be registered, under an id if it is free. Host name, pid and set are for `ipcluster status`; for engines
/// behind a tunnel it has more patience. `unanswered`: of an engine that was registered before, what it has been sent and
/// has not answered.
fn registration(
    composer: &mut Composer,
    uuid: &EngineUuid,
    wanted: Option<u32>,
    post: Option<&EngineUuid>,
    config: &Config,
    unanswered: Option<Vec<String>>,
) -> Vec<Frame> {
    let mut content = json!({
        "uuid": uuid,
        "hostname": host::hostname(),
        "pid": std::process::id(),
        "returns": true,
    });
    if let Some(unanswered) = unanswered {
        content["again"] = json!(true);
        content["unanswered"] = json!(unanswered);
    }
    if let Some(id) = wanted {
        content["id"] = json!(id);
    }
    if let Some(post) = post {
        content["host"] = json!(post);
    }
    if let Some(set) = &config.set {
        content["set"] = json!(set);
    }
    if config.is_tunneled {
        content["tunnel"] = json!(true);
    }
    let message = Outgoing::new("registration_request", content);
    composer
        .compose(&message, now())
        .into_iter()
        .map(Frame::from)
        .collect()
}

/// Tells the hub what this engine uses. It does not answer.
fn usage(composer: &mut Composer, uuid: &EngineUuid, mut usage: Value) -> Vec<Frame> {
    usage["uuid"] = json!(uuid);
    let message = Outgoing::new("engine_usage", usage);
    composer
        .compose(&message, now())
        .into_iter()
        .map(Frame::from)
        .collect()
}

/// Says good-bye to the hub. `farewell`: the task queue has been told as well.
fn unregistration(
    composer: &mut Composer,
    uuid: &EngineUuid,
    id: EngineId,
    reason: &str,
    leaving: Leaving,
    farewell: bool,
) -> Vec<Frame> {
    let content = json!({
        "id": id, "uuid": uuid, "reason": reason, "leaving": leaving, "farewell": farewell,
    });
    let message = Outgoing::new("unregistration_request", content);
    composer
        .compose(&message, now())
        .into_iter()
        .map(Frame::from)
        .collect()
}

/// The last word to the task queue: what it has sent to this engine and has had no answer to was still on its way. It goes
/// where the answers go, so that it comes after them.
fn farewell(composer: &mut Composer) -> Vec<Frame> {
    let parts = composer.compose(&Outgoing::new(FAREWELL, json!({})), now());
    let address = Frame::from(requests::TASK_QUEUE);
    let parts = parts.into_iter().map(Frame::from);
    std::iter::once(address).chain(parts).collect()
}

fn now() -> Timestamp {
    Timestamp::from(std::time::SystemTime::now())
}
