//! What the task queue does with each message, and how it carries out what the scheduler decides.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use super::messages::{Submission, Word, is_answered, mark_as_resent, read_submission, read_word};
use crate::controller::Witnesses;
use crate::controller::doubts::{Doubts, Recounted, read_recount, unsent};
use crate::controller::held::{HeldRequest, HeldRequests};
use crate::controller::lookout::Lookout;
use crate::controller::recorder_thread::{Fresh, Reporter, completed, stored};
use crate::controller::replies::{error_reply, queue_reply_type};
use crate::controller::room::Room;
use crate::hub::recorder::{Ended, Traffic};
use crate::observe::{Load, Look, Status, Waiting};
use crate::protocol::header::Brief;
use crate::protocol::wire::Layout;
use crate::protocol::{Composer, EngineUuid, Identity, MsgId, Wire};
use crate::scheduler::{
    ClientWaiting, JobKey, Outcome, Payload, TaskAction, TaskConfig, TaskError, TaskScheduler,
    TaskStatus, Verdict,
};
use crate::taskdb::Queue;
use crate::transport::{ConnectionId, Door, Frame, Outbox, Packed, Socket};

/// Everything but the sockets that are being read, so that a message can be handled while its socket is borrowed.
pub(super) struct Desk {
    door: Door,
    composer: Composer,
    pub(super) scheduler: TaskScheduler<Packed>,
    pub(super) outbox: Outbox,
    pub(super) doubts: Doubts,
    /// Of engines whose connections broke, and are there again.
    pub(super) recounts: Vec<Recounted>,
    pub(super) actions: Vec<TaskAction<Packed>>,
    /// Reused for every message that is sent.
    outgoing: Vec<Frame>,
    /// Engines that have said farewell, and that the hub has not let go of yet.
    pub(super) farewells: HashSet<EngineUuid>,
    pub(super) reporter: Option<Reporter>,
    pub(super) lookout: Option<Lookout>,
    pub(super) room: Option<Room>,
    /// Only with a database that outlives controllers.
    pub(super) held: Option<HeldRequests>,
    /// What is to be sent to engines when the task database has caught up: what they do has to be recorded.
    unsent: VecDeque<Dispatch>,
}

/// A task on its way to an engine.
#[derive(Debug)]
struct Dispatch {
    job: JobKey,
    engine: EngineUuid,
    /// The engine has had it before.
    resend: bool,
}

/// Have the records been asked about what a request needs?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Records {
    Unasked,
    Asked,
}

impl Payload for Packed {
    fn msg_id(&self) -> &str {
        self.id()
    }
}

impl Desk {
    pub(super) fn new(
        door: Door,
        composer: Composer,
        config: TaskConfig,
        witnesses: Witnesses,
        held: Option<HeldRequests>,
    ) -> Self {
        Self {
            door,
            composer,
            scheduler: TaskScheduler::new(config),
            outbox: Outbox::default(),
            doubts: Doubts::default(),
            recounts: Vec::new(),
            actions: Vec::new(),
            outgoing: Vec::new(),
            farewells: HashSet::new(),
            reporter: witnesses.reporter,
            lookout: witnesses.lookout,
            room: witnesses.room,
            held,
            unsent: VecDeque::new(),
        }
    }

    /// `frames`: `client, <IDS|MSG>, …`.
    pub(super) fn on_request(
        &mut self,
        frames: &mut Vec<Frame>,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        if self.door.admit(frames).is_some() {
            self.submit(frames, Fresh::Yes, Records::Unasked, None, clients, engines);
        }
    }

    pub(super) fn takes_requests(&mut self) -> bool {
        let is_pending = self.scheduler.has_pending();
        let has_room = self
            .room
            .as_mut()
            .is_none_or(|room| room.takes_requests(is_pending));
        let is_full = self.held.as_ref().is_some_and(HeldRequests::is_full);
        has_room && !self.is_behind() && !is_full
    }

    /// The task database is behind.
    fn is_behind(&self) -> bool {
        self.reporter.as_ref().is_some_and(Reporter::is_behind)
    }

