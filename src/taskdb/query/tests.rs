//! One test for each operator and rule.

use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::protocol::Timestamp;
use crate::taskdb::record::{Queue, TaskRecord};

/// 2023-11-14T22:13:20Z
const NOON: i64 = 1_700_000_000_000_000;

fn sample() -> TaskRecord {
    let mut record = TaskRecord::new("m_1".into());
    record.header = Some(
        json!({"msg_id": "m_1", "msg_type": "apply_request", "date": "2023-11-14T22:13:20Z", "version": 5})
            .to_string()
            .into(),
    );
    record.metadata = Some(
        json!({"retries": 3, "after": ["a", "b", 7], "label": null, "ok": true,
               "targets": [["u", 1], ["v", 2]], "deep": {"list": [{"n": 1}, {"n": 2.5}]}, "empty": []})
        .to_string()
        .into(),
    );
    record.content = Some("{}".into());
    record.submitted = Some(Timestamp::from_micros(NOON));
    record.engine_uuid = Some("engine-1".into());
    record.queue = Some(Queue::Task);
    record.label = Some("group_a/x".into());
    record.buffers = Some(vec!["pickle".into()]);
    record
}

fn parse(query: &Value) -> Result<Query, QueryError> {
    Query::parse(query, &TimeZone::fixed(jiff::tz::offset(1)))
}

fn matches(query: &Value) -> bool {
    parse(query).unwrap().matches(&sample())
}

fn check(cases: &[(Value, bool)]) {
    for (query, expected) in cases {
        assert_eq!(matches(query), *expected, "{query}");
    }
}

#[test]
fn everything_and_several_conditions() {
    check(&[
        (json!({}), true),
        (json!({"queue": "task", "label": "group_a/x"}), true),
        (json!({"queue": "mux", "label": "group_a/x"}), false),
        (json!({"queue": "task", "label": "other"}), false),
        (json!({"queue": {}}), true),
        (
            json!({"submitted": {"$gt": "2023-01-01", "$lt": "2024-01-01"}}),
            true,
        ),
        (
            json!({"submitted": {"$gt": "2023-01-01", "$lt": "2023-02-01"}}),
            false,
        ),
    ]);
}

#[test]
fn null_and_absent_are_the_same() {
    check(&[
        (json!({"completed": null}), true),
        (json!({"completed": {"$eq": null}}), true),
        (json!({"completed": {"$ne": null}}), false),
        (json!({"submitted": null}), false),
        (json!({"submitted": {"$ne": null}}), true),
        (json!({"completed": {"$ne": "2023-11-14T22:13:20Z"}}), true),
        (
            json!({"completed": {"$nin": ["2023-11-14T22:13:20Z"]}}),
            true,
        ),
        (json!({"completed": {"$nin": [null]}}), false),
        (json!({"completed": {"$in": [null, "x"]}}), true),
        (json!({"metadata.label": null}), true),
        (json!({"metadata.nothing.here": null}), true),
        (json!({"result_header": null}), true),
        (json!({"result_header.date": null}), true),
        (json!({"stdout": null}), false),
        (json!({"stdout": ""}), true),
    ]);
}

#[test]
fn comparisons_are_between_values_of_one_type() {
    check(&[
        (json!({"label": {"$gt": "group"}}), true),
        (json!({"label": {"$lt": "group"}}), false),
        (json!({"label": {"$gte": "group_a/x"}}), true),
        (json!({"label": {"$lte": "group_a/x"}}), true),
        (json!({"label": {"$gt": 5}}), false),
        (json!({"label": {"$lt": 5}}), false),
        (json!({"label": {"$lt": null}}), false),
        (json!({"label": {"$gte": ["a"]}}), false),
        (json!({"completed": {"$lt": "2030-01-01T00:00:00Z"}}), false),
        (json!({"metadata.retries": {"$gt": 2}}), true),
        (json!({"metadata.retries": {"$gte": 3.0}}), true),
        (json!({"metadata.retries": {"$lt": 2.5}}), false),
        (json!({"metadata.retries": {"$lt": "4"}}), false),
        (json!({"metadata.ok": {"$gte": true}}), false),
        (json!({"metadata.ok": true}), true),
        (json!({"metadata.ok": 1}), false),
        (json!({"metadata.retries": 3.0}), true),
        // The documents' table: $ge is >, $le is <.
        (json!({"label": {"$ge": "group_a/x"}}), false),
        (json!({"label": {"$ge": "group_a"}}), true),
        (json!({"label": {"$le": "group_a/x"}}), false),
        (json!({"label": {"$le": "h"}}), true),
    ]);
}

