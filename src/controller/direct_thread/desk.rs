//! What a direct queue does with each message.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::Deserialize;
use serde_json::json;

use crate::controller::Witnesses;
use crate::controller::doubts::{Doubts, Recounted, id_of, read_recount, unsent};
use crate::controller::lookout::{Lookout, status_of};
use crate::controller::mail::{Answer, SchedulerMail};
use crate::controller::recorder_thread::{Fresh, Reporter, completed, stored};
use crate::controller::replies::{compose, error_reply};
use crate::controller::room::Room;
use crate::hub::recorder::Traffic;
use crate::observe::{Load, Look};
use crate::protocol::header::{Brief, parent_id, reply_type};
use crate::protocol::metadata::says_failed;
use crate::protocol::{Composer, EngineUuid, Identity, MsgId, RemoteError, Wire};
use crate::scheduler::{DirectFailure, DirectScheduler, Route};
use crate::taskdb::Queue;
use crate::transport::{ConnectionId, Door, Frame, Outbox, Sender, Socket};

/// Everything but the sockets that are being read, so that a message can be handled while its socket is borrowed.
pub(super) struct Desk {
    door: Door,
    composer: Composer,
    /// Keeps each request's header, which becomes the parent of a reply made here.
    pub(super) scheduler: DirectScheduler<Frame>,
    pub(super) outbox: Outbox,
    pub(super) doubts: Doubts,
    /// Of engines whose connections broke, and are there again.
    pub(super) recounts: Vec<Recounted>,
    /// Messages to engines of a former controller, until they come back.
    pub(super) held: HashMap<EngineUuid, Vec<Vec<Frame>>>,
    /// On the control channel: tasks that are aborted while they wait are with the task scheduler.
    task_scheduler: Option<Sender<SchedulerMail>>,
    /// On the mux channel, with a database.
    reporter: Option<Reporter>,
    /// On the mux channel.
    pub(super) lookout: Option<Lookout>,
    pub(super) room: Option<Room>,
    /// Who waits within this process for a reply to a message of these ids.
    pub(super) inside: HashMap<MsgId, Answer>,
}

impl Desk {
    pub(super) fn new(
        door: Door,
        composer: Composer,
        task_scheduler: Option<Sender<SchedulerMail>>,
        witnesses: Witnesses,
    ) -> Self {
        Self {
            door,
            composer,
            scheduler: DirectScheduler::new(),
            outbox: Outbox::default(),
            doubts: Doubts::default(),
            recounts: Vec::new(),
            held: HashMap::new(),
            task_scheduler,
            reporter: witnesses.reporter,
            lookout: witnesses.lookout,
            room: witnesses.room,
            inside: HashMap::new(),
        }
    }

    pub(super) fn takes_requests(&mut self) -> bool {
        let is_pending = self.scheduler.has_pending();
        let has_room = self
            .room
            .as_mut()
            .is_none_or(|room| room.takes_requests(is_pending));
        has_room && !self.reporter.as_ref().is_some_and(Reporter::is_behind)
    }

    /// The engine is registered. What was held back for it is sent, but for what it has from a former controller.
    pub(super) fn take_in(
        &mut self,
        engine: &EngineUuid,
        unanswered: &HashSet<MsgId>,
        engines: &mut Socket,
    ) {
        let is_pending = |id: &str| self.scheduler.is_pending(id);
        let has = self.doubts.on_returned(engine, unanswered, is_pending);
        self.scheduler.on_engine_registered(engine.clone());
        for mut frames in self.held.remove(engine).unwrap_or_default() {
            let Some(id) = id_of(&frames) else {
                continue;
            };
            // Whichever answer comes first counts, that to the former controller's client or that to what is sent now.
            self.scheduler.on_taken_over(id.as_str());
            let is_over =
                !self.scheduler.is_pending(id.as_str()) && self.scheduler.is_finished(id.as_str());
            if !is_over && !has.contains(&id) {
                self.outbox.send(engines, &mut frames);
            }
        }
        self.touch();
    }

    /// An engine's connection is there, again or for the first time.
    pub(super) fn on_connected(&mut self, engine: &Identity, connection: ConnectionId) {
        let name = engine.as_bytes();
        let uuid = EngineUuid::from(String::from_utf8_lossy(name).into_owned());
        if self.scheduler.is_expected(name) {
            return self.doubts.on_returning(uuid, connection);
        }
        let mut sent = self.scheduler.pending_ids(&uuid);
        if !sent.is_empty() {
            let waiting = unsent(&self.outbox, name);
            sent.retain(|id| !waiting.contains(id));
        }
        self.doubts.on_connected(uuid, connection, sent);
    }

