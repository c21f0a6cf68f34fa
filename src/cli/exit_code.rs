//! Exit codes, and failures that end the program with one.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it failed; stderr says why |
//! | 2 | the command line or a settings file is wrong |
//! | 10 | a cluster or controller of this profile and cluster id is running already |
//! | 11 | there is nothing to stop |
//! | 12 | there is no cluster to which engines could be added, or none that could be shown |
//! | 130 | interrupted |
//!
//! 10 to 12 are ipyparallel's (`cluster/app.py`).

use std::io::Write;
use std::process::ExitCode;

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const ALREADY_STARTED: u8 = 10;
pub const ALREADY_STOPPED: u8 = 11;
pub const NO_CLUSTER: u8 = 12;
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
            let _ = writeln!(std::io::stderr(), "ipcluster: {message}");
        }
        ExitCode::from(self.code)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::failed(error.to_string())
    }
}
