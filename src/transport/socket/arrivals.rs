//! Connections that come in, until their peers have shown who they are.
//!
//! Handshakes cost time, encrypted ones a good part of a millisecond, and anybody may begin one. So a few are gone on with
//! in each turn of the thread, and the messages of those who are known have their turn in between.

use std::cmp::Reverse;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use mio::Token;

use super::connecting::new_connection_id;
use super::{ACCEPT_AGAIN, HANDSHAKE_TIME, LISTENER, Shared, Stream};
use crate::protocol::Identity;
use crate::transport::connection::Connection;
use crate::transport::endpoint::Listener;
use crate::transport::frame::ConnectionId;
use crate::transport::zmtp::Violation;

/// Handshakes that are gone on with in one turn.
const HANDSHAKES: usize = 8;

/// Connections that are taken in in one turn, of each listener.
const ACCEPTS: usize = 64;

impl Shared {
    /// Goes on with those that arrive.
    pub(super) fn welcome(&mut self) {
        for _ in 0..HANDSHAKES.min(self.arrivals.len()) {
            let Some(token) = self.arrivals.pop_front() else {
                return;
            };
            if token >= LISTENER {
                self.accept(token - LISTENER);
            } else if let Some(connection) = self.connections.get_mut(token) {
                connection.is_arriving = false;
                self.read_ahead(token);
            }
        }
    }

    /// There is something to be read of a connection whose handshake is not over.
    pub(super) fn mark_arriving(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.is_arriving {
            connection.is_arriving = true;
            self.arrivals.push_back(slot);
        }
    }

    pub(super) fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(index) else {
                return;
            };
            match listener.accept() {
                Ok(Some((stream, address))) => self.take_in(stream, address),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    let now = Instant::now();
                    let nobody = Identity::from(&b""[..]);
                    if let Some(line) = self.accepting.on_event(now, &nobody) {
                        tracing::error!("a connection cannot be accepted: {error} {line}");
                    }
                    let again = (now + ACCEPT_AGAIN, LISTENER + index, ConnectionId(0));
                    self.timers.push(Reverse(again));
                    return;
                }
            }
        }
        // The others' turn.
        self.arrivals.push_back(LISTENER + index);
    }

    fn take_in(&mut self, mut stream: Stream, address: IpAddr) {
        let id = new_connection_id();
        let visitor = match self.visitors.admit(stream.is_near()) {
            Ok(visitor) => visitor,
            Err(violation) => {
                let mut connection = Connection::new(id, Some(stream), self.ours.clone());
                connection.dismiss(&violation);
                return self.tell_of_refusal(Some(address), false, &violation);
            }
        };
        let slot = self.connections.vacant_key();
        if let Err(error) = stream.register(self.poll.registry(), Token(slot)) {
            tracing::error!("a connection cannot be watched: {error}");
            return;
        }
        stream.set_no_delay();
        let mut connection = Connection::new(id, Some(stream), self.ours.clone());
        connection.address = Some(address);
        connection.visitor = Some(visitor);
        self.connections.insert(connection);
        self.timers
            .push(Reverse((Instant::now() + HANDSHAKE_TIME, slot, id)));
        self.write(slot);
    }

    pub(super) fn refuse(&mut self, slot: usize, violation: &Violation) {
        let connection = &self.connections[slot];
        let (address, is_ours) = (connection.address, connection.connector.is_some());
        self.tell_of_refusal(address, is_ours, violation);
        self.end(slot);
    }

    fn tell_of_refusal(&mut self, address: Option<IpAddr>, is_ours: bool, violation: &Violation) {
        let peer = address.map_or_else(String::new, |address| address.to_string());
        let name = Identity::from(peer.as_bytes());
        let Some(line) = self.refusals.on_event(Instant::now(), &name) else {
            return;
        };
        let port = self.listeners.first().and_then(Listener::address);
        let at = port.map_or_else(String::new, |at| format!(" to port {}", at.port()));
        let direction = if is_ours { "to" } else { "from" };
        tracing::warn!("a connection {direction} {peer}{at} was ended: {violation} {line}");
    }
}
