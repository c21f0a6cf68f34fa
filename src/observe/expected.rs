//! Engines that somebody starts, and that have not registered yet.

use std::collections::BTreeMap;

use serde::Serialize;

use super::function::shortened;
use crate::protocol::{ExpectedSet, ExpectedState};

/// What is not repeated for so long is forgotten: whoever announced it is gone. Microseconds.
const PATIENCE: i64 = 60_000_000;

/// Engines older than a set's announcement count for it after this time: then the announcement was late, and they are
/// not left over from the set's former start.
const SETTLED: i64 = 5_000_000;

/// Those who may announce something at once.
const ANNOUNCERS: usize = 64;

/// Of each set, when its engines came that are there.
pub(super) type There<'a> = BTreeMap<&'a str, Vec<i64>>;

/// Engines of a set that are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Missing {
    set: String,
    engines: u32,
    state: ExpectedState,
    note: String,
}

#[derive(Debug)]
struct Set {
    said: ExpectedSet,
    /// When its start was announced.
    since: i64,
    /// The most engines of it that were there at a time since it was started: those that leave again are not missing.
    came: u32,
}

impl Set {
    /// `came`, with those that are there now.
    fn came(&self, now: i64, there: &There<'_>) -> u32 {
        let there = there.get(self.said.set.as_str());
        let there = there.map_or(&[][..], Vec::as_slice);
        let is_settled = now > self.since + SETTLED;
        let counted = there.iter().filter(|at| is_settled || **at >= self.since);
        let counted = u32::try_from(counted.count()).unwrap_or(u32::MAX);
        counted.max(self.came)
    }
}

#[derive(Debug)]
struct Announcer {
    at: i64,
    sets: BTreeMap<String, Set>,
}

#[derive(Debug, Default)]
pub(super) struct Expected {
    by: BTreeMap<String, Announcer>,
    told: Vec<Missing>,
}

impl Expected {
    /// All that one of those who start engines expects.
    pub(super) fn on_announced(&mut self, now: i64, by: String, sets: Vec<ExpectedSet>) {
        if !self.by.contains_key(&by) && self.by.len() >= ANNOUNCERS {
            return;
        }
        let mut before = self
            .by
            .remove(&by)
            .map(|known| known.sets)
            .unwrap_or_default();
        let sets = sets.into_iter().map(|said| {
            let known = before.remove(&said.set);
            let known = known.filter(|known| known.said.start == said.start);
            let (since, came) = known.map_or((now, 0), |known| (known.since, known.came));
            (said.set.clone(), Set { said, since, came })
        });
        let sets: BTreeMap<_, _> = sets.collect();
        if !sets.is_empty() {
            self.by.insert(by, Announcer { at: now, sets });
        }
    }

    /// Whether any engine is missing, as far as is known here: then it counts who is there.
    pub(super) fn is_incomplete(&self) -> bool {
        let mut sets = self.by.values().flat_map(|by| by.sets.values());
        sets.any(|set| set.came < set.said.engines)
    }

    /// Remembers who came. To be called before any of them is forgotten elsewhere, and now and then.
    pub(super) fn on_there(&mut self, now: i64, there: &There<'_>) {
        for set in self.by.values_mut().flat_map(|by| by.sets.values_mut()) {
            set.came = set.came(now, there);
        }
    }

    /// Forgets those who repeat nothing any more.
    pub(super) fn on_time(&mut self, now: i64) {
        self.by.retain(|_, announcer| now < announcer.at + PATIENCE);
    }

    /// Those that are missing.
    pub(super) fn missing(&self, now: i64, there: &There<'_>) -> Vec<Missing> {
        let sets = self.by.values().flat_map(|by| by.sets.values());
        let missing = sets.filter_map(|set| {
            let engines = set.said.engines.saturating_sub(set.came(now, there));
            (engines > 0).then(|| Missing {
                set: shortened(&set.said.set),
                engines,
                state: set.said.state,
                note: shortened(&set.said.note),
            })
        });
        missing.collect()
    }

