//! Connections of a socket as they come and go.

use std::sync::{Arc, Mutex};

use super::Socket;
use super::frame::ConnectionId;
use super::socket::{Shared, lock};
use crate::protocol::Identity;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// A connection is ready for messages.
    Established(ConnectionId),
    /// A connection ended: the peer closed it, died, or the network broke it.
    Ended(ConnectionId),
}

/// Watches one socket, whose poller wakes for its events too.
pub struct Monitor {
    socket: Arc<Mutex<Shared>>,
}

impl Monitor {
    pub fn new(watched: &Socket) -> Self {
        let socket = watched.shared();
        lock(&socket).keep_events();
        Self { socket }
    }

    /// The next event, if there is one.
    pub fn receive(&mut self) -> Option<ConnectionEvent> {
        lock(&self.socket).next_event().map(|(event, _)| event)
    }

    /// The next event of a router, and the name of the peer, which one that has gone does not have any more.
    pub fn receive_named(&mut self) -> Option<(ConnectionEvent, Option<Identity>)> {
        lock(&self.socket).next_event()
    }
}
