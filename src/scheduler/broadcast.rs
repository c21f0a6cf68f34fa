//! One request to many engines, as a flat fan-out.
//!
//! Each engine gets the message under an id of its own, `ORIGINAL_UUID`. Without coalescing each reply goes to the
//! client as it comes; with it, one reply goes out when the last engine has answered or died (ipyparallel
//! `broadcast_scheduler.py`, whose tree of schedulers is not needed here).

use hashbrown::HashMap;

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
    requests: HashMap<MsgId, Request<H, R>>,
}

#[derive(Debug, Default)]
struct Engine {
    /// Requests that it has not answered yet, oldest first.
    pending: Vec<MsgId>,
    completed: u64,
}

#[derive(Debug)]
struct Request<H, R> {
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
}

impl<H, R> Default for BroadcastScheduler<H, R> {
    fn default() -> Self {
        Self {
            engines: HashMap::new(),
            requests: HashMap::new(),
        }
    }
}

impl<H: Clone, R> BroadcastScheduler<H, R> {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn on_engine_registered(&mut self, uuid: EngineUuid) {
        self.engines.insert(uuid, Engine::default());
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
        for msg_id in engine.pending {
            self.lose(&msg_id, uuid, how, ends);
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
        if self.requests.contains_key(msg_id) {
            return None;
        }
        let mut parts: Vec<Part<R>> = Vec::with_capacity(targets.len());
        let mut to = Vec::with_capacity(targets.len());
        let mut missing = Vec::new();
        let mut seen = hashbrown::HashSet::with_capacity(targets.len());
        for target in targets {
            if !seen.insert(target.uuid.clone()) {
                continue;
            }
            match self.engines.get_mut(&target.uuid) {
                Some(engine) => {
                    engine.pending.push(msg_id.clone());
                    to.push((target.clone(), outgoing_id(msg_id, &target.uuid)));
                }
                None => missing.push(target.uuid.clone()),
            }
            parts.push(Part {
                target,
                state: PartState::Waiting,
            });
        }
        let nobody = parts.is_empty();
        if !nobody {
            let left = parts.len();
            self.requests.insert(
                msg_id.clone(),
                Request {
                    client,
                    header,
                    coalescing,
                    parts,
                    left,
                },
            );
            for uuid in missing {
                self.lose(msg_id, &uuid, "no such engine is registered", ends);
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
        let Some((msg_id, request)) = self.requests.get_key_value_mut(original) else {
            return BroadcastVerdict::Unknown;
        };
        if outgoing_id(msg_id, engine).as_str() != outgoing {
            return BroadcastVerdict::Unknown;
        }
        let msg_id = msg_id.clone();
        let Some(part) = request
            .parts
            .iter_mut()
            .find(|part| part.target.uuid == *engine)
        else {
            return BroadcastVerdict::Unknown;
        };
        if !matches!(part.state, PartState::Waiting) {
            return BroadcastVerdict::Unknown;
        }
        request.left -= 1;
        if let Some(engine) = self.engines.get_mut(engine) {
            engine.completed += 1;
            if let Some(at) = engine.pending.iter().position(|pending| *pending == msg_id) {
                engine.pending.remove(at);
            }
        }
        if !request.coalescing {
            part.state = PartState::Answered(None);
            let client = request.client.clone();
            if request.left == 0 {
                self.requests.remove(&msg_id);
            }
            return BroadcastVerdict::Deliver { client, reply };
        }
        part.state = PartState::Answered(Some(reply));
        match self.conclude(&msg_id) {
            Some(end) => BroadcastVerdict::End(end),
            None => BroadcastVerdict::Held,
        }
    }

    pub fn snapshot(&self) -> impl Iterator<Item = BroadcastLoad> {
        self.engines.iter().map(|(uuid, engine)| BroadcastLoad {
            uuid: uuid.clone(),
            pending: engine.pending.len() as u64,
            completed: engine.completed,
        })
    }

    /// Requests, by their original ids, that an engine has not answered yet.
    pub fn pending_ids(&self, uuid: &EngineUuid) -> Vec<MsgId> {
        self.engines
            .get(uuid)
            .map(|engine| engine.pending.clone())
            .unwrap_or_default()
    }

    /// Is a request of this id, or an engine's part in one, under way?
    pub fn is_pending(&self, msg_id: &str) -> bool {
        if self.requests.contains_key(msg_id) {
            return true;
        }
        // `ORIGINAL_UUID`: uuids have no underscore, original ids do.
        let Some((original, uuid)) = msg_id.rsplit_once('_') else {
            return false;
        };
        self.requests.get(original).is_some_and(|request| {
            request.parts.iter().any(|part| {
                part.target.uuid.as_str() == uuid && matches!(part.state, PartState::Waiting)
            })
        })
    }

    fn lose(
        &mut self,
        msg_id: &MsgId,
        uuid: &EngineUuid,
        how: &str,
        ends: &mut Vec<BroadcastEnd<H, R>>,
    ) {
        let Some(request) = self.requests.get_mut(msg_id) else {
            return;
        };
        let waiting = |part: &&mut Part<R>| {
            part.target.uuid == *uuid && matches!(part.state, PartState::Waiting)
        };
        let Some(part) = request.parts.iter_mut().find(waiting) else {
            return;
        };
        part.state = PartState::Lost(how.to_owned());
        request.left -= 1;
        if request.coalescing {
            ends.extend(self.conclude(msg_id));
            return;
        }
        ends.push(BroadcastEnd::Lost {
            client: request.client.clone(),
            msg_id: outgoing_id(msg_id, uuid),
            header: request.header.clone(),
            target: part.target.clone(),
            how: how.to_owned(),
        });
        if request.left == 0 {
            self.requests.remove(msg_id);
        }
    }

    /// The one reply of a coalescing request, if nobody is waited for any more.
    fn conclude(&mut self, msg_id: &MsgId) -> Option<BroadcastEnd<H, R>> {
        if self.requests.get(msg_id)?.left > 0 {
            return None;
        }
        let request = self.requests.remove(msg_id)?;
        let (mut targets, mut replies, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for Part { target, state } in request.parts {
            targets.push(target.clone());
            match state {
                PartState::Answered(reply) => replies.extend(reply),
                PartState::Lost(how) => lost.push((target, how)),
                PartState::Waiting => {}
            }
        }
        let Request { client, header, .. } = request;
        Some(BroadcastEnd::Coalesced {
            client,
            msg_id: msg_id.clone(),
            header,
            targets,
            replies,
            lost,
        })
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

    fn is_empty(scheduler: &Scheduler) -> bool {
        scheduler.requests.is_empty()
            && scheduler
                .engines
                .values()
                .all(|engine| engine.pending.is_empty())
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
        assert!(is_empty(&scheduler));
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
        assert!(is_empty(&scheduler));
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
            assert!(is_empty(&scheduler));
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
        assert!(is_empty(&scheduler));
        let (_, ends) = send(&mut scheduler, &[7, 8], true);
        assert!(matches!(&ends[..], [BroadcastEnd::Coalesced { lost, .. }] if lost.len() == 2));
        let (fan_out, ends) = send(&mut scheduler, &[], true);
        assert!(fan_out.nobody && ends.is_empty() && is_empty(&scheduler));
    }
}
