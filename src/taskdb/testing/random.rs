//! Random records and queries.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::time;
use crate::protocol::Timestamp;
use crate::taskdb::record::{Queue, TaskRecord};

/// A few values, so that random queries find something.
const WORDS: [&str; 18] = [
    "a",
    "b",
    "ab",
    "",
    "é",
    "e\u{301}",
    "\u{10ffff}",
    "2023-11-14T22:13:21Z",
    "2023-11-14T22:13:21.000000",
    "2023-11-14T23:13:21+01:00",
    "2023-11-14T22:13:20.999999Z",
    "z\0",
    "z\0z",
    "A",
    "a\n",
    "1",
    "m1",
    "$a",
];

/// Dates of queries, besides those of records: between milliseconds, in zones, at the ends of time, and what only a date
/// field takes for one.
const DATES: [&str; 14] = [
    "2023-11-14T22:13:20.000500Z",
    "2023-11-14T22:13:20.999Z",
    "2023-11-14T22:13:20.999500-00:00",
    "2023-11-14T23:43:21+0130",
    "2023-11-14T22:13:22",
    "1969-12-31T23:59:59.999Z",
    "1969-12-31T23:59:59.998500Z",
    "0001-01-01T00:00:00",
    "9999-12-31T23:59:59.999999",
    "2023-11-14",
    "2023-11-15 00:00",
    "2023-11-14T22",
    "20231114T221321Z",
    "2023-02-30T00:00:00",
];

/// JSON that no `Value` makes, or that is none.
const ODD_JSON: [&str; 12] = [
    "{broken",
    "",
    "NaN",
    r#"{"a":NaN}"#,
    "null",
    "5",
    r#""a""#,
    r#"[1,{"a":1},{"b":2}]"#,
    r#"{"a":1,"a":2}"#,
    r#"{"a":1180591620717411303424,"b":-0}"#,
    r#"{"$a":1,"a.b":2,"":3,"a":{"$b":1,"\u0000":2}}"#,
    r#"{"a":[[[[1]]],[]],"b":[{"a":1},{"b":[{"a":null}]}]}"#,
];

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(&WORDS[..]).prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = Value> {
    const WHOLE: i64 = 1 << 53;
    prop_oneof![
        3 => (-3..4_i64).prop_map(Value::from),
        1 => prop::sample::select(vec![i64::MIN, i64::MAX, WHOLE, WHOLE + 1]).prop_map(Value::from),
        1 => Just(Value::from(u64::MAX)),
        2 => prop::sample::select(vec![0.5, -1.0, 2.0, 1e300, -0.0, 5e-324, 9_007_199_254_740_992.0, 1e19])
            .prop_map(Value::from),
    ]
}

fn small_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => number(),
        1 => word().prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

pub(crate) fn any_record() -> impl Strategy<Value = TaskRecord> {
    let text = || prop::option::of(word());
    let date = || {
        let some = prop_oneof![
            4 => (0..3_i64).prop_map(time),
            1 => prop::sample::select(vec![-1_000, 0, 1_000]).prop_map(Timestamp::from_micros),
        ];
        prop::option::of(some)
    };
    let json = || {
        let map = prop::collection::btree_map("[ab]", small_json(), 0..3);
        prop_oneof![
            1 => Just(None),
            6 => map.prop_map(|map| Some(Bytes::from(json!(map).to_string()))),
            2 => prop::sample::select(&ODD_JSON[..]).prop_map(|text| Some(Bytes::from(text))),
        ]
    };
    (
        (text(), text(), date(), date(), word(), text()),
        (
            json(),
            json(),
            json(),
            any::<bool>(),
            prop::option::of(0..3_u8),
        ),
    )
        .prop_map(
            |(
                (label, engine, submitted, completed, stdout, input),
                (header, metadata, error, result, queue),
            )| {
                let mut record = TaskRecord::new("m".into());
                record.label = label.map(Into::into);
                record.engine_uuid = engine.map(|text| text.as_str().into());
                record.submitted = submitted;
                record.completed = completed;
                record.stdout = stdout;
                record.execute_input = input.map(Into::into);
                record.header = header;
                record.metadata = metadata;
                record.error = error;
                record.result_buffers = result.then(Vec::new);
                record.queue =
                    queue.map(|n| [Queue::Mux, Queue::Task, Queue::Broadcast][usize::from(n)]);
                record
            },
        )
}