    /// An engine's connection is there, again or for the first time.
    pub(super) fn on_connected(&mut self, engine: &Identity, connection: ConnectionId) {
        let name = engine.as_bytes();
        let uuid = EngineUuid::from(String::from_utf8_lossy(name).into_owned());
        if self.scheduler.is_expected(&uuid) {
            return self.doubts.on_returning(uuid, connection);
        }
        let mut sent = self.scheduler.pending_ids(&uuid);
        if !sent.is_empty() {
            let mut waiting = unsent(&self.outbox, name);
            let kept_back = self.unsent.iter();
            let kept_back = kept_back.filter(|dispatch| dispatch.engine == uuid);
            let ids = kept_back.filter_map(|dispatch| self.scheduler.msg_id(dispatch.job));
            waiting.extend(ids.map(MsgId::from));
            sent.retain(|id| !waiting.contains(id));
        }
        self.doubts.on_connected(uuid, connection, sent);
    }

    /// The engine is registered; it has what it has from a former controller.
    pub(super) fn take_in(
        &mut self,
        engine: &EngineUuid,
        unanswered: &HashSet<MsgId>,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        let now = Instant::now();
        let before = self.scheduler.pending_ids(engine);
        let is_live = |id: &str| self.scheduler.is_live(id);
        let has = self.doubts.on_returned(engine, unanswered, is_live);
        self.scheduler
            .on_recollected(now, engine, &has, &mut self.actions);
        if let Some(lookout) = &mut self.lookout {
            for id in before.iter().filter(|id| !has.contains(*id)) {
                lookout.on_returned(id.as_str());
            }
        }
        self.scheduler
            .on_engine_registered(now, engine.clone(), &mut self.actions);
        self.perform(None, clients, engines);
        self.touch();
    }

    pub(super) fn on_recount(
        &mut self,
        recounted: &Recounted,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        let engine = &recounted.engine;
        let lost = self.doubts.on_recount(recounted);
        lost.log("task", engine);
        let (now, name) = (Instant::now(), engine.as_str().as_bytes());
        for id in &lost.requests {
            self.scheduler
                .on_returned(now, name, id.as_str(), &mut self.actions);
            if let Some(lookout) = &mut self.lookout {
                lookout.on_returned(id.as_str());
            }
        }
        for id in &lost.answers {
            self.scheduler
                .on_answer_lost(now, name, id.as_str(), &mut self.actions);
        }
        self.perform(None, clients, engines);
    }

    pub(super) fn on_ended_before(&mut self, ended: &Ended) {
        let Ended { msg_id, ok, engine } = ended;
        self.scheduler
            .on_ended_before(msg_id.as_str(), *ok, engine.as_ref());
    }

    /// A request of which the records have been asked.
    pub(super) fn submit_held(
        &mut self,
        request: HeldRequest,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        let HeldRequest {
            msg_id,
            fresh,
            mut frames,
            is_aborted,
        } = request;
        self.submit(&mut frames, fresh, Records::Asked, None, clients, engines);
        if is_aborted {
            let now = Instant::now();
            self.scheduler
                .on_abort(now, &[msg_id.as_str()], &mut self.actions);
            self.perform(None, clients, engines);
        }
    }

