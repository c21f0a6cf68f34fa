//! The two parts of a cluster that launchers start.

/// What is to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Controller,
    Engines,
}
