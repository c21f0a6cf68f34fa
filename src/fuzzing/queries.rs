//! Queries of task records.

use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::protocol::Timestamp;
use crate::taskdb::{Query, Queue, TaskRecord};

/// A query document: whatever it is, a record matches either it or its negation.
pub fn query(data: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Value>(data) else {
        return;
    };
    let Ok(query) = Query::parse(&document, &TimeZone::UTC) else {
        return;
    };
    let Ok(negated) = Query::parse(&json!({ "$not": document }), &TimeZone::UTC) else {
        // One level deeper than is allowed.
        return;
    };
    for record in records() {
        assert_ne!(query.matches(&record), negated.matches(&record));
    }
}

/// One with nothing in it, and one with much.
fn records() -> [TaskRecord; 2] {
    let bare = TaskRecord::new("session_1_1".into());
    let mut full = TaskRecord::new("session_1_2".into());
    let at = |seconds: i64| Some(Timestamp::from_micros(seconds * 1_000_000));
    full.header = Some(r#"{"msg_type": "apply_request", "version": "5.3"}"#.into());
    full.metadata = Some(r#"{"retries": 2, "after": ["a", "b"], "targets": null}"#.into());
    full.result_content = Some(r#"{"status": "ok", "n": 1.5}"#.into());
    full.buffers = Some(vec!["abc".into()]);
    full.submitted = at(1_700_000_000);
    full.completed = at(1_700_000_001);
    full.queue = Some(Queue::Task);
    full.label = Some("night/1".into());
    full.stdout = "line\nline".to_owned();
    [bare, full]
}
