//! Values of arguments as ipyparallel's programs spell them.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Command};

use crate::os::log::{Levels, LogFormat};
use crate::profile::traitlets::python_bool;

/// A value that is read in some way, and what shells offer for it: the usual ways to write it, which need not be all.
#[derive(Clone)]
pub struct Offering<P> {
    parser: P,
    usual: &'static [&'static str],
}

impl<P: TypedValueParser> TypedValueParser for Offering<P> {
    type Value = P::Value;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        self.parser.parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.usual.iter().map(PossibleValue::new)))
    }
}

/// Reads by `parser`. The argument has to hide its possible values: its help tells of them.
pub fn offering<P>(usual: &'static [&'static str], parser: P) -> Offering<P> {
    Offering { parser, usual }
}

/// Any text.
pub fn text_of(usual: &'static [&'static str]) -> Offering<StringValueParser> {
    offering(usual, StringValueParser::new())
}

pub const LOG_LEVELS: &[&str] = &["debug", "info", "warning", "error", "critical"];
pub const LOG_FORMATS: &[&str] = &["text", "json"];
pub const BOOLEANS: &[&str] = &["true", "false"];

/// `--log-level`: names in any case, or Python's numbers, of everything or of components.
pub fn log_levels(text: &str) -> Result<Levels, String> {
    text.parse()
}

/// `--log-format`, in any case.
pub fn log_format(text: &str) -> Result<LogFormat, String> {
    let formats = [LogFormat::Text, LogFormat::Json];
    let mut formats = formats.into_iter();
    let found = formats.find(|format| format.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| "it must be text or json".to_owned())
}

/// `True`, `False`, `1` or `0`, in any case.
pub fn boolean(text: &str) -> Result<bool, String> {
    python_bool(text).ok_or_else(|| "it must be true or false".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::log::LogLevel;

    #[test]
    fn values_are_read_as_python_spells_them() {
        let common = |text| log_levels(text).map(|levels| levels.common);
        assert_eq!(common("10"), Ok(Some(LogLevel::Debug)));
        assert_eq!(common("WARN"), Ok(Some(LogLevel::Warning)));
        assert!(common("loud").unwrap_err().contains("debug, info"));
        assert_eq!(log_format("JSON"), Ok(LogFormat::Json));
        assert!(log_format("xml").is_err());
        assert_eq!(boolean("True"), Ok(true));
        assert_eq!(boolean("0"), Ok(false));
        assert!(boolean("yes").is_err());
    }
}
