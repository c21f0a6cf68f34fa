//! What the tests of all stores share: records, random queries, and the cases that every store must pass.

mod random;

use std::ops::ControlFlow;

use bytes::Bytes;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::query::Query;
use super::record::{Key, KeySet, Queue, RecordUpdate, TaskRecord};
use super::store::TaskStore;
use crate::protocol::{MsgId, Timestamp};

pub(crate) use random::{any_query, any_record};

/// The `n`th record: submitted `n` seconds after the first.
pub(crate) fn record(n: i64) -> TaskRecord {
    let mut record = TaskRecord::new(format!("session_1_{n}").into());
    record.submitted = Some(time(n));
    record
}

pub(crate) fn with_buffer(n: i64, size: usize) -> TaskRecord {
    let mut record = record(n);
    record.buffers = Some(vec![Bytes::from(vec![7; size])]);
    record
}

pub(crate) fn time(n: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + n * 1_000_000)
}

/// Every field is set.
pub(crate) fn full_record(n: i64) -> TaskRecord {
    let json = |value: Value| Some(Bytes::from(value.to_string()));
    let mut record = with_buffer(n, 100);
    let msg_id = record.msg_id.clone();
    record.header = json(json!({"msg_id": msg_id, "msg_type": "apply_request", "date": time(n)}));
    record.metadata = json(json!({"retries": n, "after": ["a", "b"], "label": "x"}));
    record.content = json(json!({"a": 5}));
    record.client_uuid = Some("client".into());
    record.engine_uuid = Some("engine".into());
    record.started = Some(time(n + 1));
    record.completed = Some(time(n + 2));
    record.received = Some(time(n + 3));
    record.resubmitted = Some("again".into());
    record.result_header = json(json!({"msg_type": "apply_reply"}));
    record.result_metadata = json(json!({"status": "ok"}));
    record.result_content = json(json!({"status": "ok", "é": "\u{1F600}"}));
    record.result_buffers = Some(vec![Bytes::new(), "result".into(), Bytes::from(vec![0; 9])]);
    record.queue = Some(Queue::Task);
    record.execute_input = Some("a\0b".into());
    record.execute_result = json(json!({"data": {"text/plain": "5"}}));
    record.error = json(json!({"ename": "E"}));
    record.stdout = "out".into();
    record.stderr = "err".into();
    record.label = Some("label".into());
    record.display_data = json(json!({"data": {}}));
    record
}

pub(crate) fn found(store: &mut dyn TaskStore, query: &Value, keys: KeySet) -> Vec<TaskRecord> {
    let query = Query::parse(query, &TimeZone::UTC).unwrap();
    let mut found = Vec::new();
    let each = &mut |record| {
        found.push(record);
        ControlFlow::Continue(())
    };
    store.find(&query, keys, each).unwrap();
    found
}

pub(crate) fn ids(store: &mut dyn TaskStore, query: &Value) -> Vec<String> {
    let found = found(store, query, KeySet::EMPTY);
    found
        .iter()
        .map(|record| record.msg_id.to_string())
        .collect()
}

fn names(numbers: impl IntoIterator<Item = i64>) -> Vec<String> {
    let ids = numbers.into_iter().map(|n| record(n).msg_id.to_string());
    ids.collect()
}

/// The cases of ipyparallel's `test_db.py`, and what every store promises besides.
pub(crate) fn conformance(store: &mut dyn TaskStore) {
    for n in 0..16 {
        store.add(with_buffer(n, 100)).unwrap();
    }
    history_and_dates(store);
    updates(store);
    labels(store);
    whole_records(store);
    merging(store);
    // test_drop_record, test_drop_matching
    let query = Query::msg_ids(["session_1_3", "session_1_4", "unknown"]);
    assert_eq!(store.remove(&query), Ok(2));
    assert_eq!(store.get("session_1_3"), Ok(None));
    let rest = Query::parse(&json!({"msg_id": {"$ne": ""}}), &TimeZone::UTC).unwrap();
    assert!(store.remove(&rest).unwrap() > 10);
    assert_eq!(store.history().unwrap(), Vec::<MsgId>::new());
    assert_eq!(store.stats().unwrap().records, 0);
}

fn history_and_dates(store: &mut dyn TaskStore) {
    // test_add_record, test_get_history
    let history: Vec<String> = store
        .history()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(history, names(0..16));
    store.add(record(-5)).unwrap();
    assert_eq!(store.history().unwrap()[0], record(-5).msg_id);
    assert_eq!(store.remove(&Query::msg_ids(["session_1_-5"])), Ok(1));
    // test_find_records_dt
    let middle = json!(time(8));
    assert_eq!(
        ids(store, &json!({"submitted": {"$lt": middle}})),
        names(0..8)
    );
    assert_eq!(
        ids(store, &json!({"submitted": {"$gte": middle}})),
        names(8..16)
    );
    assert_eq!(ids(store, &json!({"submitted": middle})), names([8]));
    // test_find_records_in
    let even: Vec<String> = names((0..16).step_by(2));
    assert_eq!(ids(store, &json!({"msg_id": {"$in": even}})), even);
    assert_eq!(
        ids(store, &json!({"msg_id": {"$nin": even}})),
        names((1..16).step_by(2))
    );
    // test_null
    assert_eq!(ids(store, &json!({"msg_id": null})), names([]));
    assert_eq!(ids(store, &json!({"msg_id": {"$ne": null}})).len(), 16);
    // A break is a break.
    let mut count = 0;
    let each = &mut |_| {
        count += 1;
        ControlFlow::Break(())
    };
    store
        .find(&Query::everything(), KeySet::EMPTY, each)
        .unwrap();
    assert_eq!(count, 1);
}