    pub(super) fn on_recount(&mut self, recounted: &Recounted, clients: &mut Socket) {
        let engine = &recounted.engine;
        let lost = self.doubts.on_recount(recounted);
        lost.log("direct", engine);
        let requests = lost.requests.iter().map(|id| (id, true));
        let answers = lost.answers.iter().map(|id| (id, false));
        for (msg_id, is_request) in requests.chain(answers) {
            let name = engine.as_str().as_bytes();
            let Some(failure) = self.scheduler.on_lost(name, msg_id) else {
                continue;
            };
            let error = if is_request {
                RemoteError::request_lost(engine, msg_id.as_str())
            } else {
                RemoteError::answer_lost(engine, msg_id.as_str())
            };
            self.fail(failure, engine, &error, clients);
        }
    }

    /// `frames`: `client, engine, <IDS|MSG>, …`.
    pub(super) fn on_request(
        &mut self,
        frames: &mut Vec<Frame>,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        if self.door.admit(frames).is_some() {
            self.submit(frames, Fresh::Yes, clients, engines);
        }
    }

    pub(super) fn submit(
        &mut self,
        frames: &mut Vec<Frame>,
        fresh: Fresh,
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        let wire = match Wire::parse(frames) {
            Ok(wire) => wire,
            Err(error) => return self.door.refuse(frames, error),
        };
        let [client, engine] = wire.identities() else {
            return self
                .door
                .refuse(frames, "a direct request does not name its engine");
        };
        let header = match Brief::parse(wire.header()) {
            Ok(header) => header,
            Err(error) => return self.door.refuse(frames, error),
        };
        if header.msg_type == "abort_request" {
            self.abort_waiting(wire.content());
        }
        let client = Identity::from(&client[..]);
        let kept = frames[wire.layout().header()].clone();
        let route = self.scheduler.on_request(
            engine,
            client.clone(),
            &header.msg_id,
            &header.msg_type,
            kept,
        );
        match route {
            Route::Forward | Route::Hold => {
                let uuid = || EngineUuid::from(&*String::from_utf8_lossy(engine));
                if let (Some(reporter), Fresh::Yes) = (&mut self.reporter, fresh) {
                    let engine = Some(uuid());
                    let message = stored(frames, wire.layout());
                    reporter.report(Traffic::Submitted {
                        queue: Queue::Mux,
                        engine,
                        message,
                    });
                }
                // Comm messages are not answered: nothing is known of them afterwards.
                if let Some(lookout) = &mut self.lookout
                    && !header.msg_type.starts_with("comm_")
                {
                    lookout.on_submitted(&header.msg_id);
                    lookout.on_sent(&header.msg_id, uuid, frames);
                }
                if route == Route::Hold {
                    let held = self.held.entry(uuid()).or_default();
                    frames.swap(0, 1);
                    held.push(std::mem::take(frames));
                } else {
                    frames.swap(0, 1);
                    self.outbox.send(engines, frames);
                }
            }
            Route::Drop => {}
            Route::Duplicate => {
                let evalue = format!("message id '{}' is already in use", header.msg_id);
                let error = RemoteError::new("ValueError", evalue);
                let msg_type = reply_type(&header.msg_type);
                let (composer, parent) = (&mut self.composer, &frames[wire.layout().header()]);
                let mut reply = error_reply(composer, &client, &msg_type, parent, None, &error);
                // Not reported: the record of this id is that of the request in flight.
                send_to_client(clients, &mut reply);
            }
            Route::UnknownEngine => {
                let engine = EngineUuid::from(String::from_utf8_lossy(engine).into_owned());
                let evalue = format!("no engine {engine} is registered: it has left, or never was");
                let error = RemoteError::new("EngineError", evalue);
                if let Some(lookout) = &mut self.lookout {
                    lookout.on_submitted(&header.msg_id);
                }
                let failure = DirectFailure {
                    client,
                    msg_id: MsgId::from(&*header.msg_id),
                    msg_type: header.msg_type.to_string(),
                    header: frames[wire.layout().header()].clone(),
                };
                self.fail(failure, &engine, &error, clients);
            }
        }
    }

    /// `frames`: `engine, client, <IDS|MSG>, …`.
    pub(super) fn on_reply(&mut self, frames: &mut Vec<Frame>, clients: &mut Socket) {
        let Some(wire) = self.door.admit(frames) else {
            return;
        };
        match read_recount(&wire) {
            Some(Ok(recounted)) => return self.recounts.push(recounted),
            Some(Err(why)) => return self.door.refuse(frames, why),
            None => {}
        }
        let msg_id = match read_reply(&wire) {
            Ok(msg_id) => msg_id,
            Err(why) => return self.door.refuse(frames, why),
        };
        let [engine, client] = wire.identities() else {
            return self
                .door
                .refuse(frames, "a reply without the address of a client");
        };
        if let Some(client) = self.scheduler.on_reply(engine, client, &msg_id) {
            if says_failed(wire.metadata()) {
                self.scheduler.on_failure(engine);
            }
            if let Some(reporter) = &mut self.reporter {
                let engine = Some(EngineUuid::from(
                    String::from_utf8_lossy(engine).into_owned(),
                ));
                reporter.report(completed(engine, frames, wire.layout()));
            }
            if let Some(lookout) = &mut self.lookout {
                let engine = std::str::from_utf8(engine).ok();
                lookout.on_ended(&msg_id, engine, status_of(&wire), frames);
            }
            if let Some(answer) = self.inside.remove(msg_id.as_str()) {
                // Whoever asked may have gone.
                let _ = answer.send(Bytes::copy_from_slice(wire.content()));
                return;
            }
            frames.swap(0, 1);
            if frames[0][..] != *client.as_bytes() {
                frames[0] = Frame::from(client.as_bytes());
            }
            send_to_client(clients, frames);
        } else {
            tracing::debug!("a reply to {msg_id}, which is nobody's request any more");
        }
    }

