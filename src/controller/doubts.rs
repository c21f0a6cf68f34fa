//! What was on its way between a queue and its engines when a connection broke, and what of it was lost. Pure.
//!
//! What a queue had sent by the time at which an engine's connection is there again went to the old one, and may not have
//! arrived; nor may the answers. The engine's first word on the new one tells ([`Recount`]). Engines of ipyparallel say no
//! such word: what they have is in doubt until they leave.

use std::collections::HashMap;

use hashbrown::HashSet;

use crate::protocol::header::Brief;
use crate::protocol::recount::RECOUNT;
use crate::protocol::{EngineUuid, Identity, MsgId, Recount, Wire};
use crate::transport::{ConnectionEvent, Frame, Monitor, Outbox, Socket};

#[derive(Debug, Default)]
pub(super) struct Doubts {
    of_engines: HashMap<EngineUuid, Vec<MsgId>>,
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
    pub(super) fn on_connected(&mut self, engine: EngineUuid, sent: Vec<MsgId>) {
        if sent.is_empty() {
            self.of_engines.remove(&engine);
        } else {
            self.of_engines.insert(engine, sent);
        }
    }

    pub(super) fn on_recount(&mut self, engine: &EngineUuid, recount: &Recount) -> Lost {
        let in_doubt = self.of_engines.remove(engine).unwrap_or_default();
        let set = |ids: &'_ [String]| ids.iter().map(|id| MsgId::from(id.as_str())).collect();
        let has: HashSet<MsgId> = set(&recount.has);
        let answered: HashSet<MsgId> = set(&recount.answered);
        let missing = in_doubt.into_iter().filter(|id| !has.contains(id));
        let (answers, requests) = missing.partition(|id| answered.contains(id));
        Lost { requests, answers }
    }

    pub(super) fn forget(&mut self, engine: &EngineUuid) {
        self.of_engines.remove(engine);
    }
}

/// Peers whose connections are there, again or for the first time, since this was last asked.
pub(super) fn newly_connected(connections: &mut Monitor, socket: &Socket) -> Vec<Identity> {
    let events = std::iter::from_fn(|| connections.receive());
    let established = events.filter_map(|event| match event {
        ConnectionEvent::Established(connection) => Some(connection),
        ConnectionEvent::Ended(_) => None,
    });
    established
        .filter_map(|connection| socket.name_of(connection))
        .collect()
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
pub(super) fn read_recount(
    wire: &Wire<'_, Frame>,
) -> Option<Result<(EngineUuid, Recount), String>> {
    // Replies have the client's address as well.
    let [engine] = wire.identities() else {
        return None;
    };
    let header = Brief::parse(wire.header()).ok()?;
    if header.msg_type != RECOUNT {
        return None;
    }
    let engine = EngineUuid::from(String::from_utf8_lossy(engine).into_owned());
    let recount = serde_json::from_slice(wire.content());
    Some(
        recount
            .map(|recount| (engine, recount))
            .map_err(|error| format!("a recount: {error}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<MsgId> {
        ids.iter().map(|id| MsgId::from(*id)).collect()
    }

    fn recount(has: &[&str], answered: &[&str]) -> Recount {
        let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        Recount {
            has: owned(has),
            answered: owned(answered),
            of_host: false,
        }
    }

    #[test]
    fn what_the_engine_neither_has_nor_answered_did_not_reach_it() {
        let mut doubts = Doubts::default();
        let engine = EngineUuid::from("e");
        doubts.on_connected(engine.clone(), ids(&["running", "answered", "lost"]));
        let lost = doubts.on_recount(&engine, &recount(&["running"], &["long ago", "answered"]));
        assert_eq!(lost.requests, ids(&["lost"]));
        assert_eq!(lost.answers, ids(&["answered"]));
        let again = doubts.on_recount(&engine, &recount(&[], &[]));
        assert_eq!(again, Lost::default(), "nothing is lost twice");
    }

    #[test]
    fn what_is_sent_after_the_connection_is_there_again_is_in_no_doubt() {
        let mut doubts = Doubts::default();
        let (engine, other) = (EngineUuid::from("e"), EngineUuid::from("o"));
        doubts.on_connected(engine.clone(), ids(&["a", "b"]));
        // It broke once more; meanwhile "a" was answered.
        doubts.on_connected(engine.clone(), ids(&["b"]));
        assert_eq!(
            doubts.on_recount(&other, &recount(&[], &[])),
            Lost::default()
        );
        assert_eq!(
            doubts.on_recount(&engine, &recount(&[], &[])).requests,
            ids(&["b"])
        );
        doubts.on_connected(engine.clone(), ids(&["c"]));
        doubts.forget(&engine);
        assert_eq!(
            doubts.on_recount(&engine, &recount(&[], &[])),
            Lost::default()
        );
        doubts.on_connected(engine.clone(), ids(&["d"]));
        doubts.on_connected(engine, Vec::new());
        assert!(doubts.of_engines.is_empty());
    }
}