#[test]
fn dates_are_instants() {
    check(&[
        (json!({"submitted": "2023-11-14T22:13:20Z"}), true),
        (json!({"submitted": "2023-11-15T00:13:20+02:00"}), true),
        (json!({"submitted": "2023-11-14T23:13:20.000000"}), true),
        (json!({"submitted": "2023-11-14T22:13:20"}), false),
        (
            json!({"submitted": {"$in": ["2023-11-14T22:13:20Z", null]}}),
            true,
        ),
        (json!({"submitted": {"$lte": "2023-11-14T23:13:20"}}), true),
        (
            json!({"submitted": {"$gt": "2023-11-14T23:13:19.999999"}}),
            true,
        ),
        (json!({"submitted": {"$lt": "soon"}}), false),
        (json!({"submitted": {"$ne": "soon"}}), true),
        (json!({"submitted": {"$gt": 0}}), false),
        // A record's text that has the form of a date is one.
        (json!({"header.date": "2023-11-14T23:13:20"}), true),
        (
            json!({"header.date": {"$lt": "2023-11-14T22:13:21Z"}}),
            true,
        ),
        (
            json!({"header.msg_type": {"$lt": "2023-11-14T22:13:21Z"}}),
            false,
        ),
        (json!({"label": {"$ne": "2023-11-14T22:13:20Z"}}), true),
    ]);
    let mut record = sample();
    record.label = Some("2023-11-14T22:13:20Z".into());
    let query = json!({"label": "2023-11-14T22:13:20Z"});
    assert!(parse(&query).unwrap().matches(&record));
}

#[test]
fn in_and_nin() {
    check(&[
        (json!({"msg_id": {"$in": ["x", "m_1"]}}), true),
        (json!({"msg_id": {"$in": ["x"]}}), false),
        (json!({"msg_id": {"$in": []}}), false),
        (json!({"msg_id": {"$nin": []}}), true),
        (json!({"msg_id": {"$nin": ["m_1"]}}), false),
        (json!({"msg_id": {"$nin": ["x"]}}), true),
        (json!({"metadata.retries": {"$in": ["3", 3]}}), true),
        (json!({"metadata.after": {"$in": ["z", "b"]}}), true),
        (json!({"metadata.after": {"$nin": ["z", "b"]}}), false),
        (json!({"metadata.targets": {"$in": [["u", 1]]}}), true),
        (json!({"metadata.empty": {"$nin": ["z"]}}), true),
    ]);
}

#[test]
fn all_of_a_list() {
    check(&[
        (json!({"metadata.after": {"$all": ["a", "b"]}}), true),
        (json!({"metadata.after": {"$all": ["a", 7]}}), true),
        (json!({"metadata.after": {"$all": ["a", "c"]}}), false),
        (json!({"metadata.after": {"$all": []}}), false),
        (json!({"label": {"$all": ["group_a/x"]}}), true),
        (json!({"label": {"$all": ["group_a/x", "group_a/x"]}}), true),
        (json!({"label": {"$all": ["group_a/x", "y"]}}), false),
        (json!({"label": {"$all": []}}), false),
        (json!({"completed": {"$all": ["x"]}}), false),
    ]);
}

#[test]
fn modulo_is_for_numbers_and_pythons() {
    check(&[
        (json!({"metadata.retries": {"$mod": [2, 1]}}), true),
        (json!({"metadata.retries": {"$mod": [2, 0]}}), false),
        (json!({"metadata.retries": {"$mod": [-2, -1]}}), true),
        (json!({"metadata.retries": {"$mod": [2.5, 0.5]}}), true),
        (json!({"label": {"$mod": [2, 1]}}), false),
        (json!({"metadata.after": {"$mod": [5, 2]}}), true),
        (json!({"completed": {"$mod": [2, 0]}}), false),
    ]);
}

#[test]
fn exists_is_not_null() {
    check(&[
        (json!({"label": {"$exists": true}}), true),
        (json!({"label": {"$exists": 1}}), true),
        (json!({"label": {"$exists": false}}), false),
        (json!({"completed": {"$exists": true}}), false),
        (json!({"completed": {"$exists": 0}}), true),
        (json!({"metadata.label": {"$exists": true}}), false),
        (json!({"metadata.empty": {"$exists": true}}), true),
        (json!({"buffers": {"$exists": true}}), true),
        (json!({"result_buffers": {"$exists": true}}), false),
        (json!({"buffers": null}), false),
        (json!({"buffers": "pickle"}), false),
        (json!({"buffers": {"$ne": "pickle"}}), true),
    ]);
}

