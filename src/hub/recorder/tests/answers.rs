use super::*;
use crate::taskdb::sqlite::{SqliteConfig, SqliteStore};

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

/// A day in the life of a hub, and all that can be asked about it.
fn a_day<S: TaskStore>(store: S, between: &mut dyn FnMut(&mut S)) -> Vec<Answer> {
    let mut hub = Hub::with(store);
    let mut events = vec![output_of(
        "a",
        "stream",
        &json!({"name": "stdout", "text": "early "}),
    )];
    for (queue, id, seconds) in [
        (Queue::Task, "a", 3),
        (Queue::Mux, "c", 2),
        (Queue::Task, "d", 4),
    ] {
        events.push(submitted(queue, id, seconds));
    }
    events.push(Traffic::Assigned {
        msg_id: "a".into(),
        engine: "engine-2".into(),
    });
    events.push(broadcasts::broadcast(false));
    events.push(output_of(
        "a",
        "stream",
        &json!({"name": "stdout", "text": "late"}),
    ));
    events.push(output_of("a", "error", &json!({"ename": "E"})));
    for (id, engine) in [
        ("a", "engine-2"),
        ("b_engine-1", "engine-1"),
        ("b_engine-2", "engine-2"),
    ] {
        events.push(completed(ok(id, engine)));
    }
    events.push(Traffic::EngineGone {
        engine: "engine-1".into(),
        at: at(70),
    });
    for event in events {
        hub.tell(event);
        between(hub.recorder.store());
    }
    let ids = json!({"msg_ids": ["a", "b", "b_engine-1", "b_engine-2", "c", "d"]});
    let all = json!({"query": {}, "keys": null});
    let buffers = json!({"query": {"queue": "broadcast"}, "keys": ["buffers", "result_buffers"]});
    let nested =
        json!({"query": {"result_metadata.status": "ok", "header.msg_type": {"$glob": "apply*"}}});
    let questions = [
        ("result_request", &ids),
        ("db_request", &all),
        ("db_request", &buffers),
        ("db_request", &nested),
        ("history_request", &json!({})),
        ("resubmit_request", &json!({"msg_ids": ["a", "b_engine-1"]})),
        ("db_request", &all),
        (
            "purge_request",
            &json!({"msg_ids": ["c"], "engine_ids": [1]}),
        ),
        ("history_request", &json!({})),
        ("purge_request", &json!({"msg_ids": "all"})),
        ("history_request", &json!({})),
    ];
    questions
        .map(|(kind, content)| hub.ask(kind, content).0)
        .into()
}

#[test]
fn every_store_gives_the_same_answers() {
    let memory = a_day(MemoryStore::default(), &mut |_| ());
    let file = || SqliteStore::open(&SqliteConfig::new(":memory:")).unwrap();
    let at_once = a_day(file(), &mut |_| ());
    let one_by_one = a_day(file(), &mut |store| store.flush().unwrap());
    for (n, answer) in memory.iter().enumerate() {
        assert!(answer.content.starts_with(b"{\"") && !answer.content.is_empty());
        assert_eq!(at_once[n], *answer);
        assert_eq!(one_by_one[n], *answer);
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
    hub.tell(completed(ok("new_1", "engine-1")));
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

#[test]
fn an_answer_that_would_be_too_big_is_refused() {
    let mut hub = Hub::new();
    for n in 0..10 {
        hub.run(&format!("a{n}"), n);
    }
    let content = br#"{"query": {}}"#;
    let lookup = hub.recorder.lookup("db_request", content);
    let lookup = lookup.unwrap().unwrap().with_limit(1000);
    let answer = lookup.answer(hub.recorder.store());
    let content: Value = serde_json::from_slice(&answer.content).unwrap();
    assert_eq!(
        (answer.msg_type, &content["ename"]),
        ("db_reply", &json!("MemoryError"))
    );
    let content = br#"{"query": {}, "keys": ["msg_id"]}"#;
    let lookup = hub.recorder.lookup("db_request", content);
    let lookup = lookup.unwrap().unwrap().with_limit(1000);
    let answer = lookup.answer(hub.recorder.store());
    assert!(answer.content.starts_with(br#"{"status":"ok""#));
}
