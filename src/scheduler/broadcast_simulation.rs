//! Random broadcasts to engines that come, go, answer late and lie: each part of each request ends exactly once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::protocol::{EngineId, EngineUuid, Identity, MsgId};

const ENGINES: u32 = 4;

#[derive(Clone, Debug)]
enum Op {
    Register(u32),
    Gone(u32),
    /// To engines by the bits of a number, in one order or the other.
    Request {
        engines: u32,
        backwards: bool,
        coalescing: bool,
    },
    /// An engine answers something that it was sent at some time, perhaps in another's name.
    Reply {
        message: usize,
        engine: Option<u32>,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..ENGINES).prop_map(Op::Register),
        1 => (0..ENGINES).prop_map(Op::Gone),
        4 => (0..1_u32 << ENGINES, any::<bool>(), any::<bool>()).prop_map(
            |(engines, backwards, coalescing)| Op::Request { engines, backwards, coalescing }
        ),
        8 => (any::<usize>(), prop::option::weighted(0.1, 0..ENGINES))
            .prop_map(|(message, engine)| Op::Reply { message, engine }),
    ]
}

/// One request, as a client sees it.
#[derive(Debug)]
struct Sent {
    coalescing: bool,
    targets: Vec<u32>,
    waiting: BTreeSet<u32>,
    answered: BTreeSet<u32>,
    over: bool,
}

#[derive(Default)]
struct Model {
    scheduler: BroadcastScheduler<&'static str, u32>,
    here: BTreeSet<u32>,
    sent: BTreeMap<String, Sent>,
    /// What engines have been sent: which engine, the original id and its own. Answers may come again and again.
    messages: Vec<(u32, String, String)>,
}

fn uuid(engine: u32) -> EngineUuid {
    EngineUuid::from(format!("e{engine}"))
}

fn number(uuid: &EngineUuid) -> u32 {
    uuid.as_str()[1..].parse().unwrap()
}

fn client() -> Identity {
    Identity::from(&b"client"[..])
}

impl Model {
    fn act(&mut self, op: &Op) {
        match op {
            Op::Register(engine) => {
                self.here.insert(*engine);
                self.scheduler.on_engine_registered(uuid(*engine));
            }
            Op::Gone(engine) => {
                self.here.remove(engine);
                let mut ends = Vec::new();
                self.scheduler
                    .on_engine_gone(&uuid(*engine), "killed", &mut ends);
                let lost = |sent: &&mut Sent| sent.waiting.contains(engine);
                let count = self.sent.values_mut().filter(lost).count();
                self.end(&ends, &BTreeSet::from([*engine]));
                assert!(ends.len() <= count);
            }
            Op::Request {
                engines,
                backwards,
                coalescing,
            } => self.request(*engines, *backwards, *coalescing),
            Op::Reply { message, engine } => {
                if !self.messages.is_empty() {
                    let (to, original, own) = self.messages[message % self.messages.len()].clone();
                    self.reply(engine.unwrap_or(to), &original, &own);
                }
            }
        }
        self.check();
    }

    fn request(&mut self, engines: u32, backwards: bool, coalescing: bool) {
        let mut targets: Vec<u32> = (0..ENGINES).filter(|n| engines & 1 << n != 0).collect();
        if backwards {
            targets.reverse();
        }
        let msg_id = format!("m_{}", self.sent.len());
        let named = |engine: &u32| BroadcastTarget {
            uuid: uuid(*engine),
            id: EngineId(*engine),
        };
        let mut ends = Vec::new();
        let fan_out = self.scheduler.on_request(
            client(),
            &MsgId::from(&msg_id[..]),
            targets.iter().map(named).collect(),
            coalescing,
            "header",
            &mut ends,
        );
        let fan_out = fan_out.expect("ids are new");
        assert_eq!(fan_out.nobody, targets.is_empty());
        let to: Vec<u32> = fan_out.to.iter().map(|(to, _)| number(&to.uuid)).collect();
        let here: Vec<u32> = targets
            .iter()
            .copied()
            .filter(|n| self.here.contains(n))
            .collect();
        assert_eq!(to, here);
        for (target, own) in &fan_out.to {
            let message = (number(&target.uuid), msg_id.clone(), own.to_string());
            self.messages.push(message);
        }
        let missing = targets
            .iter()
            .copied()
            .filter(|n| !self.here.contains(n))
            .collect();
        let sent = Sent {
            coalescing,
            waiting: targets.iter().copied().collect(),
            answered: BTreeSet::new(),
            over: targets.is_empty(),
            targets,
        };
        self.sent.insert(msg_id, sent);
        self.end(&ends, &missing);
    }

