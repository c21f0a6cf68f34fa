//! The task queue: its two routers, and the scheduler between them.

use std::time::Instant;

use crate::controller::Witnesses;
use crate::controller::endpoints::SocketPair;
use crate::controller::lookout::Lookout;
use crate::controller::mail::{HubMail, SchedulerMail};
use crate::controller::recorder_thread::{Fresh, Reporter, completed, stored};
use crate::controller::replies::{error_reply, queue_reply_type};
use crate::controller::reports;
use crate::hub::recorder::Traffic;
use crate::observe::{Load, Status};
use crate::protocol::header::{Brief, parent_id};
use crate::protocol::metadata::ReplyMetadata;
use crate::protocol::wire::Layout;
use crate::protocol::{Composer, EngineUuid, Identity, MsgId, TaskMetadata, Wire};
use crate::scheduler::{
    JobKey, Outcome, Payload, TaskAction, TaskConfig, TaskError, TaskScheduler, TaskStatus, Verdict,
};
use crate::taskdb::Queue;
use crate::transport::{
    Door, Frame, Mailbox, Outbox, Packed, Poller, Sender, Socket, drain, drain_turns, time_left,
};

pub(super) struct TaskThread {
    clients: Socket,
    engines: Socket,
    mailbox: Mailbox<SchedulerMail>,
    hub: Sender<HubMail>,
    desk: Desk,
}

/// Everything but the sockets that are being read, so that a message can be handled while its socket is borrowed.
struct Desk {
    door: Door,
    composer: Composer,
    scheduler: TaskScheduler<Packed>,
    outbox: Outbox,
    actions: Vec<TaskAction<Packed>>,
    /// Reused for every message that is sent.
    outgoing: Vec<Frame>,
    reporter: Option<Reporter>,
    lookout: Option<Lookout>,
}

impl TaskThread {
    pub(super) fn new(
        sockets: SocketPair,
        door: Door,
        composer: Composer,
        hub: Sender<HubMail>,
        mailbox: Mailbox<SchedulerMail>,
        config: TaskConfig,
        witnesses: Witnesses,
    ) -> Self {
        let desk = Desk {
            door,
            composer,
            scheduler: TaskScheduler::new(config),
            outbox: Outbox::default(),
            actions: Vec::new(),
            outgoing: Vec::new(),
            reporter: witnesses.reporter,
            lookout: witnesses.lookout,
        };
        Self {
            clients: sockets.clients,
            engines: sockets.engines,
            mailbox,
            hub,
            desk,
        }
    }

