//! The kernel: a process of the user's Python, and how an engine talks to it.
//!
//! The Python side is the package in `src/engine/worker`, whose `__init__.py` documents the link between the two.

pub(super) mod fork_server;
pub(super) mod link;
pub(super) mod messages;
pub(super) mod pipes;
pub(super) mod sources;
pub(super) mod spawn;
