//! Signals to the supervisor, and what they mean.

use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

use super::supervisor::StopReason;
use crate::os::hang_up::HangUp;

/// What people and other programs want of this process.
pub(super) enum Wish {
    Stop(StopReason),
    Relay(Signal),
}

pub(super) struct Wishes {
    interrupt: Signals,
    terminate: Signals,
    hang_up: HangUp,
    user1: Signals,
    user2: Signals,
}

impl Wishes {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: HangUp::new()?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop(StopReason::Interrupted),
            _ = self.terminate.recv() => Wish::Stop(StopReason::Terminated),
            () = self.hang_up.recv() => Wish::Stop(StopReason::HungUp),
            _ = self.user1.recv() => Wish::Relay(Signal::SIGUSR1),
            _ = self.user2.recv() => Wish::Relay(Signal::SIGUSR2),
        }
    }
}
