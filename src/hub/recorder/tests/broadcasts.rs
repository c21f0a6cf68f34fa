use super::*;

pub(super) fn broadcast(coalescing: bool) -> Traffic {
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
    hub.tell(completed(ok("b_engine-1", "engine-1")));
    let ids = json!({"msg_ids": ["b", "b_engine-1", "b_engine-2"]});
    let content = hub.content("result_request", &ids);
    assert_eq!(content["completed"], json!(["b_engine-1"]));
    assert_eq!(content["b_engine-1"]["io"]["stdout"], "x");
    hub.tell(completed(ok("b_engine-2", "engine-2")));
    let (answer, content) = hub.ask("result_request", &json!({"msg_ids": ["b"]}));
    assert_eq!(
        answer.buffers,
        ["result of b_engine-2"],
        "the first target's"
    );
    // The client takes buffers in the order of ids, one object for each.
    let (answer, _) = hub.ask("result_request", &ids);
    let expected = [
        "result of b_engine-2",
        "result of b_engine-1",
        "result of b_engine-2",
    ];
    assert_eq!(answer.buffers, expected);
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
    hub.tell(completed(ok("b_engine-1", "engine-1")));
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
    hub.tell(completed(reply(
        "b",
        &json!({"status": "error"}),
        &error,
        "",
    )));
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
    hub.tell(completed(joined));
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
fn an_engine_that_is_named_twice_answers_once() {
    let mut hub = Hub::new();
    let metadata = json!({ "targets": [["engine-1", 1], ["engine-1", 1]], "is_broadcast": true });
    hub.tell(Traffic::Submitted {
        queue: Queue::Broadcast,
        engine: None,
        message: request("b", 1, &metadata),
    });
    hub.tell(completed(ok("b_engine-1", "engine-1")));
    assert_eq!(hub.recorder.pending(), 0);
    let content = hub.content("result_request", &json!({"msg_ids": ["b"]}));
    assert_eq!(content["completed"], json!(["b"]));
}
