use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::protocol::{EngineId, EngineUuid, Leaving, MsgId, Timestamp, session_of};

/// A watch and a board with an invented clock, and what they should say.
struct World {
    now: Instant,
    start: Instant,
    watch: Watch,
    board: Board,
    /// Where each request is that has not ended.
    live: BTreeMap<u32, Option<u32>>,
    engines: BTreeMap<u32, u64>,
    expected: Tally,
    next: u32,
}

const BEGIN: &str = "2026-01-01T00:00:00.000000Z";

impl World {
    fn new() -> Self {
        let start = Instant::now();
        let begin = Timestamp::parse(BEGIN, &jiff::tz::TimeZone::UTC).unwrap();
        Self {
            now: start,
            start,
            watch: Watch::new(Channel::Task, start),
            board: Board::new(start, begin),
            live: BTreeMap::new(),
            engines: BTreeMap::new(),
            expected: Tally::default(),
            next: 0,
        }
    }

    fn uuid(engine: u32) -> EngineUuid {
        EngineUuid::from(format!("uuid-{engine}"))
    }

    fn id(request: u32) -> String {
        format!("session{}_1_{request}", request % 3)
    }

    fn date(&self) -> String {
        let passed = i64::try_from((self.now - self.start).as_micros()).unwrap();
        let begin = Timestamp::parse(BEGIN, &jiff::tz::TimeZone::UTC).unwrap();
        Timestamp::from_micros(begin.as_micros() + passed).to_string()
    }

    fn register(&mut self, engine: u32) {
        self.engines.entry(engine).or_default();
        self.board
            .on_engine_registered(self.now, EngineId(engine), &Self::uuid(engine));
        self.watch.touch(self.now);
    }

    fn starts(&mut self, engine: u32) {
        self.board
            .on_engine_starting(self.now, EngineId(engine), &Self::uuid(engine), None);
    }

    fn leave(&mut self, engine: u32) {
        if self.engines.remove(&engine).is_none() {
            return;
        }
        let had: Vec<u32> = self
            .live
            .iter()
            .filter(|(_, at)| **at == Some(engine))
            .map(|(request, _)| *request)
            .collect();
        for request in had {
            self.watch.on_returned(self.now, &Self::id(request));
            self.live.insert(request, None);
        }
        self.board.on_engine_left(
            self.now,
            EngineId(engine),
            &Self::uuid(engine),
            "it died",
            Leaving::Died,
        );
    }

    fn submit(&mut self) {
        let request = self.next;
        self.next += 1;
        self.watch.on_submitted(self.now, &Self::id(request));
        self.expected.submitted += 1;
        self.live.insert(request, None);
    }

    fn send(&mut self, engine: u32) {
        let waiting = self.live.iter().find(|(_, at)| at.is_none());
        let Some(request) = waiting.map(|(request, _)| *request) else {
            return;
        };
        if !self.engines.contains_key(&engine) {
            return;
        }
        let header =
            json!({"msg_id": Self::id(request), "msg_type": "apply_request", "session": "s", "date": self.date()}).to_string();
        self.watch.on_sent::<&[u8]>(
            self.now,
            &Self::id(request),
            || Self::uuid(engine),
            || {
                Some(Parts {
                    header: header.as_bytes(),
                    metadata: br#"{"label": "night"}"#,
                    content: b"{}",
                    buffers: &[b"", b"", b""],
                })
            },
        );
        self.live.insert(request, Some(engine));
    }

    fn end(&mut self, status: Status) {
        let sent = self.live.iter().find(|(_, at)| at.is_some());
        let Some((&request, &Some(engine))) = sent else {
            return;
        };
        self.live.remove(&request);
        *self.engines.get_mut(&engine).unwrap() += 1;
        self.expected.count(status);
        let header =
            json!({"msg_id": "r", "msg_type": "apply_reply", "date": self.date()}).to_string();
        let metadata = json!({"started": self.date()}).to_string();
        self.watch.on_ended::<&[u8]>(
            self.now,
            &Self::id(request),
            Some(Self::uuid(engine).as_str()),
            status,
            || {
                Some(Parts {
                    header: header.as_bytes(),
                    metadata: metadata.as_bytes(),
                    content: br#"{"ename": "ValueError", "evalue": "no"}"#,
                    buffers: &[],
                })
            },
        );
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.look();
        self.board.on_time(self.now, Host::default);
    }

