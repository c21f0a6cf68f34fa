//! The engines, as a page shows them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::expected::There;
use super::window::{Channel, Output, Tally, Window};
use crate::protocol::text::is_unseen;
use crate::protocol::{EngineId, EngineUuid, Leaving, MsgId};

/// Lines of output that are kept of each engine.
const LINES: usize = 20;

/// Characters of a line.
const LINE: usize = 300;

/// Engines that have left and are remembered.
const DEPARTED: usize = 50;

/// An engine that was to come back and has not in this time is not expected any more. Microseconds, as below.
const PATIENCE: i64 = 30_000_000;

/// So long a dead engine is seen among the others.
const MOURNING: i64 = 60_000_000;

/// Dead engines among the others; those that died first go.
const DEAD: usize = 200;

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

/// What an engine's life has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It has asked to be registered, and is not ready yet.
    Starting,
    /// It is registered.
    Up,
    /// It has left, and is to come back under the same id.
    Restarting,
    /// It has left without having been asked to.
    Dead,
}

/// An engine that is there, comes, or has just died.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EngineRow {
    pub id: EngineId,
    pub uuid: EngineUuid,
    pub phase: Phase,
    /// When the phase began. Microseconds since the board's beginning.
    pub since: i64,
    /// Why it has left, if it has.
    pub how: Option<String>,
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
    /// The name of those that were started together.
    #[serde(skip)]
    set: Option<String>,
    #[serde(skip)]
    entered: i64,
    #[serde(skip)]
    loads: [(u64, u64); 3],
}

