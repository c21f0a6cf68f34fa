//! What a running cluster tells of itself, as the verbs that show it need it: through its dashboard, or less of it
//! through its hub.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::setup::Setup;
use crate::cli::target::{hub, running};
use crate::cli::{Failure, dashboard};
use crate::hubclient::HubClient;
use crate::web::Visit;

/// How long a hub has for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom to ask.
pub(super) enum Watched {
    Dashboard(Visit),
    /// It knows the engines and their queues, and no single task.
    Hub(Box<HubClient>),
}

/// The running cluster of this profile and cluster id.
pub(super) fn find(setup: &Setup) -> Result<Watched, Failure> {
    if let Some(address) = dashboard::find(setup)? {
        return Ok(Watched::Dashboard(Visit::new(address)));
    }
    running(setup)?;
    Ok(Watched::Hub(Box::new(hub(setup)?)))
}

/// The hub's figures in the dashboard's words.
pub(super) fn state_of_hub(client: &mut HubClient) -> Result<Value, Failure> {
    let reply = client.request("queue_request", json!({}), PATIENCE)?;
    Ok(of_queues(&reply))
}

fn of_queues(reply: &Value) -> Value {
    let number = |engine: &Value, key: &str| engine[key].as_u64().unwrap_or(0);
    let mut engines: Vec<Value> = reply
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(id, engine)| {
            let id: u32 = id.parse().ok()?;
            Some(json!({
                "id": id,
                "tasks": number(engine, "tasks"),
                "queue": number(engine, "queue"),
                "completed": number(engine, "completed"),
            }))
        })
        .collect();
    engines.sort_by_key(|engine| engine["id"].as_u64());
    let sum = |key: &str| {
        engines
            .iter()
            .map(|engine| number(engine, key))
            .sum::<u64>()
    };
    let totals = json!({"all": {
        "ok": sum("completed"), "running": sum("tasks") + sum("queue"), "waiting": reply["unassigned"],
    }});
    json!({"kind": "state", "engines": engines, "totals": totals})
}

/// An engine, as far as it is shown in a terminal.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Engine {
    pub(super) id: u32,
    pub(super) phase: Phase,
    /// Why it has left.
    pub(super) how: Option<String>,
    /// Microseconds since the controller's beginning: when the phase began.
    pub(super) since: i64,
    pub(super) host: Option<String>,
    pub(super) pid: Option<i64>,
    pub(super) tasks: u64,
    pub(super) queue: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) memory: Option<u64>,
    pub(super) cpu: Option<f64>,
    pub(super) current: Option<Current>,
}

/// What an engine's life has come to (`observe::Phase`).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    Starting,
    Restarting,
    Dead,
    /// A hub tells of no others.
    #[default]
    #[serde(other)]
    Up,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Current {
    pub(super) name: String,
    pub(super) label: Option<String>,
    /// Microseconds since the controller's beginning.
    pub(super) since: i64,
}

/// A client's progress.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Client {
    pub(super) client: String,
    pub(super) total: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    /// They wait for others.
    #[serde(default)]
    pub(super) blocked: u64,
    /// They wait for an engine.
    #[serde(default)]
    pub(super) ready: u64,
    pub(super) left: Option<f64>,
    pub(super) name: Option<String>,
    pub(super) at: i64,
}

/// A task that has ended (`observe::Entry::to_json`).
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Ended {
    pub(super) seq: u64,
    pub(super) engine: Option<u32>,
    pub(super) started: i64,
    pub(super) ended: i64,
    pub(super) status: String,
    pub(super) name: String,
    pub(super) label: Option<String>,
    pub(super) msg_id: String,
    pub(super) client: String,
    pub(super) submitted: Option<i64>,
    pub(super) queue: String,
    pub(super) error: Option<String>,
}

/// Requests of all queues together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) waiting: u64,
    /// Of those that wait, the ones that wait for others.
    pub(super) blocked: u64,
    pub(super) running: u64,
    pub(super) ok: u64,
    pub(super) failed: u64,
    pub(super) aborted: u64,
}

/// What was told so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) about: String,
    /// Milliseconds since 1970 at the controller's beginning.
    pub(super) started: f64,
    /// Microseconds since then.
    pub(super) now: i64,
    pub(super) engines: BTreeMap<u32, Engine>,
    /// Engines that are started and of which nothing was heard yet.
    pub(super) expected: u64,
    pub(super) clients: BTreeMap<String, Client>,
    pub(super) totals: Totals,
    /// The last sample (`observe::Sample::to_json`).
    pub(super) sample: Vec<Option<f64>>,
    /// Requests that ended well, per second, of the last minutes.
    pub(super) rates: VecDeque<f64>,
}

