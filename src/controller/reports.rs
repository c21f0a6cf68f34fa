//! Schedulers' answers to the hub's inspections.

use hashbrown::HashMap;

use crate::hub::{EngineQueue, Inspection, Listing, QueueReport, Report, ReportedStatus};
use crate::protocol::{EngineUuid, MsgId};
use crate::scheduler::{BroadcastScheduler, DirectScheduler, Payload, TaskScheduler, TaskStatus};

pub(super) fn of_tasks<P: Payload>(scheduler: &TaskScheduler<P>, what: &Inspection) -> Report {
    match what {
        Inspection::Status(ids) => status_of(ids, |id| match scheduler.status(id)? {
            TaskStatus::Finished { .. } => Some(ReportedStatus::Finished),
            TaskStatus::Waiting | TaskStatus::Running(_) => Some(ReportedStatus::Pending),
        }),
        Inspection::Queues { ids } => {
            let snapshot = scheduler.snapshot();
            let mut engines: HashMap<EngineUuid, EngineQueue> = HashMap::new();
            for engine in snapshot.engines {
                let tasks = if *ids {
                    listing(scheduler.pending_ids(&engine.uuid))
                } else {
                    count(engine.pending)
                };
                let queue = EngineQueue {
                    tasks,
                    completed: count(engine.completed),
                    failed: engine.failed,
                    ..EngineQueue::default()
                };
                engines.insert(engine.uuid, queue);
            }
            let unassigned = if *ids {
                listing(scheduler.waiting_ids())
            } else {
                count(snapshot.waiting)
            };
            Report::Queues(QueueReport {
                engines,
                unassigned,
            })
        }
    }
}

pub(super) fn of_direct<H>(scheduler: &DirectScheduler<H>, what: &Inspection) -> Report {
    match what {
        Inspection::Status(ids) => status_of(ids, |id| {
            let finished = || {
                scheduler
                    .is_finished(id)
                    .then_some(ReportedStatus::Finished)
            };
            if scheduler.is_pending(id) {
                Some(ReportedStatus::Pending)
            } else {
                finished()
            }
        }),
        Inspection::Queues { ids } => {
            let mut engines: HashMap<EngineUuid, EngineQueue> = HashMap::new();
            for engine in scheduler.snapshot() {
                let queue = if *ids {
                    listing(scheduler.pending_ids(&engine.uuid))
                } else {
                    count(engine.pending)
                };
                let queue = EngineQueue {
                    queue,
                    completed: count(engine.completed),
                    failed: engine.failed,
                    ..EngineQueue::default()
                };
                engines.insert(engine.uuid, queue);
            }
            Report::Queues(QueueReport {
                engines,
                unassigned: Listing::default(),
            })
        }
    }
}

pub(super) fn of_broadcasts<H: Clone, R>(
    scheduler: &BroadcastScheduler<H, R>,
    what: &Inspection,
) -> Report {
    match what {
        Inspection::Status(ids) => status_of(ids, |id| {
            scheduler.is_pending(id).then_some(ReportedStatus::Pending)
        }),
        Inspection::Queues { ids } => {
            let mut engines: HashMap<EngineUuid, EngineQueue> = HashMap::new();
            for engine in scheduler.snapshot() {
                let queue = if *ids {
                    listing(scheduler.pending_ids(&engine.uuid))
                } else {
                    count(engine.pending)
                };
                let queue = EngineQueue {
                    queue,
                    completed: count(engine.completed),
                    failed: engine.failed,
                    ..EngineQueue::default()
                };
                engines.insert(engine.uuid, queue);
            }
            Report::Queues(QueueReport {
                engines,
                unassigned: Listing::default(),
            })
        }
    }
}

fn status_of(ids: &[MsgId], known: impl Fn(&str) -> Option<ReportedStatus>) -> Report {
    Report::Status(
        ids.iter()
            .filter_map(|id| Some((id.clone(), known(id.as_str())?)))
            .collect(),
    )
}

fn count(count: u64) -> Listing {
    Listing {
        count,
        ids: Vec::new(),
    }
}

fn listing(ids: impl IntoIterator<Item = MsgId>) -> Listing {
    let ids: Vec<MsgId> = ids.into_iter().collect();
    Listing {
        count: ids.len() as u64,
        ids,
    }
}
