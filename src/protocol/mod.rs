//! What travels between clients, controller and engines, and nothing else: frames, signatures, headers, ids and the
//! documents of hub requests. Pure: no sockets, clocks or randomness, and no input of a peer can make it panic.
//!
//! The facts are those of ipyparallel 9.2 and of the Jupyter messaging specification that it extends.

pub mod digests;
pub mod engine_info;
pub mod error;
pub mod header;
pub mod ids;
pub mod message;
pub mod metadata;
pub mod python;
pub mod recount;
pub mod signature;
pub mod text;
pub mod time;
pub mod wire;

pub use engine_info::{ExpectedSet, ExpectedState, Leaving};
pub use error::RemoteError;
pub use header::Header;
pub use ids::{ClusterId, EngineId, EngineUuid, Identity, MsgId, session_of};
pub use message::{Composer, Outgoing};
pub use metadata::TaskMetadata;
pub use recount::Recount;
pub use signature::Signer;
pub use time::Timestamp;
pub use wire::{DELIMITER, Wire, WireError};
