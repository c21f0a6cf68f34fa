//! The rules by which the task scheduler chooses among engines that may take a task.

use std::fmt;
use std::str::FromStr;

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
}
