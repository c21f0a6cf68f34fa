//! The rules by which the task scheduler chooses among engines that may take a task.

use std::fmt;
use std::str::FromStr;

// The generator is seeded by an argument; under its own name it looks like one that is not.
use fastrand::Rng;
use thiserror::Error;

/// How an engine is chosen (ipyparallel's `TaskScheduler.scheme_name`). Every rule sees only the engines that may have
/// the task and are below the high water mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// The engine with the fewest tasks outstanding; among equals the least recently used.
    #[default]
    LeastLoad,
    /// The least recently used engine, whatever its load.
    Lru,
    /// Any engine, all with the same chance.
    PlainRandom,
    /// Two engines drawn with the inverse of their loads as weights; the less loaded of the two.
    Weighted,
    /// Two engines drawn with the same chance; the less recently used of the two.
    TwoBin,
    /// Round robin without a high water mark, as a bare ZeroMQ DEALER hands out messages.
    Pure,
}

impl Scheme {
    /// Every scheme, in the order in which they are listed to users.
    pub const ALL: [Self; 6] = [
        Self::LeastLoad,
        Self::Lru,
        Self::PlainRandom,
        Self::Weighted,
        Self::TwoBin,
        Self::Pure,
    ];

    /// The name by which settings and the client's connection file (`task_scheme`) know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeastLoad => "leastload",
            Self::Lru => "lru",
            Self::PlainRandom => "plainrandom",
            Self::Weighted => "weighted",
            Self::TwoBin => "twobin",
            Self::Pure => "pure",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no scheme has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "there is no task scheme {0:?}; it is one of leastload, lru, plainrandom, weighted, twobin, pure"
)]
pub struct UnknownScheme(pub String);

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(text: &str) -> Result<Self, UnknownScheme> {
        Self::ALL
            .into_iter()
            .find(|scheme| scheme.name() == text)
            .ok_or_else(|| UnknownScheme(text.to_owned()))
    }
}

/// What a scheme looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Tasks outstanding.
    pub(super) load: u32,
    /// When it was used last; no two engines have the same.
    pub(super) used: u64,
}

/// Chooses among the engines that have room, in a time that grows with the logarithm of their number.
#[derive(Debug)]
pub(super) struct Chooser {
    scheme: Scheme,
    dice: Rng,
    /// Of each engine with room, by its index.
    standings: Vec<Option<Standing>>,
    tree: Tree,
}

/// A complete binary tree over the engines, kept in an array: the leaves lie behind the inner nodes.
#[derive(Debug)]
enum Tree {
    /// Each node names the best engine below it.
    Best(Vec<Option<u32>>),
    /// Each node is the sum of the weights below it. Sums are made anew on every change, so no error builds up.
    Weights(Vec<f64>),
}

impl Chooser {
    pub(super) fn new(scheme: Scheme, seed: u64) -> Self {
        let mut chooser = Self {
            scheme,
            dice: Rng::with_seed(seed),
            standings: Vec::new(),
            tree: Tree::Best(Vec::new()),
        };
        chooser.rebuild();
        chooser
    }

    /// Whether an engine has room and how it stands; none takes it out of the choice.
    pub(super) fn set(&mut self, engine: u32, standing: Option<Standing>) {
        let index = engine as usize;
        if index >= self.standings.len() {
            self.standings
                .resize((index + 1).next_power_of_two().max(8), None);
            self.rebuild();
        }
        if self.standings[index] != standing {
            self.standings[index] = standing;
            self.update(index);
        }
    }

    pub(super) fn get(&self, engine: u32) -> Option<Standing> {
        self.standings.get(engine as usize).copied().flatten()
    }

    /// One of all engines that have room.
    pub(super) fn choose(&mut self) -> Option<u32> {
        match self.scheme {
            Scheme::LeastLoad | Scheme::Lru | Scheme::Pure => self.best(),
            Scheme::PlainRandom => self.draw(),
            Scheme::TwoBin => self.draw_two(|a, b| b.used < a.used),
            Scheme::Weighted => self.draw_two(|a, b| b.load < a.load),
        }
    }

