//! The hub's sockets: registration and queries, notifications.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::HashMap;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::controller::config::Config;
use crate::controller::dask::Dask;
use crate::controller::endpoints::{HubSockets, Ports};
use crate::controller::engine_state::EngineStateFile;
use crate::controller::late_joiners::LateJoiners;
use crate::controller::lookout::Sighting;
use crate::controller::mail::{Answer, HeartbeatMail, HubMail, SchedulerMail, SchedulerSenders};
use crate::controller::questions::Questions;
use crate::controller::recorder_thread::{NOBODY, RecorderMail};
use crate::controller::replies::{compose, now};
use crate::controller::this_process::ThisProcess;
use crate::hub::{self, Action, Database, Event, Hub, Request};
use crate::protocol::header::reply_type;
use crate::protocol::{Composer, EngineId, EngineUuid, Header, Identity, Leaving, RemoteError};
use crate::transport::{
    Door, Frame, Mailbox, PeerLog, Poller, Sender, Socket, drain, printable, time_left,
};

pub(super) struct HubThread {
    queries: Socket,
    notifications: Socket,
    mailbox: Mailbox<HubMail>,
    desk: Desk,
}

/// Everything but the socket that is being read.
struct Desk {
    door: Door,
    composer: Composer,
    hub: Hub,
    schedulers: SchedulerSenders,
    heartbeat: Sender<HeartbeatMail>,
    late_joiners: LateJoiners,
    engine_state: EngineStateFile,
    dask: Dask,
    process: ThisProcess,
    request_shutdown: Option<oneshot::Sender<()>>,
    actions: Vec<Action>,
    answers: Vec<Answered>,
    /// Who waits within this process, by the name under which the hub was asked.
    inside: HashMap<Identity, Answer>,
    asked: u64,
    /// Who shows what happens.
    sightings: Option<Sender<Sighting>>,
    log: HubLog,
    questions: Questions,
}

/// What the recorder answers to a client.
struct Answered {
    to: Identity,
    parent: Bytes,
    msg_type: &'static str,
    content: Bytes,
    buffers: Vec<Bytes>,
}

impl HubThread {
    #[expect(
        clippy::too_many_arguments,
        reason = "the hub is where everything meets; each is used once"
    )]
    pub(super) fn new(
        sockets: HubSockets,
        door: Door,
        composer: Composer,
        config: &Config,
        ports: &Ports,
        schedulers: SchedulerSenders,
        heartbeat: Sender<HeartbeatMail>,
        dask: Dask,
        mailbox: Mailbox<HubMail>,
        request_shutdown: oneshot::Sender<()>,
        sightings: Option<Sender<Sighting>>,
    ) -> Self {
        let has_database = schedulers.recorder.is_some();
        let mut hub = Hub::new(hub::Config {
            heartbeat_period_ms: u64::try_from(config.heartbeat.period.as_millis())
                .unwrap_or(u64::MAX),
            registration_timeout: config.registration_timeout,
            schedulers: schedulers.all.len(),
            connection_info: ports.engine_info(&config.engine_interface),
            database: if has_database {
                Database::Recorder
            } else {
                Database::None
            },
            wants_usage: sightings.is_some(),
        });
        if let Some(state) = config.restored.clone() {
            hub.restore(Instant::now(), state);
        }
        let desk = Desk {
            door,
            composer,
            hub,
            schedulers,
            heartbeat,
            late_joiners: LateJoiners::default(),
            engine_state: EngineStateFile::new(config.engine_state_file.clone()),
            dask,
            process: ThisProcess::new(has_database),
            request_shutdown: Some(request_shutdown),
            actions: Vec::new(),
            answers: Vec::new(),
            inside: HashMap::new(),
            asked: 0,
            sightings,
            log: HubLog::default(),
            questions: Questions::default(),
        };
        Self {
            queries: sockets.queries,
            notifications: sockets.notifications,
            mailbox,
            desk,
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_socket(&mut self.queries);
        poller.add_socket(&mut self.notifications);
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            let mut busy = self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                // As in ipyparallel, a signal is no `shutdown_notification`: its clients close themselves at that, and leave
                // tracebacks at the terminals and in the notebooks where they run.
                if matches!(message, HubMail::Stop) {
                    self.desk.stop_others();
                    return;
                }
                self.desk.on_mail(message);
            }
            busy |= self.receive_requests(&mut frames);
            busy |= self.receive_subscriptions(&mut frames);
            self.on_time();
            self.desk
                .perform(&mut self.queries, &mut self.notifications);
            if !busy || self.desk.engine_state.is_cheap(Instant::now()) {
                self.desk.save_engines();
            }
            let timeout = if busy {
                Some(Duration::ZERO)
            } else {
                time_left([
                    self.desk.hub.next_deadline(),
                    self.desk.late_joiners.next_deadline(),
                ])
            };
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("hub: cannot wait for messages: {error}");
                self.desk.stop_others();
                return;
            }
        }
    }

    fn receive_requests(&mut self, frames: &mut Vec<Frame>) -> bool {
        let desk = &mut self.desk;
        drain(&mut self.queries, frames, |_, frames| {
            desk.on_request(frames)
        })
    }

    fn receive_subscriptions(&mut self, frames: &mut Vec<Frame>) -> bool {
        let joiners = &mut self.desk.late_joiners;
        drain(&mut self.notifications, frames, |_, frames| {
            if frames
                .first()
                .is_some_and(|frame| frame.first() == Some(&1))
            {
                joiners.on_subscribed(Instant::now());
            }
        })
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self
            .desk
            .hub
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.desk.hub.on_time(now, &mut self.desk.actions);
        }
        for (msg_type, content) in self.desk.late_joiners.due(now) {
            self.desk
                .publish(msg_type, content, &mut self.notifications);
        }
    }
}

