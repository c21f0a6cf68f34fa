//! One request to many engines, as a flat fan-out.
//!
//! Each engine gets the message under an id of its own, `ORIGINAL_UUID`. Without coalescing each reply goes to the
//! client as it comes; with it, one reply goes out when the last engine has answered or died (ipyparallel
//! `broadcast_scheduler.py`, whose tree of schedulers is not needed here).

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};

use crate::protocol::{EngineId, EngineUuid, Identity, MsgId};

/// An engine as the client names it in `metadata.targets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastTarget {
    pub uuid: EngineUuid,
    pub id: EngineId,
}

/// What is done with a new request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanOut {
    /// Engines that get it, and under which message id.
    pub to: Vec<(BroadcastTarget, MsgId)>,
    /// Nobody is there who could answer: the request ends at once.
    pub nobody: bool,
}

/// The end of a request, or of one engine's part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroadcastEnd<H, R> {
    /// Not coalescing: an engine died before it answered, or was not there.
    Lost {
        client: Identity,
        msg_id: MsgId,
        header: H,
        target: BroadcastTarget,
        how: String,
    },
    /// Coalescing: everybody has answered or is gone. Replies are in the order of targets.
    Coalesced {
        client: Identity,
        msg_id: MsgId,
        header: H,
        targets: Vec<BroadcastTarget>,
        replies: Vec<R>,
        lost: Vec<(BroadcastTarget, String)>,
    },
}

/// What becomes of an engine's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BroadcastVerdict<H, R> {
    /// To be sent on to the client.
    Deliver {
        client: Identity,
        reply: R,
    },
    /// Kept until the others have answered.
    Held,
    /// It was the last one.
    End(BroadcastEnd<H, R>),
    Unknown,
}

/// `H` is what is needed to answer in an engine's place; `R` a reply.
#[derive(Debug)]
pub struct BroadcastScheduler<H, R> {
    engines: HashMap<EngineUuid, Engine>,
    requests: HashMap<Number, Request<H, R>>,
    numbers: HashMap<MsgId, Number>,
    last_number: Number,
}

/// Counts requests.
type Number = u64;

#[derive(Debug, Default)]
struct Engine {
    /// Requests that it has not answered yet, oldest first, and which of their parts is its own.
    pending: BTreeMap<Number, usize>,
    completed: u64,
    failed: u64,
}

#[derive(Debug)]
struct Request<H, R> {
    msg_id: MsgId,
    client: Identity,
    header: H,
    coalescing: bool,
    parts: Vec<Part<R>>,
    left: usize,
}

#[derive(Debug)]
struct Part<R> {
    target: BroadcastTarget,
    state: PartState<R>,
}

#[derive(Debug)]
enum PartState<R> {
    Waiting,
    Answered(Option<R>),
    Lost(String),
}

/// What one engine has to do, and has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BroadcastLoad {
    pub uuid: EngineUuid,
    pub pending: u64,
    pub completed: u64,
    /// Those of them that failed.
    pub failed: u64,
}

impl<H, R> Default for BroadcastScheduler<H, R> {
    fn default() -> Self {
        Self {
            engines: HashMap::new(),
            requests: HashMap::new(),
            numbers: HashMap::new(),
            last_number: 0,
        }
    }
}