    fn look(&mut self) {
        let (live, engines) = (&self.live, &self.engines);
        let window = self.watch.hand_over(self.now, || {
            let pending =
                |engine: u32| live.values().filter(|at| **at == Some(engine)).count() as u64;
            let loads = engines.iter().map(|(engine, completed)| Load {
                engine: Self::uuid(*engine),
                pending: pending(*engine),
                completed: *completed,
            });
            let waiting = live.iter().filter(|(_, at)| at.is_none());
            let ids: Vec<String> = waiting.map(|(request, _)| Self::id(*request)).collect();
            // Every other one waits for others.
            let clients = ids.iter().enumerate().map(|(at, id)| {
                let blocked = at as u64 % 2;
                let ready = 1 - blocked;
                (session_of(id), Waiting { blocked, ready })
            });
            Look::new(loads, clients)
        });
        if let Some(window) = window {
            self.board.on_window(self.now, window);
            self.board.sanity_check();
        }
    }

    fn check(&mut self) {
        self.watch.touch(self.now);
        self.wait(10_000);
        let (_, totals) = self.board.totals().next().unwrap();
        assert_eq!(totals.tally, self.expected);
        let at_engines = self.live.values().flatten().count() as u64;
        assert_eq!(totals.running, at_engines);
        assert_eq!(totals.waiting.all(), self.live.len() as u64 - at_engines);
        assert_eq!(totals.waiting.blocked, totals.waiting.all() / 2);
        // So few that all of them are followed.
        assert_eq!(self.board.followed() as u64, at_engines);
        assert_eq!(self.board.stream().total(), self.expected.ended());
        let rows: Vec<(u32, u64)> = self
            .board
            .engines()
            .map(|row| (row.id.0, row.completed))
            .collect();
        assert_eq!(rows, self.engines.clone().into_iter().collect::<Vec<_>>());
        for entry in self.board.stream().since(0, usize::MAX) {
            assert!(entry.submitted.unwrap() <= entry.started && entry.started <= entry.ended);
            assert_eq!(entry.error.is_some(), entry.status != Status::Ok);
            assert_eq!(
                (&*entry.name, entry.label.as_deref()),
                ("apply", Some("night"))
            );
        }
        let state = self.board.state(self.now, None);
        let done: u64 = state["clients"]
            .as_array()
            .unwrap()
            .iter()
            .map(|client| client["ever"].as_u64().unwrap())
            .sum();
        assert_eq!(done, self.expected.submitted);
        let of_clients = |key: &str| -> u64 {
            let clients = state["clients"].as_array().unwrap().iter();
            clients.map(|client| client[key].as_u64().unwrap()).sum()
        };
        assert_eq!(of_clients("blocked"), totals.waiting.blocked);
        assert_eq!(of_clients("ready"), totals.waiting.ready);
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Register(u32),
    Leave(u32),
    Submit,
    Send(u32),
    End(Status),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => (0..4u32).prop_map(Op::Register),
        1 => (0..4u32).prop_map(Op::Leave),
        6 => Just(Op::Submit),
        8 => (0..4u32).prop_map(Op::Send),
        6 => prop_oneof![4 => Just(Status::Ok), 1 => Just(Status::Failed), 1 => Just(Status::Aborted)].prop_map(Op::End),
        3 => (0..400u64).prop_map(Op::Wait),
    ]
}

proptest! {
    #[test]
    fn the_board_says_what_happened(ops in prop::collection::vec(op(), 0..300)) {
        let mut world = World::new();
        for op in ops {
            match op {
                // An engine that has left does not come back under the same uuid.
                Op::Register(engine) => world.register(engine),
                Op::Leave(engine) => world.leave(engine),
                Op::Submit => world.submit(),
                Op::Send(engine) => world.send(engine),
                Op::End(status) => world.end(status),
                Op::Wait(millis) => world.wait(millis),
            }
        }
        world.check();
    }
}