    pub(super) fn run(mut self) {
        let mut poller = Poller::new();
        poller.add_socket(&mut self.engines);
        let clients = poller.add_socket(&mut self.clients);
        poller.add_fd(self.mailbox.fd());
        let mut mail = Vec::new();
        let mut frames = Vec::new();
        loop {
            if let Some(lookout) = &mut self.desk.lookout {
                lookout.begin_round();
            }
            self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                if matches!(message, SchedulerMail::Stop) {
                    return;
                }
                self.on_mail(message, &mut frames);
            }
            // Replies before requests: they free the engines that requests wait for.
            self.receive_replies(&mut frames);
            let takes_requests = !self.desk.reporter.as_ref().is_some_and(Reporter::is_behind);
            if takes_requests {
                self.receive_requests(&mut frames);
            }
            poller.want_read(clients, takes_requests);
            self.on_time();
            if let Some(reporter) = &mut self.desk.reporter {
                reporter.hand_over();
            }
            self.desk.show();
            let timeout = time_left([
                self.desk.lookout.as_ref().and_then(Lookout::next_deadline),
                self.desk.scheduler.next_deadline(),
                self.desk.outbox.next_retry(),
            ]);
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("task: cannot wait for messages: {error}");
                return;
            }
        }
    }

    fn on_mail(&mut self, message: SchedulerMail, frames: &mut Vec<Frame>) {
        let now = Instant::now();
        match message {
            SchedulerMail::TakeIn { token, engine, .. } => {
                self.desk
                    .scheduler
                    .on_engine_registered(now, engine, &mut self.desk.actions);
                self.perform();
                self.desk.touch();
                self.hub.send(HubMail::SchedulerDone { token });
            }
            SchedulerMail::LetGo {
                token,
                engine,
                how,
                returned,
                ..
            } => {
                // What the engine has sent before it left counts.
                self.engines.look_again();
                let pending = self.desk.scheduler.pending_ids(&engine);
                let peers = self.desk.scheduler.snapshot().engines.len() + 1;
                drain_turns(pending.len(), peers, || self.receive_replies(frames));
                if let Some(lookout) = &mut self.desk.lookout {
                    for msg_id in &pending {
                        lookout.on_returned(msg_id.as_str());
                    }
                }
                self.desk.outbox.forget(engine.as_str().as_bytes());
                self.desk
                    .scheduler
                    .on_engine_leaving(engine.as_str().as_bytes());
                for msg_id in returned {
                    let (engine, msg_id) = (engine.as_str().as_bytes(), msg_id.as_str());
                    self.desk
                        .scheduler
                        .on_returned(now, engine, msg_id, &mut self.desk.actions);
                }
                self.desk
                    .scheduler
                    .on_engine_gone(now, &engine, &how, &mut self.desk.actions);
                self.perform();
                self.desk.touch();
                self.hub.send(HubMail::SchedulerDone { token });
            }
            SchedulerMail::Inspect { token, what } => {
                let report = reports::of_tasks(&self.desk.scheduler, &what);
                self.hub.send(HubMail::Report { token, report });
            }
            SchedulerMail::Abort(msg_ids) => {
                let msg_ids: Vec<&str> = msg_ids.iter().map(|id| id.as_str()).collect();
                self.desk
                    .scheduler
                    .on_abort(now, &msg_ids, &mut self.desk.actions);
                self.perform();
            }
            SchedulerMail::Expect(engine) => {
                self.desk
                    .scheduler
                    .on_engine_expected(now, engine, &mut self.desk.actions);
                self.perform();
            }
            SchedulerMail::Ended { msg_id, ok, engine } => {
                self.desk
                    .scheduler
                    .on_ended_before(msg_id.as_str(), ok, engine.as_ref());
            }
            SchedulerMail::Resubmit(mut again) => {
                self.desk
                    .submit(&mut again, Fresh::No, &mut self.clients, &mut self.engines);
            }
            SchedulerMail::StorageCaughtUp
            | SchedulerMail::Command { .. }
            | SchedulerMail::ClientComes
            | SchedulerMail::Stop => {}
        }
    }

    fn receive_requests(&mut self, frames: &mut Vec<Frame>) -> bool {
        let (engines, desk) = (&mut self.engines, &mut self.desk);
        drain(&mut self.clients, frames, |clients, frames| {
            desk.on_request(frames, clients, engines)
        })
    }

    fn receive_replies(&mut self, frames: &mut Vec<Frame>) -> bool {
        let (clients, desk) = (&mut self.clients, &mut self.desk);
        drain(&mut self.engines, frames, |engines, frames| {
            desk.on_reply(frames, clients, engines)
        })
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if self
            .desk
            .scheduler
            .next_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.desk.scheduler.on_time(now, &mut self.desk.actions);
            self.perform();
        }
        if self
            .desk
            .outbox
            .next_retry()
            .is_some_and(|retry| retry <= now)
        {
            self.desk.outbox.retry(&mut self.engines, now);
        }
    }

    fn perform(&mut self) {
        self.desk
            .perform(None, &mut self.clients, &mut self.engines);
    }
}

impl Payload for Packed {
    fn msg_id(&self) -> &str {
        self.id()
    }
}

/// What is left of a request when it has been read.
struct Submission {
    client: Identity,
    msg_id: String,
    msg_type: String,
    metadata: Result<TaskMetadata, String>,
}

impl Desk {
    /// `frames`: `client, <IDS|MSG>, …`.
    fn on_request(&mut self, frames: &mut Vec<Frame>, clients: &mut Socket, engines: &mut Socket) {
        if self.door.admit(frames).is_some() {
            self.submit(frames, Fresh::Yes, clients, engines);
        }
    }

