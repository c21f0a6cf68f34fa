//! Engines: to the controller each is one of ipyparallel's; here, one process ([`host`]) runs several, and each has a
//! thread with its sockets ([`engine_thread`]) and a kernel process that runs the user's code ([`kernel`]; or any
//! installed Jupyter kernel, [`jupyter`]).
//! Broadcasts come once for all of them ([`post`]).
//!
//! The engine owns everything but the user's code: registration, heartbeats, signatures, the queue of requests, abort,
//! signals, and what is told of a kernel that dies. Pure parts: [`queue`], [`outputs`], [`restarts`], [`starting`].

mod config;
mod engine_thread;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod heart;
mod host;
mod jupyter;
mod kernel;
mod mail;
mod memory;
mod outputs;
mod placement;
mod post;
mod queue;
mod replies;
mod restarts;
mod sockets;
mod starting;

pub use config::{Config, KernelConfig, KernelProgram, OwnKernel, StartMethod};
pub use host::{Command, Ended, EngineHost, HostError, Tidings};
pub use jupyter::{KernelPlaces, KernelSpec, SpecError};
pub use memory::MemoryLimits;
pub use placement::mpi_rank;
pub use restarts::{RestartMode, RestartPolicy};
pub use starting::LastWords;