#[test]
fn glob_and_regex_are_for_texts() {
    check(&[
        (json!({"label": {"$glob": "group_?/*"}}), true),
        (json!({"label": {"$glob": "Group*"}}), false),
        (json!({"label": {"$glob": "[!h]*"}}), true),
        (json!({"completed": {"$glob": "*"}}), false),
        (json!({"submitted": {"$glob": "*"}}), false),
        (json!({"metadata.after": {"$glob": "?"}}), true),
        (json!({"metadata.retries": {"$glob": "*"}}), false),
        (json!({"label": {"$regex": "a/x$"}}), true),
        (json!({"label": {"$regex": "^a"}}), false),
        (json!({"completed": {"$regex": ""}}), false),
        (json!({"header.msg_type": {"$regex": "^apply_"}}), true),
    ]);
}

#[test]
fn and_or_not() {
    check(&[
        (
            json!({"$or": [{"queue": "mux"}, {"label": "group_a/x"}]}),
            true,
        ),
        (json!({"$or": [{"queue": "mux"}, {"label": "no"}]}), false),
        (
            json!({"$and": [{"queue": "task"}, {"label": {"$ne": "no"}}]}),
            true,
        ),
        (
            json!({"queue": "task", "$or": [{"label": "no"}, {"completed": null}]}),
            true,
        ),
        (json!({"$not": {"queue": "task"}}), false),
        (
            json!({"$not": {"completed": {"$lt": "2030-01-01T00:00:00Z"}}}),
            true,
        ),
        (
            json!({"completed": {"$not": {"$gt": "2020-01-01T00:00:00Z"}}}),
            true,
        ),
        (json!({"label": {"$not": {"$glob": "group*"}}}), false),
        (json!({"label": {"$not": {"$gt": "a", "$lt": "b"}}}), true),
        (json!({"label": {"$not": {"$not": "group_a/x"}}}), true),
    ]);
}

#[test]
fn dots_look_into_json() {
    check(&[
        (json!({"header.msg_type": "apply_request"}), true),
        (
            json!({"header": {"$eq": {"version": 5.0, "msg_id": "m_1", "msg_type": "apply_request", "date": "2023-11-14T23:13:20+01:00"}}}),
            true,
        ),
        (json!({"header": {"$eq": {"version": 5}}}), false),
        (json!({"metadata.after.1": "b"}), true),
        (json!({"metadata.after.9": null}), true),
        (json!({"metadata.after": "b"}), true),
        (json!({"metadata.after": 7}), true),
        (json!({"metadata.after": {"$ne": "b"}}), false),
        (json!({"metadata.after": {"$eq": ["a", "b", 7]}}), true),
        (json!({"metadata.deep.list.n": 2.5}), true),
        (json!({"metadata.deep.list.n": {"$gt": 2}}), true),
        (json!({"metadata.deep.list.n": 3}), false),
        (json!({"metadata.deep.list.0.n": 1}), true),
        (json!({"metadata.targets.0.0": "u"}), true),
    ]);
}

#[test]
fn old_names_are_understood() {
    let mut record = sample();
    record.execute_input = Some("a = 1".into());
    for query in [
        json!({"pyin": "a = 1"}),
        json!({"execute_input": {"$glob": "a*"}}),
    ] {
        assert!(parse(&query).unwrap().matches(&record), "{query}");
    }
}

#[test]
fn an_object_of_a_list_that_lacks_a_name_is_null_there() {
    let mut record = sample();
    let content = json!({"a": [{"b": 1}, {"c": {"d": 2}}], "e": [{"b": 1}], "f": [1], "g": []});
    record.content = Some(content.to_string().into());
    for (query, matches) in [
        (json!({"content.a.b": 1}), true),
        (json!({"content.a.b": null}), true),
        (json!({"content.a.b": {"$ne": null}}), false),
        (json!({"content.a.b": {"$exists": true}}), true),
        (json!({"content.a.c.d": {"$in": [null]}}), true),
        (json!({"content.e.b": null}), false),
        (json!({"content.e.b": {"$all": [1]}}), true),
        (json!({"content.f.b": null}), true),
        (json!({"content.g.b": null}), true),
        (json!({"content.a.b.c": null}), true),
    ] {
        let query_of_record = parse(&query).unwrap();
        assert_eq!(query_of_record.matches(&record), matches, "{query}");
    }
}

#[test]
fn broken_json_is_null() {
    let mut record = sample();
    record.header = Some("{broken".into());
    assert!(
        parse(&json!({"header.msg_type": null}))
            .unwrap()
            .matches(&record)
    );
}