fn updates(store: &mut dyn TaskStore) {
    // test_update_record, test_datetime
    let last = record(15).msg_id;
    let mut expected = store.get(last.as_str()).unwrap().unwrap();
    for text in ["hello ", "there"] {
        let update = RecordUpdate {
            stdout: text.into(),
            completed: Some(time(100)),
            ..Default::default()
        };
        assert_eq!(store.update(&last, update), Ok(true));
        store.flush().unwrap();
    }
    expected.stdout = "hello there".into();
    expected.completed = Some(time(100));
    assert_eq!(store.get(last.as_str()), Ok(Some(expected)));
    assert_eq!(
        ids(store, &json!({"completed": {"$ne": null}})),
        names([15])
    );
    assert_eq!(
        store.update(&"unknown".into(), RecordUpdate::default()),
        Ok(false)
    );
    assert_eq!(store.get("unknown"), Ok(None));
}

fn labels(store: &mut dyn TaskStore) {
    // test_find_records_glob
    for (n, label) in (0..).zip(["group_a", "group_a/sub_a", "group_b/sub_c", "label*task"]) {
        let update = RecordUpdate {
            label: Some(label.into()),
            ..Default::default()
        };
        assert_eq!(store.update(&record(n).msg_id, update), Ok(true));
    }
    for (pattern, expected) in [
        ("group_a*", vec![0, 1]),
        ("group_?", vec![0]),
        ("group_b", vec![]),
        ("*/sub_[ab]", vec![1]),
        ("*/sub_[!ab]", vec![2]),
        ("*[*]*", vec![3]),
    ] {
        assert_eq!(
            ids(store, &json!({"label": {"$glob": pattern}})),
            names(expected),
            "{pattern}"
        );
    }
}

fn whole_records(store: &mut dyn TaskStore) {
    // test_find_records_keys, and that nothing changes on the way.
    for size in [100, 100_000] {
        let mut whole = full_record(50);
        whole.buffers = Some(vec![Bytes::from(vec![1; size]), Bytes::new()]);
        store.add(whole.clone()).unwrap();
        let msg_id = whole.msg_id.clone();
        same(&store.get(msg_id.as_str()).unwrap().unwrap(), &whole);
        let query = json!({"msg_id": msg_id});
        for keys in [
            KeySet::EMPTY,
            KeySet::without_buffers(),
            KeySet::EMPTY.with(Key::ResultBuffers).with(Key::Error),
        ] {
            same(&found(store, &query, keys)[0], &whole.project(keys));
        }
        let big = vec![Bytes::from(vec![2; size]), "x".into()];
        let update = RecordUpdate {
            result_buffers: Some(big.clone()),
            ..Default::default()
        };
        assert_eq!(store.update(&msg_id, update), Ok(true));
        assert_eq!(
            store.get(msg_id.as_str()).unwrap().unwrap().result_buffers,
            Some(big)
        );
        assert_eq!(store.remove(&Query::from(&msg_id)), Ok(1));
    }
}

/// JSON is the same when it means the same: a store may keep it as documents.
fn same(a: &TaskRecord, b: &TaskRecord) {
    let (mut a, mut b) = (a.clone(), b.clone());
    for record in [&mut a, &mut b] {
        for json in [
            &mut record.header,
            &mut record.metadata,
            &mut record.content,
            &mut record.result_header,
            &mut record.result_metadata,
            &mut record.result_content,
            &mut record.execute_result,
            &mut record.error,
            &mut record.display_data,
        ] {
            if let Some(text) = json {
                let value: Value = serde_json::from_slice(text).unwrap();
                *json = Some(value.to_string().into());
            }
        }
    }
    assert_eq!(a, b);
}

fn merging(store: &mut dyn TaskStore) {
    // Output came before the request.
    let mut early = TaskRecord::new("early".into());
    early.stdout = "first ".into();
    early.error = Some("{}".into());
    early.resubmitted = Some("new".into());
    store.add(early).unwrap();
    store.flush().unwrap();
    assert_eq!(
        store.history().unwrap().len(),
        16,
        "its submission is not known"
    );
    let mut request = full_record(51);
    request.msg_id = "early".into();
    (request.error, request.stdout, request.resubmitted) = (None, "then".into(), None);
    store.add(request.clone()).unwrap();
    request.error = Some("{}".into());
    request.stdout = "first then".into();
    request.resubmitted = Some("new".into());
    same(&store.get("early").unwrap().unwrap(), &request);
    assert_eq!(store.stats().unwrap().records, 17);
    assert_eq!(store.remove(&Query::msg_ids(["early"])), Ok(1));
}

/// Adds the records, and asks for what the reference says should be found.
pub(crate) fn compare(
    store: &mut dyn TaskStore,
    records: &[TaskRecord],
    queries: &[Value],
) -> Result<(), TestCaseError> {
    let records: Vec<TaskRecord> = (0..)
        .zip(records)
        .map(|(n, record)| TaskRecord {
            msg_id: format!("m{n}").as_str().into(),
            ..record.clone()
        })
        .collect();
    for record in &records {
        store.add(record.clone()).unwrap();
    }
    for query in queries {
        let parsed = Query::parse(query, &TimeZone::UTC).unwrap();
        let expected = records.iter().filter(|record| parsed.matches(record));
        let expected: Vec<String> = expected.map(|record| record.msg_id.to_string()).collect();
        prop_assert_eq!(ids(store, query), expected, "{}", query);
    }
    if let Some(query) = queries.first() {
        let parsed = Query::parse(query, &TimeZone::UTC).unwrap();
        let expected = records.iter().filter(|record| parsed.matches(record));
        prop_assert_eq!(
            store.remove(&parsed),
            Ok(expected.count() as u64),
            "{}",
            query
        );
        prop_assert_eq!(ids(store, query), Vec::<String>::new());
    }
    Ok(())
}
