//! Who does what: the task queue, direct requests, broadcasts. Pure: ids, times and seeds come in as arguments, actions
//! go out as data.
//!
//! Payloads are opaque here: what a scheduler needs to know of a message is given to it, and it keeps the rest for the
//! thread that sends it.

mod broadcast;
#[cfg(test)]
mod broadcast_simulation;
mod direct;
mod recent;
pub mod scheme;
pub mod task;

pub use broadcast::{
    BroadcastEnd, BroadcastLoad, BroadcastScheduler, BroadcastTarget, BroadcastVerdict, FanOut,
};
pub use direct::{DirectFailure, DirectLoad, DirectScheduler, Route};
pub use scheme::Scheme;
pub use task::{
    ClientWaiting, EngineLoad, JobKey, Outcome, Payload, TaskAction, TaskConfig, TaskError,
    TaskScheduler, TaskSnapshot, TaskStatus, Verdict,
};