/// A page that applies all changes has what a page has that opens now.
#[test]
fn changes_add_up_to_the_state() {
    let mut world = World::new();
    let mut engines: BTreeMap<u64, Value> = BTreeMap::new();
    let mut stream: Vec<Value> = Vec::new();
    for round in 0..200u32 {
        world.register(round % 4);
        world.submit();
        world.send(round % 4);
        if round % 3 > 0 {
            world.end(if round % 5 == 0 {
                Status::Failed
            } else {
                Status::Ok
            });
        }
        if round % 40 == 39 {
            world.leave(round % 4);
        }
        world.wait(150);
        let Some(changes) = world.board.changes(world.now) else {
            continue;
        };
        for row in changes["engines"].as_array().unwrap() {
            engines.insert(row["id"].as_u64().unwrap(), row.clone());
        }
        for id in changes["gone"].as_array().unwrap() {
            engines.remove(&id.as_u64().unwrap());
        }
        stream.extend(changes["stream"].as_array().unwrap().iter().cloned());
    }
    let state = world.board.state(world.now, None);
    assert_eq!(state["engines"], Value::from_iter(engines.into_values()));
    assert_eq!(state["stream"], Value::from(stream));
    assert!(
        world.board.changes(world.now).is_none(),
        "nothing is told twice"
    );
}

#[test]
fn a_flood_is_counted_and_not_followed() {
    let start = Instant::now();
    let mut watch = Watch::new(Channel::Mux, start);
    let engine = EngineUuid::from("e");
    let parts = Parts::<&[u8]> {
        header: b"{}",
        metadata: b"{}",
        content: b"{}",
        buffers: &[],
    };
    for n in 0..50_000 {
        let id = format!("s{n}_1_1");
        watch.on_submitted(start, &id);
        watch.on_sent(start, &id, || engine.clone(), || Some(parts));
        watch.on_ended(start, &id, Some(engine.as_str()), Status::Ok, || {
            Some(parts)
        });
    }
    assert!(watch.hand_over(start, Look::default).is_none());
    let later = watch.next_deadline().unwrap();
    let window = watch.hand_over(later, Look::default).unwrap();
    assert_eq!(window.tally.submitted, 50_000);
    assert_eq!(window.tally.ok, 50_000);
    assert_eq!(window.steps.len() as u64, 2 * (50_000 - window.unfollowed));
    assert!(window.unfollowed > 49_000);
    assert!(
        window.clients.len() < 1_100,
        "names are not made up without end"
    );
    assert!(watch.next_deadline().is_none());
}

#[test]
fn what_an_engine_uses_may_be_told_before_it_is_there() {
    let mut world = World::new();
    let usage = Usage {
        pid: Some(7),
        ..Usage::default()
    };
    world.starts(1);
    world.board.on_usage(&World::uuid(1), usage.clone());
    world.register(1);
    assert_eq!(world.board.engine(EngineId(1)).unwrap().usage, usage);
    // Of an engine that nobody has heard of, it is not kept.
    world.board.on_usage(&World::uuid(2), usage);
    world.register(2);
    assert_eq!(
        world.board.engine(EngineId(2)).unwrap().usage,
        Usage::default()
    );
}

/// Ids and phases of all engines that are shown.
fn phases(world: &World) -> Vec<(u32, Phase)> {
    world
        .board
        .rows()
        .map(|row| (row.id.0, row.phase))
        .collect()
}

