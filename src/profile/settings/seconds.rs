//! Lengths of time, as ipyparallel's settings have them: seconds, with a fraction.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// Not negative, and never so long that adding it to a clock could overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Seconds(f64);

impl Seconds {
    /// What "for ever" amounts to: some thirty years.
    pub const FOREVER: Self = Self(1e9);

    /// Nothing for what is negative or no number; what is longer than [`Self::FOREVER`] is that.
    pub fn new(seconds: f64) -> Option<Self> {
        (seconds >= 0.0).then(|| Self(seconds.min(Self::FOREVER.0)))
    }

    pub fn as_f64(self) -> f64 {
        self.0
    }

    pub fn duration(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Self::new(seconds)
            .ok_or_else(|| serde::de::Error::custom("it must be a number of seconds, not negative"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lengths_of_time_are_taken() {
        let read = |text| serde_json::from_str::<Seconds>(text);
        assert_eq!(read("1.5").unwrap().duration(), Duration::from_millis(1500));
        assert_eq!(read("3").unwrap().as_f64(), 3.0);
        assert_eq!(read("1e300").unwrap(), Seconds::FOREVER);
        for text in ["-1", "null", "\"1\""] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(Seconds::new(f64::NAN), None);
        assert_eq!(Seconds::new(f64::INFINITY), Some(Seconds::FOREVER));
    }
}