    /// `at`: the engine to which a former controller had sent the task.
    pub(super) fn submit(
        &mut self,
        frames: &mut Vec<Frame>,
        fresh: Fresh,
        records: Records,
        at: Option<&EngineUuid>,
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
                if records == Records::Unasked
                    && let Some(held) = &mut self.held
                {
                    let needs = self.scheduler.unknown_dependencies(&msg_id, &metadata);
                    if !needs.is_empty() {
                        return held.hold(&msg_id, fresh, std::mem::take(frames), needs);
                    }
                }
                let payload = Packed::new(frames, layout.header(), &msg_id);
                let now = Instant::now();
                let (scheduler, out) = (&mut self.scheduler, &mut self.actions);
                let is_new = match at {
                    Some(engine) => {
                        scheduler.on_taken_over(now, client, &metadata, payload, engine, out)
                    }
                    None => scheduler.on_submit(now, client, &metadata, payload, out),
                };
                if is_new {
                    self.report_submitted(fresh, frames, layout);
                    if let Some(lookout) = &mut self.lookout {
                        lookout.on_submitted(&msg_id);
                        let there = at.filter(|engine| {
                            let running = TaskStatus::Running((*engine).clone());
                            let status = self.scheduler.status(&msg_id);
                            self.scheduler.is_expected(engine) && status == Some(running)
                        });
                        if let Some(engine) = there {
                            lookout.on_sent(&msg_id, || engine.clone(), frames);
                        }
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
    pub(super) fn on_reply(
        &mut self,
        frames: &mut Vec<Frame>,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        let Some(wire) = self.door.admit(frames) else {
            return;
        };
        match read_recount(&wire) {
            Some(Ok(recounted)) => return self.recounts.push(recounted),
            Some(Err(why)) => return self.door.refuse(frames, why),
            None => {}
        }
        let layout = wire.layout();
        let now = Instant::now();
        let (msg_id, outcome, leaving) = match read_word(&wire) {
            Ok(Word::Reply {
                msg_id,
                outcome,
                leaving,
            }) => (msg_id, outcome, leaving),
            Ok(Word::Farewell) => {
                let engine = &frames[0];
                if self.scheduler.on_farewell(now, engine, &mut self.actions) {
                    let engine = String::from_utf8_lossy(engine).into_owned();
                    self.farewells.insert(EngineUuid::from(engine));
                }
                return self.perform(None, clients, engines);
            }
            Err(why) => return self.door.refuse(frames, why),
        };
        if leaving || outcome.is_none() {
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
            return self.perform(None, clients, engines);
        };
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
        self.perform(None, clients, engines);
    }

    /// Carries out what the scheduler decided. `fresh` is the request that was just submitted: if it can go to an engine
    /// at once, its frames need not be unpacked.
    pub(super) fn perform(
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
                    let dispatch = Dispatch {
                        job,
                        engine,
                        resend,
                    };
                    if self.is_behind() || !self.unsent.is_empty() {
                        self.unsent.push_back(dispatch);
                    } else {
                        self.dispatch(dispatch, &mut fresh, engines);
                    }
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

    fn dispatch(
        &mut self,
        dispatch: Dispatch,
        fresh: &mut Option<(&str, &mut Vec<Frame>)>,
        engines: &mut Socket,
    ) {
        let Dispatch {
            job,
            engine,
            resend,
        } = dispatch;
        self.outgoing.clear();
        self.outgoing.push(Frame::from(engine.as_str().as_bytes()));
        match fresh.take() {
            Some((msg_id, frames)) if self.scheduler.msg_id(job) == Some(msg_id) => {
                self.outgoing.append(frames);
            }
            other => {
                *fresh = other;
                self.unpack(job);
            }
        }
        if resend {
            mark_as_resent(&mut self.outgoing, &self.composer);
        }
        if let (Some(reporter), Some(msg_id)) = (&mut self.reporter, self.scheduler.msg_id(job)) {
            reporter.report(Traffic::Assigned {
                msg_id: MsgId::from(msg_id),
                engine: engine.clone(),
            });
        }
        if let (Some(lookout), Some(msg_id)) = (&mut self.lookout, self.scheduler.msg_id(job)) {
            lookout.on_sent(msg_id, || engine.clone(), &self.outgoing);
        }
        self.outbox.send(engines, &mut self.outgoing);
    }

    /// Sends what was held back, unless the database is behind still.
    pub(super) fn send_unsent(&mut self, engines: &mut Socket) {
        while !self.is_behind()
            && let Some(dispatch) = self.unsent.pop_front()
        {
            // It may have ended meanwhile.
            if self.scheduler.payload(dispatch.job).is_some() {
                self.dispatch(dispatch, &mut None, engines);
            }
        }
    }

    /// What was held back from an engine that goes: its kernel has not seen it.
    pub(super) fn take_unsent(&mut self, engine: &EngineUuid) -> Vec<MsgId> {
        let (taken, left) = std::mem::take(&mut self.unsent)
            .into_iter()
            .partition::<VecDeque<_>, _>(|dispatch| dispatch.engine == *engine);
        self.unsent = left;
        let ids = taken.iter().filter_map(|dispatch| {
            let msg_id = self.scheduler.msg_id(dispatch.job)?;
            Some(MsgId::from(msg_id))
        });
        ids.collect()
    }

    /// Hands over what has been seen, if it is time.
    pub(super) fn show(&mut self) {
        let scheduler = &self.scheduler;
        if let Some(lookout) = &mut self.lookout {
            lookout.hand_over(|| {
                let snapshot = scheduler.snapshot();
                let loads = snapshot.engines.into_iter().map(|engine| Load {
                    engine: engine.uuid,
                    pending: engine.pending,
                    completed: engine.completed,
                });
                let clients = scheduler.waiting_by_client().map(|client| {
                    let ClientWaiting {
                        session,
                        blocked,
                        ready,
                    } = client;
                    (session, Waiting { blocked, ready })
                });
                Look::new(loads, clients)
            });
        }
    }

    pub(super) fn touch(&mut self) {
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

fn send_to_client(clients: &mut Socket, frames: &mut Vec<Frame>) {
    if let Err(error) = clients.send(frames) {
        tracing::debug!("task: a reply could not be sent: {error}");
        frames.clear();
    }
}
