//! The engines, as a page shows them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::window::{Channel, Output, Tally, Window};
use crate::protocol::{EngineId, EngineUuid, MsgId};

/// Lines of output that are kept of each engine.
const LINES: usize = 20;

/// Characters of a line.
const LINE: usize = 300;

/// Engines that have told what they use and are not registered yet.
const EARLY: usize = 10_000;

/// Engines that have left and are remembered.
const DEPARTED: usize = 50;

/// What an engine's host tells of it now and then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    #[serde(default)]
    pub host: Option<String>,
    /// Of the kernel.
    #[serde(default)]
    pub pid: Option<i32>,
    /// Resident bytes of the kernel.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Processors that the kernel has kept busy lately: 1.0 is one.
    #[serde(default)]
    pub cpu: Option<f64>,
}

/// What an engine works on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Current {
    pub msg_id: MsgId,
    pub name: Arc<str>,
    pub label: Option<Arc<str>>,
    /// Microseconds since the board's beginning.
    pub since: i64,
}

/// A registered engine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EngineRow {
    pub id: EngineId,
    pub uuid: EngineUuid,
    /// Microseconds since the board's beginning.
    pub since: i64,
    /// Outstanding tasks of the task queue.
    pub tasks: u64,
    /// Outstanding direct requests and parts of broadcasts.
    pub queue: u64,
    /// Requests that it has answered.
    pub completed: u64,
    /// Of them, those that failed or were aborted.
    pub failed: u64,
    #[serde(flatten)]
    pub usage: Usage,
    pub current: Option<Current>,
    /// The last lines that it wrote; those on stderr begin with `!`.
    pub output: VecDeque<String>,
    #[serde(skip)]
    loads: [(u64, u64); 3],
}

impl EngineRow {
    fn new(now: i64, id: EngineId, uuid: EngineUuid) -> Self {
        Self {
            id,
            uuid,
            since: now,
            tasks: 0,
            queue: 0,
            completed: 0,
            failed: 0,
            usage: Usage::default(),
            current: None,
            output: VecDeque::new(),
            loads: [(0, 0); 3],
        }
    }

    /// Has it anything to do?
    pub fn is_busy(&self) -> bool {
        self.tasks + self.queue > 0
    }
}

/// An engine that has left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Departed {
    pub(super) id: EngineId,
    pub(super) uuid: EngineUuid,
    pub(super) at: i64,
    pub(super) how: String,
    pub(super) host: Option<String>,
    pub(super) completed: u64,
}

#[derive(Debug, Default)]
pub(super) struct Engines {
    rows: BTreeMap<EngineId, EngineRow>,
    by_uuid: HashMap<EngineUuid, EngineId>,
    /// An engine tells what it uses as soon as its kernel runs, which is a moment before it is registered.
    early: HashMap<EngineUuid, Usage>,
    departed: VecDeque<Departed>,
    pub(super) registered: u64,
    pub(super) left: u64,
    changed: BTreeSet<EngineId>,
    gone: BTreeSet<EngineId>,
}

impl Engines {
    pub(super) fn on_registered(&mut self, now: i64, id: EngineId, uuid: &EngineUuid) {
        // One that registers again goes on.
        if self.by_uuid.get(uuid) != Some(&id) {
            self.by_uuid.insert(uuid.clone(), id);
            let mut row = EngineRow::new(now, id, uuid.clone());
            row.usage = self.early.remove(uuid).unwrap_or_default();
            self.rows.insert(id, row);
            self.registered += 1;
        }
        self.gone.remove(&id);
        self.changed.insert(id);
    }

    pub(super) fn on_left(&mut self, now: i64, id: EngineId, uuid: &EngineUuid, how: &str) {
        self.early.remove(uuid);
        if self.by_uuid.get(uuid) != Some(&id) {
            return;
        }
        self.by_uuid.remove(uuid);
        let row = self.rows.remove(&id);
        self.left += 1;
        if self.departed.len() == DEPARTED {
            self.departed.pop_front();
        }
        let (host, completed) = row.map_or((None, 0), |row| (row.usage.host, row.completed));
        self.departed.push_back(Departed {
            id,
            uuid: uuid.clone(),
            at: now,
            how: how.to_owned(),
            host,
            completed,
        });
        self.changed.remove(&id);
        self.gone.insert(id);
    }

    pub(super) fn on_usage(&mut self, uuid: &EngineUuid, usage: Usage) {
        let Some(row) = self.row(uuid) else {
            if self.early.len() < EARLY {
                self.early.insert(uuid.clone(), usage);
            }
            return;
        };
        if row.usage != usage {
            row.usage = usage;
            let id = row.id;
            self.changed.insert(id);
        }
    }

    pub(super) fn on_output(&mut self, output: &Output) {
        let Some(row) = self.row(&output.engine) else {
            return;
        };
        for line in output.text.lines().filter(|line| !line.trim().is_empty()) {
            if row.output.len() == LINES {
                row.output.pop_front();
            }
            let mark = if output.is_error { "! " } else { "" };
            let text = line.chars().filter(|c| !c.is_control() || *c == '\t');
            row.output
                .push_back(mark.chars().chain(text.take(LINE)).collect());
        }
        let id = row.id;
        self.changed.insert(id);
    }

    /// The loads of one scheduler, and what failed at it.
    pub(super) fn on_window(&mut self, window: &Window) {
        let index = Channel::ALL.iter().position(|one| *one == window.channel);
        let index = index.expect("all channels are among all channels");
        for load in &window.loads {
            let Some(row) = self.row(&load.engine) else {
                continue;
            };
            let now = (load.pending, load.completed);
            if std::mem::replace(&mut row.loads[index], now) == now {
                continue;
            }
            row.tasks = row.loads[0].0;
            row.queue = row.loads[1].0 + row.loads[2].0;
            row.completed = row.loads.iter().map(|load| load.1).sum();
            let id = row.id;
            self.changed.insert(id);
        }
        for (engine, tally) in &window.failures {
            if let Some(row) = self.row(engine) {
                let Tally {
                    failed, aborted, ..
                } = *tally;
                row.failed += failed + aborted;
                let id = row.id;
                self.changed.insert(id);
            }
        }
    }

    pub(super) fn on_current(&mut self, uuid: &EngineUuid, current: Option<Current>) {
        if let Some(row) = self.row(uuid)
            && row.current != current
        {
            row.current = current;
            let id = row.id;
            self.changed.insert(id);
        }
    }

    fn row(&mut self, uuid: &EngineUuid) -> Option<&mut EngineRow> {
        self.rows.get_mut(self.by_uuid.get(uuid)?)
    }

    pub(super) fn id_of(&self, uuid: &EngineUuid) -> Option<EngineId> {
        let departed = || self.departed.iter().rev().find(|gone| gone.uuid == *uuid);
        let here = self.by_uuid.get(uuid).copied();
        here.or_else(|| departed().map(|gone| gone.id))
    }

    pub(super) fn get(&self, id: EngineId) -> Option<&EngineRow> {
        self.rows.get(&id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &EngineRow> {
        self.rows.values()
    }

    pub(super) fn departed(&self) -> impl Iterator<Item = &Departed> {
        self.departed.iter().rev()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Rows that have changed since the last call, and engines that have left.
    pub(super) fn take_changes(&mut self) -> (Vec<&EngineRow>, BTreeSet<EngineId>) {
        let changed = std::mem::take(&mut self.changed);
        let rows = changed.iter().filter_map(|id| self.rows.get(id)).collect();
        (rows, std::mem::take(&mut self.gone))
    }
}
