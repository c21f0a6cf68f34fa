//! Questions that only the schedulers can answer, put to all of them and answered together.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashMap;
use serde_json::{Map, Value, json};

use super::registry::EngineFacts;
use super::{Action, Request, StorageFault, Token};
use crate::protocol::{EngineId, EngineUuid, Identity, MsgId, RemoteError};

/// What a scheduler is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspection {
    /// The state of its queues; with `ids`, which requests they are.
    Queues { ids: bool },
    /// What has become of these requests.
    Status(Vec<MsgId>),
}

/// A scheduler's answer.
#[derive(Clone, Debug)]
pub enum Report {
    Queues(QueueReport),
    /// Requests that this scheduler knows; others are left out.
    Status(Vec<(MsgId, ReportedStatus)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedStatus {
    Pending,
    Finished,
}

/// The queues of one scheduler.
#[derive(Clone, Debug, Default)]
pub struct QueueReport {
    pub engines: HashMap<EngineUuid, EngineQueue>,
    /// Tasks that no engine has yet.
    pub unassigned: Listing,
}

/// What one scheduler has at one engine.
#[derive(Clone, Debug, Default)]
pub struct EngineQueue {
    /// Direct requests that are not answered yet.
    pub queue: Listing,
    /// Tasks that are not answered yet.
    pub tasks: Listing,
    pub completed: Listing,
    /// Of the completed ones.
    pub failed: u64,
}

/// A number of requests, and, where asked for and still known, which they are.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub count: u64,
    pub ids: Vec<MsgId>,
}

impl Listing {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.ids.extend(other.ids);
    }

    fn to_json(&self, verbose: bool) -> Value {
        if verbose {
            json!(self.ids)
        } else {
            json!(self.count)
        }
    }
}

/// Inspections under way.
#[derive(Debug, Default)]
pub(super) struct Inspections {
    pending: HashMap<Token, Pending>,
}

#[derive(Debug)]
struct Pending {
    reports: Vec<Report>,
    to: Identity,
    parent: Bytes,
    purpose: Purpose,
}

/// What the reports are put together into.
#[derive(Debug)]
pub(super) enum Purpose {
    QueueStatus {
        targets: Vec<(EngineId, EngineUuid)>,
        verbose: bool,
        /// Told where there is one; clients of ipyparallel take every key for an engine otherwise.
        database: Option<StorageFault>,
    },
    /// What `ipcluster status` and an elastic cluster look at.
    Status {
        engines: Vec<EngineFacts>,
        database: Option<StorageFault>,
    },
    Load {
        targets: Vec<(EngineId, EngineUuid)>,
    },
    ResultStatus {
        msg_ids: Vec<MsgId>,
    },
    /// Without a database there is nothing to purge, but purging what is pending is refused.
    Purge {
        msg_ids: Vec<MsgId>,
    },
}

impl Inspections {
    pub(super) fn begin(
        &mut self,
        token: Token,
        request: &Request,
        purpose: Purpose,
        out: &mut Vec<Action>,
    ) {
        let what = match &purpose {
            Purpose::QueueStatus { verbose, .. } => Inspection::Queues { ids: *verbose },
            Purpose::Status { .. } | Purpose::Load { .. } => Inspection::Queues { ids: false },
            Purpose::ResultStatus { msg_ids } | Purpose::Purge { msg_ids } => {
                Inspection::Status(msg_ids.clone())
            }
        };
        let (to, parent) = (request.from.clone(), request.header.clone());
        self.pending.insert(
            token,
            Pending {
                reports: Vec::new(),
                to,
                parent,
                purpose,
            },
        );
        out.push(Action::Inspect { token, what });
    }

    pub(super) fn on_report(
        &mut self,
        token: Token,
        report: Report,
        schedulers: usize,
        out: &mut Vec<Action>,
    ) {
        let Some(pending) = self.pending.get_mut(&token) else {
            return;
        };
        pending.reports.push(report);
        if pending.reports.len() < schedulers {
            return;
        }
        if let Some(pending) = self.pending.remove(&token) {
            let (msg_type, content) = pending.purpose.conclude(pending.reports);
            out.push(Action::Reply {
                to: pending.to,
                msg_type: msg_type.to_owned(),
                parent: pending.parent,
                content,
            });
        }
    }
}

