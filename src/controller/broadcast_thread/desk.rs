//! What the broadcast queue does with each message.

use serde_json::{Map, Value, json};

use super::hosts::Hosts;
use super::messages::{
    BroadcastRequest, Reply, coalesce, read_reply, read_request, reply_type_of, to_json,
};
use crate::controller::Witnesses;
use crate::controller::doubts::{Doubts, Recounted, read_recount, unsent};
use crate::controller::lookout::{Lookout, status_of};
use crate::controller::recorder_thread::{Reporter, completed, stored};
use crate::controller::replies::{compose, error_reply, queue_reply_type};
use crate::controller::room::Room;
use crate::hub::recorder::Traffic;
use crate::observe::{Load, Look, Status};
use crate::protocol::header::Brief;
use crate::protocol::metadata::says_failed;
use crate::protocol::wire::Layout;
use crate::protocol::{Composer, DELIMITER, EngineUuid, Identity, MsgId, RemoteError, Wire};
use crate::scheduler::{BroadcastEnd, BroadcastScheduler, BroadcastVerdict};
use crate::taskdb::Queue;
use crate::transport::{ConnectionId, Door, Frame, Outbox, Socket};

pub(super) struct Desk {
    door: Door,
    composer: Composer,
    pub(super) scheduler: BroadcastScheduler<Frame, Reply>,
    pub(super) outbox: Outbox,
    pub(super) hosts: Hosts,
    /// Of engines' own connections, over which they answer.
    pub(super) doubts: Doubts,
    /// Of those over which their hosts take requests for them.
    pub(super) doubts_of_hosts: Doubts,
    /// Of engines after one or the other of them broke, and is there again.
    pub(super) recounts: Vec<Recounted>,
    outgoing: Vec<Frame>,
    pub(super) reporter: Option<Reporter>,
    pub(super) lookout: Option<Lookout>,
    pub(super) room: Option<Room>,
}