    /// Takes note of what is told now; whether that is something else than before.
    pub(super) fn is_news(&mut self, missing: &[Missing]) -> bool {
        let is_news = self.told != missing;
        if is_news {
            self.told = missing.to_vec();
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::observe::{Board, Host};
    use crate::protocol::{EngineId, EngineUuid, Leaving, Timestamp};

    fn set(name: &str, engines: u32, start: u32) -> ExpectedSet {
        ExpectedSet {
            set: name.to_owned(),
            engines,
            state: ExpectedState::Starting,
            note: "process 7".to_owned(),
            start,
        }
    }

    #[test]
    fn engines_are_missing_until_they_have_come_once() {
        let mut expected = Expected::default();
        let missing = |expected: &mut Expected, there: &[(&str, usize)]| -> Vec<(String, u32)> {
            let there = there
                .iter()
                .map(|(set, count)| (*set, vec![5; *count]))
                .collect();
            let missing = expected.missing(10, &there);
            expected.on_there(10, &there);
            assert_eq!(expected.is_incomplete(), !missing.is_empty());
            missing
                .into_iter()
                .map(|one| (one.set, one.engines))
                .collect()
        };
        let named = |name: &str, engines| (name.to_owned(), engines);
        expected.on_announced(0, "x".into(), vec![set("a", 4, 1), set("b", 2, 1)]);
        assert_eq!(missing(&mut expected, &[]), [named("a", 4), named("b", 2)]);
        assert_eq!(
            missing(&mut expected, &[("a", 3), ("b", 2)]),
            [named("a", 1)]
        );
        // One of them dies for good.
        assert_eq!(missing(&mut expected, &[("a", 4), ("b", 1)]), []);
        assert_eq!(missing(&mut expected, &[("a", 4), ("b", 1)]), []);
        // The whole set is started again.
        expected.on_announced(7, "x".into(), vec![set("a", 4, 1), set("b", 2, 2)]);
        // That those of before are gone is not known yet.
        let there = [("a", 4), ("b", 2)];
        assert_eq!(missing(&mut expected, &there), [named("b", 2)]);
        expected.on_time(PATIENCE);
        assert_eq!(missing(&mut expected, &[]).len(), 1);
        let late = there.map(|(set, count)| (set, vec![5; count])).into();
        assert_eq!(expected.missing(8 + SETTLED, &late), []);
        expected.on_time(PATIENCE + 7);
        assert!(expected.by.is_empty());
    }

    #[test]
    fn engines_that_came_and_left_unseen_are_not_missing() {
        for (announced, left, leaving) in [
            (0, 10, Leaving::Died),
            // The announcement is late.
            (3, 10, Leaving::Died),
            // It is not known yet whether the engine was meant.
            (3, 4, Leaving::Restarts),
        ] {
            let start = Instant::now();
            let mut board = Board::new(start, Timestamp::from_micros(0));
            let engines = (0..4).map(|id| (EngineId(id), EngineUuid::from(id.to_string())));
            for second in 0..40 {
                let now = start + Duration::from_secs(second);
                if second == announced {
                    board.on_expected(now, "x".into(), vec![set("a", 4, 1)]);
                }
                if second == 1 {
                    for (id, uuid) in engines.clone() {
                        board.on_engine_starting(now, id, &uuid, None, Some("a".to_owned()));
                        board.on_engine_registered(now, id, &uuid);
                    }
                }
                if second == left {
                    let (id, uuid) = engines.clone().next().unwrap();
                    board.on_engine_left(now, id, &uuid, "it died", leaving);
                }
                board.on_time(now, Host::default);
            }
            let state = board.state(start + Duration::from_secs(40), None);
            assert_eq!(state["expected"], json!([]), "{announced} {left}");
        }
    }

    #[test]
    fn announcers_are_bounded() {
        let mut expected = Expected::default();
        for by in 0..1_000 {
            expected.on_announced(0, by.to_string(), vec![set("a", 1, 1)]);
        }
        assert_eq!(expected.by.len(), ANNOUNCERS);
        expected.on_announced(0, "0".into(), Vec::new());
        assert_eq!(expected.by.len(), ANNOUNCERS - 1);
    }
}