impl EngineRow {
    fn new(now: i64, id: EngineId, uuid: EngineUuid) -> Self {
        Self {
            id,
            uuid,
            phase: Phase::Starting,
            since: now,
            how: None,
            tasks: 0,
            queue: 0,
            completed: 0,
            failed: 0,
            usage: Usage::default(),
            current: None,
            output: VecDeque::new(),
            set: None,
            entered: now,
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
    /// Those that have not left.
    by_uuid: HashMap<EngineUuid, EngineId>,
    /// Those that have left and are shown still, in the order in which they did.
    dead: VecDeque<(EngineId, EngineUuid)>,
    departed: VecDeque<Departed>,
    pub(super) registered: u64,
    pub(super) left: u64,
    has_departures: bool,
    changed: BTreeSet<EngineId>,
    gone: BTreeSet<EngineId>,
}

impl Engines {
    pub(super) fn on_starting(
        &mut self,
        now: i64,
        id: EngineId,
        uuid: &EngineUuid,
        host: Option<String>,
        set: Option<String>,
    ) {
        let row = self.enter(now, id, uuid);
        row.set = set;
        if host.is_some() {
            row.usage.host = host;
        }
    }

    pub(super) fn on_registered(&mut self, now: i64, id: EngineId, uuid: &EngineUuid) {
        let row = self.enter(now, id, uuid);
        // One that registers again goes on.
        if row.phase != Phase::Up {
            (row.phase, row.since) = (Phase::Up, now);
            self.registered += 1;
        }
    }

    /// The engine's row, which may have been that of another one of this id, who is gone.
    fn enter(&mut self, now: i64, id: EngineId, uuid: &EngineUuid) -> &mut EngineRow {
        self.gone.remove(&id);
        self.changed.insert(id);
        if self.by_uuid.get(uuid) != Some(&id) {
            self.by_uuid.insert(uuid.clone(), id);
            self.rows.insert(id, EngineRow::new(now, id, uuid.clone()));
        }
        self.rows.get_mut(&id).expect("whoever has an id has a row")
    }

    pub(super) fn on_left(
        &mut self,
        now: i64,
        id: EngineId,
        uuid: &EngineUuid,
        how: &str,
        leaving: Leaving,
    ) {
        if self.by_uuid.get(uuid) != Some(&id) {
            return;
        }
        self.by_uuid.remove(uuid);
        let Some(row) = self.rows.get_mut(&id) else {
            return;
        };
        self.left += u64::from(row.phase == Phase::Up);
        self.has_departures = true;
        if self.departed.len() == DEPARTED {
            self.departed.pop_front();
        }
        self.departed.push_back(Departed {
            id,
            uuid: uuid.clone(),
            at: now,
            how: how.to_owned(),
            host: row.usage.host.clone(),
            completed: row.completed,
        });
        row.phase = match leaving {
            Leaving::Left => return self.take_out(id),
            Leaving::Died => Phase::Dead,
            Leaving::Restarts => Phase::Restarting,
        };
        row.since = now;
        row.how = Some(how.to_owned());
        (row.tasks, row.queue, row.current) = (0, 0, None);
        (row.usage.memory, row.usage.cpu) = (None, None);
        self.changed.insert(id);
        self.dead.push_back((id, uuid.clone()));
        if self.dead.len() > DEAD
            && let Some((id, uuid)) = self.dead.pop_front()
            && self.is_dead(id, &uuid)
        {
            self.take_out(id);
        }
    }

    /// Dead engines are not shown for ever.
    pub(super) fn on_time(&mut self, now: i64) {
        for (id, uuid) in std::mem::take(&mut self.dead) {
            // Else it has come back, or another one has its place.
            if !self.is_dead(id, &uuid) {
                continue;
            }
            let Some(row) = self.rows.get_mut(&id) else {
                continue;
            };
            if row.phase == Phase::Restarting && now >= row.since + PATIENCE {
                (row.phase, row.since) = (Phase::Dead, now);
                self.changed.insert(id);
            }
            if now >= row.since + MOURNING {
                self.take_out(id);
            } else {
                self.dead.push_back((id, uuid));
            }
        }
    }

    fn is_dead(&self, id: EngineId, uuid: &EngineUuid) -> bool {
        self.rows.get(&id).is_some_and(|row| {
            row.uuid == *uuid && matches!(row.phase, Phase::Restarting | Phase::Dead)
        })
    }

    fn take_out(&mut self, id: EngineId) {
        self.rows.remove(&id);
        self.changed.remove(&id);
        self.gone.insert(id);
    }

    pub(super) fn on_usage(&mut self, uuid: &EngineUuid, usage: Usage) {
        if let Some(row) = self.row(uuid)
            && row.usage != usage
        {
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
            let text = line.chars().filter(|c| !is_unseen(*c) || *c == '\t');
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
        for load in &window.look.loads {
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

    /// All that are shown.
    pub(super) fn all(&self) -> impl Iterator<Item = &EngineRow> {
        self.rows.values()
    }

    /// Those that are registered.
    pub(super) fn up(&self) -> impl Iterator<Item = &EngineRow> {
        self.all().filter(|row| row.phase == Phase::Up)
    }

    /// Of each set, when its engines came that are there or on their way.
    pub(super) fn by_set(&self) -> There<'_> {
        let mut sets = There::new();
        for row in self.all().filter(|row| row.phase != Phase::Dead) {
            if let Some(set) = &row.set {
                sets.entry(set.as_str()).or_default().push(row.entered);
            }
        }
        sets
    }

    pub(super) fn departed(&self) -> impl Iterator<Item = &Departed> {
        self.departed.iter().rev()
    }

    /// Whether engines have left since the last call.
    pub(super) fn take_departures(&mut self) -> bool {
        std::mem::take(&mut self.has_departures)
    }

    /// Rows that have changed since the last call, and those that are not shown any more.
    pub(super) fn take_changes(&mut self) -> (Vec<&EngineRow>, BTreeSet<EngineId>) {
        let changed = std::mem::take(&mut self.changed);
        let rows = changed.iter().filter_map(|id| self.rows.get(id)).collect();
        (rows, std::mem::take(&mut self.gone))
    }
}
