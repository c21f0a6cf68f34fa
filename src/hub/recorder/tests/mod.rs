use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::protocol::EngineId;
use crate::taskdb::memory::{Limits, MemoryStore};
use crate::taskdb::none::NoStore;

mod answers;
mod broadcasts;

/// 2023-11-14T22:13:20Z
const START: i64 = 1_700_000_000_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(START + seconds * 1_000_000)
}

fn bytes(json: &Value) -> Bytes {
    json.to_string().into()
}

fn request(msg_id: &str, seconds: i64, metadata: &Value) -> StoredMessage {
    StoredMessage {
        header: bytes(&json!({
            "msg_id": msg_id, "msg_type": "apply_request", "session": "client", "username": "u",
            "date": at(seconds), "version": "5.3",
        })),
        parent_header: "{}".into(),
        metadata: bytes(metadata),
        content: "{}".into(),
        buffers: vec!["f".into(), msg_id.to_owned().into()],
    }
}

fn reply(msg_id: &str, metadata: &Value, content: &Value, buffer: &str) -> StoredMessage {
    StoredMessage {
        header: bytes(&json!({
            "msg_id": format!("reply-{msg_id}"), "msg_type": "apply_reply", "session": "engine-1", "date": at(100),
        })),
        parent_header: bytes(&json!({"msg_id": msg_id})),
        metadata: bytes(metadata),
        content: bytes(content),
        buffers: vec![buffer.to_owned().into()],
    }
}

fn ok(msg_id: &str, engine: &str) -> StoredMessage {
    let metadata = json!({"status": "ok", "engine": engine, "started": at(99)});
    let result = format!("result of {msg_id}");
    reply(msg_id, &metadata, &json!({"status": "ok"}), &result)
}

fn output_of(msg_id: &str, msg_type: &str, content: &Value) -> Traffic {
    Traffic::Output {
        message: StoredMessage {
            header: bytes(&json!({"msg_id": "o", "msg_type": msg_type, "session": "engine-1"})),
            parent_header: bytes(&json!({"msg_id": msg_id})),
            metadata: "{}".into(),
            content: bytes(content),
            buffers: Vec::new(),
        },
    }
}

fn submitted(queue: Queue, msg_id: &str, seconds: i64) -> Traffic {
    Traffic::Submitted {
        queue,
        engine: (queue == Queue::Mux).then(|| "engine-1".into()),
        message: request(msg_id, seconds, &json!({"label": "l", "retries": 2})),
    }
}

fn completed(message: StoredMessage) -> Traffic {
    Traffic::Completed {
        engine: None,
        received: at(101),
        message,
    }
}

struct Hub<S> {
    recorder: Recorder<S>,
    made: u32,
}

impl Hub<MemoryStore> {
    fn new() -> Self {
        Self::with(MemoryStore::new(Limits::default()))
    }
}

impl<S: TaskStore> Hub<S> {
    fn with(store: S) -> Self {
        Self {
            recorder: Recorder::new(store, TimeZone::UTC),
            made: 0,
        }
    }

    fn tell(&mut self, traffic: Traffic) {
        self.recorder.on_traffic(traffic).unwrap();
    }

    fn ask(&mut self, msg_type: &str, content: &Value) -> (Answer, Value) {
        let made = &mut self.made;
        let mut new_id = || {
            *made += 1;
            MsgId::from(format!("new_{made}"))
        };
        let answer = self.recorder.answer(
            msg_type,
            content.to_string().as_bytes(),
            &mut Ask {
                now: at(1000),
                new_id: &mut new_id,
                engine: &|id| (id == EngineId(1)).then(|| "engine-1".into()),
                behind: Behind::default(),
            },
        );
        let content = serde_json::from_slice(&answer.content).unwrap();
        (answer, content)
    }

    fn content(&mut self, msg_type: &str, content: &Value) -> Value {
        self.ask(msg_type, content).1
    }