impl Desk {
    fn on_mail(&mut self, message: HubMail) {
        let now = Instant::now();
        let out = &mut self.actions;
        match message {
            HubMail::HeartStarted(heart) => self.hub.on_heart_started(&heart, out),
            HubMail::HeartStopped { heart, how } => {
                self.hub.on_heart_stopped(now, &heart, &how, out)
            }
            HubMail::EngineShutDown { session, leaving } => {
                self.hub.on_engine_shutdown(now, &session, leaving, out);
            }
            HubMail::SchedulerDone { token } => self.hub.on_scheduler_done(now, token, out),
            HubMail::DaskStarted { run, result } => self.hub.on_dask_started(run, result, out),
            HubMail::DaskEnded { run } => self.hub.on_dask_ended(run, out),
            HubMail::Report { token, report } => self.hub.on_report(token, report, out),
            HubMail::Answered {
                to,
                parent,
                msg_type,
                content,
                buffers,
            } => {
                self.answers.push(Answered {
                    to,
                    parent,
                    msg_type,
                    content,
                    buffers,
                });
            }
            HubMail::Storage(fault) => self.hub.on_storage(fault),
            HubMail::Ask {
                msg_type,
                content,
                answer,
            } => self.ask_from_inside(now, msg_type, content, answer),
            HubMail::Command {
                engine,
                msg_type,
                content,
                answer,
            } => self.command(&engine, msg_type, content, answer),
            HubMail::Stop => {}
        }
    }

    fn ask_from_inside(&mut self, now: Instant, msg_type: &str, content: Bytes, answer: Answer) {
        self.asked += 1;
        // No client's routing id: those begin with a zero and a random number, or are of its own choice.
        let name = format!("\0inside-{}", self.asked);
        let from = Identity::from(name.as_bytes());
        self.inside.insert(from.clone(), answer);
        let request = Request {
            from,
            msg_type: msg_type.to_owned(),
            header: Bytes::from_static(b"{}"),
            content,
        };
        self.hub.on_request(now, request, &mut self.actions);
    }

    fn command(&mut self, engine: &EngineUuid, msg_type: &str, content: Value, answer: Answer) {
        let mut frames = vec![Frame::from(NOBODY), Frame::from(engine.as_str().as_bytes())];
        frames.extend(compose(
            &mut self.composer,
            msg_type,
            b"{}",
            json!({}),
            content,
        ));
        let command = SchedulerMail::Command { frames, answer };
        self.schedulers.control.send(command);
    }

    /// `true` if it was for somebody within this process, who may have gone.
    fn answer_inside(&mut self, to: &Identity, content: impl FnOnce() -> Bytes) -> bool {
        let Some(answer) = self.inside.remove(to) else {
            return false;
        };
        let _ = answer.send(content());
        true
    }

    /// `frames`: `sender, <IDS|MSG>, …`.
    fn on_request(&mut self, frames: &[Frame]) {
        let Some(wire) = self.door.admit(frames) else {
            return;
        };
        let [from] = wire.identities() else {
            return self
                .door
                .refuse(frames, "a request to the hub has one address");
        };
        let header = match Header::parse(wire.header()) {
            Ok(header) => header,
            Err(error) => return self.door.refuse(frames, error),
        };
        let layout = wire.layout();
        let request = Request {
            from: Identity::from(&from[..]),
            msg_type: header.msg_type.into_owned(),
            header: frames[layout.header()].to_bytes(),
            content: frames[layout.content()].to_bytes(),
        };
        self.hub
            .on_request(Instant::now(), request, &mut self.actions);
    }