/// Samples that are drawn.
const RATES: usize = 240;

impl Model {
    /// Takes a message of the dashboard: all of it, or what has changed. Tasks that have ended are handed back.
    pub(super) fn apply(&mut self, message: &Value) -> Vec<Ended> {
        if message["kind"] == "state" {
            *self = Self::default();
            let text = |key: &str| message["about"][key].as_str().unwrap_or_default();
            self.about = match text("cluster_id") {
                "" => text("profile").to_owned(),
                id => format!("{} {id}", text("profile")),
            };
            self.started = message["started"].as_f64().unwrap_or(0.0);
        }
        self.now = message["now"].as_i64().unwrap_or(self.now);
        for engine in list::<Engine>(&message["engines"]) {
            self.engines.insert(engine.id, engine);
        }
        for id in list::<u32>(&message["gone"]) {
            self.engines.remove(&id);
        }
        if let Some(sets) = message["expected"].as_array() {
            let engines = sets.iter().filter_map(|set| set["engines"].as_u64());
            self.expected = engines.sum();
        }
        for client in list::<Client>(&message["clients"]) {
            self.clients.insert(client.client.clone(), client);
        }
        while self.clients.len() > 200 {
            let oldest = self.clients.values().min_by_key(|client| client.at);
            let Some(oldest) = oldest.map(|client| client.client.clone()) else {
                break;
            };
            self.clients.remove(&oldest);
        }
        if let Some(queues) = message["totals"].as_object() {
            let sum = |key: &str| {
                queues
                    .values()
                    .filter_map(|queue| queue[key].as_u64())
                    .sum()
            };
            self.totals = Totals {
                waiting: sum("waiting"),
                blocked: sum("blocked"),
                running: sum("running"),
                ok: sum("ok"),
                failed: sum("failed"),
                aborted: sum("aborted"),
            };
        }
        for sample in list::<Vec<Option<f64>>>(&message["samples"]) {
            if self.sample.first() != sample.first() {
                self.rates
                    .push_back(sample.get(2).copied().flatten().unwrap_or(0.0));
                self.sample = sample;
            }
        }
        let surplus = self.rates.len().saturating_sub(RATES);
        self.rates.drain(..surplus);
        list(&message["stream"])
    }
}

/// What can be read of a list; another version may know more kinds of things.
fn list<'a, T: Deserialize<'a>>(value: &'a Value) -> Vec<T> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| T::deserialize(item).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_put_over_what_was_told() {
        let mut model = Model::default();
        let state = json!({
            "kind": "state", "started": 5.0, "now": 10, "about": {"profile": "lab", "cluster_id": "x"},
            "engines": [{"id": 0, "uuid": "a", "tasks": 1}, {"id": 1, "uuid": "b"}],
            "totals": {"task": {"ok": 2, "waiting": 1}, "mux": {"ok": 3, "failed": 1}},
            "samples": [[1, 0.0, 4.0, 0.0], [2, 0.0, 5.0, 0.0]],
            "stream": [[0, 1, 5, 9, "ok", "f", null, "m", "c", null, "task", null]],
        });
        let ended = model.apply(&state);
        assert_eq!(
            (ended.len(), &*ended[0].name, ended[0].engine),
            (1, "f", Some(1))
        );
        assert_eq!(model.about, "lab x");
        assert_eq!(
            (model.totals.ok, model.totals.failed, model.totals.waiting),
            (5, 1, 1)
        );
        let changes = json!({"kind": "changes", "now": 20, "engines": [{"id": 1, "tasks": 2}], "gone": [0], "samples": [[2], [3, 0, 6]]});
        assert!(model.apply(&changes).is_empty());
        assert_eq!(model.engines.keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!(model.engines[&1].tasks, 2);
        assert_eq!(model.rates, [4.0, 5.0, 6.0]);
        assert_eq!(model.totals.ok, 5);
    }

    #[test]
    fn a_hub_says_less() {
        let reply = json!({"status": "ok", "unassigned": 7, "10": {"queue": 1, "completed": 5, "tasks": 2}, "2": {"completed": 1}});
        let mut model = Model::default();
        model.apply(&of_queues(&reply));
        assert_eq!(model.engines.keys().copied().collect::<Vec<_>>(), [2, 10]);
        let totals = model.totals;
        assert_eq!((totals.waiting, totals.running, totals.ok), (7, 3, 6));
    }
}
