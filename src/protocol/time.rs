//! Instants as the protocol writes them: ISO 8601 with a zone, microseconds, `Z` for UTC.

use std::fmt;

use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant, to the microsecond.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// Microseconds since 1970-01-01 UTC; out of the calendar's range is clamped.
    pub fn from_micros(micros: i64) -> Self {
        Self(jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX))
    }

    pub fn as_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Reads ISO 8601 as Python's `isoformat` and JavaScript write it. Without a zone it is `local` time, as
    /// ipyparallel's `ensure_timezone` has it.
    pub fn parse(text: &str, local: &TimeZone) -> Option<Self> {
        if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            return Some(Self(instant));
        }
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(Self(local.to_timestamp(civil).ok()?))
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        let micros = match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        };
        Self::from_micros(micros)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text, &TimeZone::UTC)
            .ok_or_else(|| serde::de::Error::custom("not an ISO 8601 date"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_jupyter_writes_them() {
        assert_eq!(
            Timestamp::from_micros(1_700_000_000_000_001).to_string(),
            "2023-11-14T22:13:20.000001Z"
        );
        assert_eq!(
            Timestamp::from_micros(0).to_string(),
            "1970-01-01T00:00:00.000000Z"
        );
    }

    #[test]
    fn the_same_instant_in_any_spelling() {
        let paris = TimeZone::fixed(jiff::tz::offset(1));
        let expected = Some(Timestamp::from_micros(1_700_000_000_000_000));
        for text in [
            "2023-11-14T22:13:20Z",
            "2023-11-14T23:13:20.000+01:00",
            "2023-11-14 23:13:20",
            "2023-11-14T23:13:20.000000",
        ] {
            assert_eq!(Timestamp::parse(text, &paris), expected, "{text}");
        }
        assert_eq!(Timestamp::parse("yesterday", &paris), None);
        assert_eq!(Timestamp::parse("", &paris), None);
    }
}