    /// One of some engines that have room.
    pub(super) fn choose_among(&mut self, engines: &[u32]) -> Option<u32> {
        let standing = |engine: u32| {
            self.standings[engine as usize].expect("engines to choose from have room")
        };
        let pick = |at: usize| engines[at];
        match self.scheme {
            Scheme::LeastLoad | Scheme::Lru | Scheme::Pure => engines
                .iter()
                .copied()
                .min_by_key(|engine| key(self.scheme, standing(*engine))),
            _ if engines.is_empty() => None,
            Scheme::PlainRandom => Some(pick(self.dice.usize(..engines.len()))),
            Scheme::TwoBin => {
                let first = pick(self.dice.usize(..engines.len()));
                let second = pick(self.dice.usize(..engines.len()));
                let other_is_older = standing(second).used < standing(first).used;
                Some(if other_is_older { second } else { first })
            }
            Scheme::Weighted => {
                let weights = engines
                    .iter()
                    .map(|engine| weight(self.scheme, standing(*engine)));
                let sums: Vec<f64> = weights
                    .scan(0.0, |sum, weight| {
                        *sum += weight;
                        Some(*sum)
                    })
                    .collect();
                let total = sums[sums.len() - 1];
                let mut draw = || {
                    let x = self.dice.f64() * total;
                    pick(sums.partition_point(|sum| *sum <= x).min(sums.len() - 1))
                };
                let (first, second) = (draw(), draw());
                let other_has_less = standing(second).load < standing(first).load;
                Some(if other_has_less { second } else { first })
            }
        }
    }

    /// Whether the whole choice is a minimum, so that the best of all is also the best of any part that it is in.
    pub(super) fn is_ordered(&self) -> bool {
        matches!(self.tree, Tree::Best(_))
    }

    fn best(&self) -> Option<u32> {
        match &self.tree {
            Tree::Best(nodes) => nodes.get(1).copied().flatten(),
            Tree::Weights(_) => None,
        }
    }

    /// One engine, with a chance in proportion to its weight.
    fn draw(&mut self) -> Option<u32> {
        let Tree::Weights(nodes) = &self.tree else {
            return None;
        };
        let leaves = self.standings.len();
        let total = nodes.get(1).copied().unwrap_or_default();
        if total <= 0.0 {
            return None;
        }
        let mut x = self.dice.f64() * total;
        let mut node = 1;
        while node < leaves {
            node *= 2;
            // Rounding may leave `x` at the very end of the sums: never step to where there is nothing.
            if x >= nodes[node] && nodes[node + 1] > 0.0 {
                x -= nodes[node];
                node += 1;
            }
        }
        Some((node - leaves) as u32)
    }

    /// The first of two engines that are drawn, unless the second is better.
    fn draw_two(&mut self, second_is_better: impl Fn(Standing, Standing) -> bool) -> Option<u32> {
        let (first, second) = (self.draw()?, self.draw()?);
        let better = second_is_better(self.get(first)?, self.get(second)?);
        Some(if better { second } else { first })
    }

    fn rebuild(&mut self) {
        let leaves = self.standings.len();
        let ordered = matches!(self.scheme, Scheme::LeastLoad | Scheme::Lru | Scheme::Pure);
        self.tree = if ordered {
            Tree::Best(vec![None; leaves * 2])
        } else {
            Tree::Weights(vec![0.0; leaves * 2])
        };
        for index in 0..leaves {
            if self.standings[index].is_some() {
                self.update(index);
            }
        }
    }

    fn update(&mut self, index: usize) {
        let standing = self.standings[index];
        let mut node = self.standings.len() + index;
        match &mut self.tree {
            Tree::Best(nodes) => {
                nodes[node] = standing.map(|_| index as u32);
                while node > 1 {
                    node /= 2;
                    let rank = |engine: u32| {
                        self.standings[engine as usize].map(|standing| key(self.scheme, standing))
                    };
                    nodes[node] = match (nodes[node * 2], nodes[node * 2 + 1]) {
                        (Some(left), Some(right)) if rank(right) < rank(left) => Some(right),
                        (left, right) => left.or(right),
                    };
                }
            }
            Tree::Weights(nodes) => {
                nodes[node] = standing.map_or(0.0, |standing| weight(self.scheme, standing));
                while node > 1 {
                    node /= 2;
                    nodes[node] = nodes[node * 2] + nodes[node * 2 + 1];
                }
            }
        }
    }
}

/// The smallest is chosen.
fn key(scheme: Scheme, standing: Standing) -> (u32, u64) {
    let load = if scheme == Scheme::LeastLoad {
        standing.load
    } else {
        0
    };
    (load, standing.used)
}

