//! Engines that somebody starts, and that have not registered yet.

use std::collections::BTreeMap;

use serde::Serialize;

use super::function::shortened;
use crate::protocol::{ExpectedSet, ExpectedState};

/// What is not repeated for so long is forgotten: whoever announced it is gone. Microseconds.
const PATIENCE: i64 = 60_000_000;

/// Engines of before a set's start that have not been found out to be gone after so long are those that were meant: the
/// announcement has come late.
const SETTLED: i64 = 5_000_000;

/// Those who may announce something at once.
const ANNOUNCERS: usize = 64;

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

    pub(super) fn on_time(&mut self, now: i64) {
        self.by.retain(|_, announcer| now < announcer.at + PATIENCE);
    }

    /// Those that are missing. `there`: of each set, when its engines came that are there.
    pub(super) fn missing(&mut self, now: i64, there: &BTreeMap<&str, Vec<i64>>) -> Vec<Missing> {
        let sets = self.by.values_mut().flat_map(|by| by.sets.values_mut());
        let missing = sets.filter_map(|Set { said, since, came }| {
            let there = there.get(said.set.as_str()).map_or(&[][..], Vec::as_slice);
            let is_settled = now > *since + SETTLED;
            let counted = there.iter().filter(|at| is_settled || **at >= *since);
            *came = u32::try_from(counted.count())
                .unwrap_or(u32::MAX)
                .max(*came);
            let engines = said.engines.saturating_sub(*came);
            (engines > 0).then(|| Missing {
                set: shortened(&said.set),
                engines,
                state: said.state,
                note: shortened(&said.note),
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
    use super::*;

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