pub(crate) fn any_query() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "msg_id",
        "label",
        "engine_uuid",
        "submitted",
        "completed",
        "stdout",
        "execute_input",
        "header",
        "header.a",
        "header.",
        "header.$a",
        "header.a.$b",
        "metadata.b",
        "metadata.a.0",
        "metadata.a.b",
        "metadata.a.0.0",
        "metadata.b.1.b.a",
        "error",
        "error.a",
        "pyerr.1.b",
        "result_buffers",
        "buffers",
        "queue",
    ]);
    let value = || {
        prop_oneof![
            2 => small_json(),
            1 => Just(Value::Null),
            2 => word().prop_map(Value::from),
            2 => (0..3_i64).prop_map(|n| json!(time(n))),
            1 => prop::sample::select(&DATES[..]).prop_map(Value::from),
            1 => prop::sample::select(vec!["task", "mux", "m0", "m1", "m11"]).prop_map(Value::from),
        ]
    };
    let list = || prop::collection::vec(value(), 0..4).prop_map(Value::from);
    let pattern = prop::sample::select(vec![
        "*",
        "a*",
        "?",
        "[!a]*",
        "é*",
        "ab",
        "",
        "*\0",
        "z\0*",
        "\u{10ffff}*",
        "[",
        "[a-",
        "?*?",
        "m[0-2]",
    ]);
    let regex = prop::sample::select(vec![
        "^a", "b$", "", ".", "^$", "(?i)^A$", "(?s)^..$", "\\x00", "é|b",
    ]);
    let remainder = prop::sample::select(vec![
        json!([2, 0]),
        json!([2, 1]),
        json!([-3, -1]),
        json!([2.5, 0]),
        json!([1, 0.0]),
        json!([i64::MIN, 0]),
        json!([u64::MAX, 1]),
        json!([-1e300, 0]),
    ]);
    let truth = prop::sample::select(vec![
        json!(true),
        json!(false),
        json!(0),
        json!(-0.0),
        json!(null),
        json!(""),
        json!("0"),
        json!([]),
        json!({}),
        json!(2),
    ]);
    let test = prop_oneof![
        4 => (prop::sample::select(vec!["$lt", "$lte", "$gt", "$gte", "$eq", "$ne", "$ge", "$le"]), value())
            .prop_map(|(operator, value)| json!({operator: value})),
        3 => (prop::sample::select(vec!["$in", "$nin", "$all"]), list())
            .prop_map(|(operator, list)| json!({operator: list})),
        1 => remainder.prop_map(|remainder| json!({"$mod": remainder})),
        1 => truth.prop_map(|truth| json!({"$exists": truth})),
        1 => pattern.prop_map(|pattern| json!({"$glob": pattern})),
        1 => regex.prop_map(|pattern| json!({"$regex": pattern})),
        1 => (value(), value()).prop_map(|(low, high)| json!({"$gte": low, "$lt": high})),
        1 => Just(json!({})),
        // A bare object would be operators.
        2 => value().prop_map(|value| if value.is_object() { json!({"$eq": value}) } else { value }),
    ];
    let test = test.prop_flat_map(|test| {
        let negated = json!({"$not": test});
        prop_oneof![4 => Just(test), 1 => Just(negated)]
    });
    let one = prop_oneof![
        20 => (key, test).prop_map(|(key, test)| json!({key: test})),
        1 => Just(json!({})),
    ];
    one.prop_recursive(3, 12, 3, |inner| {
        let some = || prop::collection::vec(inner.clone(), 1..3);
        prop_oneof![
            some().prop_map(|all| json!({"$and": all})),
            some().prop_map(|any| json!({"$or": any})),
            inner.clone().prop_map(|query| json!({"$not": query})),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| {
                let mut both = a;
                if let (Value::Object(both), Value::Object(b)) = (&mut both, b) {
                    both.extend(b);
                }
                both
            }),
        ]
    })
}