fn weight(scheme: Scheme, standing: Standing) -> f64 {
    if scheme == Scheme::Weighted {
        // As in ipyparallel, no load weighs a million times more than a load of one.
        1.0 / (1e-6 + f64::from(standing.load))
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_wire_both_ways() {
        for scheme in Scheme::ALL {
            assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
        let error = "fifo".parse::<Scheme>().unwrap_err().to_string();
        for scheme in Scheme::ALL {
            assert!(error.contains(scheme.name()), "{error}");
        }
    }

    /// Loads in the order of last use, the oldest first, as ipyparallel's choosers take them. Indices are shuffled.
    fn chooser(scheme: Scheme, loads: &[u32]) -> (Chooser, Vec<u32>) {
        let mut chooser = Chooser::new(scheme, 1);
        let mut places: Vec<u32> = (0..loads.len() as u32).collect();
        Rng::with_seed(2).shuffle(&mut places);
        for (used, (place, load)) in places.iter().zip(loads).enumerate() {
            let used = used as u64;
            chooser.set(*place, Some(Standing { load: *load, used }));
        }
        (chooser, places)
    }

    /// How often each engine is chosen, of the whole and as a part of itself.
    fn shares(scheme: Scheme, loads: &[u32]) -> [Vec<f64>; 2] {
        const DRAWS: usize = 100_000;
        let (mut chooser, places) = chooser(scheme, loads);
        [true, false].map(|whole| {
            let mut counts = vec![0_usize; loads.len()];
            for _ in 0..DRAWS {
                let engine = if whole {
                    chooser.choose()
                } else {
                    chooser.choose_among(&places)
                };
                let at = places.iter().position(|place| Some(*place) == engine);
                counts[at.unwrap()] += 1;
            }
            counts
                .iter()
                .map(|count| *count as f64 / DRAWS as f64)
                .collect()
        })
    }

    fn assert_shares(scheme: Scheme, loads: &[u32], expected: &[f64]) {
        for shares in shares(scheme, loads) {
            for (share, expected) in shares.iter().zip(expected) {
                assert!(
                    (share - expected).abs() < 0.01,
                    "{scheme}: {shares:?}, not {expected:?}"
                );
            }
        }
    }

    #[test]
    fn leastload_is_the_first_of_the_least_loaded() {
        assert_shares(Scheme::LeastLoad, &[2, 1, 3, 1], &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn lru_and_pure_look_at_the_last_use_alone() {
        assert_shares(Scheme::Lru, &[9, 0, 1], &[1.0, 0.0, 0.0]);
        assert_shares(Scheme::Pure, &[9, 0, 1], &[1.0, 0.0, 0.0]);
    }

    #[test]
    fn plainrandom_gives_all_the_same_chance() {
        assert_shares(Scheme::PlainRandom, &[5, 0, 1, 2, 3], &[0.2; 5]);
    }

    #[test]
    fn twobin_prefers_the_older_of_two() {
        // Of n, place i is the lower of two draws with (2(n-i)-1)/n^2.
        assert_shares(
            Scheme::TwoBin,
            &[0, 7, 0, 7],
            &[7.0 / 16.0, 5.0 / 16.0, 3.0 / 16.0, 1.0 / 16.0],
        );
    }

    #[test]
    fn weighted_draws_two_by_inverse_load_and_takes_the_less_loaded() {
        // Weights 1, 1/2, 1/4: chances of a draw 4/7, 2/7, 1/7; each wins against those with more load.
        let (a, b, c) = (4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0);
        let expected = [a * a + 2.0 * a * (b + c), b * b + 2.0 * b * c, c * c];
        assert_shares(Scheme::Weighted, &[1, 2, 4], &expected);
        assert_shares(Scheme::Weighted, &[0, 1, 0], &[0.5, 0.0, 0.5]);
        assert_shares(Scheme::Weighted, &[3, 3, 3], &[1.0 / 3.0; 3]);
    }

    #[test]
    fn who_has_no_room_is_never_chosen() {
        for scheme in Scheme::ALL {
            let mut chooser = Chooser::new(scheme, 3);
            assert_eq!(chooser.choose(), None);
            assert_eq!(chooser.choose_among(&[]), None);
            let mut random = Rng::with_seed(4);
            let mut room = vec![None; 100];
            for step in 1..20_000_u64 {
                let engine = random.usize(..room.len());
                room[engine] = random.bool().then(|| Standing {
                    load: random.u32(..5),
                    used: step,
                });
                chooser.set(engine as u32, room[engine]);
                let chosen = chooser.choose();
                assert_eq!(chosen.is_some(), room.iter().any(Option::is_some));
                if let Some(chosen) = chosen {
                    assert_eq!(chooser.get(chosen), room[chosen as usize]);
                    assert!(room[chosen as usize].is_some(), "{scheme}");
                }
                if chooser.is_ordered() {
                    let best = (0..room.len() as u32)
                        .filter(|engine| room[*engine as usize].is_some())
                        .min_by_key(|engine| key(scheme, room[*engine as usize].unwrap()));
                    assert_eq!(chosen, best);
                }
            }
        }
    }
}