    fn submit(
        &mut self,
        frames: &mut Vec<Frame>,
        fresh: Fresh,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        let read = Wire::parse(frames).map_err(|error| error.to_string());
        let (layout, submission) =
            match read.and_then(|wire| Ok((wire.layout(), read_submission(&wire)?))) {
                Ok(read) => read,
                Err(why) => return self.door.refuse(frames, why),
            };
        let Submission {
            client,
            msg_id,
            msg_type,
            metadata,
        } = submission;
        let metadata = if is_answered(&msg_type) {
            metadata
        } else {
            Err(format!(
                "engines do not answer a message of type '{msg_type}' on the task queue"
            ))
        };
        match metadata {
            Ok(metadata) => {
                let payload = Packed::new(frames, layout.header(), &msg_id);
                let now = Instant::now();
                let is_new =
                    self.scheduler
                        .on_submit(now, client, &metadata, payload, &mut self.actions);
                if is_new {
                    self.report_submitted(fresh, frames, layout);
                    if let Some(lookout) = &mut self.lookout {
                        lookout.on_submitted(&msg_id);
                    }
                }
                self.perform(Some((&msg_id, frames)), clients, engines);
            }
            Err(why) => {
                let error = match self.scheduler.status(&msg_id) {
                    Some(TaskStatus::Waiting | TaskStatus::Running(_)) => {
                        TaskError::Duplicate(msg_id.as_str().into())
                    }
                    Some(TaskStatus::Finished { .. }) | None => {
                        self.report_submitted(fresh, frames, layout);
                        if let Some(lookout) = &mut self.lookout {
                            lookout.on_submitted(&msg_id);
                        }
                        TaskError::BadRequest(why)
                    }
                };
                self.fail(
                    &client,
                    &frames[layout.header()].clone(),
                    &msg_type,
                    None,
                    &error,
                    clients,
                );
            }
        }
    }

    fn report_submitted(&mut self, fresh: Fresh, frames: &[Frame], layout: Layout) {
        if let (Some(reporter), Fresh::Yes) = (&mut self.reporter, fresh) {
            let message = stored(frames, layout);
            reporter.report(Traffic::Submitted {
                queue: Queue::Task,
                engine: None,
                message,
            });
        }
    }

    /// Ends a task in an engine's place. One whose id another task has leaves the other's record alone.
    fn fail(
        &mut self,
        client: &Identity,
        header: &[u8],
        request_type: &str,
        engine: Option<&EngineUuid>,
        error: &TaskError,
        clients: &mut Socket,
    ) {
        let msg_type = queue_reply_type(request_type);
        let is_duplicate = matches!(error, TaskError::Duplicate(_));
        let error = error.to_remote_error();
        let mut reply = error_reply(&mut self.composer, client, msg_type, header, engine, &error);
        if !is_duplicate
            && let (Some(reporter), Ok(wire)) = (&mut self.reporter, Wire::parse(&reply))
        {
            reporter.report(completed(engine.cloned(), &reply, wire.layout()));
        }
        if !is_duplicate
            && let Some(lookout) = &mut self.lookout
            && let Ok(header) = Brief::parse(header)
        {
            let status = match error.ename.as_str() {
                "TaskAborted" => Status::Aborted,
                _ => Status::Failed,
            };
            let engine = engine.map(EngineUuid::as_str);
            lookout.on_ended(&header.msg_id, engine, status, &reply);
        }
        send_to_client(clients, &mut reply);
    }