impl<H: Clone, R> BroadcastScheduler<H, R> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn on_engine_registered(&mut self, uuid: EngineUuid) {
        self.engines.entry(uuid).or_default();
    }

    /// Its part in every request is lost.
    pub fn on_engine_gone(
        &mut self,
        uuid: &EngineUuid,
        how: &str,
        ends: &mut Vec<BroadcastEnd<H, R>>,
    ) {
        let Some(engine) = self.engines.remove(uuid) else {
            return;
        };
        for (number, part) in engine.pending {
            self.lose(number, part, how, ends);
        }
    }

    /// An engine's part in a request, which it was sent as `outgoing`, or its answer was lost between here and the engine,
    /// which is there.
    pub fn on_lost(
        &mut self,
        uuid: &EngineUuid,
        outgoing: &str,
        how: &str,
        ends: &mut Vec<BroadcastEnd<H, R>>,
    ) {
        let original = outgoing
            .strip_suffix(uuid.as_str())
            .and_then(|original| original.strip_suffix('_'));
        let number = original.and_then(|original| self.numbers.get(original).copied());
        let Some((number, engine)) = number.zip(self.engines.get_mut(uuid)) else {
            return;
        };
        if let Some(part) = engine.pending.remove(&number) {
            engine.completed += 1;
            engine.failed += 1;
            self.lose(number, part, how, ends);
        }
    }

    /// A request to `targets`; one that is named twice gets it once. Targets that are not registered are lost at once,
    /// which is told through `ends`. A message id that is already under way is refused with `None`.
    pub fn on_request(
        &mut self,
        client: Identity,
        msg_id: &MsgId,
        targets: Vec<BroadcastTarget>,
        coalescing: bool,
        header: H,
        ends: &mut Vec<BroadcastEnd<H, R>>,
    ) -> Option<FanOut> {
        if self.numbers.contains_key(msg_id) {
            return None;
        }
        let number = self.last_number + 1;
        let mut parts: Vec<Part<R>> = Vec::with_capacity(targets.len());
        let mut to = Vec::with_capacity(targets.len());
        let mut missing = Vec::new();
        let mut seen = HashSet::with_capacity(targets.len());
        for target in targets {
            if !seen.insert(target.uuid.clone()) {
                continue;
            }
            match self.engines.get_mut(&target.uuid) {
                Some(engine) => {
                    engine.pending.insert(number, parts.len());
                    to.push((target.clone(), outgoing_id(msg_id, &target.uuid)));
                }
                None => missing.push(parts.len()),
            }
            parts.push(Part {
                target,
                state: PartState::Waiting,
            });
        }
        let nobody = parts.is_empty();
        if !nobody {
            self.last_number = number;
            self.numbers.insert(msg_id.clone(), number);
            let request = Request {
                msg_id: msg_id.clone(),
                client,
                header,
                coalescing,
                left: parts.len(),
                parts,
            };
            self.requests.insert(number, request);
            for part in missing {
                self.lose(number, part, "no such engine is registered", ends);
            }
        }
        Some(FanOut { to, nobody })
    }

    /// An engine's reply to the message that it got as `outgoing`.
    pub fn on_reply(
        &mut self,
        engine: &EngineUuid,
        original: &str,
        outgoing: &str,
        reply: R,
    ) -> BroadcastVerdict<H, R> {
        let (Some(number), Some(known)) =
            (self.numbers.get(original), self.engines.get_mut(engine))
        else {
            return BroadcastVerdict::Unknown;
        };
        let suffix = outgoing
            .strip_prefix(original)
            .and_then(|suffix| suffix.strip_prefix('_'));
        if suffix != Some(engine.as_str()) {
            return BroadcastVerdict::Unknown;
        }
        let number = *number;
        let Some(part) = known.pending.remove(&number) else {
            return BroadcastVerdict::Unknown;
        };
        known.completed += 1;
        let request = self.requests.get_mut(&number);
        let request = request.expect("what an engine has to answer is there");
        request.left -= 1;
        if request.coalescing {
            request.parts[part].state = PartState::Answered(Some(reply));
            return match self.conclude(number) {
                Some(end) => BroadcastVerdict::End(end),
                None => BroadcastVerdict::Held,
            };
        }
        request.parts[part].state = PartState::Answered(None);
        let client = request.client.clone();
        self.forget_if_done(number);
        BroadcastVerdict::Deliver { client, reply }
    }

    pub fn engine_count(&self) -> usize {
        self.engines.len()
    }

    pub fn snapshot(&self) -> impl Iterator<Item = BroadcastLoad> {
        self.engines.iter().map(|(uuid, engine)| BroadcastLoad {
            uuid: uuid.clone(),
            pending: engine.pending.len() as u64,
            completed: engine.completed,
            failed: engine.failed,
        })
    }

    /// The reply that was just taken says that the engine's part failed.
    pub fn on_failure(&mut self, engine: &EngineUuid) {
        if let Some(engine) = self.engines.get_mut(engine) {
            engine.failed += 1;
        }
    }

    /// Requests, by their original ids, that an engine has not answered yet.
    pub fn pending_ids(&self, uuid: &EngineUuid) -> Vec<MsgId> {
        let pending = self.engines.get(uuid).map(|engine| &engine.pending);
        pending
            .into_iter()
            .flatten()
            .map(|(number, _)| self.requests[number].msg_id.clone())
            .collect()
    }

    /// The same, by the ids under which the engine was sent them.
    pub fn outgoing_ids(&self, uuid: &EngineUuid) -> Vec<MsgId> {
        let ids = self.pending_ids(uuid);
        ids.iter().map(|id| outgoing_id(id, uuid)).collect()
    }

    /// Are there requests that have not ended?
    pub fn has_pending(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Is a request of this id, or an engine's part in one, under way?
    pub fn is_pending(&self, msg_id: &str) -> bool {
        if self.numbers.contains_key(msg_id) {
            return true;
        }
        // `ORIGINAL_UUID`: uuids have no underscore, original ids do.
        msg_id.rsplit_once('_').is_some_and(|(original, uuid)| {
            let (number, engine) = (self.numbers.get(original), self.engines.get(uuid));
            number
                .zip(engine)
                .is_some_and(|(number, engine)| engine.pending.contains_key(number))
        })
    }

    /// An engine's part in a request, which is not among what it has to answer any more, is lost.
    fn lose(&mut self, number: Number, part: usize, how: &str, ends: &mut Vec<BroadcastEnd<H, R>>) {
        let request = self.requests.get_mut(&number);
        let request = request.expect("a request with a part that waits is there");
        request.left -= 1;
        let part = &mut request.parts[part];
        part.state = PartState::Lost(how.to_owned());
        if request.coalescing {
            ends.extend(self.conclude(number));
            return;
        }
        ends.push(BroadcastEnd::Lost {
            client: request.client.clone(),
            msg_id: outgoing_id(&request.msg_id, &part.target.uuid),
            header: request.header.clone(),
            target: part.target.clone(),
            how: how.to_owned(),
        });
        self.forget_if_done(number);
    }

    /// Takes a request out if nobody is waited for any more.
    fn forget_if_done(&mut self, number: Number) -> Option<Request<H, R>> {
        if self.requests.get(&number)?.left > 0 {
            return None;
        }
        let request = self.requests.remove(&number)?;
        self.numbers.remove(&request.msg_id);
        Some(request)
    }

    /// The one reply of a coalescing request, if nobody is waited for any more.
    fn conclude(&mut self, number: Number) -> Option<BroadcastEnd<H, R>> {
        let request = self.forget_if_done(number)?;
        let (mut targets, mut replies, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for Part { target, state } in request.parts {
            targets.push(target.clone());
            match state {
                PartState::Answered(reply) => replies.extend(reply),
                PartState::Lost(how) => lost.push((target, how)),
                PartState::Waiting => {}
            }
        }
        Some(BroadcastEnd::Coalesced {
            client: request.client,
            msg_id: request.msg_id,
            header: request.header,
            targets,
            replies,
            lost,
        })
    }
}

#[cfg(test)]
impl<H, R> BroadcastScheduler<H, R> {
    /// Nothing is under way, and nothing is kept of what was.
    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
            && self.numbers.is_empty()
            && self
                .engines
                .values()
                .all(|engine| engine.pending.is_empty())
    }
}

