//! The broadcast queue: one request in, one message to each engine out, sharing the buffers.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::controller::Witnesses;
use crate::controller::doubts::{Doubts, Recounted, newly_connected, read_recount, unsent};
use crate::controller::endpoints::SocketPair;
use crate::controller::lookout::{Lookout, status_of};
use crate::controller::mail::{HubMail, SchedulerMail};
use crate::controller::recorder_thread::{Reporter, completed, stored};
use crate::controller::replies::{compose, error_reply, queue_reply_type};
use crate::controller::reports;
use crate::controller::room::Room;
use crate::hub::recorder::Traffic;
use crate::observe::{Load, Look, Status};
use crate::protocol::header::{Brief, parent_id};
use crate::protocol::metadata::{ReplyMetadata, says_failed};
use crate::protocol::wire::Layout;
use crate::protocol::{
    Composer, DELIMITER, EngineId, EngineUuid, Identity, MsgId, RemoteError, Wire,
};
use crate::scheduler::{BroadcastEnd, BroadcastScheduler, BroadcastTarget, BroadcastVerdict};
use crate::taskdb::Queue;
use crate::transport::{
    ConnectionId, Door, Frame, Mailbox, Monitor, Outbox, Poller, Sender, Socket, drain,
    drain_turns, time_left,
};

pub(super) struct BroadcastThread {
    clients: Socket,
    engines: Socket,
    connections: Monitor,
    mailbox: Mailbox<SchedulerMail>,
    hub: Sender<HubMail>,
    desk: Desk,
}

/// An engine's reply as it came: `engine, client, <IDS|MSG>, …`.
struct Reply {
    frames: Vec<Frame>,
    layout: Layout,
}

struct Desk {
    door: Door,
    composer: Composer,
    scheduler: BroadcastScheduler<Frame, Reply>,
    outbox: Outbox,
    hosts: Hosts,
    /// Of engines' own connections, over which they answer.
    doubts: Doubts,
    /// Of those over which their hosts take requests for them.
    doubts_of_hosts: Doubts,
    /// Of engines after one or the other of them broke, and is there again.
    recounts: Vec<Recounted>,
    outgoing: Vec<Frame>,
    reporter: Option<Reporter>,
    lookout: Option<Lookout>,
    room: Option<Room>,
}

/// Processes that take broadcasts for their engines: to each of them a request goes once, however many of its engines
/// are meant. Which ones are, and under which message ids, is in the metadata's `targets`.
///
/// All broadcasts to such an engine go that way, so that they come in order.
#[derive(Debug, Default)]
struct Hosts {
    of_engines: HashMap<EngineUuid, Identity>,
}

/// An engine's part in a request.
type OutgoingPart = (BroadcastTarget, MsgId);

impl Hosts {
    fn on_engine_registered(&mut self, engine: &EngineUuid, host: Option<Identity>) {
        match host {
            Some(host) => self.of_engines.insert(engine.clone(), host),
            None => self.of_engines.remove(engine),
        };
    }

    /// The engine's host, if that was the last of its engines.
    fn on_engine_gone(&mut self, engine: &EngineUuid) -> Option<Identity> {
        let host = self.of_engines.remove(engine)?;
        let is_empty = self.of_engines.values().all(|other| *other != host);
        is_empty.then_some(host)
    }

    fn engines_of(&self, host: &Identity) -> impl Iterator<Item = &EngineUuid> {
        let all = self.of_engines.iter();
        all.filter(move |(_, its)| *its == host)
            .map(|(engine, _)| engine)
    }

    /// What goes to engines themselves, and what to which host.
    fn sort(
        &self,
        parts: Vec<OutgoingPart>,
    ) -> (Vec<OutgoingPart>, BTreeMap<Identity, Vec<OutgoingPart>>) {
        let mut direct = Vec::new();
        let mut delivered: BTreeMap<Identity, Vec<OutgoingPart>> = BTreeMap::new();
        for part in parts {
            match self.of_engines.get(&part.0.uuid) {
                Some(host) => delivered.entry(host.clone()).or_default().push(part),
                None => direct.push(part),
            }
        }
        (direct, delivered)
    }
}