    fn reply(
        &mut self,
        to: &Identity,
        msg_type: &str,
        parent: &[u8],
        content: Value,
        queries: &mut Socket,
    ) {
        if self.answer_inside(to, || content.to_string().into()) {
            return;
        }
        let mut frames = vec![Frame::from(to.as_bytes())];
        frames.extend(compose(
            &mut self.composer,
            msg_type,
            parent,
            json!({}),
            content,
        ));
        if let Err(error) = queries.send(&mut frames) {
            tracing::debug!("hub: a {msg_type} could not be sent: {error}");
        }
    }

    /// Hands a question over, unless too many wait already.
    fn ask_recorder(
        &mut self,
        request: Request,
        engines: Vec<(EngineId, EngineUuid)>,
        queries: &mut Socket,
    ) {
        let Some(recorder) = &self.schedulers.recorder else {
            return;
        };
        match self.questions.admit(&request) {
            Some(place) => {
                recorder.send(RecorderMail::Ask {
                    request,
                    engines,
                    place,
                });
            }
            None => {
                let error = RemoteError::new(
                    "RuntimeError",
                    "too many questions wait for the task database already: ask again later",
                );
                let msg_type = reply_type(&request.msg_type);
                let content = error.to_content();
                self.reply(&request.from, &msg_type, &request.header, content, queries);
            }
        }
    }

    fn perform(&mut self, queries: &mut Socket, notifications: &mut Socket) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Reply {
                    to,
                    msg_type,
                    parent,
                    mut content,
                } => {
                    if msg_type == "status_reply" {
                        content["controller"] = self.process.facts();
                    }
                    if msg_type == "connection_reply" {
                        self.late_joiners.on_told(Instant::now());
                        self.schedulers.iopub.send(SchedulerMail::ClientComes);
                    }
                    self.reply(&to, &msg_type, &parent, content, queries);
                }
                Action::Notify { msg_type, content } => {
                    for (msg_type, content) in self.late_joiners.due_before_news() {
                        self.publish(msg_type, content, notifications);
                    }
                    self.late_joiners
                        .on_published(Instant::now(), msg_type, &content);
                    self.publish(msg_type, content, notifications);
                }
                Action::ExpectHeart(uuid) => {
                    self.heartbeat.send(HeartbeatMail::Expect(uuid));
                }
                Action::AcceptHeart { uuid, is_tunneled } => {
                    self.heartbeat
                        .send(HeartbeatMail::Accept { uuid, is_tunneled });
                }
                Action::ForgetHeart(uuid) => {
                    self.heartbeat.send(HeartbeatMail::Forget(uuid));
                }
                Action::TakeIn {
                    token,
                    engine,
                    host,
                    unanswered,
                } => {
                    self.tell_all(&SchedulerMail::TakeIn {
                        token,
                        engine,
                        host,
                        unanswered,
                    });
                }
                Action::LetGo {
                    token,
                    engine,
                    id,
                    how,
                    farewell,
                } => {
                    self.tell_all(&SchedulerMail::LetGo {
                        token,
                        engine,
                        id,
                        how,
                        farewell,
                    });
                }
                Action::Inspect { token, what } => {
                    self.tell_all(&SchedulerMail::Inspect { token, what })
                }
                Action::AskRecorder { request, engines } => {
                    self.ask_recorder(request, engines, queries);
                }
                Action::Usage { uuid, content } => {
                    if let Some(sightings) = &self.sightings
                        && let Ok(usage) = serde_json::from_slice(&content)
                    {
                        sightings.send(Sighting::Usage { uuid, usage });
                    }
                }
                Action::Expected { by, sets } => {
                    if let Some(sightings) = &self.sightings {
                        sightings.send(Sighting::Expected { by, sets });
                    }
                }
                Action::SaveEngines => self.engine_state.on_change(),
                Action::StartDask { run, arguments } => self.dask.start(run, arguments),
                Action::StopDask => self.dask.stop(),
                Action::Log(event) => {
                    self.log.write(&event);
                    self.show(event);
                }
                Action::ShutDown => {
                    if let Some(request) = self.request_shutdown.take() {
                        // Nobody listens when the controller is being stopped anyway.
                        let _ = request.send(());
                    }
                }
            }
        }
        self.actions = actions;
        self.send_answers(queries);
    }

    fn send_answers(&mut self, queries: &mut Socket) {
        for answer in std::mem::take(&mut self.answers) {
            if self.answer_inside(&answer.to, || answer.content.clone()) {
                continue;
            }
            let header = self.composer.header(answer.msg_type, now());
            let parts = self.composer.seal(
                header,
                &answer.parent,
                b"{}".to_vec(),
                answer.content.to_vec(),
            );
            let mut frames = vec![Frame::from(answer.to.as_bytes())];
            frames.extend(parts.into_iter().map(Frame::from));
            frames.extend(answer.buffers.into_iter().map(Frame::from));
            if let Err(error) = queries.send(&mut frames) {
                tracing::debug!("hub: a {} could not be sent: {error}", answer.msg_type);
            }
        }
    }

    fn show(&self, event: Event) {
        let Some(sightings) = &self.sightings else {
            return;
        };
        let at = Instant::now();
        let sighting = match event {
            Event::EngineRegistering {
                id,
                uuid,
                host,
                set,
            } => Sighting::EngineStarting {
                at,
                id,
                uuid,
                host: host.map(|host| printable(&host).to_string()),
                set,
            },
            Event::EngineRegistered { id, uuid, .. } => Sighting::EngineRegistered { at, id, uuid },
            Event::EngineLeft {
                id,
                uuid,
                how,
                leaving,
            } => Sighting::EngineLeft {
                at,
                id,
                uuid,
                how: printable(&how).to_string(),
                leaving,
            },
            Event::RegistrationStalled { id, uuid } => Sighting::EngineLeft {
                at,
                id,
                uuid,
                how: "it registered but showed no heartbeat".to_owned(),
                leaving: Leaving::Died,
            },
            Event::ClientConnected { .. } => Sighting::ClientConnected,
            _ => return,
        };
        sightings.send(sighting);
    }

    fn publish(&mut self, msg_type: &str, content: Value, notifications: &mut Socket) {
        let mut frames: Vec<Frame> =
            compose(&mut self.composer, msg_type, b"{}", json!({}), content).collect();
        if let Err(error) = notifications.send(&mut frames) {
            tracing::error!("hub: a {msg_type} could not be published: {error}");
        }
    }

    fn tell_all(&self, mail: &SchedulerMail) {
        for scheduler in &self.schedulers.all {
            scheduler.send(mail.clone());
        }
    }

    /// All but the recorder, which takes what they still report.
    fn stop_others(&mut self) {
        self.tell_all(&SchedulerMail::Stop);
        self.schedulers.iopub.send(SchedulerMail::Stop);
        self.heartbeat.send(HeartbeatMail::Stop);
        self.save_engines();
        self.dask.end();
    }

    fn save_engines(&mut self) {
        self.engine_state.save(|| self.hub.engine_state());
    }
}

