//! What the hub decides without touching a socket.

pub mod recorder;
