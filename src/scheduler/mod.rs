//! Who does what: the task queue, direct requests, broadcasts. Pure.
//!
//! Payloads are opaque here: what a scheduler needs to know of a message is given to it, and it keeps the rest for the
//! thread that sends it.

mod broadcast;
mod direct;
mod recent;

pub use broadcast::{
    BroadcastEnd, BroadcastLoad, BroadcastScheduler, BroadcastTarget, BroadcastVerdict, FanOut,
};
pub use direct::{DirectFailure, DirectLoad, DirectScheduler, Route};
