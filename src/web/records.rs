//! Records of the task database, as the page asks for them: the database's own queries.

use serde_json::{Map, Value, json};

/// Records of one answer.
pub(super) const RECORDS: usize = 200;

/// What a row of the table needs; never buffers.
const KEYS: [&str; 8] = [
    "msg_id",
    "label",
    "queue",
    "engine_uuid",
    "client_uuid",
    "submitted",
    "started",
    "completed",
];

/// What is shown of one record.
const ALL_KEYS: [&str; 20] = [
    "msg_id",
    "label",
    "queue",
    "engine_uuid",
    "client_uuid",
    "submitted",
    "started",
    "completed",
    "received",
    "resubmitted",
    "header",
    "metadata",
    "content",
    "result_header",
    "result_metadata",
    "result_content",
    "execute_input",
    "execute_result",
    "stdout",
    "stderr",
];

/// The content of a `db_request` for the ids of what matches.
pub(super) fn ids(query: &Value) -> Value {
    json!({"query": query, "keys": ["msg_id"]})
}

/// … for the rows of these.
pub(super) fn rows(ids: &[String]) -> Value {
    let keys: Vec<&str> = KEYS.into_iter().chain(["result_metadata"]).collect();
    json!({"query": {"msg_id": {"$in": ids}}, "keys": keys})
}

/// … for everything of one.
pub(super) fn one(msg_id: &str) -> Value {
    let keys: Vec<&str> = ALL_KEYS.into_iter().chain(["error"]).collect();
    json!({"query": {"msg_id": msg_id}, "keys": keys})
}

/// The last [`RECORDS`] ids of an answer, newest first, and how many there were.
pub(super) fn newest(answer: &Value) -> (Vec<String>, usize) {
    let records = answer["records"].as_array().map_or(&[][..], Vec::as_slice);
    let ids = records
        .iter()
        .rev()
        .filter_map(|record| record["msg_id"].as_str());
    (
        ids.take(RECORDS).map(str::to_owned).collect(),
        records.len(),
    )
}

/// Rows in the order of these ids. Of a result's metadata only the status is of interest.
pub(super) fn in_order(ids: &[String], answer: &mut Value) -> Vec<Value> {
    let records = answer["records"].as_array_mut().map(std::mem::take);
    let mut by_id: Map<String, Value> = Map::new();
    for mut record in records.unwrap_or_default() {
        let status = record["result_metadata"]["status"].take();
        if let Some(fields) = record.as_object_mut() {
            fields.remove("result_metadata");
            fields.insert("status".to_owned(), status);
        }
        if let Some(msg_id) = record["msg_id"].as_str().map(str::to_owned) {
            by_id.insert(msg_id, record);
        }
    }
    ids.iter().filter_map(|id| by_id.remove(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first() {
        let answer = json!({"records": (0..300).map(|n| json!({"msg_id": n.to_string()})).collect::<Vec<_>>()});
        let (ids, count) = newest(&answer);
        assert_eq!((ids.len(), count), (RECORDS, 300));
        assert_eq!(ids[..2], ["299", "298"]);
        let mut rows = json!({"records": [
            {"msg_id": "298", "result_metadata": {"status": "error", "x": 1}},
            {"msg_id": "299", "result_metadata": null},
        ]});
        let rows = in_order(&ids, &mut rows);
        assert_eq!(rows[0], json!({"msg_id": "299", "status": null}));
        assert_eq!(rows[1], json!({"msg_id": "298", "status": "error"}));
    }
}
