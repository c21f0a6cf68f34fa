//! Fuzz targets: what is read of others, from bytes that anybody could send or write.
//!
//! Each target is a function of bytes that panics when something is wrong. `make fuzz` runs each under libFuzzer, as long
//! as it is told to (see `fuzz/`); the tests run what lies in `fuzz/corpus`, where also everything stays that was ever
//! found, and some thousand mutations of it.

mod files;
mod messages;
mod queries;
#[cfg(test)]
mod tests;

pub use crate::engine::fuzz::kernel_link;
pub use crate::transport::fuzz::{curve_handshake, zmtp_peer};
pub use files::{cluster_file, connection_file, python_settings, settings_file, traits};
pub use messages::{frames, task_metadata};
pub use queries::query;

/// What takes a fuzzer's bytes.
pub type Target = fn(&[u8]);

/// All targets, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("zmtp_peer", zmtp_peer),
    ("curve_handshake", curve_handshake),
    ("frames", frames),
    ("task_metadata", task_metadata),
    ("query", query),
    ("connection_file", connection_file),
    ("cluster_file", cluster_file),
    ("settings_file", settings_file),
    ("python_settings", python_settings),
    ("traits", traits),
    ("kernel_link", kernel_link),
];
