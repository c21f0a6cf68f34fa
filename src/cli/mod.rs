//! Parses the command line, and says in exit codes how it went.

pub mod args;
