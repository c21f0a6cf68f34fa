//! As much of libzmq as a relay needs, used as well as it can be.

mod frame;
mod poll;
mod socket;

pub(crate) use frame::Frame;
pub(crate) use poll::Poller;
pub(crate) use socket::{Context, Socket, drain};
