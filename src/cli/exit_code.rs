//! Exit codes, and failures that end the program with one.
//!
//! 10 to 12 are ipyparallel's (`cluster/app.py`).

use std::io::Write;
use std::process::ExitCode;

use crate::profile::dir::ProfileError;

/// What each of them means, as `README.md` and the manual page have it.
pub const MEANINGS: &[(u8, &str)] = &[
    (0, "done"),
    (FAILED, "it failed; stderr says why"),
    (USAGE, "the command line or a settings file is wrong"),
    (
        ALREADY_STARTED,
        "such a cluster or controller is running already",
    ),
    (ALREADY_STOPPED, "there is nothing to stop"),
    (
        NO_CLUSTER,
        "no such cluster runs, or there is no such profile: there is nothing to add engines to, to look at or to start again",
    ),
    (
        KERNELS_DIED,
        "the kernels of all engines of `ipcluster engine` have died, and `--restart` starts none again",
    ),
    (
        RECORDS_LOST,
        "it has ended, but the task database does not have everything; stderr says what is missing and why",
    ),
    (INTERRUPTED, "interrupted"),
];

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const ALREADY_STARTED: u8 = 10;
pub const ALREADY_STOPPED: u8 = 11;
pub const NO_CLUSTER: u8 = 12;
/// Of a process that runs engines. What started it does not start it again.
pub const KERNELS_DIED: u8 = 13;
/// Of a controller, and of what ends it with its cluster.
pub const RECORDS_LOST: u8 = 14;
pub const INTERRUPTED: u8 = 130;

/// Why the program ends without having done what it was to do.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: Option<String>,
}

impl Failure {
    /// `message` says what went wrong, where, and what to do about it.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
        }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, message)
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// Everything has been said already.
    pub fn silent(code: u8) -> Self {
        Self {
            code,
            message: None,
        }
    }

    pub fn code(&self) -> u8 {
        self.code
    }

    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Says it on stderr.
    pub fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            // Where stderr is closed, the exit code has to do.
            crate::os::progress::end();
            let _ = writeln!(std::io::stderr(), "ipcluster: {message}");
        }
        ExitCode::from(self.code)
    }
}

impl<E: std::error::Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let error: &(dyn std::error::Error + 'static) = &error;
        let code = error.downcast_ref().map_or(FAILED, code_of);
        Self::new(code, error.to_string())
    }
}

/// Whichever command looks for the profile.
fn code_of(error: &ProfileError) -> u8 {
    match error {
        ProfileError::BadName(_)
        | ProfileError::BadClusterId(_)
        | ProfileError::NoSuchTemplate { .. } => USAGE,
        ProfileError::NoSuchProfile { .. } | ProfileError::NoSuchFolder(_) => NO_CLUSTER,
        ProfileError::NoHome | ProfileError::File(_) => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_same_table() {
        let readme = include_str!("../../README.md");
        for (code, meaning) in MEANINGS {
            let row = format!("| {code} | {meaning} |");
            assert!(readme.contains(&row), "README.md has no row {row}");
        }
    }
}
