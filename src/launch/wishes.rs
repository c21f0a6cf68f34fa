//! Signals to the supervisor, and what they mean.

use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use super::channel::Order;
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
    /// Of another `ipcluster` that has started this one; they end when it is gone.
    orders: Option<UnboundedReceiver<Order>>,
}

impl Wishes {
    pub(super) fn new(orders: Option<UnboundedReceiver<Order>>) -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: HangUp::new()?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            orders,
        })
    }

    pub(super) async fn next(&mut self) -> Wish {
        let orders = &mut self.orders;
        let ordered = async {
            match orders {
                Some(orders) => orders.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Wish::Stop(StopReason::Interrupted),
            _ = self.terminate.recv() => Wish::Stop(StopReason::Terminated),
            () = self.hang_up.recv() => Wish::Stop(StopReason::HungUp),
            _ = self.user1.recv() => Wish::Relay(Signal::SIGUSR1),
            _ = self.user2.recv() => Wish::Relay(Signal::SIGUSR2),
            order = ordered => match order {
                Some(Order::Signal(signal)) if signal != Signal::SIGTERM => Wish::Relay(signal),
                // That it is to end, or nobody is there any more.
                _ => {
                    self.orders = None;
                    Wish::Stop(StopReason::Terminated)
                }
            },
        }
    }
}
