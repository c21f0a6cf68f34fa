//! This machine: private files, processes and who they are, limits, memory, names and addresses, the log, Python.

pub mod appear;
pub mod descriptors;
pub mod files;
pub mod folder_watch;
pub mod hang_up;
pub mod host;
pub mod limits;
pub mod local_socket;
pub mod lock;
pub mod log;
pub mod memory;
pub mod ports;
pub mod process;
pub mod progress;
pub mod python;
pub mod session;
pub mod shared_memory;
pub mod user;

pub use host::Host;
pub use process::ProcessRef;
