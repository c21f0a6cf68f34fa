//! The hub's sockets: registration and queries, notifications.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::controller::config::Config;
use crate::controller::dask::Dask;
use crate::controller::endpoints::{HubSockets, Ports};
use crate::controller::engine_state::{EngineState, EngineStateFile};
use crate::controller::late_joiners::LateJoiners;
use crate::controller::mail::{HeartbeatMail, HubMail, SchedulerMail, SchedulerSenders};
use crate::controller::recorder_thread::RecorderMail;
use crate::controller::replies::{compose, now};
use crate::hub::{self, Action, Database, Event, Hub, Request};
use crate::protocol::{Composer, Header, Identity};
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
    request_shutdown: Option<oneshot::Sender<()>>,
    actions: Vec<Action>,
    answers: Vec<Answered>,
    log: HubLog,
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
    ) -> Self {
        let mut hub = Hub::new(hub::Config {
            heartbeat_period_ms: u64::try_from(config.heartbeat.period.as_millis())
                .unwrap_or(u64::MAX),
            registration_timeout: config.registration_timeout,
            schedulers: schedulers.all.len(),
            connection_info: ports.engine_info(&config.engine_interface),
            database: if schedulers.recorder.is_some() {
                Database::Recorder
            } else {
                Database::None
            },
        });
        if let Some(EngineState { engines, next_id }) = config.restored.clone() {
            hub.restore(Instant::now(), engines, next_id);
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
            request_shutdown: Some(request_shutdown),
            actions: Vec::new(),
            answers: Vec::new(),
            log: HubLog::default(),
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
            let timeout = if busy {
                Some(Duration::ZERO)
            } else {
                self.desk.engine_state.save();
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
            HubMail::EngineShutDown { session } => self.hub.on_engine_shutdown(now, &session, out),
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
            HubMail::Stop => {}
        }
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

    fn perform(&mut self, queries: &mut Socket, notifications: &mut Socket) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Reply {
                    to,
                    msg_type,
                    parent,
                    content,
                } => {
                    if msg_type == "connection_reply" {
                        self.late_joiners.on_told(Instant::now());
                        self.schedulers.iopub.send(SchedulerMail::ClientComes);
                    }
                    let mut frames = vec![Frame::from(to.as_bytes())];
                    frames.extend(compose(
                        &mut self.composer,
                        &msg_type,
                        &parent,
                        json!({}),
                        content,
                    ));
                    if let Err(error) = queries.send(&mut frames) {
                        tracing::debug!("hub: a {msg_type} could not be sent: {error}");
                    }
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
                Action::AcceptHeart(uuid) => {
                    self.heartbeat.send(HeartbeatMail::Accept(uuid));
                }
                Action::ForgetHeart(uuid) => {
                    self.heartbeat.send(HeartbeatMail::Forget(uuid));
                }
                Action::TakeIn { token, engine } => {
                    self.tell_all(&SchedulerMail::TakeIn { token, engine });
                }
                Action::LetGo {
                    token,
                    engine,
                    id,
                    how,
                    returned,
                } => {
                    self.tell_all(&SchedulerMail::LetGo {
                        token,
                        engine,
                        id,
                        how,
                        returned,
                    });
                }
                Action::Inspect { token, what } => {
                    self.tell_all(&SchedulerMail::Inspect { token, what })
                }
                Action::AskRecorder { request, engines } => {
                    if let Some(recorder) = &self.schedulers.recorder {
                        recorder.send(RecorderMail::Ask { request, engines });
                    }
                }
                Action::SaveEngines { engines, next_id } => {
                    self.engine_state.change(EngineState { engines, next_id })
                }
                Action::StartDask { run, arguments } => self.dask.start(run, arguments),
                Action::StopDask => self.dask.stop(),
                Action::Log(event) => self.log.write(&event),
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
        self.engine_state.save();
        self.dask.end();
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
            Event::EngineRegistering { id, uuid } => {
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
            Event::EngineLeft { id, uuid, how } => {
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
