//! When a kernel that has died is started again. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::mail::Rank;

/// Which deaths of a kernel are followed by another kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartMode {
    /// None: the engine leaves, as ipyparallel's do.
    #[default]
    Never,
    /// Those that nobody wanted: by a signal, or with an exit status that is not 0.
    OnFailure,
    /// All but those that were asked for.
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    pub mode: RestartMode,
    /// Restarts of one engine within a minute; what dies more often is given up.
    pub limit: u32,
}

/// Time in which restarts are counted.
const WINDOW: Duration = Duration::from_secs(60);

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Restarts {
    history: HashMap<Rank, VecDeque<Instant>>,
}

impl Restarts {
    /// A kernel has died: how long to wait before the next one is started. `None` when it has died too often.
    pub(super) fn next_wait(&mut self, now: Instant, rank: Rank, limit: u32) -> Option<Duration> {
        let times = self.history.entry(rank).or_default();
        while times.front().is_some_and(|time| *time + WINDOW < now) {
            times.pop_front();
        }
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
        if count >= limit {
            return None;
        }
        times.push_back(now);
        Some((FIRST_WAIT * 2u32.saturating_pow(count.min(20))).min(LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_until_the_limit_and_time_heals() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let waits: Vec<_> = (0..4).map(|_| restarts.next_wait(start, 0, 3)).collect();
        let expected =
            [Some(100), Some(200), Some(400), None].map(|ms| ms.map(Duration::from_millis));
        assert_eq!(waits, expected);
        assert_eq!(
            restarts.next_wait(start, 1, 3),
            Some(FIRST_WAIT),
            "engines are told apart"
        );
        assert_eq!(
            restarts.next_wait(start + 2 * WINDOW, 0, 3),
            Some(FIRST_WAIT)
        );
        assert_eq!(restarts.next_wait(start, 2, 0), None);
    }
}