    fn record(&mut self, msg_id: &str) -> Value {
        let query = json!({"query": {"msg_id": msg_id}});
        self.content("db_request", &query)["records"][0].clone()
    }

    /// Submits and completes a task.
    fn run(&mut self, msg_id: &str, seconds: i64) {
        self.tell(submitted(Queue::Task, msg_id, seconds));
        self.tell(completed(ok(msg_id, "engine-1")));
    }
}

#[test]
fn a_task_goes_through_its_record() {
    let mut hub = Hub::new();
    hub.tell(submitted(Queue::Task, "a", 1));
    let record = hub.record("a");
    assert_eq!(record["submitted"], json!(at(1)));
    assert_eq!(record["client_uuid"], "client");
    assert_eq!(record["queue"], "task");
    assert_eq!(record["label"], "l");
    assert_eq!(record["header"]["msg_type"], "apply_request");
    for null in [
        "engine_uuid",
        "started",
        "completed",
        "result_header",
        "error",
    ] {
        assert_eq!(record[null], Value::Null, "{null}");
    }
    assert_eq!(
        (&record["stdout"], &record["stderr"]),
        (&json!(""), &json!(""))
    );
    assert_eq!(
        record.as_object().unwrap().len(),
        21,
        "all but the buffers and display_data"
    );

    let assigned = Traffic::Assigned {
        msg_id: "a".into(),
        engine: "engine-0".into(),
    };
    hub.tell(assigned);
    assert_eq!(hub.record("a")["engine_uuid"], "engine-0");

    hub.tell(completed(ok("a", "engine-1")));
    let record = hub.record("a");
    assert_eq!(record["engine_uuid"], "engine-1");
    assert_eq!(record["started"], json!(at(99)));
    assert_eq!(record["completed"], json!(at(100)));
    assert_eq!(record["received"], json!(at(101)));
    assert_eq!(record["result_content"], json!({"status": "ok"}));
    assert_eq!(hub.recorder.pending(), 0);
}

#[test]
fn results_come_sorted_with_their_buffers() {
    let mut hub = Hub::new();
    for msg_id in ["b", "a"] {
        hub.run(msg_id, 1);
    }
    hub.tell(submitted(Queue::Mux, "c", 2));
    let ids = json!({"msg_ids": ["c", "b", "a", "b"]});
    let (answer, content) = hub.ask("result_request", &ids);
    assert_eq!(answer.msg_type, "result_reply");
    assert_eq!(answer.buffers, ["result of a", "result of b"]);
    assert_eq!(content["status"], "ok");
    assert_eq!(content["completed"], json!(["a", "b"]));
    assert_eq!(content["pending"], json!(["c"]));
    let entry = &content["a"];
    assert_eq!(
        entry["io"],
        json!({"execute_input": null, "execute_result": null, "error": null, "stdout": "", "stderr": ""})
    );
    assert_eq!(entry["metadata"]["retries"], 2);
    assert_eq!(entry["result_header"]["msg_type"], "apply_reply");
    assert_eq!(entry["result_metadata"]["engine"], "engine-1");
    assert_eq!(entry["received"], json!(at(101)));
    assert!(content.get("c").is_none());

    let status = hub.content(
        "result_request",
        &json!({"msg_ids": ["a", "c"], "status_only": true}),
    );
    assert_eq!(
        status,
        json!({"status": "ok", "completed": ["a"], "pending": ["c"]})
    );

    for status_only in [true, false] {
        let unknown = json!({"msg_ids": ["a", "x"], "status_only": status_only});
        let content = hub.content("result_request", &unknown);
        assert_eq!(content["ename"], "KeyError");
        assert_eq!(content["evalue"], "'No such message: x'");
    }
}