impl Desk {
    pub(super) fn new(door: Door, composer: Composer, witnesses: Witnesses) -> Self {
        Self {
            door,
            composer,
            scheduler: BroadcastScheduler::new(),
            outbox: Outbox::default(),
            hosts: Hosts::default(),
            doubts: Doubts::default(),
            doubts_of_hosts: Doubts::default(),
            recounts: Vec::new(),
            outgoing: Vec::new(),
            reporter: witnesses.reporter,
            lookout: witnesses.lookout,
            room: witnesses.room,
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

    /// A connection of an engine, or of a process with several, is there, again or for the first time.
    pub(super) fn on_connected(&mut self, peer: &Identity, connection: ConnectionId) {
        // Thousands of engines may come at a time.
        if !self.scheduler.has_pending() {
            return;
        }
        let of_host: Vec<EngineUuid> = self.hosts.engines_of(peer).cloned().collect();
        if of_host.is_empty() {
            let engine = EngineUuid::from(String::from_utf8_lossy(peer.as_bytes()).into_owned());
            let sent = self.scheduler.outgoing_ids(&engine);
            return self.doubts.on_connected(engine, connection, sent);
        }
        // A message to a host has the client's id.
        let waiting = unsent(&self.outbox, peer.as_bytes());
        for engine in of_host {
            let outgoing = self.scheduler.outgoing_ids(&engine).into_iter();
            let originals = self.scheduler.pending_ids(&engine);
            let sent = outgoing.zip(originals);
            let sent = sent.filter(|(_, original)| !waiting.contains(original));
            let sent = sent.map(|(outgoing, _)| outgoing).collect();
            self.doubts_of_hosts.on_connected(engine, connection, sent);
        }
    }

    /// Requests come over one connection, answers go over another: only the one that broke has lost anything.
    pub(super) fn on_recount(&mut self, recounted: &Recounted, clients: &mut Socket) {
        let engine = &recounted.engine;
        let (mut lost, how) = if recounted.recount.of_host {
            let mut lost = self.doubts_of_hosts.on_recount(recounted);
            lost.answers.clear();
            (
                lost,
                "the request was lost on its way to it when a connection broke",
            )
        } else {
            let mut lost = self.doubts.on_recount(recounted);
            if self.hosts.of_engines.contains_key(engine) {
                lost.requests.clear();
            }
            (
                lost,
                "its answer, or the request, was lost when a connection broke",
            )
        };
        lost.log("broadcast", engine);
        lost.requests.append(&mut lost.answers);
        let mut ends = Vec::new();
        for id in &lost.requests {
            self.scheduler.on_lost(engine, id.as_str(), how, &mut ends);
        }
        for end in ends {
            self.end(end, clients);
        }
    }

    /// `frames`: `client, <IDS|MSG>, …`.
    pub(super) fn on_request(
        &mut self,
        frames: &[Frame],
        clients: &mut Socket,
        engines: &mut Socket,
    ) {
        let Some(wire) = self.door.admit(frames) else {
            return;
        };
        let layout = wire.layout();
        let [client] = wire.identities() else {
            return self
                .door
                .refuse(frames, "a broadcast has one address before it");
        };
        let client = Identity::from(&client[..]);
        let header = match Brief::parse(wire.header()) {
            Ok(header) => header,
            Err(error) => return self.door.refuse(frames, error),
        };
        let reply_type = queue_reply_type(&header.msg_type);
        let mut ends = Vec::new();
        let sent = read_request(&wire, MsgId::from(&*header.msg_id))
            .and_then(|request| self.fan_out(request, &client, frames, layout, &mut ends, engines));
        if let Err(error) = sent {
            let parent = &frames[layout.header()];
            let mut reply = error_reply(
                &mut self.composer,
                &client,
                reply_type,
                parent,
                None,
                &error,
            );
            send_to_client(clients, &mut reply);
        }
        for end in ends {
            self.end(end, clients);
        }
    }

    fn fan_out(
        &mut self,
        request: BroadcastRequest,
        client: &Identity,
        frames: &[Frame],
        layout: Layout,
        ends: &mut Vec<BroadcastEnd<Frame, Reply>>,
        engines: &mut Socket,
    ) -> Result<(), RemoteError> {
        let BroadcastRequest {
            msg_id,
            targets,
            coalescing,
            mut header,
            mut metadata,
        } = request;
        let kept = frames[layout.header()].clone();
        let fan_out = self
            .scheduler
            .on_request(client.clone(), &msg_id, targets, coalescing, kept, ends)
            .ok_or_else(|| {
                RemoteError::new(
                    "ValueError",
                    format!("message id '{msg_id}' is already in use"),
                )
            })?;
        if fan_out.nobody {
            return Err(RemoteError::new(
                "NoEnginesRegistered",
                "a broadcast to no engine",
            ));
        }
        if let Some(reporter) = &mut self.reporter {
            let message = stored(frames, layout);
            reporter.report(Traffic::Submitted {
                queue: Queue::Broadcast,
                engine: None,
                message,
            });
        }
        metadata.insert("original_msg_id".to_owned(), json!(msg_id));
        if let Some(lookout) = &mut self.lookout {
            for (target, outgoing_id) in &fan_out.to {
                lookout.on_submitted(outgoing_id.as_str());
                lookout.on_sent(outgoing_id.as_str(), || target.uuid.clone(), frames);
            }
        }
        let (direct, delivered) = self.hosts.sort(fan_out.to);
        for (host, parts) in delivered {
            let parts: Vec<(&EngineUuid, &MsgId)> = parts
                .iter()
                .map(|(target, id)| (&target.uuid, id))
                .collect();
            metadata.insert("targets".to_owned(), json!(parts));
            let metadata = Frame::from(to_json(&metadata));
            let header = frames[layout.header()].clone();
            self.send(&host, client, header, metadata, frames, layout, engines);
        }
        // A list of all the others is of no use to an engine, and grows with their number.
        metadata.remove("targets");
        let metadata = Frame::from(to_json(&metadata));
        for (target, outgoing_id) in direct {
            header.insert("msg_id".to_owned(), json!(outgoing_id));
            let header = Frame::from(to_json(&header));
            let (to, metadata) = (Identity::from(&target.uuid), metadata.clone());
            self.send(&to, client, header, metadata, frames, layout, engines);
        }
        Ok(())
    }

    /// Sends on what a client has sent, with another header and other metadata.
    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn send(
        &mut self,
        to: &Identity,
        client: &Identity,
        header: Frame,
        metadata: Frame,
        frames: &[Frame],
        layout: Layout,
        engines: &mut Socket,
    ) {
        let (parent, content) = (&frames[layout.parent_header()], &frames[layout.content()]);
        let signer = self.composer.signer();
        let signature = signer.sign([&header[..], parent, &metadata, content]);
        self.outgoing.clear();
        self.outgoing.extend([
            Frame::from(to.as_bytes()),
            Frame::from(client.as_bytes()),
            Frame::from(DELIMITER),
            Frame::from(signature),
            header,
            parent.clone(),
            metadata,
            content.clone(),
        ]);
        self.outgoing
            .extend(frames[layout.buffers()].iter().cloned());
        self.outbox.send(engines, &mut self.outgoing);
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
        let layout = wire.layout();
        let read = read_reply(&wire);
        let (engine, original, outgoing) = match read {
            Ok(read) => read,
            Err(why) => return self.door.refuse(frames, why),
        };
        let seen = self.lookout.as_ref().map(|_| frames.clone());
        let reply = Reply {
            frames: std::mem::take(frames),
            layout,
        };
        let failed = says_failed(&reply.frames[layout.metadata()]);
        let verdict = self
            .scheduler
            .on_reply(&engine, &original, &outgoing, reply);
        if !matches!(verdict, BroadcastVerdict::Unknown) {
            if failed {
                self.scheduler.on_failure(&engine);
            }
            if let (Some(lookout), Some(seen)) = (&mut self.lookout, seen) {
                let status = Wire::parse(&seen).map_or(Status::Failed, |wire| status_of(&wire));
                lookout.on_ended(&outgoing, Some(engine.as_str()), status, &seen);
            }
        }
        match verdict {
            BroadcastVerdict::Deliver { client, reply } => {
                if let Some(reporter) = &mut self.reporter {
                    reporter.report(completed(Some(engine), &reply.frames, reply.layout));
                }
                let mut frames = reply.frames;
                frames.remove(0);
                frames[0] = Frame::from(client.as_bytes());
                send_to_client(clients, &mut frames);
            }
            BroadcastVerdict::Held => {}
            BroadcastVerdict::End(end) => self.end(end, clients),
            BroadcastVerdict::Unknown => {
                tracing::debug!(
                    "broadcast: a reply to {outgoing}, which is nobody's request any more"
                );
            }
        }
    }

    pub(super) fn end(&mut self, end: BroadcastEnd<Frame, Reply>, clients: &mut Socket) {
        match end {
            BroadcastEnd::Lost {
                client,
                msg_id,
                header,
                target,
                how,
            } => {
                // The client waits for the id that the engine was sent.
                let Ok(mut parent) = serde_json::from_slice::<Map<String, Value>>(&header) else {
                    return;
                };
                parent.insert("msg_id".to_owned(), json!(msg_id));
                let parent = serde_json::to_vec(&parent).expect("a map of JSON values is JSON");
                let error = RemoteError::engine_died(target.id, msg_id.as_str(), &how);
                let msg_type = reply_type_of(&header);
                let mut reply = error_reply(
                    &mut self.composer,
                    &client,
                    msg_type,
                    &parent,
                    Some(&target.uuid),
                    &error,
                );
                if let Some(lookout) = &mut self.lookout {
                    let engine = Some(target.uuid.as_str());
                    lookout.on_ended(msg_id.as_str(), engine, Status::Failed, &reply);
                }
                self.report_end(&reply, Some(target.uuid));
                send_to_client(clients, &mut reply);
            }
            BroadcastEnd::Coalesced {
                client,
                msg_id,
                header,
                targets,
                replies,
                lost,
            } => {
                if let Some(lookout) = &mut self.lookout {
                    for (target, _) in &lost {
                        let part = format!("{msg_id}_{}", target.uuid);
                        let engine = Some(target.uuid.as_str());
                        lookout.on_ended(&part, engine, Status::Failed, &[]);
                    }
                }
                let (metadata, content, buffers) = coalesce(&msg_id, &targets, &replies, &lost);
                let msg_type = reply_type_of(&header);
                let mut frames = vec![Frame::from(client.as_bytes())];
                frames.extend(compose(
                    &mut self.composer,
                    msg_type,
                    &header,
                    metadata,
                    content,
                ));
                frames.extend(buffers);
                self.report_end(&frames, None);
                send_to_client(clients, &mut frames);
            }
        }
    }
}

impl Desk {
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

    fn report_end(&mut self, frames: &[Frame], engine: Option<EngineUuid>) {
        if let (Some(reporter), Ok(wire)) = (&mut self.reporter, Wire::parse(frames)) {
            reporter.report(completed(engine, frames, wire.layout()));
        }
    }
}

fn send_to_client(clients: &mut Socket, frames: &mut Vec<Frame>) {
    if let Err(error) = clients.send(frames) {
        tracing::debug!("broadcast: a reply could not be sent: {error}");
    }
}
