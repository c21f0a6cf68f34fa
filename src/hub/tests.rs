use super::inspection::{EngineQueue, Listing};
use super::*;
use serde_json::json;

struct World {
    hub: Hub,
    now: Instant,
    out: Vec<Action>,
}

impl World {
    fn new(database: Database) -> Self {
        let config = Config {
            heartbeat_period_ms: 3000,
            registration_timeout: Duration::from_secs(30),
            schedulers: 2,
            connection_info: json!({}),
            database,
            wants_usage: true,
        };
        Self {
            hub: Hub::new(config),
            now: Instant::now(),
            out: Vec::new(),
        }
    }

    fn request(&mut self, msg_type: &str, content: Value) -> Vec<Action> {
        let request = Request {
            from: Identity::from(&b"client"[..]),
            msg_type: msg_type.to_owned(),
            header: Bytes::from_static(b"{\"msg_id\":\"q\"}"),
            content: Bytes::from(content.to_string()),
        };
        self.hub.on_request(self.now, request, &mut self.out);
        self.take()
    }

    fn take(&mut self) -> Vec<Action> {
        let shown = |action: &Action| {
            !matches!(
                action,
                Action::Log(_) | Action::SaveEngines | Action::ExpectHeart(_)
            )
        };
        std::mem::take(&mut self.out)
            .into_iter()
            .filter(shown)
            .collect()
    }

    fn register(&mut self, uuid: &str) -> Value {
        let actions = self.request("registration_request", json!({ "uuid": uuid }));
        only_reply(actions, "registration_reply")
    }

    /// The heart beats; returns the token under which schedulers take the engine in.
    fn beat(&mut self, uuid: &str) -> Token {
        self.hub
            .on_heart_started(&Identity::from(uuid.as_bytes()), &mut self.out);
        let actions = self.take();
        let accepted = Action::AcceptHeart {
            uuid: EngineUuid::from(uuid),
            is_tunneled: uuid.starts_with("tunneled"),
        };
        assert_eq!(actions[0], accepted);
        let Action::TakeIn { token, .. } = &actions[1] else {
            panic!("{actions:?}")
        };
        *token
    }

    fn done(&mut self, token: Token) -> Vec<Action> {
        for _ in 0..2 {
            self.hub.on_scheduler_done(self.now, token, &mut self.out);
        }
        self.take()
    }

    fn bring_up(&mut self, uuid: &str) {
        self.register(uuid);
        let token = self.beat(uuid);
        self.done(token);
    }

    fn lose(&mut self, uuid: &str) -> Vec<Action> {
        self.hub.on_heart_stopped(
            self.now,
            &Identity::from(uuid.as_bytes()),
            "it died",
            &mut self.out,
        );
        let actions = self.take();
        assert_eq!(actions[0], Action::ForgetHeart(EngineUuid::from(uuid)));
        let Action::LetGo { token, .. } = actions[1] else {
            panic!("{actions:?}")
        };
        self.done(token)
    }
}

fn only_reply(actions: Vec<Action>, expected: &str) -> Value {
    match &actions[..] {
        [
            Action::Reply {
                msg_type, content, ..
            },
        ] => {
            assert_eq!(msg_type, expected);
            content.clone()
        }
        other => panic!("{other:?}"),
    }
}

