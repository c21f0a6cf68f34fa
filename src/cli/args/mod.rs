//! Command lines as people have written them for ipyparallel's programs, made into resolved values.

pub mod argv;
pub mod common;
pub mod levels;

pub use argv::{ArgvError, Rewritten, rewrite};
pub use common::{CommonArgs, Environment, ResolvedCommon, SessionArgs};
