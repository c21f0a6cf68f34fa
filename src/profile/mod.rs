//! Profiles: folders, connection files, cluster files, and the settings that come from everywhere.

pub mod cluster_file;
pub mod connection;
pub mod dir;
pub mod literal;
pub mod python_config;
pub mod settings;
pub mod templates;
pub mod traitlets;
mod traits_table;

pub use cluster_file::{ClusterFile, RunFile};
pub use connection::{ClientFile, ConnectionFiles, EngineFile};
pub use dir::{Lookup, ProfileDir, ProfileError};