#[test]
fn output_accumulates() {
    let mut hub = Hub::new();
    hub.tell(submitted(Queue::Mux, "a", 1));
    for (name, text) in [("stdout", "one "), ("stderr", "err"), ("stdout", "two")] {
        hub.tell(output_of(
            "a",
            "stream",
            &json!({"name": name, "text": text}),
        ));
    }
    hub.tell(output_of(
        "a",
        "execute_input",
        &json!({"code": "print(1)", "execution_count": 1}),
    ));
    hub.tell(output_of(
        "a",
        "execute_result",
        &json!({"data": {"text/plain": "5"}}),
    ));
    hub.tell(output_of("a", "error", &json!({"ename": "E"})));
    hub.tell(output_of(
        "a",
        "display_data",
        &json!({"data": {"image/png": "x"}}),
    ));
    hub.tell(output_of(
        "a",
        "status",
        &json!({"execution_state": "idle"}),
    ));
    let record = hub.record("a");
    assert_eq!(record["stdout"], "one two");
    assert_eq!(record["stderr"], "err");
    assert_eq!(record["execute_input"], "print(1)");
    assert_eq!(record["execute_result"]["data"]["text/plain"], "5");
    assert_eq!(record["error"], json!({"ename": "E"}));
    assert_eq!(record["display_data"]["data"]["image/png"], "x");
    let old = json!({"query": {"pyin": "print(1)"}, "keys": ["pyout", "pyerr"]});
    let records = hub.content("db_request", &old)["records"].clone();
    assert_eq!(
        records,
        json!([{"msg_id": "a", "pyout": record["execute_result"], "pyerr": {"ename": "E"}}])
    );
}

#[test]
fn output_may_come_before_its_request_and_after_its_result() {
    let mut hub = Hub::new();
    hub.tell(output_of(
        "a",
        "stream",
        &json!({"name": "stdout", "text": "early "}),
    ));
    hub.tell(output_of(
        "other",
        "stream",
        &json!({"name": "stdout", "text": "lost"}),
    ));
    assert_eq!(
        hub.content("history_request", &json!({}))["history"],
        json!([])
    );
    hub.run("a", 1);
    hub.tell(output_of(
        "a",
        "stream",
        &json!({"name": "stdout", "text": "late"}),
    ));
    assert_eq!(hub.record("a")["stdout"], "early late");
    // What nobody claims is bounded.
    for n in 0..5000 {
        let text = "x".repeat(1000);
        hub.tell(output_of(
            &format!("n{n}"),
            "stream",
            &json!({"name": "stdout", "text": text}),
        ));
    }
    assert!(
        hub.recorder.early.len() <= 1050,
        "{}",
        hub.recorder.early.len()
    );
}

#[test]
fn a_request_dies_with_its_engine() {
    let mut hub = Hub::new();
    hub.tell(submitted(Queue::Mux, "mux", 1));
    hub.tell(submitted(Queue::Task, "task", 2));
    hub.tell(Traffic::EngineGone {
        engine: "engine-1".into(),
        at: at(50),
    });
    let content = hub.content("result_request", &json!({"msg_ids": ["mux", "task"]}));
    assert_eq!(content["completed"], json!(["mux"]));
    assert_eq!(
        content["pending"],
        json!(["task"]),
        "the scheduler may try again"
    );
    assert_eq!(content["mux"]["result_content"]["ename"], "EngineError");
    assert!(content["mux"]["result_metadata"].is_object());
    assert_eq!(content["mux"]["result_header"]["date"], json!(at(50)));
    // The engine was given up too soon.
    hub.tell(completed(ok("mux", "engine-1")));
    assert_eq!(hub.record("mux")["result_content"], json!({"status": "ok"}));
}

#[test]
fn a_task_keeps_its_first_result() {
    let mut hub = Hub::new();
    hub.run("a", 1);
    hub.tell(completed(ok("a", "engine-7")));
    assert_eq!(hub.record("a")["engine_uuid"], "engine-1");
    hub.tell(completed(ok("never heard of", "engine-7")));
    assert_eq!(
        hub.content("history_request", &json!({}))["history"],
        json!(["a"])
    );
}