fn to_json(map: &Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(map).expect("a map of JSON values is JSON")
}

impl BroadcastThread {
    pub(super) fn new(
        sockets: SocketPair,
        door: Door,
        composer: Composer,
        hub: Sender<HubMail>,
        mailbox: Mailbox<SchedulerMail>,
        witnesses: Witnesses,
    ) -> Self {
        let desk = Desk {
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
        };
        Self {
            connections: Monitor::new(&sockets.engines),
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
            // Before anything is sent to them.
            self.note_connections();
            self.mailbox.take(&mut mail);
            for message in mail.drain(..) {
                if matches!(message, SchedulerMail::Stop) {
                    return;
                }
                self.on_mail(message, &mut frames);
            }
            self.receive_replies(&mut frames);
            self.hear_recounts(&mut frames);
            let takes_requests = self.desk.takes_requests();
            if takes_requests {
                self.receive_requests(&mut frames);
            }
            poller.want_read(clients, takes_requests);
            if let Some(reporter) = &mut self.desk.reporter {
                reporter.hand_over();
            }
            self.desk.outbox.retry(&mut self.engines, Instant::now());
            self.desk.show();
            let timeout = time_left([
                self.desk.room.as_ref().and_then(Room::next_deadline),
                self.desk.outbox.next_retry(),
                self.desk.lookout.as_ref().and_then(Lookout::next_deadline),
            ]);
            if let Err(error) = poller.wait(timeout) {
                tracing::error!("broadcast: cannot wait for messages: {error}");
                return;
            }
        }
    }

    fn on_mail(&mut self, message: SchedulerMail, frames: &mut Vec<Frame>) {
        match message {
            SchedulerMail::TakeIn {
                token,
                engine,
                host,
            } => {
                self.desk.hosts.on_engine_registered(&engine, host);
                self.desk.scheduler.on_engine_registered(engine);
                self.desk.touch();
                self.hub.send(HubMail::SchedulerDone { token });
            }
            SchedulerMail::LetGo {
                token, engine, how, ..
            } => {
                // What the engine has sent before it left counts.
                self.engines.look_again();
                self.note_connections();
                self.receive_all_of(&engine, frames);
                self.desk.doubts.forget(&engine);
                self.desk.doubts_of_hosts.forget(&engine);
                self.desk.outbox.forget(engine.as_str().as_bytes());
                if let Some(host) = self.desk.hosts.on_engine_gone(&engine) {
                    self.desk.outbox.forget(host.as_bytes());
                }
                let mut ends = Vec::new();
                self.desk.scheduler.on_engine_gone(&engine, &how, &mut ends);
                for end in ends {
                    self.desk.end(end, &mut self.clients);
                }
                self.desk.touch();
                self.hub.send(HubMail::SchedulerDone { token });
            }
            SchedulerMail::Inspect { token, what } => {
                let report = reports::of_broadcasts(&self.desk.scheduler, &what);
                self.hub.send(HubMail::Report { token, report });
            }
            SchedulerMail::Abort(_)
            | SchedulerMail::Expect(_)
            | SchedulerMail::Ended(_)
            | SchedulerMail::Ends(_)
            | SchedulerMail::Resubmit(_)
            | SchedulerMail::Command { .. }
            | SchedulerMail::StorageCaughtUp
            | SchedulerMail::ClientComes
            | SchedulerMail::Stop => {}
        }
    }

    /// Receives at least what an engine has sent by now, as far as the socket has looked.
    fn receive_all_of(&mut self, engine: &EngineUuid, frames: &mut Vec<Frame>) {
        let pending = self.desk.scheduler.pending_ids(engine).len();
        let peers = self.desk.scheduler.snapshot().count() + 1;
        drain_turns(pending, peers, || self.receive_replies(frames));
    }