/// What happened, in lines that no peer can make long, many or misleading.
#[derive(Default)]
struct HubLog {
    clients: PeerLog,
    refusals: PeerLog,
}

impl HubLog {
    fn write(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::EngineRegistering { id, uuid, .. } => {
                tracing::debug!("engine {id} ({}) registers", printable(uuid.as_str()));
            }
            Event::EngineRegistered { id, uuid, took } => tracing::info!(
                "engine {id} ({}) registered in {} ms",
                printable(uuid.as_str()),
                took.as_millis()
            ),
            Event::EngineRefused { client, uuid, why } => {
                if let Some(line) = self.refusals.on_event(now, client) {
                    let (uuid, why) = (printable(uuid), printable(why));
                    tracing::warn!("a registration of '{uuid}' is refused: {why} {line}");
                }
            }
            Event::EngineLeft { id, uuid, how, .. } => {
                let (uuid, how) = (printable(uuid.as_str()), printable(how));
                tracing::warn!("engine {id} ({uuid}) left: {how}");
            }
            Event::RegistrationStalled { id, uuid } => {
                if let Some(line) = self.refusals.on_event(now, &Identity::from(uuid)) {
                    let uuid = printable(uuid.as_str());
                    tracing::warn!(
                        "engine {id} ({uuid}) registered but shows no heartbeat: dropped {line}"
                    );
                }
            }
            Event::ClientConnected { client } => {
                if let Some(line) = self.clients.on_event(now, client) {
                    tracing::info!("client {client} connected {line}");
                }
            }
            Event::BadRequest { client, why } => {
                if let Some(line) = self.refusals.on_event(now, client) {
                    tracing::warn!("client {client}: {} {line}", printable(why));
                }
            }
            Event::ShutdownRequested { client } => {
                tracing::warn!("client {client} asked for a shutdown");
            }
        }
    }
}