#[test]
fn an_aborted_task_says_what_clients_look_for() {
    let mut hub = Hub::new();
    hub.tell(submitted(Queue::Task, "a", 1));
    let aborted = json!({"status": "aborted"});
    hub.tell(completed(reply("a", &aborted, &aborted, "")));
    let content = hub.content("result_request", &json!({"msg_ids": "a"}));
    let result = &content["a"]["result_content"];
    assert_eq!(
        (&result["status"], &result["ename"]),
        (&json!("aborted"), &json!("TaskAborted"))
    );
    assert_eq!(result["evalue"], "a");
    assert!(result["traceback"].is_array());
}

#[test]
fn buffers_that_no_client_takes_stay_away() {
    let mut hub = Hub::new();
    hub.run("b", 1);
    hub.tell(submitted(Queue::Task, "a", 1));
    let error = RemoteError::new("ValueError", "no").to_content();
    hub.tell(completed(reply(
        "a",
        &json!({"status": "error"}),
        &error,
        "odd",
    )));
    let (answer, _) = hub.ask("result_request", &json!({"msg_ids": ["a", "b"]}));
    assert_eq!(answer.buffers, ["result of b"]);
}

#[test]
fn broken_parts_do_not_spoil_a_reply() {
    let mut hub = Hub::new();
    hub.run("a", 1);
    hub.tell(submitted(Queue::Task, "b", 2));
    let mut message = ok("b", "engine-1");
    message.content = "{broken".into();
    message.metadata = "7".into();
    hub.tell(completed(message));
    let content = hub.content("result_request", &json!({"msg_ids": ["a", "b"]}));
    assert_eq!(content["b"]["result_content"], Value::Null);
    assert_eq!(content["b"]["result_metadata"], json!({}));
    assert_eq!(content["a"]["result_content"]["status"], "ok");
}

