//! How many engines an elastic cluster has: looks at the queue come in, orders go out. Pure.
//!
//! More are started when tasks wait, no engine is idle, and this has been so for a while. An engine that has had nothing
//! to do for long is asked to end; it refuses if work has come meanwhile, so none is lost. What was started for tasks and
//! never got one (they wait for each other, or for certain engines) makes the next start wait longer: nothing flaps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::supervisor::SetNo;
use crate::protocol::EngineId;

/// What the user allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub min: u32,
    pub max: u32,
    /// Tasks wait for so long before engines are started for them.
    pub patience: Duration,
    /// An engine without work ends after this time; never without one.
    pub idle: Option<Duration>,
}

/// What the hub says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Tasks that no engine has.
    pub waiting: u64,
    /// All engines, in ascending order.
    pub engines: Vec<Seen>,
}

/// One engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub id: EngineId,
    /// The set with which this supervisor has started it. Others are never ended.
    pub set: Option<SetNo>,
    /// Requests that it has.
    pub load: u64,
    /// Requests that it has answered.
    pub completed: u64,
    /// Its kernel is not ready yet.
    pub starting: bool,
}

/// Engines that were started and have not registered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub set: SetNo,
    pub engines: u32,
    /// In the queue of a batch system.
    pub queued: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Start(u32),
    /// Ask these to end, if they still have nothing to do.
    Retire(Vec<EngineId>),
    /// End a set that waits in a queue and is not needed any more.
    Withdraw(SetNo),
}

/// An engine that was asked to end and is still there after this time has refused.
const LEAVING: Duration = Duration::from_secs(10);

/// Starts that led to nothing double the patience so often at most.
const DOUBLINGS: u32 = 6;

#[derive(Debug)]
pub struct Elastic {
    limits: Limits,
    /// Since when tasks wait and nobody is idle.
    wanting: Option<Instant>,
    /// Since when nothing is wanted.
    content: Option<Instant>,
    known: BTreeMap<EngineId, Known>,
    /// Starts in a row that led to nothing.
    futile: u32,
    /// No start before.
    pause: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    completed: u64,
    idle_since: Option<Instant>,
    asked_to_leave: Option<Instant>,
}

impl Elastic {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            wanting: None,
            content: None,
            known: BTreeMap::new(),
            futile: 0,
            pause: None,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Engines that were to come did not, or have died.
    pub fn on_failure(&mut self, now: Instant) {
        self.futile = (self.futile + 1).min(DOUBLINGS);
        self.pause = now.checked_add(self.patience());
    }

    /// How long tasks have to wait before engines are started for them.
    pub fn patience(&self) -> Duration {
        let least = Duration::from_millis(100);
        self.limits.patience.max(least) * 2_u32.pow(self.futile)
    }

    pub fn on_look(
        &mut self,
        now: Instant,
        look: &Look,
        pending: &[Pending],
        out: &mut Vec<Order>,
    ) {
        self.remember(now, look);
        let coming: u32 = pending.iter().map(|pending| pending.engines).sum();
        let staying = look.engines.iter().filter(|engine| !self.leaves(engine.id));
        let there = u32::try_from(staying.count()).unwrap_or(u32::MAX);
        let is_idle = |engine: &Seen| engine.load == 0 && !engine.starting;
        let any_idle = look
            .engines
            .iter()
            .any(|engine| is_idle(engine) && !self.leaves(engine.id));
        let unserved = look.waiting.saturating_sub(u64::from(coming));
        let wants = look.waiting > 0 && !any_idle;
        self.wanting = wants.then(|| self.wanting.unwrap_or(now));
        self.content = (!wants).then(|| self.content.unwrap_or(now));

        let have = there.saturating_add(coming);
        let paused = self.pause.is_some_and(|until| now < until);
        let missing = self.limits.min.saturating_sub(have);
        let room = self.limits.max.saturating_sub(have);
        let ripe = self
            .wanting
            .is_some_and(|since| now.saturating_duration_since(since) >= self.patience());
        let for_tasks = if ripe {
            room.min(u32::try_from(unserved).unwrap_or(u32::MAX))
        } else {
            0
        };
        let start = missing.max(for_tasks);
        if start > 0 && !paused {
            out.push(Order::Start(start));
            self.wanting = None;
        }
        self.shrink(now, look, pending, (there, have), out);
    }

    fn shrink(
        &mut self,
        now: Instant,
        look: &Look,
        pending: &[Pending],
        (there, mut have): (u32, u32),
        out: &mut Vec<Order>,
    ) {
        let Some(limit) = self.limits.idle else {
            return;
        };
        let long_since = |since: Instant| now.saturating_duration_since(since) >= limit;
        if self.content.is_some_and(long_since) {
            for one in pending.iter().filter(|one| one.queued) {
                if have.saturating_sub(one.engines) >= self.limits.min {
                    have -= one.engines;
                    out.push(Order::Withdraw(one.set));
                }
            }
        }
        let mut idle: Vec<(Instant, EngineId)> = look
            .engines
            .iter()
            .filter(|engine| engine.set.is_some() && !self.leaves(engine.id))
            .filter_map(|engine| Some((self.known.get(&engine.id)?.idle_since?, engine.id)))
            .filter(|(since, _)| long_since(*since))
            .collect();
        // The longest without work go first, and of those the last that came.
        idle.sort_by_key(|(since, id)| (*since, std::cmp::Reverse(*id)));
        idle.truncate(usize::try_from(there.saturating_sub(self.limits.min)).unwrap_or(usize::MAX));
        if idle.is_empty() {
            return;
        }
        let mut useless = false;
        for (_, id) in &idle {
            if let Some(known) = self.known.get_mut(id) {
                known.asked_to_leave = Some(now);
                useless |= known.completed == 0;
            }
        }
        if useless {
            self.futile = (self.futile + 1).min(DOUBLINGS);
        }
        let mut leaving: Vec<EngineId> = idle.into_iter().map(|(_, id)| id).collect();
        leaving.sort_unstable();
        out.push(Order::Retire(leaving));
    }

    fn remember(&mut self, now: Instant, look: &Look) {
        let there: BTreeSet<EngineId> = look.engines.iter().map(|engine| engine.id).collect();
        self.known.retain(|id, _| there.contains(id));
        for engine in &look.engines {
            let known = self.known.entry(engine.id).or_insert(Known {
                completed: 0,
                idle_since: None,
                asked_to_leave: None,
            });
            // It has worked since the last look, even if it has nothing to do now.
            let has_worked = engine.completed != known.completed;
            if has_worked {
                self.futile = 0;
            }
            known.completed = engine.completed;
            let is_idle = engine.load == 0 && !engine.starting;
            known.idle_since = match known.idle_since {
                Some(since) if is_idle && !has_worked => Some(since),
                _ => is_idle.then_some(now),
            };
            let refused = |asked: Instant| now.saturating_duration_since(asked) >= LEAVING;
            if !is_idle || known.asked_to_leave.is_some_and(refused) {
                known.asked_to_leave = None;
            }
        }
    }

    fn leaves(&self, id: EngineId) -> bool {
        self.known
            .get(&id)
            .is_some_and(|known| known.asked_to_leave.is_some())
    }
}

#[cfg(test)]
#[path = "elastic_tests.rs"]
mod tests;
