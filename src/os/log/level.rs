//! How much is logged, as a whole and of single components.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use tracing::level_filters::LevelFilter;

use super::component::{self, COMPONENTS};

/// How much is logged: the levels of Python's `logging`, of which each shows itself and those after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Trace,
    Debug,
    #[default]
    Info,
    Warning,
    Error,
    /// Nothing: what ends the program is said by the program itself.
    Critical,
}

/// Neither a level's name nor a number.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no log level: use debug, info, warning, error or critical, or Python's numbers 10 to 50"
)]
pub struct UnknownLevel(String);

impl LogLevel {
    /// Python's number: 10 is DEBUG, 50 is CRITICAL; what lies between counts as the next level, as in Python.
    pub fn from_number(number: i64) -> Self {
        match number {
            ..=0 => Self::Trace,
            1..=10 => Self::Debug,
            11..=20 => Self::Info,
            21..=30 => Self::Warning,
            31..=40 => Self::Error,
            41.. => Self::Critical,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    pub(super) fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
            Self::Critical => LevelFilter::OFF,
        }
    }
}

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    /// Names in any case, and numbers.
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let text = text.trim();
        if let Ok(number) = text.parse() {
            return Ok(Self::from_number(number));
        }
        match text.to_ascii_lowercase().as_str() {
            "trace" | "notset" => Ok(Self::Trace),
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            "critical" | "fatal" => Ok(Self::Critical),
            _ => Err(UnknownLevel(text.to_owned())),
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for LogLevel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Number(i64),
            Name(String),
        }
        match Spelling::deserialize(deserializer)? {
            Spelling::Number(number) => Ok(Self::from_number(number)),
            Spelling::Name(name) => name.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// Levels of single components, which go before the common one.
pub type ComponentLevels = BTreeMap<String, LogLevel>;

/// `info`, or `info,task=debug,hub=warning`: what `--log-level` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Of everything that is not named.
    pub common: Option<LogLevel>,
    pub components: ComponentLevels,
}

impl FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut levels = Self::default();
        let parse = |text: &str| {
            text.parse()
                .map_err(|error: UnknownLevel| error.to_string())
        };
        for part in text.split(',') {
            match part.split_once('=') {
                None => levels.common = Some(parse(part)?),
                Some((name, level)) => {
                    let name = checked_component(name)?;
                    levels.components.insert(name, parse(level)?);
                }
            }
        }
        Ok(levels)
    }
}

/// A component's name, if there is such a one.
pub fn checked_component(name: &str) -> Result<String, String> {
    let name = name.trim();
    if COMPONENTS.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "{name:?} is no component of the log: there are {}",
        COMPONENTS.join(", ")
    ))
}

/// Which events are logged.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    common: LevelFilter,
    components: Vec<(&'static str, LevelFilter)>,
}

impl Filter {
    pub(super) fn new(common: LogLevel, levels: &ComponentLevels) -> Self {
        let known = |name: &String| COMPONENTS.iter().find(|known| **known == name).copied();
        Self {
            common: common.filter(),
            components: levels
                .iter()
                .filter_map(|(name, level)| Some((known(name)?, level.filter())))
                .collect(),
        }
    }

    pub(super) fn most(&self) -> LevelFilter {
        let components = self.components.iter().map(|(_, level)| *level);
        components.fold(self.common, LevelFilter::max)
    }

    pub(super) fn takes(&self, metadata: &tracing::Metadata<'_>) -> bool {
        if self.components.is_empty() {
            return *metadata.level() <= self.common;
        }
        let component = component::of(metadata.target());
        let own = self.components.iter().find(|(name, _)| *name == component);
        *metadata.level() <= own.map_or(self.common, |(_, level)| *level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_names_and_as_numbers() {
        for (text, level) in [
            ("10", LogLevel::Debug),
            ("DEBUG", LogLevel::Debug),
            ("Info", LogLevel::Info),
            ("20", LogLevel::Info),
            ("25", LogLevel::Warning),
            ("WARN", LogLevel::Warning),
            ("40", LogLevel::Error),
            ("50", LogLevel::Critical),
            ("CRITICAL", LogLevel::Critical),
            ("0", LogLevel::Trace),
            ("-3", LogLevel::Trace),
        ] {
            assert_eq!(text.parse(), Ok(level), "{text}");
        }
        for text in ["", "loud", "1e1"] {
            let error = text.parse::<LogLevel>().unwrap_err();
            assert!(error.to_string().contains("debug, info"), "{error}");
        }
        assert_eq!(
            serde_json::from_str::<LogLevel>("30").unwrap(),
            LogLevel::Warning
        );
        assert_eq!(
            serde_json::to_string(&LogLevel::Warning).unwrap(),
            "\"warning\""
        );
    }

    #[test]
    fn components_have_levels_of_their_own() {
        let levels: Levels = "warning,task=debug, hub=10".parse().unwrap();
        assert_eq!(levels.common, Some(LogLevel::Warning));
        assert_eq!(levels.components["task"], LogLevel::Debug);
        assert_eq!(levels.components["hub"], LogLevel::Debug);
        assert_eq!(
            "10".parse::<Levels>().unwrap().common,
            Some(LogLevel::Debug)
        );
        assert!("taks=debug".parse::<Levels>().unwrap_err().contains("task"));
        assert!("task=loud".parse::<Levels>().is_err());
    }
}
