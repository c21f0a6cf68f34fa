//! Values of arguments as ipyparallel's programs spell them.

use crate::os::log::LogLevel;
use crate::profile::traitlets::python_bool;

/// `--log-level`: names in any case, or Python's numbers.
pub fn log_level(text: &str) -> Result<LogLevel, String> {
    text.parse::<LogLevel>().map_err(|error| error.to_string())
}

/// `True`, `False`, `1` or `0`, in any case.
pub fn boolean(text: &str) -> Result<bool, String> {
    python_bool(text).ok_or_else(|| "it must be true or false".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_python_spells_them() {
        assert_eq!(log_level("10"), Ok(LogLevel::Debug));
        assert_eq!(log_level("WARN"), Ok(LogLevel::Warning));
        assert!(log_level("loud").unwrap_err().contains("debug, info"));
        assert_eq!(boolean("True"), Ok(true));
        assert_eq!(boolean("0"), Ok(false));
        assert!(boolean("yes").is_err());
    }
}