    pub(super) fn fail(
        &mut self,
        failure: DirectFailure<Frame>,
        engine: &EngineUuid,
        error: &RemoteError,
        clients: &mut Socket,
    ) {
        let DirectFailure {
            client,
            msg_type,
            header,
            ..
        } = failure;
        let msg_type = reply_type(&msg_type);
        let reply = error_reply(
            &mut self.composer,
            &client,
            &msg_type,
            &header,
            Some(engine),
            error,
        );
        self.answer_for(engine, reply, clients);
    }

    pub(super) fn confirm_shutdown(
        &mut self,
        request: &DirectFailure<Frame>,
        engine: &EngineUuid,
        clients: &mut Socket,
    ) {
        let mut reply = vec![Frame::from(request.client.as_bytes())];
        reply.extend(compose(
            &mut self.composer,
            "shutdown_reply",
            &request.header,
            json!({ "engine": engine }),
            json!({ "status": "ok", "restart": false }),
        ));
        self.answer_for(engine, reply, clients);
    }

    /// Sends a reply, whose first frame is the client's routing id, in the engine's place.
    fn answer_for(&mut self, engine: &EngineUuid, mut reply: Vec<Frame>, clients: &mut Socket) {
        // As in a real reply, the engine's routing id comes behind the client's.
        reply.insert(1, Frame::from(engine.as_str().as_bytes()));
        if let (Some(reporter), Ok(wire)) = (&mut self.reporter, Wire::parse(&reply)) {
            reporter.report(completed(Some(engine.clone()), &reply, wire.layout()));
        }
        if let Ok(wire) = Wire::parse(&reply)
            && let Ok(Some(msg_id)) = parent_id(wire.parent_header())
        {
            if let Some(lookout) = &mut self.lookout {
                let status = status_of(&wire);
                lookout.on_ended(&msg_id, Some(engine.as_str()), status, &reply);
            }
            if let Some(answer) = self.inside.remove(&*msg_id) {
                let _ = answer.send(Bytes::copy_from_slice(wire.content()));
                return;
            }
        }
        send_to_client(clients, &mut reply);
    }

    /// Hands over what has been seen, if it is time.
    pub(super) fn show(&mut self) {
        let scheduler = &self.scheduler;
        if let Some(lookout) = &mut self.lookout {
            lookout.hand_over(|| {
                let loads = scheduler.snapshot().map(|engine| Load {
                    engine: engine.uuid,
                    pending: engine.pending,
                    completed: engine.completed,
                });
                Look::new(loads, [])
            });
        }
    }

    pub(super) fn touch(&mut self) {
        if let Some(lookout) = &mut self.lookout {
            lookout.touch();
        }
    }

    pub(super) fn hand_over(&mut self) {
        if let Some(reporter) = &mut self.reporter {
            reporter.hand_over();
        }
    }

    fn abort_waiting(&self, content: &[u8]) {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Ids {
            One(MsgId),
            Several(Vec<MsgId>),
        }
        #[derive(Deserialize)]
        struct Content {
            msg_ids: Option<Ids>,
        }
        let Some(task_scheduler) = &self.task_scheduler else {
            return;
        };
        if let Ok(Content { msg_ids: Some(ids) }) = serde_json::from_slice(content) {
            let ids = match ids {
                Ids::One(id) => vec![id],
                Ids::Several(ids) => ids,
            };
            task_scheduler.send(SchedulerMail::Abort(ids));
        }
    }
}

fn read_reply(wire: &Wire<'_, Frame>) -> Result<String, String> {
    let parent = parent_id(wire.parent_header()).map_err(|error| error.to_string())?;
    parent
        .map(Cow::into_owned)
        .ok_or_else(|| "a reply to nothing".to_owned())
}

fn send_to_client(clients: &mut Socket, frames: &mut Vec<Frame>) {
    if let Err(error) = clients.send(frames) {
        tracing::debug!("a reply could not be sent: {error}");
        frames.clear();
    }
}
