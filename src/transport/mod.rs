//! Frames, sockets, polling, and the mailboxes by which threads talk: ZeroMQ's protocol in this project's own words.
//!
//! A socket belongs to one thread, which accepts, reads, decodes, encodes and writes: a message crosses the program
//! without waking another thread, and a connection that is idle takes a few hundred bytes. A thread receives in bursts
//! until nothing is left, and only then waits. [`zmtp`] is the protocol, without I/O. Between processes of one machine,
//! large frames are not copied: [`nearby`].

mod burst;
mod connection;
mod door;
mod endpoint;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod limits;
mod mailbox;
mod monitor;
mod nearby;
mod outbox;
mod packed;
mod peer_log;
mod poll;
mod socket;
mod wake;
mod z85;
mod zmtp;

pub use burst::{drain, drain_turns, time_left};
pub use door::Door;
pub use frame::{ConnectionId, Frame};
pub use mailbox::{Mailbox, Sender, mailbox};
pub use monitor::{ConnectionEvent, Monitor};
pub use outbox::Outbox;
pub use packed::Packed;
pub use peer_log::{PeerLog, printable};
pub use poll::Poller;
pub use socket::{BindError, Context, Kind, SendError, Socket};
pub use zmtp::curve::{KeyPair, Security, ServerKey};
