//! How connections begin, are made again, and end.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use mio::Token;

use super::{CONNECT_TIME, Kind, LISTENER, RECONNECT, Shared};
use crate::os::host::Host;
use crate::protocol::Identity;
use crate::transport::Frame;
use crate::transport::connection::{Connection, Connector};
use crate::transport::endpoint::{self, Address, Listener};
use crate::transport::frame::{ConnectionId, PeerName};
use crate::transport::monitor::ConnectionEvent;
use crate::transport::nearby;
use crate::transport::zmtp::Violation;

impl Shared {
    pub(super) fn listen(&mut self, interface: &str, port: u16) -> io::Result<u16> {
        let listener = endpoint::listen(interface, port)?;
        let address = listener.local_addr()?;
        self.add_listener(Listener::Tcp(listener))?;
        if let (true, Some(names)) = (self.is_nearby, &self.names) {
            match nearby::listen(names, address) {
                Ok(listener) => self.add_listener(Listener::Near(listener))?,
                // They come by the network.
                Err(error) => {
                    tracing::debug!("no way for processes of this machine to {address}: {error}")
                }
            }
        }
        Ok(address.port())
    }

    fn add_listener(&mut self, mut listener: Listener) -> io::Result<()> {
        let token = Token(LISTENER + self.listeners.len());
        listener.register(self.poll.registry(), token)?;
        self.listeners.push(listener);
        Ok(())
    }

    pub(super) fn connect(&mut self, endpoint: &str, known_as: Option<&[u8]>) -> io::Result<()> {
        let to = Address::resolve(endpoint)?;
        let connector = Connector::new(to, known_as.map(Box::from));
        let mut connection = Connection::new(new_connection_id(), None, self.ours.clone());
        connection.connector = Some(Box::new(connector));
        let slot = self.connections.insert(connection);
        if let Some(name) = known_as {
            self.peers.insert(Identity::from(name), slot);
        }
        self.connect_again(slot);
        Ok(())
    }

    pub(super) fn connect_anew(&mut self, this: &Host) {
        let is_elsewhere =
            |connection: &Connection| connection.address.is_some_and(|address| !this.has(address));
        let made: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.connector.is_some() && is_elsewhere(connection))
            .filter(|(_, connection)| connection.stream.is_some() && !connection.is_connecting)
            .map(|(slot, _)| slot)
            .collect();
        for slot in made {
            self.end(slot);
        }
    }

    pub(super) fn connect_again(&mut self, slot: usize) {
        let now = Instant::now();
        let connection = &mut self.connections[slot];
        let Some(connector) = &mut connection.connector else {
            return;
        };
        connector.begun = Some(now);
        let turn = connector.attempts;
        connector.attempts = turn.wrapping_add(1);
        let id = new_connection_id();
        let made = connector.to.connect(turn, self.names.as_ref());
        let made = made.and_then(|mut stream| {
            stream.register(self.poll.registry(), Token(slot))?;
            Ok(stream)
        });
        match made {
            Ok(stream) => {
                connection.use_stream(stream, id);
                self.timers.push(Reverse((now + CONNECT_TIME, slot, id)));
            }
            Err(_) => {
                connection.id = id;
                self.retry_later(slot);
            }
        }
    }

    fn retry_later(&mut self, slot: usize) {
        let pause = RECONNECT + RECONNECT.mul_f64(fastrand::f64());
        let id = self.connections[slot].id;
        self.timers
            .push(Reverse((Instant::now() + pause, slot, id)));
    }

    /// The peer has shown who it is.
    pub(super) fn on_ready(&mut self, slot: usize, identity: &[u8]) -> Result<(), Violation> {
        if self.kind == Kind::Router {
            self.name_peer(slot, identity)?;
        }
        let connection = &mut self.connections[slot];
        match self.kind {
            Kind::Sub => connection.send(&mut vec![Frame::from(&[1][..])], 0),
            // A connection that is made again is subscribed to again.
            Kind::XPub => {
                connection.subscriptions.get_or_insert_default();
            }
            Kind::Router | Kind::Dealer => {}
        }
        if let Some(connector) = &mut connection.connector {
            connector.attempts = 0;
            for mut frames in std::mem::take(&mut connector.waiting) {
                connection.send(&mut frames, 0);
            }
        }
        if self.keeps_events {
            self.news
                .push_back((ConnectionEvent::Established(connection.id), slot));
        }
        self.mark_dirty(slot);
        Ok(())
    }

    fn name_peer(&mut self, slot: usize, identity: &[u8]) -> Result<(), Violation> {
        let connection = &self.connections[slot];
        let known_as = connection
            .connector
            .as_ref()
            .and_then(|connector| connector.known_as.clone());
        let identity = match known_as {
            Some(name) => Identity::from(&name[..]),
            None if identity.is_empty() => self.made_up_name(),
            None => Identity::from(identity),
        };
        if let Some(other) = self.peers.get(&identity).copied()
            && other != slot
        {
            if !self.handover {
                return Err(Violation::IdentityInUse);
            }
            self.end(other);
        }
        let connection = &mut self.connections[slot];
        connection.name = Some(Arc::new(PeerName {
            identity: identity.clone(),
            connection: connection.id,
            address: connection.address,
        }));
        self.peers.insert(identity, slot);
        Ok(())
    }

    /// As libzmq names those who have no name: a zero and a number.
    fn made_up_name(&mut self) -> Identity {
        self.next_name = self.next_name.wrapping_add(1);
        let mut name = [0; 5];
        name[1..].copy_from_slice(&self.next_name.to_be_bytes());
        Identity::from(&name[..])
    }

    /// The connection is over. What it has brought can still be received.
    pub(super) fn end(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.is_ready() && self.keeps_events {
            self.news
                .push_back((ConnectionEvent::Ended(connection.id), slot));
        }
        connection.reset();
        if connection.connector.is_some() {
            return self.retry_later(slot);
        }
        if let Some(name) = &connection.name
            && self.peers.get(&name.identity) == Some(&slot)
        {
            self.peers.remove(&name.identity);
        }
        if connection.incoming.is_empty() {
            self.connections.remove(slot);
        } else {
            self.mark_readable(slot);
        }
    }
}

pub(super) fn new_connection_id() -> ConnectionId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    ConnectionId(LAST.fetch_add(1, Ordering::Relaxed) + 1)
}