fn outgoing_id(original: &MsgId, uuid: &EngineUuid) -> MsgId {
    MsgId::from(format!("{original}_{uuid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Scheduler = BroadcastScheduler<&'static str, u32>;

    fn target(n: u32) -> BroadcastTarget {
        BroadcastTarget {
            uuid: uuid(n),
            id: EngineId(n),
        }
    }

    fn uuid(n: u32) -> EngineUuid {
        EngineUuid::from(format!("e{n}"))
    }

    fn client() -> Identity {
        Identity::from(&b"client"[..])
    }

    fn with_engines(n: u32) -> Scheduler {
        let mut scheduler = Scheduler::new();
        (0..n).for_each(|n| scheduler.on_engine_registered(uuid(n)));
        scheduler
    }

    fn send(
        scheduler: &mut Scheduler,
        targets: &[u32],
        coalescing: bool,
    ) -> (FanOut, Vec<BroadcastEnd<&'static str, u32>>) {
        let mut ends = Vec::new();
        let targets = targets.iter().copied().map(target).collect();
        let fan_out = scheduler
            .on_request(
                client(),
                &MsgId::from("m_1"),
                targets,
                coalescing,
                "header",
                &mut ends,
            )
            .unwrap();
        (fan_out, ends)
    }

    fn reply(scheduler: &mut Scheduler, engine: u32) -> BroadcastVerdict<&'static str, u32> {
        scheduler.on_reply(&uuid(engine), "m_1", &format!("m_1_e{engine}"), engine)
    }

    #[test]
    fn a_part_that_was_lost_ends_once_and_leaves_the_others_alone() {
        for coalescing in [false, true] {
            let mut scheduler = with_engines(2);
            send(&mut scheduler, &[0, 1], coalescing);
            assert_eq!(scheduler.outgoing_ids(&uuid(0)), [MsgId::from("m_1_e0")]);
            let mut ends = Vec::new();
            for (engine, id) in [(0, "m_1_e1"), (0, "m_1"), (9, "m_1_e9"), (1, "m_2_e1")] {
                scheduler.on_lost(&uuid(engine), id, "how", &mut ends);
            }
            assert!(ends.is_empty());
            for _ in 0..2 {
                scheduler.on_lost(&uuid(0), "m_1_e0", "how", &mut ends);
            }
            assert_eq!(ends.len(), usize::from(!coalescing));
            assert_eq!(reply(&mut scheduler, 0), BroadcastVerdict::Unknown);
            let last = reply(&mut scheduler, 1);
            assert_eq!(matches!(last, BroadcastVerdict::End(_)), coalescing);
            assert!(!scheduler.has_pending());
            let load = scheduler
                .snapshot()
                .find(|load| load.uuid == uuid(0))
                .unwrap();
            assert_eq!((load.pending, load.completed, load.failed), (0, 1, 1));
        }
    }

    #[test]
    fn each_reply_is_delivered_once_as_it_comes() {
        let mut scheduler = with_engines(2);
        let (fan_out, ends) = send(&mut scheduler, &[1, 0, 1], false);
        assert!(ends.is_empty() && !fan_out.nobody);
        let ids: Vec<String> = fan_out.to.iter().map(|(_, id)| id.to_string()).collect();
        assert_eq!(ids, ["m_1_e1", "m_1_e0"]);
        assert!(scheduler.is_pending("m_1") && scheduler.is_pending("m_1_e1"));
        assert_eq!(
            reply(&mut scheduler, 1),
            BroadcastVerdict::Deliver {
                client: client(),
                reply: 1
            }
        );
        assert!(!scheduler.is_pending("m_1_e1"));
        assert_eq!(reply(&mut scheduler, 1), BroadcastVerdict::Unknown);
        assert_eq!(
            scheduler.on_reply(&uuid(0), "m_1", "m_1_e1", 0),
            BroadcastVerdict::Unknown
        );
        assert_eq!(
            reply(&mut scheduler, 0),
            BroadcastVerdict::Deliver {
                client: client(),
                reply: 0
            }
        );
        assert!(scheduler.is_empty());
    }

    #[test]
    fn coalesced_replies_come_in_the_order_of_targets() {
        let mut scheduler = with_engines(3);
        send(&mut scheduler, &[2, 0, 1], true);
        assert_eq!(reply(&mut scheduler, 0), BroadcastVerdict::Held);
        assert_eq!(reply(&mut scheduler, 1), BroadcastVerdict::Held);
        let BroadcastVerdict::End(BroadcastEnd::Coalesced {
            targets,
            replies,
            lost,
            ..
        }) = reply(&mut scheduler, 2)
        else {
            panic!("the last reply ends the request")
        };
        assert_eq!((replies, lost), (vec![2, 0, 1], vec![]));
        assert_eq!(targets, [2, 0, 1].map(target));
        assert!(scheduler.is_empty());
    }

    #[test]
    fn an_engine_that_dies_is_lost_to_its_requests_only() {
        for coalescing in [false, true] {
            let mut scheduler = with_engines(3);
            send(&mut scheduler, &[0, 1], coalescing);
            reply(&mut scheduler, 0);
            let mut ends = Vec::new();
            scheduler.on_engine_gone(&uuid(2), "killed", &mut ends);
            assert!(ends.is_empty());
            scheduler.on_engine_gone(&uuid(1), "killed", &mut ends);
            match &ends[..] {
                [
                    BroadcastEnd::Lost {
                        msg_id,
                        target: lost,
                        ..
                    },
                ] if !coalescing => {
                    assert_eq!((msg_id.as_str(), lost), ("m_1_e1", &target(1)));
                }
                [BroadcastEnd::Coalesced { replies, lost, .. }] if coalescing => {
                    assert_eq!(replies, &[0]);
                    assert_eq!(lost, &[(target(1), "killed".to_owned())]);
                }
                other => panic!("{other:?}"),
            }
            assert!(scheduler.is_empty());
            assert_eq!(reply(&mut scheduler, 1), BroadcastVerdict::Unknown);
        }
    }

    #[test]
    fn unknown_targets_are_lost_at_once_and_no_target_is_nobody() {
        let mut scheduler = with_engines(1);
        let (fan_out, ends) = send(&mut scheduler, &[7, 0], false);
        assert_eq!(fan_out.to.len(), 1);
        assert!(
            matches!(&ends[..], [BroadcastEnd::Lost { target: lost, .. }] if *lost == target(7))
        );
        reply(&mut scheduler, 0);
        assert!(scheduler.is_empty());
        let (_, ends) = send(&mut scheduler, &[7, 8], true);
        assert!(matches!(&ends[..], [BroadcastEnd::Coalesced { lost, .. }] if lost.len() == 2));
        let (fan_out, ends) = send(&mut scheduler, &[], true);
        assert!(fan_out.nobody && ends.is_empty() && scheduler.is_empty());
    }
}