impl Purpose {
    fn conclude(self, reports: Vec<Report>) -> (&'static str, Value) {
        match self {
            Self::QueueStatus {
                targets,
                verbose,
                database,
            } => {
                let report = merge_queues(reports);
                let mut content = Map::new();
                content.insert("status".to_owned(), json!("ok"));
                for (id, uuid) in targets {
                    let engine = report.engines.get(&uuid).cloned().unwrap_or_default();
                    content.insert(
                        id.to_string(),
                        json!({
                            "queue": engine.queue.to_json(verbose),
                            "completed": engine.completed.to_json(verbose),
                            "tasks": engine.tasks.to_json(verbose),
                        }),
                    );
                }
                content.insert("unassigned".to_owned(), report.unassigned.to_json(verbose));
                if let Some(fault) = database {
                    content.insert("database".to_owned(), json!(fault));
                }
                ("queue_reply", content.into())
            }
            Self::Status { engines, database } => (
                "status_reply",
                status(engines, database, merge_queues(reports)),
            ),
            Self::Load { targets } => {
                let report = merge_queues(reports);
                let mut content = Map::new();
                content.insert("status".to_owned(), json!("ok"));
                for (id, uuid) in targets {
                    let load = report
                        .engines
                        .get(&uuid)
                        .map_or(0, |engine| engine.queue.count + engine.tasks.count);
                    content.insert(id.to_string(), json!(load));
                }
                ("load_reply", content.into())
            }
            Self::ResultStatus { msg_ids } => (
                "result_reply",
                result_status(&msg_ids, &merge_status(reports)),
            ),
            Self::Purge { msg_ids } => {
                let status = merge_status(reports);
                let pending = msg_ids
                    .iter()
                    .find(|id| status.get(*id) == Some(&ReportedStatus::Pending));
                let content = match pending {
                    Some(id) => {
                        RemoteError::new("IndexError", format!("msg pending: '{id}'")).to_content()
                    }
                    None => json!({ "status": "ok" }),
                };
                ("purge_reply", content)
            }
        }
    }
}

/// The content of a `status_reply`, to which the hub's thread adds what it knows of the process.
fn status(engines: Vec<EngineFacts>, database: Option<StorageFault>, report: QueueReport) -> Value {
    let engines: Map<String, Value> = engines
        .into_iter()
        .map(|facts| {
            let load = report.engines.get(&facts.uuid);
            let load = load.cloned().unwrap_or_default();
            let fields = json!({
                "uuid": facts.uuid,
                "host": facts.origin.host,
                "pid": facts.origin.pid,
                "set": facts.origin.set,
                "state": if facts.is_published { "registered" } else { "starting" },
                "seconds": facts.age.as_secs_f64(),
                "queue": load.queue.count,
                "tasks": load.tasks.count,
                "completed": load.completed.count,
                "failed": load.failed,
            });
            (facts.id.to_string(), fields)
        })
        .collect();
    json!({
        "status": "ok",
        "engines": engines,
        "unassigned": report.unassigned.count,
        "database_fault": database,
    })
}

fn merge_queues(reports: Vec<Report>) -> QueueReport {
    let mut merged = QueueReport::default();
    for report in reports {
        let Report::Queues(report) = report else {
            continue;
        };
        merged.unassigned.add(report.unassigned);
        for (uuid, queue) in report.engines {
            let engine = merged.engines.entry(uuid).or_default();
            engine.queue.add(queue.queue);
            engine.tasks.add(queue.tasks);
            engine.completed.add(queue.completed);
            engine.failed += queue.failed;
        }
    }
    merged
}

fn merge_status(reports: Vec<Report>) -> BTreeMap<MsgId, ReportedStatus> {
    reports
        .into_iter()
        .flat_map(|report| match report {
            Report::Status(known) => known,
            Report::Queues(_) => Vec::new(),
        })
        .collect()
}

/// `result_reply` without results (ipyparallel `Hub.get_results` with `status_only`): sorted, and an unknown id fails
/// the whole request.
fn result_status(msg_ids: &[MsgId], known: &BTreeMap<MsgId, ReportedStatus>) -> Value {
    let mut sorted: Vec<&MsgId> = msg_ids.iter().collect();
    sorted.sort();
    sorted.dedup();
    let (mut pending, mut completed) = (Vec::new(), Vec::new());
    for id in sorted {
        match known.get(id) {
            Some(ReportedStatus::Pending) => pending.push(id),
            Some(ReportedStatus::Finished) => completed.push(id),
            None => {
                return RemoteError::key_error(&format!("No such message: {id}")).to_content();
            }
        }
    }
    json!({ "status": "ok", "pending": pending, "completed": completed })
}
