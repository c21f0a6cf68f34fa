//! Which process takes broadcasts for which engines.

use std::collections::{BTreeMap, HashMap};

use crate::protocol::{EngineUuid, Identity, MsgId};
use crate::scheduler::BroadcastTarget;

/// Processes that take broadcasts for their engines: to each of them a request goes once, however many of its engines
/// are meant. Which ones are, and under which message ids, is in the metadata's `targets`.
///
/// All broadcasts to such an engine go that way, so that they come in order.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    pub(super) of_engines: HashMap<EngineUuid, Identity>,
}

/// An engine's part in a request.
pub(super) type OutgoingPart = (BroadcastTarget, MsgId);

impl Hosts {
    pub(super) fn on_engine_registered(&mut self, engine: &EngineUuid, host: Option<Identity>) {
        match host {
            Some(host) => self.of_engines.insert(engine.clone(), host),
            None => self.of_engines.remove(engine),
        };
    }

    /// The engine's host, if that was the last of its engines.
    pub(super) fn on_engine_gone(&mut self, engine: &EngineUuid) -> Option<Identity> {
        let host = self.of_engines.remove(engine)?;
        let is_empty = self.of_engines.values().all(|other| *other != host);
        is_empty.then_some(host)
    }

    pub(super) fn engines_of(&self, host: &Identity) -> impl Iterator<Item = &EngineUuid> {
        let all = self.of_engines.iter();
        all.filter(move |(_, its)| *its == host)
            .map(|(engine, _)| engine)
    }

    /// What goes to engines themselves, and what to which host.
    pub(super) fn sort(
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