    fn reply(&mut self, engine: u32, original: &str, own: &str) {
        let verdict = self
            .scheduler
            .on_reply(&uuid(engine), original, own, engine);
        let sent = self.sent.get_mut(original).unwrap();
        let right = own == format!("{original}_e{engine}");
        let expected = right && sent.waiting.contains(&engine) && self.here.contains(&engine);
        if !expected {
            assert_eq!(verdict, BroadcastVerdict::Unknown);
            return;
        }
        sent.waiting.remove(&engine);
        sent.answered.insert(engine);
        match verdict {
            BroadcastVerdict::Deliver { reply, .. } => {
                assert!(!sent.coalescing);
                assert_eq!(reply, engine);
                sent.over = sent.waiting.is_empty();
            }
            BroadcastVerdict::Held => assert!(sent.coalescing && !sent.waiting.is_empty()),
            BroadcastVerdict::End(end) => self.end(&[end], &BTreeSet::new()),
            BroadcastVerdict::Unknown => panic!("{own} is expected of {engine}"),
        }
    }

    /// `lost`: the engines that requests have lost now.
    fn end(&mut self, ends: &[BroadcastEnd<&'static str, u32>], lost: &BTreeSet<u32>) {
        for sent in self.sent.values_mut().filter(|sent| sent.coalescing) {
            sent.waiting.retain(|engine| !lost.contains(engine));
        }
        for end in ends {
            match end {
                BroadcastEnd::Lost { msg_id, target, .. } => {
                    let (original, _) = msg_id.as_str().rsplit_once('_').unwrap();
                    let sent = self.sent.get_mut(original).unwrap();
                    assert!(!sent.coalescing && !sent.over);
                    let engine = number(&target.uuid);
                    assert!(lost.contains(&engine) && sent.waiting.remove(&engine));
                    sent.over = sent.waiting.is_empty();
                }
                BroadcastEnd::Coalesced {
                    msg_id,
                    targets,
                    replies,
                    lost,
                    ..
                } => {
                    let sent = self.sent.get_mut(msg_id.as_str()).unwrap();
                    assert!(sent.coalescing && !sent.over && sent.waiting.is_empty());
                    sent.over = true;
                    let of = |targets: &[BroadcastTarget]| -> Vec<u32> {
                        targets.iter().map(|target| number(&target.uuid)).collect()
                    };
                    assert_eq!(of(targets), sent.targets);
                    let answered = |n: &u32| sent.answered.contains(n);
                    let (good, bad): (Vec<u32>, Vec<u32>) =
                        sent.targets.iter().partition(|n| answered(n));
                    assert_eq!(*replies, good, "in the order of targets");
                    let gone: Vec<_> = lost.iter().map(|(target, _)| target.clone()).collect();
                    assert_eq!(of(&gone), bad);
                }
            }
        }
    }

    fn check(&self) {
        for (msg_id, sent) in &self.sent {
            assert_eq!(sent.over, sent.waiting.is_empty(), "{msg_id}: {sent:?}");
            assert_eq!(self.scheduler.is_pending(msg_id), !sent.over);
        }
        for engine in 0..ENGINES {
            let waiting = self
                .sent
                .iter()
                .filter(|(_, sent)| sent.waiting.contains(&engine));
            let pending = self.scheduler.pending_ids(&uuid(engine));
            assert_eq!(pending.len(), waiting.count());
            assert!(self.here.contains(&engine) || pending.is_empty());
        }
        let loads: Vec<_> = self.scheduler.snapshot().collect();
        assert_eq!(loads.len(), self.here.len());
        for load in loads {
            let ids = self.scheduler.pending_ids(&load.uuid);
            assert_eq!(load.pending, ids.len() as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_part_of_a_broadcast_ends_once(ops in prop::collection::vec(op(), 1..150)) {
        let mut model = Model::default();
        for op in &ops {
            model.act(op);
        }
        for engine in 0..ENGINES {
            model.act(&Op::Gone(engine));
        }
        assert!(model.sent.values().all(|sent| sent.over));
        assert!(model.scheduler.is_empty());
    }
}
