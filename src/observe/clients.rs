//! What each client has submitted, and how far it is.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use serde::Serialize;

use super::window::{Tally, Waiting};

/// Clients that are remembered; those that were heard of longest ago go first.
const AT_MOST: usize = 200;

/// A client that has nothing outstanding for so long begins anew with its next request. Microseconds.
const PAUSE: i64 = 2_000_000;

/// A client's present work: what it has submitted since it last had nothing outstanding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Progress {
    /// The session.
    pub client: Arc<str>,
    pub total: u64,
    pub done: u64,
    /// Of those that are done, the ones that did not succeed.
    pub failed: u64,
    /// Of those that are not done, the tasks that wait for others, and those that wait for an engine. The rest is at
    /// engines.
    #[serde(flatten)]
    pub waiting: Waiting,
    /// Microseconds since the board's beginning.
    pub since: i64,
    /// Of the last change.
    pub at: i64,
    /// Seconds that the rest will take if it goes on like this; none while nothing is known, or nothing is left.
    pub left: Option<f64>,
    /// What it does: its last function.
    pub name: Option<Arc<str>>,
    /// All that it ever submitted.
    pub ever: u64,
}

impl Progress {
    fn outstanding(&self) -> u64 {
        self.total.saturating_sub(self.done)
    }
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    known: HashMap<Arc<str>, Progress>,
    changed: HashSet<Arc<str>>,
}

impl Clients {
    pub(super) fn on_tally(&mut self, now: i64, session: &str, tally: Tally) {
        if !self.known.contains_key(session) {
            self.make_room();
            let client: Arc<str> = session.into();
            self.known.insert(
                client.clone(),
                Progress {
                    client,
                    total: 0,
                    done: 0,
                    failed: 0,
                    waiting: Waiting::default(),
                    since: now,
                    at: now,
                    left: None,
                    name: None,
                    ever: 0,
                },
            );
        }
        let Some(progress) = self.known.get_mut(session) else {
            return;
        };
        if tally.submitted > 0 && progress.outstanding() == 0 && now - progress.at > PAUSE {
            (progress.total, progress.done, progress.failed) = (0, 0, 0);
            progress.since = now;
        }
        progress.at = now;
        progress.total += tally.submitted;
        progress.ever += tally.submitted;
        // What was submitted to a former controller ends here.
        progress.done = (progress.done + tally.ended()).min(progress.total);
        progress.failed = (progress.failed + tally.failed + tally.aborted).min(progress.done);
        let elapsed = (now - progress.since) as f64 / 1e6;
        let rate = progress.done as f64 / elapsed.max(1e-3);
        progress.left = (progress.outstanding() > 0 && progress.done > 0)
            .then(|| progress.outstanding() as f64 / rate);
        self.changed.insert(progress.client.clone());
    }

    /// What waits of every client of which anything does.
    pub(super) fn on_waiting(&mut self, waiting: &HashMap<String, Waiting>) {
        for (session, progress) in &mut self.known {
            let now = waiting.get(&**session).copied().unwrap_or_default();
            if std::mem::replace(&mut progress.waiting, now) != now {
                self.changed.insert(session.clone());
            }
        }
    }

    pub(super) fn on_name(&mut self, session: &str, name: &Arc<str>) {
        if let Some(progress) = self.known.get_mut(session)
            && progress.name.as_ref() != Some(name)
        {
            progress.name = Some(name.clone());
            self.changed.insert(progress.client.clone());
        }
    }

    fn make_room(&mut self) {
        if self.known.len() < AT_MOST {
            return;
        }
        let oldest = self.known.values().min_by_key(|progress| progress.at);
        if let Some(oldest) = oldest.map(|progress| progress.client.clone()) {
            self.known.remove(&oldest);
            self.changed.remove(&oldest);
        }
    }

    /// The last that changed first.
    pub(super) fn all(&self) -> Vec<&Progress> {
        let mut all: Vec<_> = self.known.values().collect();
        all.sort_by_key(|progress| (std::cmp::Reverse(progress.at), progress.client.clone()));
        all
    }

    pub(super) fn take_changed(&mut self) -> Vec<&Progress> {
        let changed = std::mem::take(&mut self.changed);
        self.known
            .values()
            .filter(|progress| changed.contains(&progress.client))
            .collect()
    }
}