#[test]
fn an_engine_starts_dies_and_is_forgotten() {
    let mut world = World::new();
    world.starts(0);
    world.starts(1);
    world.starts(2);
    assert_eq!(world.board.engines().count(), 0);
    assert_eq!(world.board.registrations(), (0, 0));
    world.register(0);
    world.register(1);
    assert_eq!(
        phases(&world),
        [(0, Phase::Up), (1, Phase::Up), (2, Phase::Starting)]
    );
    let leave = |world: &mut World, engine: u32, leaving| {
        let uuid = World::uuid(engine);
        let (now, id) = (world.now, EngineId(engine));
        world
            .board
            .on_engine_left(now, id, &uuid, "killed", leaving);
    };
    leave(&mut world, 0, Leaving::Died);
    leave(&mut world, 1, Leaving::Restarts);
    leave(&mut world, 2, Leaving::Left);
    assert_eq!(phases(&world), [(0, Phase::Dead), (1, Phase::Restarting)]);
    // What was never there has not left.
    assert_eq!(world.board.registrations(), (2, 2));
    let changes = world.board.changes(world.now).unwrap();
    assert_eq!(changes["gone"], json!([2]));
    assert_eq!(changes["engines"][0]["how"], "killed");
    assert_eq!(changes["departed"].as_array().unwrap().len(), 3);

    // The next one of this id, with another uuid.
    let uuid = EngineUuid::from("new");
    let (now, id) = (world.now, EngineId(1));
    world.board.on_engine_starting(now, id, &uuid, None);
    world.board.on_engine_registered(now, id, &uuid);
    assert_eq!(phases(&world), [(0, Phase::Dead), (1, Phase::Up)]);
    world.wait(59_000);
    assert_eq!(phases(&world).len(), 2);
    world.wait(2_000);
    assert_eq!(phases(&world), [(1, Phase::Up)]);
    assert_eq!(world.board.changes(world.now).unwrap()["gone"], json!([0]));
}

#[test]
fn an_engine_that_does_not_come_back_is_dead() {
    let mut world = World::new();
    for engine in 0..300 {
        world.register(engine);
        let uuid = World::uuid(engine);
        let id = EngineId(engine);
        world
            .board
            .on_engine_left(world.now, id, &uuid, "asked", Leaving::Restarts);
    }
    assert_eq!(phases(&world).len(), 200, "of many the last");
    assert_eq!(phases(&world)[0], (100, Phase::Restarting));
    world.wait(31_000);
    assert_eq!(phases(&world)[199], (299, Phase::Dead));
    world.wait(61_000);
    assert!(phases(&world).is_empty());
    // One that comes back under the same uuid is no other.
    world.register(299);
    world.wait(61_000);
    assert_eq!(phases(&world), [(299, Phase::Up)]);
}

#[test]
fn a_ring_keeps_the_newest() {
    let mut stream = Stream::new(3);
    let entry = |n: usize| Entry {
        seq: 0,
        msg_id: MsgId::from(n.to_string()),
        channel: Channel::Task,
        engine: None,
        name: "f".into(),
        label: None,
        client: "c".into(),
        submitted: None,
        started: 0,
        ended: 1,
        status: Status::Ok,
        error: None,
    };
    for n in 0..5 {
        stream.push(entry(n));
    }
    let ids = |seq, count| -> Vec<String> {
        stream
            .since(seq, count)
            .map(|entry| entry.msg_id.to_string())
            .collect()
    };
    assert_eq!(ids(0, 9), ["2", "3", "4"]);
    assert_eq!(ids(4, 9), ["4"]);
    assert_eq!(ids(0, 1), ["4"]);
    assert!(ids(7, 9).is_empty());
    assert_eq!(stream.total(), 5);
    assert!(stream.find("1").is_none() && stream.find("3").is_some());
}

#[test]
fn metrics_have_units_and_no_names_of_peers() {
    let mut world = World::new();
    world.register(0);
    world.submit();
    world.send(0);
    world.wait(200);
    world.end(Status::Ok);
    world.wait(2000);
    let text = render_metrics(&world.board, "1.2", 3);
    for line in [
        "ipcluster_info{version=\"1.2\"} 1",
        "ipcluster_requests_submitted_total{queue=\"task\"} 1",
        "ipcluster_requests_ended_total{queue=\"task\",status=\"ok\"} 1",
        "ipcluster_engines 1",
        "ipcluster_engines_starting 0",
        "ipcluster_requests_blocked 0",
        "ipcluster_request_run_seconds_count 1",
        "ipcluster_request_wait_seconds_bucket{le=\"0.1\"} 0",
        "ipcluster_request_wait_seconds_bucket{le=\"+Inf\"} 1",
        "ipcluster_pages_open 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("uuid-") && !text.contains("session"));
    let example = include_str!("../../packaging/grafana/ipcluster.json");
    let words = example.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: Vec<&str> = words
        .filter(|word| word.starts_with("ipcluster_") || word.starts_with("process_"))
        .collect();
    assert!(named.len() > 20);
    for name in named {
        let is_there = text.lines().any(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        assert!(is_there, "{name}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}
