//! Requests for which the client names the engine, on the mux and control queues.
//!
//! The queue itself is the engine's; here is only who waits for which engine, so that a request is answered even when
//! its engine cannot do it any more.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::recent::Recent;
use crate::protocol::{EngineUuid, Identity, MsgId};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Forward,
    /// The engine is expected to come: the message is kept until it does, or is given up.
    Hold,
    /// No such engine is registered; the client is to be told, unless the message expects no reply.
    UnknownEngine,
    /// A request with this message id is in flight: the client is to be told.
    Duplicate,
    /// It cannot be sent either, but nobody waits for an answer.
    Drop,
}

/// A request that will not be answered by its engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectFailure<H> {
    pub client: Identity,
    pub msg_id: MsgId,
    pub msg_type: String,
    pub header: H,
}

/// How much one engine has to do, and has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectLoad {
    pub uuid: EngineUuid,
    pub pending: u64,
    pub completed: u64,
    /// Those of them that failed.
    pub failed: u64,
}

/// `H` is what the caller needs to answer a request in its engine's place: its header.
#[derive(Debug)]
pub struct DirectScheduler<H> {
    engines: HashMap<Identity, Engine>,
    pending: HashMap<MsgId, Pending<H>>,
    finished: Recent,
}

#[derive(Debug)]
struct Engine {
    uuid: EngineUuid,
    /// Requests in flight, by order of arrival. Answered ones are taken out from the front when they get there.
    queue: VecDeque<MsgId>,
    pending: u64,
    completed: u64,
    failed: u64,
    /// Not only expected.
    is_here: bool,
}

#[derive(Debug)]
struct Pending<H> {
    engine: Identity,
    client: Identity,
    msg_type: String,
    header: H,
    /// The engine may have it from a former controller, as that one's client.
    is_taken_over: bool,
}

impl<H> Default for DirectScheduler<H> {
    fn default() -> Self {
        Self {
            engines: HashMap::new(),
            pending: HashMap::new(),
            finished: Recent::default(),
        }
    }
}

impl<H> DirectScheduler<H> {
    pub fn new() -> Self {
        Self::default()
    }

    /// The engine is there. What was held back for it may be sent.
    pub fn on_engine_registered(&mut self, uuid: EngineUuid) {
        match self.engines.get_mut(uuid.as_str().as_bytes()) {
            Some(expected) if !expected.is_here => expected.is_here = true,
            _ => self.insert(uuid, true),
        }
    }

    /// The engine is said to come back, after a restart of the controller: requests for it are held back. It is
    /// registered later, or given up with [`on_engine_gone`](Self::on_engine_gone).
    pub fn on_engine_expected(&mut self, uuid: EngineUuid) {
        if !self.engines.contains_key(uuid.as_str().as_bytes()) {
            self.insert(uuid, false);
        }
    }

    fn insert(&mut self, uuid: EngineUuid, is_here: bool) {
        let engine = Engine {
            uuid: uuid.clone(),
            queue: VecDeque::new(),
            pending: 0,
            completed: 0,
            failed: 0,
            is_here,
        };
        self.engines.insert(Identity::from(&uuid), engine);
    }

    /// Everything that was in flight to the engine has failed, in the order in which it was sent.
    pub fn on_engine_gone(&mut self, uuid: &EngineUuid, failed: &mut Vec<DirectFailure<H>>) {
        let Some(engine) = self.engines.remove(uuid.as_str().as_bytes()) else {
            return;
        };
        for msg_id in engine.queue {
            // An id that is not pending was answered; one that is pending elsewhere was used twice.
            let here = self
                .pending
                .get(&msg_id)
                .is_some_and(|p| p.engine.as_bytes() == uuid.as_str().as_bytes());
            if here
                && let Some(Pending {
                    client,
                    msg_type,
                    header,
                    ..
                }) = self.pending.remove(&msg_id)
            {
                self.finished.add(msg_id.as_str());
                failed.push(DirectFailure {
                    client,
                    msg_id,
                    msg_type,
                    header,
                });
            }
        }
    }