    fn note_connections(&mut self) {
        for (peer, connection) in newly_connected(&mut self.connections) {
            self.desk.on_connected(&peer, connection);
        }
    }

    fn hear_recounts(&mut self, frames: &mut Vec<Frame>) {
        while let Some(recounted) = self.desk.recounts.pop() {
            // What has come over the old connection counts.
            self.receive_all_of(&recounted.engine, frames);
            self.desk.on_recount(&recounted, &mut self.clients);
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
        drain(&mut self.engines, frames, |_, frames| {
            desk.on_reply(frames, clients)
        })
    }
}

/// A request that makes sense.
struct BroadcastRequest {
    msg_id: MsgId,
    targets: Vec<BroadcastTarget>,
    coalescing: bool,
    header: Map<String, Value>,
    metadata: Map<String, Value>,
}

impl Desk {
    fn takes_requests(&mut self) -> bool {
        let is_pending = self.scheduler.has_pending();
        let has_room = self
            .room
            .as_mut()
            .is_none_or(|room| room.takes_requests(is_pending));
        has_room && !self.reporter.as_ref().is_some_and(Reporter::is_behind)
    }

    /// A connection of an engine, or of a process with several, is there, again or for the first time.
    fn on_connected(&mut self, peer: &Identity, connection: ConnectionId) {
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
    fn on_recount(&mut self, recounted: &Recounted, clients: &mut Socket) {
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
    fn on_request(&mut self, frames: &[Frame], clients: &mut Socket, engines: &mut Socket) {
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
    fn on_reply(&mut self, frames: &mut Vec<Frame>, clients: &mut Socket) {
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

    fn end(&mut self, end: BroadcastEnd<Frame, Reply>, clients: &mut Socket) {
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
    fn show(&mut self) {
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

    fn touch(&mut self) {
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

/// The one reply to a coalescing request: metadata, content, and all engines' buffers in the order of targets.
///
/// One engine's error is the reply's: the client could not tell from the buffers that one is missing.
fn coalesce(
    msg_id: &MsgId,
    targets: &[BroadcastTarget],
    replies: &[Reply],
    lost: &[(BroadcastTarget, String)],
) -> (Value, Value, Vec<Frame>) {
    let failed = replies.iter().find(|reply| {
        let metadata = ReplyMetadata::parse(&reply.frames[reply.layout.metadata()]);
        !metadata.is_ok_and(|metadata| metadata.is_ok())
    });
    let content = match (lost.first(), failed) {
        (Some((target, how)), _) => {
            RemoteError::engine_died(target.id, msg_id.as_str(), how).to_content()
        }
        (None, Some(reply)) => serde_json::from_slice(&reply.frames[reply.layout.content()])
            .ok()
            .filter(|content: &Value| content["status"].is_string())
            .unwrap_or_else(|| {
                let why = "an engine failed, and its reply does not say how";
                RemoteError::new("EngineError", why).to_content()
            }),
        (None, None) => json!({ "status": "ok" }),
    };
    let first = failed.or_else(|| replies.first());
    let mut metadata: Value = first
        .and_then(|reply| serde_json::from_slice(&reply.frames[reply.layout.metadata()]).ok())
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({}));
    metadata["status"] = content["status"].clone();
    metadata["is_broadcast"] = json!(true);
    metadata["is_coalescing"] = json!(true);
    metadata["original_msg_id"] = json!(msg_id);
    metadata["broadcast_targets"] = targets
        .iter()
        .map(|target| json!([target.uuid, target.id]))
        .collect();
    let buffers = if content["status"] == "ok" {
        replies
            .iter()
            .flat_map(|reply| reply.frames[reply.layout.buffers()].iter().cloned())
            .collect()
    } else {
        Vec::new()
    };
    (metadata, content, buffers)
}

fn read_request(wire: &Wire<'_, Frame>, msg_id: MsgId) -> Result<BroadcastRequest, RemoteError> {
    let bad = |what: &str| RemoteError::new("ValueError", format!("bad broadcast request: {what}"));
    let header =
        serde_json::from_slice(wire.header()).map_err(|_| bad("its header is no object"))?;
    let metadata: Map<String, Value> =
        serde_json::from_slice(wire.metadata()).map_err(|_| bad("its metadata is no object"))?;
    let targets: Vec<(EngineUuid, EngineId)> = metadata
        .get("targets")
        .cloned()
        .and_then(|targets| serde_json::from_value(targets).ok())
        .ok_or_else(|| bad("metadata.targets must be a list of [uuid, id]"))?;
    let targets = targets
        .into_iter()
        .map(|(uuid, id)| BroadcastTarget { uuid, id })
        .collect();
    let coalescing = metadata
        .get("is_coalescing")
        .and_then(Value::as_bool)
        .unwrap_or(false);
    Ok(BroadcastRequest {
        msg_id,
        targets,
        coalescing,
        header,
        metadata,
    })
}

/// Engine, original message id, and the id under which the engine had the message.
fn read_reply(wire: &Wire<'_, Frame>) -> Result<(EngineUuid, String, String), String> {
    let [engine, _client] = wire.identities() else {
        return Err("a reply without the address of a client".to_owned());
    };
    let engine = std::str::from_utf8(engine).map_err(|_| "an engine's uuid is text")?;
    let parent = parent_id(wire.parent_header()).map_err(|error| error.to_string())?;
    let outgoing = parent.ok_or("a reply to nothing")?.into_owned();
    let metadata = ReplyMetadata::parse(wire.metadata()).map_err(|error| error.to_string())?;
    // An engine that fails before it has read the request's metadata leaves the original id out.
    let original = match metadata.original_msg_id {
        Some(original) if !original.is_empty() => original.into_owned(),
        _ => outgoing
            .strip_suffix(engine)
            .and_then(|id| id.strip_suffix('_'))
            .unwrap_or_default()
            .to_owned(),
    };
    Ok((EngineUuid::from(engine), original, outgoing))
}

fn reply_type_of(header: &Frame) -> &'static str {
    #[derive(Deserialize)]
    struct Type<'a> {
        #[serde(borrow)]
        msg_type: std::borrow::Cow<'a, str>,
    }
    queue_reply_type(
        serde_json::from_slice::<Type<'_>>(header)
            .map(|header| header.msg_type)
            .as_deref()
            .unwrap_or(""),
    )
}

fn send_to_client(clients: &mut Socket, frames: &mut Vec<Frame>) {
    if let Err(error) = clients.send(frames) {
        tracing::debug!("broadcast: a reply could not be sent: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(content: &[u8]) -> Reply {
        let frames = [
            &b"engine"[..],
            b"client",
            DELIMITER,
            b"",
            b"{}",
            b"{}",
            br#"{"status": "error"}"#,
            content,
        ]
        .map(Frame::from)
        .to_vec();
        let layout = Wire::parse(&frames).unwrap().layout();
        Reply { frames, layout }
    }

    #[test]
    fn an_engine_s_error_that_cannot_be_read_is_an_error_all_the_same() {
        let joined = |content| coalesce(&MsgId::from("m"), &[], &[failed(content)], &[]);
        for content in [&b"{"[..], b"null", b"[]", b"7", b"{}", b"\xff"] {
            let (metadata, content, buffers) = joined(content);
            assert_eq!(metadata["status"], "error");
            assert_eq!(content["status"], "error");
            assert_eq!(content["ename"], "EngineError");
            assert!(buffers.is_empty());
        }
        let (_, content, _) = joined(br#"{"status": "error", "ename": "KeyError"}"#);
        assert_eq!(content["ename"], "KeyError");
    }
}
