//! The questions that are about records: results, history, queries, purging and resubmission (`hub.get_results`,
//! `get_history`, `db_query`, `purge_results`, `resubmit_task`).

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Ask, Lookup, Recorder};
use crate::hub::content::parse;
use crate::protocol::python::repr;
use crate::protocol::{EngineId, EngineUuid, RemoteError};
use crate::taskdb::{Key, Query, StoreError, TaskStore};

/// The requests that [`Recorder::answer`] answers.
pub const QUESTIONS: [&str; 6] = [
    "result_request",
    "history_request",
    "db_request",
    "purge_request",
    "resubmit_request",
    "db_stats_request",
];

impl<S: TaskStore> Recorder<S> {
    /// A question that changes nothing, to be answered by whoever has a reader; [`None`] for any other. What it is about
    /// has to be flushed before. The error is the answer to what cannot be understood.
    pub fn lookup(&self, msg_type: &str, content: &[u8]) -> Option<Result<Lookup, Answer>> {
        Lookup::of(msg_type, content, &self.pending, &self.local)
    }

    /// Answers one of [`QUESTIONS`]; anything else, and what cannot be understood, with a `hub_error`.
    pub fn answer(&mut self, msg_type: &str, content: &[u8], ask: &mut Ask<'_>) -> Answer {
        if let Some(lookup) = self.lookup(msg_type, content) {
            return match lookup {
                Ok(lookup) => lookup.answer(&mut self.store),
                Err(answer) => answer,
            };
        }
        let answer = match msg_type {
            "purge_request" => parse(content).map(|request| self.purge(&request, ask)),
            "resubmit_request" => parse(content).and_then(|request: ResubmitRequest| {
                let msg_ids = request.msg_ids.list()?;
                Ok(self.resubmit(&msg_ids, ask))
            }),
            "db_stats_request" => Ok(self.stats(ask)),
            other => {
                let text = format!("Bad Message Type: {}", repr(other));
                Err(RemoteError::key_error(&text))
            }
        };
        answer.unwrap_or_else(|error| Answer::hub_error(&error))
    }

    /// `{place, records, bytes, unfinished, behind, delay, longest_delay, waiting, waiting_bytes, lost, fault}`: ours, for
    /// `ipcluster db stats`. Delays are in seconds. A store at fault is no reason not to say what waits: then it is not
    /// known how much it has.
    fn stats(&mut self, ask: &Ask<'_>) -> Answer {
        let (stats, fault) = match self.store.stats() {
            Ok(stats) => (Some(stats), None),
            Err(error) => (None, Some(error)),
        };
        let backlog = self.store.backlog();
        let content = json!({
            "status": "ok",
            "place": self.store.place(),
            "records": stats.map(|stats| stats.records),
            "bytes": stats.map(|stats| stats.bytes),
            "unfinished": self.pending.len(),
            "behind": ask.behind.reports,
            "delay": ask.behind.delays.last.as_secs_f64(),
            "longest_delay": ask.behind.delays.longest.as_secs_f64(),
            "waiting": backlog.records,
            "waiting_bytes": backlog.bytes,
            "lost": backlog.refused,
            "fault": fault.map(|error| json!({ "error": error.to_string(), "remedy": error.remedy() })),
        });
        Answer::json("db_stats_reply", &content)
    }

    fn purge(&mut self, request: &PurgeRequest, ask: &Ask<'_>) -> Answer {
        let outcome = self.try_purge(request, ask);
        match outcome {
            Ok(()) => Answer::json("purge_reply", &json!({"status": "ok"})),
            Err(error) => Answer::error("purge_reply", &error),
        }
    }

    fn try_purge(&mut self, request: &PurgeRequest, ask: &Ask<'_>) -> Result<(), RemoteError> {
        let remote = |error: StoreError| error.to_remote();
        if request.msg_ids.0 == "all" {
            let finished = Query::completed(true);
            return self.store.remove(&finished).map(drop).map_err(remote);
        }
        let msg_ids = request.msg_ids.list()?;
        if let Some(pending) = msg_ids.iter().find(|id| self.pending.contains(id)) {
            let text = format!("msg pending: {}", repr(pending));
            return Err(RemoteError::new("IndexError", text));
        }
        if !msg_ids.is_empty() {
            let query = Query::msg_ids(msg_ids.iter().map(String::as_str));
            self.store.remove(&query).map_err(remote)?;
        }
        let engines = match &request.engine_ids {
            Value::Null => &[],
            Value::Array(engines) => engines.as_slice(),
            one => std::slice::from_ref(one),
        };
        for id in engines {
            let uuid = engine(id, ask)
                .ok_or_else(|| RemoteError::new("IndexError", format!("No such engine: {id}")))?;
            let results = Query::text(Key::EngineUuid, uuid.as_str());
            self.store
                .remove(&results.and(Query::completed(true)))
                .map_err(remote)?;
        }
        Ok(())
    }
}

fn engine(id: &Value, ask: &Ask<'_>) -> Option<EngineUuid> {
    let id = u32::try_from(id.as_u64()?).ok()?;
    (ask.engine)(EngineId(id))
}

#[derive(Deserialize)]
struct PurgeRequest {
    #[serde(default)]
    msg_ids: MsgIds,
    #[serde(default)]
    engine_ids: Value,
}

#[derive(Deserialize)]
struct ResubmitRequest {
    msg_ids: MsgIds,
}

/// A list of msg_ids, or one of them.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct MsgIds(Value);

impl Default for MsgIds {
    fn default() -> Self {
        Self(Value::Array(Vec::new()))
    }
}

impl MsgIds {
    pub(super) fn list(&self) -> Result<Vec<String>, RemoteError> {
        let wrong = || RemoteError::new("TypeError", "msg_ids is a list of texts");
        match &self.0 {
            Value::String(one) => Ok(vec![one.clone()]),
            Value::Array(ids) => ids
                .iter()
                .map(|id| id.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect(),
            _ => Err(wrong()),
        }
    }
}