    /// The request, or its answer, was lost between here and its engine, which is there.
    pub fn on_lost(&mut self, engine: &[u8], msg_id: &MsgId) -> Option<DirectFailure<H>> {
        let pending = self.pending.get(msg_id)?;
        if pending.engine.as_bytes() != engine {
            return None;
        }
        let Pending {
            client,
            msg_type,
            header,
            ..
        } = self.pending.remove(msg_id)?;
        self.finish(engine, msg_id.as_str());
        self.on_failure(engine);
        Some(DirectFailure {
            client,
            msg_id: msg_id.clone(),
            msg_type,
            header,
        })
    }

    pub fn on_request(
        &mut self,
        engine: &[u8],
        client: Identity,
        msg_id: &str,
        msg_type: &str,
        header: H,
    ) -> Route {
        let expects_reply = expects_reply(msg_type);
        if self.pending.contains_key(msg_id) {
            return if expects_reply {
                Route::Duplicate
            } else {
                Route::Drop
            };
        }
        let Some((identity, entry)) = self.engines.get_key_value_mut(engine) else {
            return if expects_reply {
                Route::UnknownEngine
            } else {
                Route::Drop
            };
        };
        if expects_reply {
            let msg_id = MsgId::from(msg_id);
            entry.queue.push_back(msg_id.clone());
            entry.pending += 1;
            let pending = Pending {
                engine: identity.clone(),
                client,
                msg_type: msg_type.to_owned(),
                header,
                is_taken_over: false,
            };
            self.pending.insert(msg_id, pending);
        }
        if entry.is_here {
            Route::Forward
        } else {
            Route::Hold
        }
    }

    /// The engine, which is named by its routing id, is expected and not registered.
    pub fn is_expected(&self, engine: &[u8]) -> bool {
        let engine = self.engines.get(engine);
        engine.is_some_and(|engine| !engine.is_here)
    }

    /// A request that was held back for an expected engine, which may have it from a former controller.
    pub fn on_taken_over(&mut self, msg_id: &str) {
        if let Some(pending) = self.pending.get_mut(msg_id) {
            pending.is_taken_over = true;
        }
    }

    /// Is this the answer to a request that this engine has of this client? Then it is delivered, once, to the client that
    /// is handed out. What an engine has from a former controller, or has answered before it was registered with this one,
    /// bears an address of that one's.
    pub fn on_reply(&mut self, engine: &[u8], client: &[u8], msg_id: &str) -> Option<Identity> {
        self.pending.get(msg_id).filter(|pending| {
            let is_of_client = pending.client.as_bytes() == client
                || pending.is_taken_over
                || self.is_expected(engine);
            pending.engine.as_bytes() == engine && is_of_client
        })?;
        let pending = self.pending.remove(msg_id)?;
        self.finish(engine, msg_id);
        Some(pending.client)
    }

    /// A request that is pending no more.
    fn finish(&mut self, engine: &[u8], msg_id: &str) {
        self.finished.add(msg_id);
        if let Some(engine) = self.engines.get_mut(engine) {
            engine.pending -= 1;
            engine.completed += 1;
            while engine
                .queue
                .front()
                .is_some_and(|front| !self.pending.contains_key(front))
            {
                engine.queue.pop_front();
            }
            // Answers out of order leave gaps; an engine that holds one request for ever must not keep all later ids.
            if engine.queue.len() > 64 && engine.queue.len() as u64 > 2 * engine.pending {
                engine.queue.retain(|id| self.pending.contains_key(id));
            }
        }
    }

    /// The reply that was just taken says that the request failed.
    pub fn on_failure(&mut self, engine: &[u8]) {
        if let Some(engine) = self.engines.get_mut(engine) {
            engine.failed += 1;
        }
    }

    /// Are there requests that have not ended?
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn is_pending(&self, msg_id: &str) -> bool {
        self.pending.contains_key(msg_id)
    }

