//! What was on its way between a queue and its engines when a connection broke, and what of it was lost.
//!
//! What a queue had sent by the time at which an engine's connection is there again went to the old one, and may not have
//! arrived; nor may the answers. The engine's first word on the new one tells ([`Recount`]). Engines of ipyparallel say no
//! such word: what they have is in doubt until they leave.

use std::collections::{HashMap, HashSet};

use crate::protocol::header::Brief;
use crate::protocol::recount::RECOUNT;
use crate::protocol::{EngineUuid, Identity, MsgId, Recount, Wire};
use crate::transport::{ConnectionEvent, ConnectionId, Frame, Monitor, Outbox};

#[derive(Debug, Default)]
pub(super) struct Doubts {
    of_engines: HashMap<EngineUuid, Doubt>,
    /// Engines of a former controller that are not registered yet.
    returning: HashMap<EngineUuid, Returning>,
}

#[derive(Debug)]
struct Returning {
    /// The connection that is there now.
    connection: ConnectionId,
    /// What the engine has, if it has said so over this connection: then answers to the rest have come before.
    has: Option<HashSet<MsgId>>,
}

#[derive(Debug)]
struct Doubt {
    /// The connection that is there now.
    connection: ConnectionId,
    /// Requests that were sent before, in their order.
    sent: Vec<MsgId>,
}

/// A recount, and from where it came.
#[derive(Debug)]
pub(super) struct Recounted {
    pub(super) engine: EngineUuid,
    pub(super) recount: Recount,
    connection: Option<ConnectionId>,
}

/// What does not come any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Requests that have not reached the engine.
    pub(super) requests: Vec<MsgId>,
    /// Requests that it has answered.
    pub(super) answers: Vec<MsgId>,
}

impl Lost {
    pub(super) fn log(&self, queue: &str, engine: &EngineUuid) {
        if *self != Self::default() {
            tracing::warn!(
                "{queue}: a connection of engine {engine} broke: {} requests did not reach it, and {} answers of it were lost",
                self.requests.len(),
                self.answers.len()
            );
        }
    }
}

impl Doubts {
    /// A connection is there again, or for the first time; `sent` has had no answer yet.
    pub(super) fn on_connected(
        &mut self,
        engine: EngineUuid,
        connection: ConnectionId,
        sent: Vec<MsgId>,
    ) {
        if sent.is_empty() {
            self.of_engines.remove(&engine);
        } else {
            self.of_engines.insert(engine, Doubt { connection, sent });
        }
    }

    /// The same of an engine of a former controller, which is not registered yet.
    pub(super) fn on_returning(&mut self, engine: EngineUuid, connection: ConnectionId) {
        let has = None;
        self.returning.insert(engine, Returning { connection, has });
    }

    /// Such an engine is registered, and has said what it has not answered of all queues. What it has of this one, of which
    /// `is_pending` knows: what it says of that over the queue's own connection counts more.
    pub(super) fn on_returned(
        &mut self,
        engine: &EngineUuid,
        unanswered: &HashSet<MsgId>,
        is_pending: impl Fn(&str) -> bool,
    ) -> HashSet<MsgId> {
        let returning = self.returning.remove(engine);
        let (connection, said) = match returning {
            Some(Returning { connection, has }) => (Some(connection), has),
            None => (None, None),
        };
        let is_said = said.is_some();
        let mut has = said.unwrap_or_else(|| unanswered.clone());
        has.retain(|id| is_pending(id.as_str()));
        // It is to say so yet, and may have answered meanwhile.
        if let (Some(connection), false) = (connection, is_said) {
            self.on_connected(engine.clone(), connection, has.iter().cloned().collect());
        }
        has
    }

    /// One that came over a connection before the last one does not know what was sent over that.
    pub(super) fn on_recount(&mut self, recounted: &Recounted) -> Lost {
        let Recounted {
            engine,
            recount,
            connection,
        } = recounted;
        if let Some(returning) = self.returning.get_mut(engine) {
            if *connection == Some(returning.connection) {
                returning.has = Some(recount.has.iter().map(|id| MsgId::from(&**id)).collect());
            }
            return Lost::default();
        }
        let is_of_now = |doubt: &Doubt| recount.of_host || *connection == Some(doubt.connection);
        if !self.of_engines.get(engine).is_some_and(is_of_now) {
            return Lost::default();
        }
        let in_doubt = self.of_engines.remove(engine).map(|doubt| doubt.sent);
        let in_doubt = in_doubt.unwrap_or_default();
        let set = |ids: &'_ [String]| ids.iter().map(|id| MsgId::from(id.as_str())).collect();
        let has: HashSet<MsgId> = set(&recount.has);
        let answered: HashSet<MsgId> = set(&recount.answered);
        let missing = in_doubt.into_iter().filter(|id| !has.contains(id));
        let (answers, requests) = missing.partition(|id| answered.contains(id));
        Lost { requests, answers }
    }

    pub(super) fn forget(&mut self, engine: &EngineUuid) {
        self.of_engines.remove(engine);
        self.returning.remove(engine);
    }
}

/// Connections that are there, again or for the first time, since this was last asked, and whose they are.
pub(super) fn newly_connected(connections: &mut Monitor) -> Vec<(Identity, ConnectionId)> {
    let events = std::iter::from_fn(|| connections.receive_named());
    let established = events.filter_map(|(event, name)| match event {
        ConnectionEvent::Established(connection) => Some((name?, connection)),
        ConnectionEvent::Ended(_) => None,
    });
    established.collect()
}