#[test]
fn errors_have_the_classes_of_the_original() {
    for (query, class, evalue) in [
        (
            json!({"complete": null}),
            "KeyError",
            "\"Illegal testing key(s): {'complete'}\"",
        ),
        (
            json!({"msg_id.x": null}),
            "KeyError",
            "\"Illegal testing key(s): {'msg_id.x'}\"",
        ),
        (
            json!({"label": {"$foo": 1}}),
            "KeyError",
            "\"Unsupported operator: '$foo'\"",
        ),
        (
            json!({"header": {"msg_id": "x"}}),
            "KeyError",
            "\"Unsupported operator: 'msg_id'\"",
        ),
        (
            json!({"$where": "x"}),
            "KeyError",
            "\"Unsupported operator: '$where'\"",
        ),
        (
            json!([1]),
            "AttributeError",
            "a query is an object, not a list",
        ),
        (
            json!({"label": {"$in": 5}}),
            "TypeError",
            "$in takes a list, not a number",
        ),
        (
            json!({"label": {"$glob": null}}),
            "TypeError",
            "$glob takes a text, not null",
        ),
        (
            json!({"$or": {"label": 1}}),
            "TypeError",
            "$or takes a list, not an object",
        ),
        (
            json!({"$and": []}),
            "TypeError",
            "$and takes a list of queries, not an empty one",
        ),
        (
            json!({"label": "x", "$or": []}),
            "TypeError",
            "$or takes a list of queries, not an empty one",
        ),
        (
            json!(null),
            "AttributeError",
            "a query is an object, not null",
        ),
        (
            json!({"label": {"$mod": [3]}}),
            "IndexError",
            "$mod takes [divisor, remainder]",
        ),
        (
            json!({"label": {"$mod": [0.0, 1]}}),
            "ZeroDivisionError",
            "$mod by zero",
        ),
        (
            json!({"label": {"$mod": [2, "x"]}}),
            "TypeError",
            "$mod takes two numbers, not a text",
        ),
    ] {
        let error = parse(&query).unwrap_err().to_remote();
        assert_eq!(
            (error.ename.as_str(), error.evalue.as_str()),
            (class, evalue),
            "{query}"
        );
    }
    let bad = parse(&json!({"label": {"$regex": "("}})).unwrap_err();
    assert_eq!(bad.class(), "ValueError");
    let huge = parse(&json!({"label": {"$regex": "(a{1000}){1000}"}})).unwrap_err();
    assert_eq!(huge.class(), "ValueError");
}

#[test]
fn nesting_has_an_end() {
    let mut query = json!({"label": null});
    for _ in 0..100 {
        query = json!({"$not": query});
    }
    assert_eq!(parse(&query).unwrap_err(), QueryError::TooDeep);
}

#[test]
fn a_query_that_names_its_records_says_so() {
    let ids = |query: Value| {
        let query = parse(&query).unwrap();
        query.named_ids().map(|ids| {
            let mut ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
            ids.sort();
            ids
        })
    };
    let some = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect());
    assert_eq!(ids(json!({"msg_id": "a"})), some(&["a"]));
    assert_eq!(
        ids(json!({"label": "x", "msg_id": {"$in": ["b", "a"]}})),
        some(&["a", "b"])
    );
    assert_eq!(ids(json!({"msg_id": {"$in": ["a", null]}})), None);
    assert_eq!(ids(json!({"msg_id": {"$ne": "a"}})), None);
    assert_eq!(ids(json!({"$or": [{"msg_id": "a"}, {"label": "x"}]})), None);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(Value::from("2023-11-14T22:13:20Z")),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(name(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "$lt",
            "$gt",
            "$lte",
            "$gte",
            "$eq",
            "$ne",
            "$in",
            "$nin",
            "$all",
            "$mod",
            "$exists",
            "$glob",
            "$ge",
            "$le",
            "$and",
            "$or",
            "$not",
            "$regex",
            "msg_id",
            "header.msg_type",
            "metadata.after",
            "metadata",
            "submitted",
            "buffers",
            "label",
        ])
        .prop_map(str::to_owned),
        ".{0,6}",
    ]
}

proptest! {
    #[test]
    fn no_json_makes_a_query_panic(query in any_json(), content in any_json()) {
        let mut record = sample();
        record.content = Some(content.to_string().into());
        record.metadata = Some(query.to_string().into());
        if let Ok(query) = parse(&query) {
            query.matches(&record);
            query.named_ids();
        }
        for key in ["metadata", "content", "label", "submitted"] {
            if let Ok(plain) = parse(&json!({key: query})) {
                let negated = parse(&json!({"$not": {key: query}})).unwrap();
                prop_assert_ne!(plain.matches(&record), negated.matches(&record));
            }
        }
    }
}