#[test]
fn a_result_that_was_too_big_to_keep_is_an_error() {
    let mut hub = Hub::new();
    hub.tell(submitted(Queue::Task, "a", 1));
    let update = RecordUpdate {
        completed: Some(at(2)),
        result_content: Some(r#"{"status":"ok"}"#.into()),
        result_metadata: Some(r#"{"buffers_dropped":77,"status":"ok"}"#.into()),
        ..Default::default()
    };
    hub.recorder.complete(&"a".into(), update, false).unwrap();
    let content = hub.content("result_request", &json!({"msg_ids": ["a"]}));
    let result = &content["a"]["result_content"];
    assert_eq!(
        (&result["status"], &result["ename"]),
        (&json!("error"), &json!("RuntimeError"))
    );
    assert!(result["evalue"].as_str().unwrap().contains("77 bytes"));
}

#[test]
fn what_was_left_unfinished_is_handed_back() {
    let mut hub = Hub::new();
    hub.run("done", 1);
    hub.tell(submitted(Queue::Task, "task", 2));
    hub.tell(submitted(Queue::Mux, "mux", 3));
    hub.tell(broadcasts::broadcast(false));
    let dependent = json!({"after": ["done", "task"], "follow": {"dependencies": "gone"}});
    hub.tell(Traffic::Submitted {
        queue: Queue::Task,
        engine: None,
        message: request("dependent", 4, &dependent),
    });
    let mut bare = TaskRecord::new("bare".into());
    bare.header = Some(request("bare", 5, &json!({})).header);
    bare.queue = Some(Queue::Task);
    hub.recorder.store().add(bare).unwrap();
    let store = std::mem::take(hub.recorder.store());
    let mut hub = Hub::with(store);
    let (mut ends, mut handed) = (Vec::new(), Vec::new());
    let count = hub
        .recorder
        .restore(at(60), &mut |restored| match restored {
            Restored::Ended(Ended { msg_id, ok, engine }) => {
                assert!(handed.is_empty(), "ends come first");
                ends.push((msg_id.to_string(), ok, engine.is_some()));
            }
            Restored::Unfinished(unfinished) => handed.push(unfinished),
        });
    assert_eq!((count, hub.recorder.pending()), (Ok(3), 3));
    assert_eq!(ends, [("done".to_owned(), true, true)]);
    assert_eq!(
        handed[0].message,
        request("task", 2, &json!({"label": "l", "retries": 2}))
    );
    assert_eq!(handed[2].msg_id.as_str(), "dependent");
    let why = &hub.record("bare")["result_content"]["evalue"];
    assert!(why.as_str().unwrap().contains("too big"), "{why}");
    assert_eq!(
        (handed[1].queue, handed[1].engine.as_ref().unwrap().as_str()),
        (Queue::Mux, "engine-1")
    );
    assert_eq!(hub.record("b")["result_content"]["ename"], "EngineError");
    hub.tell(completed(ok("task", "engine-1")));
    assert_eq!(hub.record("task")["result_content"]["status"], "ok");
}

proptest! {
    #[test]
    fn no_peer_makes_the_recorder_panic(
        parts in prop::collection::vec(("[\\PC]{0,3}", prop::collection::vec(any::<u8>(), 0..30)), 4),
        kind in 0..4_u8,
    ) {
        let mut hub = Hub::new();
        hub.run("a", 1);
        let part = |n: usize| Bytes::from(parts[n].1.clone());
        let message = StoredMessage {
            header: if kind % 2 == 0 { request("b", 1, &json!({})).header } else { part(0) },
            parent_header: if kind < 2 { bytes(&json!({"msg_id": "a"})) } else { part(1) },
            metadata: part(2),
            content: part(3),
            buffers: Vec::new(),
        };
        for queue in [Queue::Mux, Queue::Task, Queue::Broadcast] {
            hub.tell(Traffic::Submitted { queue, engine: None, message: message.clone() });
            hub.tell(completed(message.clone()));
        }
        hub.tell(Traffic::Output { message });
        for question in QUESTIONS {
            let mut new_id = || MsgId::from("n");
            let mut ask = Ask { now: at(1), new_id: &mut new_id, engine: &|_| None, behind: Behind::default() };
            let answer = hub.recorder.answer(question, &parts[3].1, &mut ask);
            prop_assert!(serde_json::from_slice::<Value>(&answer.content).is_ok());
        }
        hub.content("db_request", &json!({"query": {}}));
    }

    /// Whatever happens in whatever order: what is pending is what the store has unfinished.
    #[test]
    fn pending_is_what_is_unfinished(events in prop::collection::vec((0..7_u8, 0..4_u8), 0..60)) {
        let mut hub = Hub::new();
        for (kind, n) in events {
            let id = format!("m{n}");
            let engine = format!("engine-{}", n % 2 + 1);
            let part = format!("b_{engine}");
            let traffic = match kind {
                0 => submitted(Queue::Task, &id, 1),
                1 => submitted(Queue::Mux, &id, 1),
                2 => completed(ok(&id, &engine)),
                3 => Traffic::EngineGone { engine: engine.as_str().into(), at: at(5) },
                4 => Traffic::Assigned { msg_id: id.as_str().into(), engine: engine.as_str().into() },
                5 => broadcasts::broadcast(false),
                _ => completed(ok(&part, &engine)),
            };
            // A request that is sent twice is pending again, though its record has a result already.
            let again = matches!(kind, 0 | 1 | 5) && hub.record(if kind == 5 { "b" } else { &id }) != Value::Null;
            if !again {
                hub.tell(traffic);
            }
            hub.recorder.pending.sanity_check();
            let query = json!({"query": {"completed": null}, "keys": []});
            let unfinished = hub.content("db_request", &query)["records"].as_array().unwrap().len();
            prop_assert_eq!(hub.recorder.pending(), unfinished);
        }
    }
}