/// Ids of the messages that wait until their receiver is connected: they have not been sent.
pub(super) fn unsent(outbox: &Outbox, to: &[u8]) -> HashSet<MsgId> {
    outbox.waiting_for(to).filter_map(id_of).collect()
}

/// The message id of a request.
pub(super) fn id_of(frames: &[Frame]) -> Option<MsgId> {
    let wire = Wire::parse(frames).ok()?;
    let header = Brief::parse(wire.header()).ok()?;
    Some(MsgId::from(&*header.msg_id))
}

/// The recount in a message, if it is one.
pub(super) fn read_recount(wire: &Wire<'_, Frame>) -> Option<Result<Recounted, String>> {
    // Replies have the client's address as well.
    let [from] = wire.identities() else {
        return None;
    };
    let header = Brief::parse(wire.header()).ok()?;
    if header.msg_type != RECOUNT {
        return None;
    }
    let recount = serde_json::from_slice(wire.content());
    let recounted = recount.map(|recount| Recounted {
        engine: EngineUuid::from(String::from_utf8_lossy(from).into_owned()),
        recount,
        connection: from.connection(),
    });
    Some(recounted.map_err(|error| format!("a recount: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<MsgId> {
        ids.iter().map(|id| MsgId::from(*id)).collect()
    }

    fn engine() -> EngineUuid {
        EngineUuid::from("e")
    }

    fn recounted(connection: u64, has: &[&str], answered: &[&str]) -> Recounted {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        Recounted {
            engine: engine(),
            recount: Recount {
                has: owned(has),
                answered: owned(answered),
                of_host: false,
            },
            connection: Some(ConnectionId(connection)),
        }
    }

    #[test]
    fn what_the_engine_neither_has_nor_answered_did_not_reach_it() {
        let mut doubts = Doubts::default();
        let sent = ids(&["running", "answered", "lost"]);
        doubts.on_connected(engine(), ConnectionId(1), sent);
        let lost = doubts.on_recount(&recounted(1, &["running"], &["long ago", "answered"]));
        assert_eq!(lost.requests, ids(&["lost"]));
        assert_eq!(lost.answers, ids(&["answered"]));
        let again = doubts.on_recount(&recounted(1, &[], &[]));
        assert_eq!(again, Lost::default(), "nothing is lost twice");
    }

    #[test]
    fn only_what_was_sent_before_the_last_connection_is_in_doubt() {
        let mut doubts = Doubts::default();
        doubts.on_connected(engine(), ConnectionId(1), ids(&["a", "b"]));
        // It broke once more; meanwhile "a" was answered, and "c" was sent.
        doubts.on_connected(engine(), ConnectionId(2), ids(&["b", "c"]));
        let too_old = doubts.on_recount(&recounted(1, &["b"], &["a"]));
        assert_eq!(too_old, Lost::default());
        let lost = doubts.on_recount(&recounted(2, &["b"], &["a"]));
        assert_eq!(lost.requests, ids(&["c"]));
    }

    #[test]
    fn engines_of_a_host_tell_of_its_connection_over_their_own() {
        let mut doubts = Doubts::default();
        doubts.on_connected(engine(), ConnectionId(7), ids(&["a"]));
        let mut told = recounted(1, &[], &[]);
        told.recount.of_host = true;
        assert_eq!(doubts.on_recount(&told).requests, ids(&["a"]));
    }

    #[test]
    fn what_an_engine_that_returns_says_over_its_connection_counts_more_than_what_it_said_before() {
        let unanswered: HashSet<MsgId> = ids(&["running", "answered", "of another queue"])
            .into_iter()
            .collect();
        let is_pending = |id: &str| id != "of another queue";
        let mut doubts = Doubts::default();
        doubts.on_returning(engine(), ConnectionId(1));
        doubts.on_recount(&recounted(1, &["answered"], &[]));
        doubts.on_returning(engine(), ConnectionId(2));
        doubts.on_recount(&recounted(1, &["answered"], &[]));
        doubts.on_recount(&recounted(2, &["running"], &["answered"]));
        let has = doubts.on_returned(&engine(), &unanswered, is_pending);
        assert_eq!(has, HashSet::from_iter(ids(&["running"])));
        assert!(doubts.of_engines.is_empty() && doubts.returning.is_empty());

        doubts.on_returning(engine(), ConnectionId(3));
        let has = doubts.on_returned(&engine(), &unanswered, is_pending);
        assert_eq!(has, HashSet::from_iter(ids(&["running", "answered"])));
        let lost = doubts.on_recount(&recounted(3, &["running"], &["answered"]));
        assert_eq!(lost.answers, ids(&["answered"]));
        assert_eq!(lost.requests, []);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut doubts = Doubts::default();
        doubts.on_connected(engine(), ConnectionId(1), ids(&["a"]));
        doubts.forget(&engine());
        assert_eq!(doubts.on_recount(&recounted(1, &[], &[])), Lost::default());
        doubts.on_connected(engine(), ConnectionId(2), ids(&["b"]));
        doubts.on_connected(engine(), ConnectionId(3), Vec::new());
        assert!(doubts.of_engines.is_empty());
    }
}