fn notified(actions: &[Action]) -> Vec<(&'static str, u64)> {
    actions
        .iter()
        .map(|action| match action {
            Action::Notify { msg_type, content } => (*msg_type, content["id"].as_u64().unwrap()),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn an_engine_is_announced_when_its_heart_beats_and_every_scheduler_has_it() {
    let mut world = World::new(Database::None);
    let reply = world.register("a");
    assert_eq!(
        (reply["status"].as_str(), reply["id"].as_u64()),
        (Some("ok"), Some(0))
    );
    assert_eq!(
        only_reply(
            world.request("connection_request", json!({})),
            "connection_reply"
        )["engines"],
        json!({})
    );
    let token = world.beat("a");
    world
        .hub
        .on_scheduler_done(world.now, token, &mut world.out);
    assert_eq!(world.take(), []);
    world
        .hub
        .on_scheduler_done(world.now, token, &mut world.out);
    assert_eq!(notified(&world.take()), [("registration_notification", 0)]);
    let reply = only_reply(
        world.request("connection_request", json!({})),
        "connection_reply",
    );
    assert_eq!(reply["engines"], json!({ "0": "a" }));
}

#[test]
fn announcements_ascend_whatever_the_order_of_heartbeats() {
    let mut world = World::new(Database::None);
    for uuid in ["a", "b", "c"] {
        world.register(uuid);
    }
    for uuid in ["c", "b"] {
        let token = world.beat(uuid);
        assert_eq!(world.done(token), []);
    }
    let token = world.beat("a");
    let expected = [0, 1, 2].map(|id| ("registration_notification", id));
    assert_eq!(notified(&world.done(token)), expected);
}

#[test]
fn schedulers_learn_what_an_engine_has_not_answered() {
    let mut world = World::new(Database::None);
    for unanswered in [json!(["m"]), json!(["m", "n"])] {
        let about = json!({ "uuid": "a", "again": true, "unanswered": unanswered });
        world.request("registration_request", about);
    }
    world
        .hub
        .on_heart_started(&Identity::from(&b"a"[..]), &mut world.out);
    let actions = world.take();
    let Action::TakeIn { unanswered, .. } = &actions[1] else {
        panic!("{actions:?}")
    };
    assert_eq!(**unanswered, ["m", "n"].map(MsgId::from).into());
}

#[test]
fn a_registration_that_stalls_holds_the_others_back_for_a_while_only() {
    let mut world = World::new(Database::None);
    world.register("a");
    world.register("b");
    let token = world.beat("b");
    assert_eq!(world.done(token), []);
    world.now = world.hub.next_deadline().unwrap();
    world.hub.on_time(world.now, &mut world.out);
    assert_eq!(notified(&world.take()), [("registration_notification", 1)]);
    world.now = world.hub.next_deadline().unwrap();
    world.hub.on_time(world.now, &mut world.out);
    assert_eq!(world.hub.next_deadline(), None);
    assert_eq!(
        world.register("a")["id"],
        2,
        "a stalled registration is dropped, its id is not used again"
    );
}

#[test]
fn ids_are_granted_when_free_and_a_uuid_in_use_is_refused() {
    let mut world = World::new(Database::None);
    let reply = world.request("registration_request", json!({ "uuid": "a", "id": 5 }));
    assert_eq!(only_reply(reply, "registration_reply")["id"], 5);
    let reply = world.request("registration_request", json!({ "uuid": "b", "id": 5 }));
    assert_eq!(only_reply(reply, "registration_reply")["id"], 6);
    assert_eq!(
        world.register("a")["id"],
        5,
        "who is only registering may ask again"
    );
    let token = world.beat("a");
    world.done(token);
    let reply = world.register("a");
    assert_eq!(
        (reply["status"].as_str(), reply["ename"].as_str()),
        (Some("error"), Some("KeyError"))
    );
    for (again, is_told) in [(false, true), (true, false)] {
        let content = json!({ "uuid": "a", "again": again });
        let request = Request {
            from: Identity::from(&b"a"[..]),
            msg_type: "registration_request".to_owned(),
            header: Bytes::from_static(b"{}"),
            content: Bytes::from(content.to_string()),
        };
        world.hub.on_request(world.now, request, &mut world.out);
        let in_log = |action: &Action| matches!(action, Action::Log(Event::EngineRefused { .. }));
        assert_eq!(
            world.out.iter().any(in_log),
            is_told,
            "one that asks again does no wrong"
        );
        let reply = only_reply(world.take(), "registration_reply");
        assert_eq!(reply["status"], "error");
    }
    for content in [
        json!({}),
        json!({ "uuid": 3 }),
        json!({ "uuid": "" }),
        json!([]),
    ] {
        let reply = only_reply(
            world.request("registration_request", content),
            "registration_reply",
        );
        assert_eq!(reply["status"], "error");
    }
}

#[test]
fn a_departure_is_announced_a_moment_later_than_replies_about_it() {
    let mut world = World::new(Database::None);
    world.bring_up("a");
    world.bring_up("b");
    assert_eq!(world.lose("b"), []);
    let reply = only_reply(
        world.request("connection_request", json!({})),
        "connection_reply",
    );
    assert_eq!(reply["engines"], json!({ "0": "a" }));
    world.now = world.hub.next_deadline().unwrap();
    world.hub.on_time(world.now, &mut world.out);
    assert_eq!(
        notified(&world.take()),
        [("unregistration_notification", 1)]
    );
}

#[test]
fn an_unregistration_with_the_uuid_of_an_earlier_engine_is_ignored() {
    let mut world = World::new(Database::None);
    world.bring_up("a");
    assert_eq!(
        world.request("unregistration_request", json!({ "id": 0, "uuid": "old" })),
        []
    );
    let actions = world.request(
        "unregistration_request",
        json!({ "id": 0, "uuid": "a", "reason": "done" }),
    );
    assert!(
        matches!(&actions[1], Action::LetGo { how, .. } if how == "done"),
        "{actions:?}"
    );
    assert_eq!(
        world.request("unregistration_request", json!({ "id": 0 })),
        []
    );
}

#[test]
fn an_engine_that_is_there_and_asks_again_is_alive() {
    let mut world = World::new(Database::None);
    world.bring_up("a");
    let request = Request {
        from: Identity::from(&b"a"[..]),
        msg_type: "registration_request".to_owned(),
        header: Bytes::from_static(b"{\"msg_id\":\"q\"}"),
        content: Bytes::from_static(br#"{"uuid":"a","id":0}"#),
    };
    world.hub.on_request(world.now, request, &mut world.out);
    assert!(
        world
            .out
            .contains(&Action::ExpectHeart(EngineUuid::from("a")))
    );
    let reply = only_reply(world.take(), "registration_reply");
    assert_eq!(reply["status"], "error");
}

fn one(count: u64) -> Listing {
    Listing {
        count,
        ids: (0..count).map(|n| MsgId::from(format!("m{n}"))).collect(),
    }
}

use crate::protocol::MsgId;

#[test]
fn queue_status_adds_up_what_the_schedulers_report() {
    let mut world = World::new(Database::None);
    world.bring_up("a");
    let actions = world.request("queue_request", json!({ "targets": [0], "verbose": false }));
    let [
        Action::Inspect {
            token,
            what: Inspection::Queues { ids: false },
        },
    ] = &actions[..]
    else {
        panic!("{actions:?}")
    };
    let token = *token;
    let tasks = EngineQueue {
        tasks: one(2),
        completed: one(3),
        ..EngineQueue::default()
    };
    let direct = EngineQueue {
        queue: one(1),
        completed: one(4),
        ..EngineQueue::default()
    };
    for (queue, unassigned) in [(tasks, 7), (direct, 0)] {
        let engines = [(EngineUuid::from("a"), queue)].into_iter().collect();
        let report = Report::Queues(QueueReport {
            engines,
            unassigned: one(unassigned),
        });
        world.hub.on_report(token, report, &mut world.out);
    }
    let reply = only_reply(world.take(), "queue_reply");
    let expected =
        json!({ "status": "ok", "0": { "queue": 1, "completed": 7, "tasks": 2 }, "unassigned": 7 });
    assert_eq!(reply, expected);
    let reply = only_reply(
        world.request("queue_request", json!({ "targets": [0, 9] })),
        "hub_error",
    );
    assert_eq!(
        (reply["ename"].as_str(), reply["evalue"].as_str()),
        (Some("IndexError"), Some("No Such Engine: [9]"))
    );
}

#[test]
fn without_a_database_records_are_refused_but_status_is_known() {
    let mut world = World::new(Database::None);
    for (request, reply) in [
        ("db_request", "db_reply"),
        ("history_request", "history_reply"),
        ("resubmit_request", "resubmit_reply"),
    ] {
        let content = only_reply(world.request(request, json!({})), reply);
        assert_eq!(content["ename"], "KeyError");
        assert!(
            content["evalue"]
                .as_str()
                .unwrap()
                .contains("Start the Controller with a DB backend")
        );
    }
    let ask = json!({ "msg_ids": ["b", "a", "b"], "status_only": true });
    let actions = world.request("result_request", ask);
    let [Action::Inspect { token, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    let known = |id: &str, status| Report::Status(vec![(MsgId::from(id), status)]);
    world
        .hub
        .on_report(token, known("a", ReportedStatus::Finished), &mut world.out);
    world
        .hub
        .on_report(token, known("b", ReportedStatus::Pending), &mut world.out);
    let reply = only_reply(world.take(), "result_reply");
    assert_eq!(
        reply,
        json!({ "status": "ok", "pending": ["b"], "completed": ["a"] })
    );
}

#[test]
fn with_a_database_the_recorder_answers() {
    let mut world = World::new(Database::Recorder);
    for msg_type in [
        "result_request",
        "history_request",
        "db_request",
        "purge_request",
        "resubmit_request",
    ] {
        let actions = world.request(msg_type, json!({}));
        assert!(
            matches!(&actions[..], [Action::AskRecorder { .. }]),
            "{actions:?}"
        );
    }
}

#[test]
fn unknown_and_malformed_requests_are_answered() {
    let mut world = World::new(Database::None);
    let reply = only_reply(world.request("nonsense_request", json!({})), "hub_error");
    assert_eq!(reply["evalue"], "\"Bad Message Type: 'nonsense_request'\"");
    for (msg_type, content) in [
        ("queue_request", json!(3)),
        ("result_request", json!({ "msg_ids": 1 })),
    ] {
        assert_eq!(
            only_reply(world.request(msg_type, content), "hub_error")["status"],
            "error"
        );
    }
}

#[test]
fn a_shutdown_is_answered_announced_and_carried_out() {
    let mut world = World::new(Database::None);
    let actions = world.request("shutdown_request", json!({}));
    assert!(matches!(&actions[0], Action::Reply { msg_type, .. } if msg_type == "shutdown_reply"));
    assert!(matches!(
        &actions[1],
        Action::Notify {
            msg_type: "shutdown_notification",
            ..
        }
    ));
    assert_eq!(actions[2], Action::ShutDown);
}

fn former(returning: &[u32]) -> EngineState {
    EngineState {
        engines: vec![(EngineId(3), "a".into()), (EngineId(4), "b".into())],
        returning: returning.iter().copied().map(EngineId).collect(),
        next_id: 7,
    }
}

#[test]
fn one_that_returns_is_taken_in_when_it_has_said_what_it_has() {
    let mut world = World::new(Database::None);
    world.hub.restore(world.now, former(&[3]));
    assert_eq!(world.hub.engine_state(), former(&[3]));
    let heart = Identity::from(&b"a"[..]);
    world.hub.on_heart_started(&heart, &mut world.out);
    assert!(world.take().is_empty());
    let about =
        json!({ "uuid": "a", "id": 3, "again": true, "returns": true, "unanswered": ["m"] });
    let request = Request {
        from: Identity::from(&b"registrar"[..]),
        msg_type: "registration_request".to_owned(),
        header: Bytes::from_static(b"{\"msg_id\":\"q\"}"),
        content: Bytes::from(about.to_string()),
    };
    world.hub.on_request(world.now, request, &mut world.out);
    assert!(world.out.contains(&Action::ExpectHeart("a".into())));
    world.take();
    let token = world.beat("a");
    world.done(token);
    assert_eq!(world.hub.engine_state(), former(&[3]));
}

#[test]
fn engines_of_a_former_controller_are_expected_until_they_are_overdue() {
    let mut world = World::new(Database::None);
    world.hub.restore(world.now, former(&[]));
    let token = world.beat("a");
    world.done(token);
    // The next controller has to expect both.
    assert_eq!(world.hub.engine_state(), former(&[]));
    world.now += Duration::from_secs(31);
    assert!(world.hub.next_deadline().is_some_and(|at| at <= world.now));
    world.hub.on_time(world.now, &mut world.out);
    let actions = world.take();
    let let_go = |action: &Action| {
        matches!(
            action,
            Action::LetGo {
                id: EngineId(4),
                ..
            }
        )
    };
    assert!(actions.iter().any(let_go), "{actions:?}");
    assert_eq!(world.hub.engines(), [(EngineId(3), "a".into())]);
}

#[test]
fn whoever_asks_for_the_highest_id_leaves_others_to_the_rest() {
    let mut world = World::new(Database::None);
    let highest = json!({ "uuid": "high", "id": u32::MAX });
    world.request("registration_request", highest);
    let ids: Vec<u64> = ["a", "b"]
        .map(|uuid| world.register(uuid)["id"].as_u64().unwrap())
        .into();
    assert_eq!(ids, [0, 1], "nobody gets the id of another");
}

#[test]
fn an_engine_that_is_back_at_once_is_not_announced_before_its_departure() {
    let mut world = World::new(Database::None);
    world.bring_up("a");
    assert_eq!(world.lose("a"), []);
    // Its heart never stopped: it is there again before clients have been told that it left.
    let again = json!({ "uuid": "a", "id": 0 });
    only_reply(
        world.request("registration_request", again),
        "registration_reply",
    );
    let token = world.beat("a");
    assert_eq!(
        notified(&world.done(token)),
        [
            ("unregistration_notification", 0),
            ("registration_notification", 0)
        ]
    );
    world.now += Duration::from_secs(1);
    world.hub.on_time(world.now, &mut world.out);
    assert_eq!(world.take(), []);
}

#[test]
fn an_engine_behind_a_tunnel_says_so_and_its_heart_is_accepted_as_such() {
    let mut world = World::new(Database::None);
    let about = json!({ "uuid": "tunneled", "tunnel": true });
    only_reply(
        world.request("registration_request", about),
        "registration_reply",
    );
    world.beat("tunneled");
}

#[test]
fn a_status_has_every_engine_with_what_it_said_of_itself() {
    let mut world = World::new(Database::None);
    let about = json!({ "uuid": "a", "hostname": "node1", "pid": 7, "set": "1.0" });
    only_reply(
        world.request("registration_request", about),
        "registration_reply",
    );
    let token = world.beat("a");
    world.done(token);
    // A stock engine, or an odd one, whose kernel is not ready.
    let odd = json!({ "uuid": "b", "hostname": ["x"], "pid": "seven" });
    only_reply(
        world.request("registration_request", odd),
        "registration_reply",
    );
    world.now += Duration::from_secs(3);
    let actions = world.request("status_request", json!({}));
    let [Action::Inspect { token, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    for (failed, unassigned) in [(2, 5), (1, 0)] {
        let queue = EngineQueue {
            tasks: one(1),
            completed: one(10),
            failed,
            ..EngineQueue::default()
        };
        let report = Report::Queues(QueueReport {
            engines: [(EngineUuid::from("a"), queue)].into_iter().collect(),
            unassigned: one(unassigned),
        });
        world.hub.on_report(token, report, &mut world.out);
    }
    let status = only_reply(world.take(), "status_reply");
    assert_eq!(
        status,
        json!({
            "status": "ok",
            "unassigned": 5,
            "database_fault": null,
            "engines": {
                "0": { "uuid": "a", "host": "node1", "pid": 7, "set": "1.0", "state": "registered", "seconds": 3.0,
                       "queue": 0, "tasks": 2, "completed": 20, "failed": 3 },
                "1": { "uuid": "b", "host": null, "pid": null, "set": null, "state": "starting", "seconds": 3.0,
                       "queue": 0, "tasks": 0, "completed": 0, "failed": 0 },
            },
        })
    );
}

#[test]
fn engines_that_are_to_come_are_told_where_somebody_sees_them() {
    let content = json!({ "by": "x", "sets": [] });
    for shown in [true, false] {
        let mut world = World::new(Database::None);
        world.hub.config.wants_usage = shown;
        let mut actions = world.request("engines_expected", content.clone());
        let told = matches!(actions[0], Action::Expected { .. });
        assert_eq!(told, shown);
        let answer = actions.split_off(usize::from(told));
        let reply = only_reply(answer, "engines_expected_reply");
        assert_eq!(reply, json!({ "status": "ok", "shown": shown }));
    }
}