    /// `frames`: `engine, client, <IDS|MSG>, …`.
    fn on_reply(&mut self, frames: &mut Vec<Frame>, clients: &mut Socket, engines: &mut Socket) {
        let Some(wire) = self.door.admit(frames) else {
            return;
        };
        let layout = wire.layout();
        let Reply {
            msg_id,
            outcome,
            farewell,
        } = match read_reply(&wire) {
            Ok(read) => read,
            Err(why) => return self.door.refuse(frames, why),
        };
        let now = Instant::now();
        if farewell || outcome.is_none() {
            // Before its slot is free: the next task would fail with it.
            self.scheduler.on_engine_leaving(&frames[0]);
        }
        let Some(outcome) = outcome else {
            let engine = &frames[0];
            self.scheduler
                .on_returned(now, engine, &msg_id, &mut self.actions);
            if let Some(lookout) = &mut self.lookout {
                lookout.on_returned(&msg_id);
            }
            if farewell {
                self.scheduler.on_farewell(now, engine, &mut self.actions);
            }
            return self.perform(None, clients, engines);
        };
        let leaver = farewell.then(|| frames[0].clone());
        let verdict = self
            .scheduler
            .on_reply(now, &frames[0], &msg_id, outcome, &mut self.actions);
        match verdict {
            Verdict::Deliver { client } => {
                if let Some(reporter) = &mut self.reporter {
                    let engine = Some(EngineUuid::from(
                        String::from_utf8_lossy(&frames[0]).into_owned(),
                    ));
                    reporter.report(completed(engine, frames, layout));
                }
                if let Some(lookout) = &mut self.lookout {
                    let status = match outcome {
                        Outcome::Ok => Status::Ok,
                        Outcome::Aborted => Status::Aborted,
                        Outcome::Failed | Outcome::Unmet => Status::Failed,
                    };
                    let engine = std::str::from_utf8(&frames[0]).ok();
                    lookout.on_ended(&msg_id, engine, status, frames);
                }
                let engine = std::mem::replace(&mut frames[0], Frame::from(client.as_bytes()));
                frames[1] = engine;
                send_to_client(clients, frames);
            }
            Verdict::Requeued => {
                if let Some(lookout) = &mut self.lookout {
                    lookout.on_returned(&msg_id);
                }
            }
            Verdict::Unknown => {
                tracing::debug!("task: a reply to {msg_id}, which is nobody's task any more")
            }
        }
        if let Some(engine) = leaver {
            self.scheduler.on_farewell(now, &engine, &mut self.actions);
        }
        self.perform(None, clients, engines);
    }

    /// Carries out what the scheduler decided. `fresh` is the request that was just submitted: if it can go to an engine
    /// at once, its frames need not be unpacked.
    fn perform(
        &mut self,
        mut fresh: Option<(&str, &mut Vec<Frame>)>,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                TaskAction::Dispatch {
                    job,
                    engine,
                    resend,
                } => {
                    self.outgoing.clear();
                    self.outgoing.push(Frame::from(engine.as_str().as_bytes()));
                    match fresh.take() {
                        Some((msg_id, frames)) if self.scheduler.msg_id(job) == Some(msg_id) => {
                            self.outgoing.append(frames);
                        }
                        other => {
                            fresh = other;
                            self.unpack(job);
                        }
                    }
                    if resend {
                        mark_as_resent(&mut self.outgoing, &self.composer);
                    }
                    if let (Some(reporter), Some(msg_id)) =
                        (&mut self.reporter, self.scheduler.msg_id(job))
                    {
                        reporter.report(Traffic::Assigned {
                            msg_id: MsgId::from(msg_id),
                            engine: engine.clone(),
                        });
                    }
                    if let (Some(lookout), Some(msg_id)) =
                        (&mut self.lookout, self.scheduler.msg_id(job))
                    {
                        lookout.on_sent(msg_id, &engine, &self.outgoing);
                    }
                    self.outbox.send(engines, &mut self.outgoing);
                }
                TaskAction::Fail {
                    job_payload,
                    client,
                    engine,
                    error,
                } => {
                    self.outgoing.clear();
                    job_payload.unpack_into(&mut self.outgoing);
                    let Ok(wire) = Wire::parse(&self.outgoing) else {
                        continue;
                    };
                    let header = self.outgoing[wire.layout().header()].clone();
                    let request_type = Brief::parse(&header)
                        .map(|header| header.msg_type)
                        .unwrap_or_default();
                    self.fail(
                        &client,
                        &header,
                        &request_type,
                        engine.as_ref(),
                        &error,
                        clients,
                    );
                }
            }
        }
        self.actions = actions;
    }

    /// Hands over what has been seen, if it is time.
    fn show(&mut self) {
        let scheduler = &self.scheduler;
        if let Some(lookout) = &mut self.lookout {
            lookout.hand_over(|| {
                let snapshot = scheduler.snapshot();
                let loads = snapshot.engines.into_iter().map(|engine| Load {
                    engine: engine.uuid,
                    pending: engine.pending,
                    completed: engine.completed,
                });
                (snapshot.waiting, loads.collect())
            });
        }
    }

    fn touch(&mut self) {
        if let Some(lookout) = &mut self.lookout {
            lookout.touch();
        }
    }

    fn unpack(&mut self, job: JobKey) {
        if let Some(payload) = self.scheduler.payload(job) {
            payload.unpack_into(&mut self.outgoing);
        }
    }
}

