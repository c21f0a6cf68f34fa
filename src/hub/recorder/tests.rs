use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::protocol::EngineId;
use crate::taskdb::memory::{Limits, MemoryStore};
use crate::taskdb::none::NoStore;

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

fn completed(queue: Queue, message: StoredMessage) -> Traffic {
    Traffic::Completed {
        queue,
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
        self.tell(completed(Queue::Task, ok(msg_id, "engine-1")));
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

    hub.tell(completed(Queue::Task, ok("a", "engine-1")));
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
    hub.tell(completed(Queue::Mux, ok("mux", "engine-1")));
    assert_eq!(hub.record("mux")["result_content"], json!({"status": "ok"}));
}

#[test]
fn a_task_keeps_its_first_result() {
    let mut hub = Hub::new();
    hub.run("a", 1);
    hub.tell(completed(Queue::Task, ok("a", "engine-7")));
    assert_eq!(hub.record("a")["engine_uuid"], "engine-1");
    hub.tell(completed(Queue::Task, ok("never heard of", "engine-7")));
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
    hub.tell(completed(Queue::Task, reply("a", &aborted, &aborted, "")));
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
fn broken_parts_do_not_spoil_a_reply() {
    let mut hub = Hub::new();
    hub.run("a", 1);
    hub.tell(submitted(Queue::Task, "b", 2));
    let mut message = ok("b", "engine-1");
    message.content = "{broken".into();
    message.metadata = "7".into();
    hub.tell(completed(Queue::Task, message));
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
fn queries_give_buffers_only_when_asked() {
    let mut hub = Hub::new();
    hub.run("a", 1);
    hub.tell(submitted(Queue::Task, "b", 2));
    let (answer, content) = hub.ask("db_request", &json!({"query": {}, "keys": null}));
    assert_eq!(answer.msg_type, "db_reply");
    assert_eq!(
        (&content["buffer_lens"], &content["result_buffer_lens"]),
        (&Value::Null, &Value::Null)
    );
    assert!(answer.buffers.is_empty());
    assert!(content["records"][0].get("buffers").is_none());

    let keys =
        json!({"query": {"msg_id": {"$ne": ""}}, "keys": ["result_buffers", "buffers", "queue"]});
    let (answer, content) = hub.ask("db_request", &keys);
    assert_eq!(content["buffer_lens"], json!([2, 2]));
    assert_eq!(content["result_buffer_lens"], json!([1, 0]));
    assert_eq!(answer.buffers, ["f", "a", "result of a", "f", "b"]);
    assert_eq!(
        content["records"],
        json!([{"msg_id": "a", "queue": "task"}, {"msg_id": "b", "queue": "task"}])
    );

    let none = hub.content("db_request", &json!({"query": {}, "keys": []}));
    assert_eq!(none["records"], json!([{"msg_id": "a"}, {"msg_id": "b"}]));
    let one = hub.content(
        "db_request",
        &json!({"query": {"msg_id": "a"}, "keys": "label"}),
    );
    assert_eq!(one["records"], json!([{"msg_id": "a", "label": "l"}]));
    let date = json!({"query": {"submitted": {"$gte": "2023-11-14T22:13:22"}}, "keys": []});
    assert_eq!(
        hub.content("db_request", &date)["records"],
        json!([{"msg_id": "b"}])
    );

    for (bad, evalue) in [
        (
            json!({"query": {"complete": null}}),
            "\"Illegal testing key(s): {'complete'}\"",
        ),
        (
            json!({"query": {"label": {"$x": 1}}}),
            "\"Unsupported operator: '$x'\"",
        ),
        (
            json!({"query": {}, "keys": ["nope"]}),
            "\"Bad record key(s): ['nope']\"",
        ),
    ] {
        let (answer, content) = hub.ask("db_request", &bad);
        assert_eq!(answer.msg_type, "db_reply");
        assert_eq!(
            (&content["ename"], &content["evalue"]),
            (&json!("KeyError"), &json!(evalue))
        );
    }
}

#[test]
fn history_is_in_order_of_submission() {
    let mut hub = Hub::new();
    for (msg_id, seconds) in [("b", 2), ("c", 3), ("a", 1)] {
        hub.tell(submitted(Queue::Task, msg_id, seconds));
    }
    let history = hub.content("history_request", &json!({}));
    assert_eq!(history, json!({"status": "ok", "history": ["a", "b", "c"]}));
}

#[test]
fn purging() {
    let mut hub = Hub::new();
    for msg_id in ["a", "b", "c"] {
        hub.run(msg_id, 1);
    }
    hub.tell(submitted(Queue::Task, "waiting", 2));
    let pending = hub.content(
        "purge_request",
        &json!({"msg_ids": ["a", "waiting"], "engine_ids": []}),
    );
    assert_eq!(
        (&pending["ename"], &pending["evalue"]),
        (&json!("IndexError"), &json!("msg pending: 'waiting'"))
    );
    let done = json!({"status": "ok"});
    assert_eq!(
        hub.content("purge_request", &json!({"msg_ids": ["a", "unknown"]})),
        done
    );
    assert_eq!(
        hub.content("history_request", &json!({}))["history"],
        json!(["b", "c", "waiting"])
    );
    let engine = hub.content("purge_request", &json!({"msg_ids": [], "engine_ids": [9]}));
    assert_eq!(
        (&engine["ename"], &engine["evalue"]),
        (&json!("IndexError"), &json!("No such engine: 9"))
    );
    assert_eq!(
        hub.content("purge_request", &json!({"msg_ids": [], "engine_ids": [1]})),
        done
    );
    assert_eq!(
        hub.content("history_request", &json!({}))["history"],
        json!(["waiting"])
    );
    hub.run("d", 3);
    assert_eq!(
        hub.content("purge_request", &json!({"msg_ids": "all"})),
        done
    );
    assert_eq!(
        hub.content("history_request", &json!({}))["history"],
        json!(["waiting"])
    );
}

#[test]
fn resubmission_keeps_everything_but_the_id() {
    let mut hub = Hub::new();
    hub.run("a", 1);
    let (answer, content) = hub.ask("resubmit_request", &json!({"msg_ids": ["a"]}));
    assert_eq!(
        content,
        json!({"status": "ok", "resubmitted": {"a": "new_1"}})
    );
    let again = &answer.resubmit[0];
    assert_eq!(
        (again.msg_id.as_str(), again.original.as_str()),
        ("new_1", "a")
    );
    assert_eq!(
        again.message.metadata,
        request("a", 1, &json!({"label": "l", "retries": 2})).metadata
    );
    assert_eq!(again.message.buffers, ["f", "a"]);
    assert_eq!(hub.record("a")["resubmitted"], "new_1");
    let (old, new) = (
        hub.record("a")["header"].clone(),
        hub.record("new_1")["header"].clone(),
    );
    for (name, value) in old.as_object().unwrap() {
        match name.as_str() {
            "msg_id" => assert_eq!(new[name], "new_1"),
            "date" => assert_eq!(new[name], json!(at(1000))),
            _ => assert_eq!(new[name], *value),
        }
    }
    // Known at once, also before the scheduler reports it, and still when it does.
    let status = json!({"msg_ids": ["new_1"], "status_only": true});
    assert_eq!(
        hub.content("result_request", &status)["pending"],
        json!(["new_1"])
    );
    hub.tell(Traffic::Submitted {
        queue: Queue::Task,
        engine: None,
        message: again.message.clone(),
    });
    assert_eq!(hub.record("new_1")["label"], "l");
    // Unfinished ones may be resubmitted, and resubmitted ones again.
    let (_, chain) = hub.ask("resubmit_request", &json!({"msg_ids": ["new_1", "a"]}));
    assert_eq!(chain["resubmitted"].as_object().unwrap().len(), 2);
    hub.tell(completed(Queue::Task, ok("new_1", "engine-1")));
    assert_eq!(
        hub.content("result_request", &status)["completed"],
        json!(["new_1"])
    );

    let missing = hub.content("resubmit_request", &json!({"msg_ids": ["invalid", "a"]}));
    assert_eq!(
        (&missing["ename"], &missing["evalue"]),
        (
            &json!("KeyError"),
            &json!("\"No such msg(s): ['invalid']\"")
        )
    );
}

fn broadcast(coalescing: bool) -> Traffic {
    let metadata = json!({
        "targets": [["engine-2", 2], ["engine-1", 1]], "is_broadcast": true, "is_coalescing": coalescing,
    });
    Traffic::Submitted {
        queue: Queue::Broadcast,
        engine: None,
        message: request("b", 1, &metadata),
    }
}

#[test]
fn a_broadcast_has_a_record_for_each_engine() {
    let mut hub = Hub::new();
    hub.tell(broadcast(false));
    hub.tell(output_of(
        "b_engine-1",
        "stream",
        &json!({"name": "stdout", "text": "x"}),
    ));
    assert_eq!(
        hub.content("history_request", &json!({}))["history"],
        json!(["b", "b_engine-2", "b_engine-1"])
    );
    assert_eq!(hub.record("b_engine-1")["header"]["msg_id"], "b_engine-1");
    hub.tell(completed(Queue::Broadcast, ok("b_engine-1", "engine-1")));
    let ids = json!({"msg_ids": ["b", "b_engine-1", "b_engine-2"]});
    let content = hub.content("result_request", &ids);
    assert_eq!(content["completed"], json!(["b_engine-1"]));
    assert_eq!(content["b_engine-1"]["io"]["stdout"], "x");
    hub.tell(completed(Queue::Broadcast, ok("b_engine-2", "engine-2")));
    let (answer, content) = hub.ask("result_request", &json!({"msg_ids": ["b"]}));
    assert_eq!(
        answer.buffers,
        ["result of b_engine-2", "result of b_engine-1"],
        "in the order of targets"
    );
    assert_eq!(
        content["b"]["result_metadata"]["broadcast_targets"],
        json!([["engine-2", 2], ["engine-1", 1]])
    );
    assert_eq!(hub.recorder.pending(), 0);
    // One engine's part can be repeated by the task queue.
    let (answer, _) = hub.ask("resubmit_request", &json!({"msg_ids": ["b_engine-1"]}));
    assert_eq!(answer.resubmit[0].message.buffers, ["f", "b"]);
    assert_eq!(answer.resubmit[0].message.metadata, "{}");
}

#[test]
fn a_broadcast_fails_with_one_of_its_engines() {
    let mut hub = Hub::new();
    hub.tell(broadcast(false));
    hub.tell(completed(Queue::Broadcast, ok("b_engine-1", "engine-1")));
    hub.tell(Traffic::EngineGone {
        engine: "engine-2".into(),
        at: at(50),
    });
    let content = hub.content("result_request", &json!({"msg_ids": ["b", "b_engine-2"]}));
    assert_eq!(content["b"]["result_content"]["ename"], "EngineError");
    assert_eq!(
        content["b_engine-2"]["result_content"]["ename"],
        "EngineError"
    );

    // A scheduler may refuse the whole.
    let mut hub = Hub::new();
    hub.tell(broadcast(false));
    let error = RemoteError::new("IndexError", "no such engine").to_content();
    hub.tell(completed(
        Queue::Broadcast,
        reply("b", &json!({"status": "error"}), &error, ""),
    ));
    let content = hub.content("result_request", &json!({"msg_ids": ["b", "b_engine-2"]}));
    assert_eq!(content["b"]["result_content"]["ename"], "IndexError");
    assert_eq!(
        content["b_engine-2"]["result_content"]["ename"],
        "IndexError"
    );
    assert_eq!(hub.recorder.pending(), 0);
}

#[test]
fn a_coalescing_broadcast_has_one_record() {
    let mut hub = Hub::new();
    hub.tell(broadcast(true));
    hub.tell(output_of(
        "b_engine-1",
        "stream",
        &json!({"name": "stdout", "text": "x"}),
    ));
    let metadata = json!({
        "status": "ok", "engine": "engine-1", "is_broadcast": true, "is_coalescing": true,
        "original_msg_id": "b", "broadcast_targets": [["engine-2", 2], ["engine-1", 1]],
    });
    let joined = reply("b_engine-1", &metadata, &json!({"status": "ok"}), "joined");
    hub.tell(completed(Queue::Broadcast, joined));
    let (answer, content) = hub.ask("result_request", &json!({"msg_ids": ["b"]}));
    assert_eq!(answer.buffers, ["joined"]);
    assert_eq!(content["b"]["io"]["stdout"], "x");
    assert_eq!(
        hub.content("history_request", &json!({}))["history"],
        json!(["b"])
    );
    assert_eq!(hub.recorder.pending(), 0);
}

#[test]
fn what_was_left_unfinished_is_handed_back() {
    let mut hub = Hub::new();
    hub.run("done", 1);
    hub.tell(submitted(Queue::Task, "task", 2));
    hub.tell(submitted(Queue::Mux, "mux", 3));
    hub.tell(broadcast(false));
    let store = std::mem::take(hub.recorder.store());
    let mut hub = Hub::with(store);
    let mut handed = Vec::new();
    let count = hub
        .recorder
        .restore(at(60), &mut |unfinished| handed.push(unfinished));
    assert_eq!((count, hub.recorder.pending()), (Ok(2), 2));
    assert_eq!(
        handed[0].message,
        request("task", 2, &json!({"label": "l", "retries": 2}))
    );
    assert_eq!(
        (handed[1].queue, handed[1].engine.as_ref().unwrap().as_str()),
        (Queue::Mux, "engine-1")
    );
    assert_eq!(handed[1].client.as_deref(), Some("client"));
    assert_eq!(hub.record("b")["result_content"]["ename"], "EngineError");
    hub.tell(completed(Queue::Task, ok("task", "engine-1")));
    assert_eq!(hub.record("task")["result_content"]["status"], "ok");
}

#[test]
fn nodb_has_nothing_to_say() {
    let mut hub = Hub::with(NoStore);
    hub.run("a", 1);
    for (msg_type, content) in [
        ("result_request", json!({"msg_ids": ["a"]})),
        ("history_request", json!({})),
        ("db_request", json!({"query": {}})),
        ("resubmit_request", json!({"msg_ids": ["a"]})),
    ] {
        let error = hub.content(msg_type, &content);
        assert_eq!(error["ename"], "KeyError");
        assert_eq!(error["evalue"], StoreError::NoData.to_string());
    }
    let purged = hub.content("purge_request", &json!({"msg_ids": "all"}));
    assert_eq!(purged, json!({"status": "ok"}));
    assert_eq!(hub.recorder.pending(), 0);
}

#[test]
fn what_is_no_question_is_a_hub_error() {
    let mut hub = Hub::new();
    for (msg_type, content, ename) in [
        ("result_request", json!({}), "KeyError"),
        ("resubmit_request", json!([]), "KeyError"),
        ("resubmit_request", json!({"msg_ids": 7}), "TypeError"),
        ("queue_request", json!({}), "KeyError"),
    ] {
        let (answer, content) = hub.ask(msg_type, &content);
        assert_eq!(
            (answer.msg_type, &content["ename"]),
            ("hub_error", &json!(ename)),
            "{msg_type}"
        );
    }
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
            hub.tell(completed(queue, message.clone()));
        }
        hub.tell(Traffic::Output { message });
        for question in QUESTIONS {
            let mut new_id = || MsgId::from("n");
            let mut ask = Ask { now: at(1), new_id: &mut new_id, engine: &|_| None };
            let answer = hub.recorder.answer(question, &parts[3].1, &mut ask);
            prop_assert!(serde_json::from_slice::<Value>(&answer.content).is_ok());
        }
        hub.content("db_request", &json!({"query": {}}));
    }
}
