//! Which engines the hub is to expect, so that they are seen before they register.

use super::{Phase, Process, SetNo, Supervisor};
use crate::protocol::{ExpectedSet, ExpectedState};

impl Supervisor {
    /// The sets that run or will; none of a cluster that ends. `name`: as engines call their set.
    pub fn expected(&self, name: impl Fn(SetNo) -> String) -> Vec<ExpectedSet> {
        if matches!(self.phase, Phase::Stopping { .. } | Phase::Over) {
            return Vec::new();
        }
        let sets = self.sets.iter().filter_map(|(number, set)| {
            let state = match set.process {
                Process::Absent if set.restart_at.is_none() => return None,
                Process::Absent => ExpectedState::Restarting,
                _ if set.queued => ExpectedState::Queued,
                Process::Starting | Process::Running => ExpectedState::Starting,
            };
            Some(ExpectedSet {
                set: name(*number),
                engines: set.engines,
                state,
                note: set.note.clone(),
                start: set.starts,
            })
        });
        sets.collect()
    }
}