    /// Answered, or failed, not too long ago.
    pub fn is_finished(&self, msg_id: &str) -> bool {
        self.finished.contains(msg_id)
    }

    /// Those that are expected included.
    pub fn engine_count(&self) -> usize {
        self.engines.len()
    }

    pub fn snapshot(&self) -> impl Iterator<Item = DirectLoad> {
        self.engines.values().map(|engine| DirectLoad {
            uuid: engine.uuid.clone(),
            pending: engine.pending,
            completed: engine.completed,
            failed: engine.failed,
        })
    }

    /// Requests in flight to one engine, by order of arrival.
    pub fn pending_ids(&self, uuid: &EngineUuid) -> Vec<MsgId> {
        let Some(engine) = self.engines.get(uuid.as_str().as_bytes()) else {
            return Vec::new();
        };
        engine
            .queue
            .iter()
            .filter(|id| self.pending.contains_key(*id))
            .cloned()
            .collect()
    }
}

/// Comm messages go one way (Jupyter messaging, "Custom messages").
fn expects_reply(msg_type: &str) -> bool {
    !matches!(msg_type, "comm_open" | "comm_msg" | "comm_close")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Identity {
        Identity::from(&b"client"[..])
    }

    fn scheduler() -> DirectScheduler<u32> {
        let mut scheduler = DirectScheduler::new();
        scheduler.on_engine_registered(EngineUuid::from("a"));
        scheduler
    }

    fn request(scheduler: &mut DirectScheduler<u32>, engine: &[u8], msg_id: &str) -> Route {
        scheduler.on_request(engine, client(), msg_id, "apply_request", 7)
    }

    #[test]
    fn an_answer_is_delivered_once_and_only_from_the_engine_that_was_asked() {
        let mut scheduler = scheduler();
        scheduler.on_engine_registered(EngineUuid::from("b"));
        assert_eq!(request(&mut scheduler, b"a", "m"), Route::Forward);
        assert_eq!(scheduler.on_reply(b"b", b"client", "m"), None);
        assert_eq!(scheduler.on_reply(b"a", b"other", "m"), None);
        assert_eq!(scheduler.on_reply(b"a", b"client", "n"), None);
        assert!(scheduler.is_pending("m") && !scheduler.is_finished("m"));
        assert!(scheduler.on_reply(b"a", b"client", "m").is_some());
        assert_eq!(scheduler.on_reply(b"a", b"client", "m"), None);
        assert!(!scheduler.is_pending("m") && scheduler.is_finished("m"));
    }

    #[test]
    fn requests_to_an_engine_that_dies_fail_in_order() {
        let mut scheduler = scheduler();
        for id in ["1", "2", "3"] {
            request(&mut scheduler, b"a", id);
        }
        scheduler.on_reply(b"a", b"client", "2");
        assert_eq!(
            scheduler.pending_ids(&EngineUuid::from("a")),
            ["1", "3"].map(MsgId::from)
        );
        let mut failed = Vec::new();
        scheduler.on_engine_gone(&EngineUuid::from("a"), &mut failed);
        let ids: Vec<&str> = failed
            .iter()
            .map(|failure| failure.msg_id.as_str())
            .collect();
        assert_eq!(ids, ["1", "3"]);
        assert_eq!(scheduler.on_reply(b"a", b"client", "1"), None);
        assert_eq!(request(&mut scheduler, b"a", "4"), Route::UnknownEngine);
        assert!(scheduler.pending.is_empty());
    }

    #[test]
    fn a_second_request_of_an_id_leaves_the_first_alone() {
        let mut scheduler = scheduler();
        scheduler.on_engine_registered(EngineUuid::from("b"));
        assert_eq!(request(&mut scheduler, b"a", "m"), Route::Forward);
        for engine in [b"a", b"b", b"x"] {
            assert_eq!(request(&mut scheduler, engine, "m"), Route::Duplicate);
            assert_eq!(
                scheduler.on_request(engine, client(), "m", "comm_msg", 0),
                Route::Drop
            );
        }
        assert_eq!(scheduler.on_reply(b"b", b"client", "m"), None);
        assert!(scheduler.on_reply(b"a", b"client", "m").is_some());
    }

    #[test]
    fn requests_for_an_expected_engine_wait_for_it() {
        let mut scheduler = DirectScheduler::new();
        scheduler.on_engine_expected(EngineUuid::from("a"));
        scheduler.on_engine_expected(EngineUuid::from("b"));
        for (engine, msg_id) in [(b"a", "1"), (b"b", "2")] {
            assert_eq!(request(&mut scheduler, engine, msg_id), Route::Hold);
            assert!(scheduler.is_pending(msg_id));
        }
        scheduler.on_engine_registered(EngineUuid::from("a"));
        scheduler.on_engine_expected(EngineUuid::from("a"));
        assert_eq!(request(&mut scheduler, b"a", "3"), Route::Forward);
        assert!(scheduler.on_reply(b"a", b"client", "1").is_some());
        let mut failed = Vec::new();
        scheduler.on_engine_gone(&EngineUuid::from("b"), &mut failed);
        assert_eq!(failed.len(), 1);
        assert_eq!(request(&mut scheduler, b"b", "4"), Route::UnknownEngine);
    }

    #[test]
    fn an_engine_of_a_former_controller_answers_that_ones_client() {
        let mut scheduler = DirectScheduler::new();
        scheduler.on_engine_expected(EngineUuid::from("a"));
        for msg_id in ["1", "2", "3"] {
            request(&mut scheduler, b"a", msg_id);
        }
        let client = scheduler.on_reply(b"a", b"former", "1");
        assert_eq!(client, Some(Identity::from(&b"client"[..])));
        scheduler.on_engine_registered(EngineUuid::from("a"));
        scheduler.on_taken_over("2");
        assert!(scheduler.on_reply(b"a", b"former", "2").is_some());
        assert_eq!(scheduler.on_reply(b"a", b"former", "3"), None);
        assert!(scheduler.on_reply(b"a", b"client", "3").is_some());
    }

    #[test]
    fn what_was_lost_is_answered_for_once_and_by_its_engine_alone() {
        let mut scheduler = scheduler();
        scheduler.on_engine_registered(EngineUuid::from("b"));
        request(&mut scheduler, b"a", "m");
        request(&mut scheduler, b"a", "n");
        let id = MsgId::from("m");
        assert_eq!(scheduler.on_lost(b"b", &id), None);
        let failure = scheduler.on_lost(b"a", &id).unwrap();
        assert_eq!((failure.client, failure.msg_id), (client(), id.clone()));
        assert_eq!(scheduler.on_lost(b"a", &id), None);
        assert_eq!(scheduler.on_reply(b"a", b"client", "m"), None);
        assert!(scheduler.on_reply(b"a", b"client", "n").is_some());
        let load = scheduler
            .snapshot()
            .find(|load| load.uuid.as_str() == "a")
            .unwrap();
        assert_eq!((load.pending, load.completed, load.failed), (0, 2, 1));
    }

    #[test]
    fn comm_messages_pass_and_are_not_waited_for() {
        let mut scheduler = scheduler();
        assert_eq!(
            scheduler.on_request(b"a", client(), "c", "comm_msg", 0),
            Route::Forward
        );
        assert!(!scheduler.is_pending("c"));
        assert_eq!(
            scheduler.on_request(b"x", client(), "c", "comm_msg", 0),
            Route::Drop
        );
    }

    #[test]
    fn ids_behind_a_request_that_is_never_answered_do_not_pile_up() {
        let mut scheduler = scheduler();
        request(&mut scheduler, b"a", "for ever");
        for n in 0..10_000 {
            let id = n.to_string();
            request(&mut scheduler, b"a", &id);
            assert!(scheduler.on_reply(b"a", b"client", &id).is_some());
        }
        let engine = &scheduler.engines[&b"a"[..]];
        assert!(engine.queue.len() <= 65, "{}", engine.queue.len());
        assert_eq!((engine.pending, engine.completed), (1, 10_000));
    }
}
