//! ZMTP 3, the protocol of ZeroMQ's connections (<https://rfc.zeromq.org/spec/23/>): bytes to messages and back. Pure, but for
//! the random numbers of [`curve`].
//!
//! ```text
//! greeting (64 bytes)   version, security mechanism                       greeting
//! handshake             READY with socket type and identity, or CURVE     handshake
//! traffic               frames of messages and commands                   decoder, encoder
//! ```
//!
//! [`Peer`](peer::Peer) puts them together: the state of one connection.

pub(super) mod command;
pub(super) mod curve;
pub(super) mod decoder;
pub(super) mod encoder;
pub(super) mod greeting;
pub(super) mod outgoing;
pub(super) mod peer;
pub(super) mod room;
pub(super) mod subscriptions;

use thiserror::Error;

/// Bits of a frame's first byte.
pub(super) const MORE: u8 = 1;
pub(super) const LONG: u8 = 2;
pub(super) const COMMAND: u8 = 4;

/// Why a connection is ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Violation {
    #[error("it does not speak ZMTP 3")]
    NotZmtp,
    #[error("it wants the security mechanism {theirs}, and this end {ours}")]
    Mechanism { theirs: String, ours: &'static str },
    #[error("a {0} is of no use here")]
    SocketType(String),
    #[error("the handshake is malformed")]
    Handshake,
    #[error("a frame has flags that do not exist")]
    Flags,
    #[error("a message is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("a message has more than {limit} frames")]
    TooManyFrames { limit: usize },
    #[error("its subscriptions take too much memory")]
    Subscriptions,
    #[error("it cannot be decrypted")]
    Encryption,
    #[error("it refuses the connection: {0}")]
    Refused(String),
    #[error("messages that are still coming in take more than {limit} bytes")]
    NoMemory { limit: u64 },
    #[error("it does not read, and {waiting} bytes wait for it")]
    Unread { waiting: u64 },
    #[error(
        "{connections} connections are open, as many as the limit on open files ({open_files}, see ulimit -n) allows"
    )]
    Crowd { connections: usize, open_files: u64 },
    #[error("it hung up {0}")]
    HungUp(&'static str),
    #[error("the memory of a payload cannot be used: {0}")]
    Memory(String),
    #[error("another connection has its identity")]
    IdentityInUse,
}
