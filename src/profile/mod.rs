//! Profiles: folders, connection files, cluster files, and the settings that come from everywhere.

pub mod connection;