/// Requests that every engine answers; any other would occupy an engine for ever.
fn is_answered(msg_type: &str) -> bool {
    matches!(
        msg_type,
        "apply_request"
            | "execute_request"
            | "complete_request"
            | "inspect_request"
            | "history_request"
            | "is_complete_request"
            | "kernel_info_request"
            | "comm_info_request"
    )
}

fn read_submission(wire: &Wire<'_, Frame>) -> Result<Submission, String> {
    let [client] = wire.identities() else {
        return Err("a task has no address before it".to_owned());
    };
    let header = Brief::parse(wire.header()).map_err(|error| error.to_string())?;
    Ok(Submission {
        client: Identity::from(&client[..]),
        msg_id: header.msg_id.into_owned(),
        msg_type: header.msg_type.into_owned(),
        metadata: TaskMetadata::parse(wire.metadata())
            .map_err(|error| format!("metadata: {error}")),
    })
}

/// An engine's answer to a task.
struct Reply {
    msg_id: String,
    /// How it ended; none when the engine gives it back.
    outcome: Option<Outcome>,
    /// The engine is about to leave.
    farewell: bool,
}

fn read_reply(wire: &Wire<'_, Frame>) -> Result<Reply, String> {
    if wire.identities().len() != 2 {
        return Err("a reply without the address of a client".to_owned());
    }
    let header = Brief::parse(wire.header()).map_err(|error| error.to_string())?;
    if !header.msg_type.ends_with("_reply") {
        return Err("not a reply".to_owned());
    }
    let parent = parent_id(wire.parent_header()).map_err(|error| error.to_string())?;
    let parent = parent.ok_or("a reply to nothing")?;
    let metadata = ReplyMetadata::parse(wire.metadata()).map_err(|error| error.to_string())?;
    let outcome = if metadata.is_returned() {
        None
    } else if metadata.is_unmet() {
        Some(Outcome::Unmet)
    } else if metadata.is_ok() {
        Some(Outcome::Ok)
    } else if metadata.status.as_deref() == Some("aborted") {
        Some(Outcome::Aborted)
    } else {
        Some(Outcome::Failed)
    };
    Ok(Reply {
        msg_id: parent.into_owned(),
        outcome,
        farewell: metadata.is_farewell(),
    })
}

/// Gives a message that its engine has had before a new signature: engines refuse one that they know.
fn mark_as_resent(frames: &mut [Frame], composer: &Composer) {
    let Ok(layout) = Wire::parse(frames).map(|wire| wire.layout()) else {
        return;
    };
    let Ok(mut metadata) = serde_json::from_slice::<serde_json::Value>(&frames[layout.metadata()])
    else {
        return;
    };
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    metadata["resent"] = serde_json::Value::from(nonce);
    frames[layout.metadata()] = Frame::from(metadata.to_string().into_bytes());
    let parts = [
        layout.header(),
        layout.parent_header(),
        layout.metadata(),
        layout.content(),
    ];
    let signature = composer.signer().sign(parts.map(|part| &frames[part][..]));
    frames[layout.signature()] = Frame::from(signature);
}

fn send_to_client(clients: &mut Socket, frames: &mut Vec<Frame>) {
    if let Err(error) = clients.send(frames) {
        tracing::debug!("task: a reply could not be sent: {error}");
        frames.clear();
    }
}
