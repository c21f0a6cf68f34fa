//! The only room that names ZeroMQ: frames, sockets, polling, and the mailboxes by which threads talk.
//!
//! libzmq sockets belong to one thread each. A thread receives in bursts until nothing is left, and only then polls;
//! `ZMQ_FD` is never handed to another event loop, since it is edge-triggered and has hung several wrappers.

mod burst;
mod door;
mod frame;
mod mailbox;
mod monitor;
mod outbox;
mod packed;
mod peer_log;
mod poll;
mod socket;
mod wake;

pub use burst::{drain, drain_turns, time_left};
pub use door::Door;
pub use frame::Frame;
pub use mailbox::{Mailbox, Sender, mailbox};
pub use monitor::{ConnectionEvent, Monitor};
pub use outbox::Outbox;
pub use packed::Packed;
pub use peer_log::{PeerLog, printable};
pub use poll::Poller;
pub use socket::{BindError, Context, Kind, SendError, Socket};
