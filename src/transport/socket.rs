//! Sockets with the options that this project uses, and no others.
//!
//! A socket belongs to one thread, which does all its work: connections are accepted and made, bytes read and written
//! while the thread waits ([`Poller::wait`](super::Poller::wait)) and when it receives. Nothing happens in between.

mod arrivals;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use thiserror::Error;

use super::Frame;
use super::connection::{Connection, Connector, State};
use super::endpoint::{self, Address, Stream};
use super::frame::{ConnectionId, PeerName};
use super::limits::{Visitors, fair_share};
use super::monitor::ConnectionEvent;
use super::peer_log::PeerLog;
use super::zmtp::Violation;
use super::zmtp::curve::Security;
use super::zmtp::peer::{Ours, SocketType};
use crate::os::host::Host;
use crate::protocol::Identity;

/// An attempt to connect that has not been answered by then is begun anew: the system would ask ever more seldom, and
/// find out long after the peer, or the way to it, is there again.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// A connection that has not shown by then that it speaks ZMTP is ended.
const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// Between two attempts to connect, as libzmq has it; up to as much again by chance, so that peers do not come in crowds.
const RECONNECT: Duration = Duration::from_millis(100);

/// After a connection could not be accepted, as a rule because there are no descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Unread by a peer, it is worth a look at the limit.
const NOTICEABLE: usize = 1 << 20;

/// Written without waiting for more, and for the thread's next wait.
const WRITE_NOW: usize = 64 * 1024;

/// Events that are taken from the system at once, and how often in one turn.
const EVENTS: usize = 128;
const ROUNDS: usize = 8;

/// Vectors that are kept to be used again.
const SPARE: usize = 16;

/// Reads from one connection that nobody has asked for. What a system keeps of an ended one takes no more.
const READS_AHEAD: usize = 256;

/// Marks what belongs to a listener; the others are connections.
const LISTENER: usize = 1 << 40;

/// What the sockets of a program have in common.
#[derive(Clone, Debug)]
pub struct Context {
    security: Security,
    visitors: Arc<Visitors>,
}

impl Default for Context {
    fn default() -> Self {
        Self::secured(Security::Null)
    }
}

impl Context {
    /// Of connections that are not encrypted.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn secured(security: Security) -> Self {
        Self::limited(security, u64::MAX)
    }

    /// Peers that connect may send messages of `message_limit` bytes, and all of them together have as much under way.
    /// Who wants more is left.
    pub fn limited(security: Security, message_limit: u64) -> Self {
        Self {
            security,
            visitors: Arc::new(Visitors::new(message_limit)),
        }
    }

    /// A socket that nothing lingers for: what is unsent when it closes is dropped.
    pub fn socket(&self, kind: Kind) -> io::Result<Socket> {
        Ok(Socket {
            shared: Arc::new(Mutex::new(Shared::new(kind, self)?)),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Names the sender before each message, and takes the receiver's name before each.
    Router,
    /// Sends to each of its peers in turn.
    Dealer,
    /// Sends to all subscribers, and receives their subscriptions.
    XPub,
    /// Subscribes to everything.
    Sub,
}

impl Kind {
    fn of_zmtp(self) -> SocketType {
        match self {
            Self::Router => SocketType::Router,
            Self::Dealer => SocketType::Dealer,
            Self::XPub => SocketType::XPub,
            Self::Sub => SocketType::Sub,
        }
    }
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// A router knows no connection of that identity, or a socket has none at all.
    #[error("the peer is not connected")]
    Unreachable,
    /// The peer's queue is full.
    #[error("the peer does not keep up")]
    Full,
}

/// Why a socket could not listen.
#[derive(Debug, Error)]
#[error("cannot listen on {endpoint}: {source}")]
pub struct BindError {
    pub endpoint: String,
    pub source: io::Error,
}

/// A socket, owned by one thread.
pub struct Socket {
    shared: Arc<Mutex<Shared>>,
}

/// Locks what only one thread uses, through the socket, its poller and its monitor.
pub(super) fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Socket {
    pub(super) fn watch(&self) -> (Arc<Mutex<Shared>>, RawFd) {
        (self.shared.clone(), lock(&self.shared).poll.as_raw_fd())
    }

    pub(super) fn shared(&self) -> Arc<Mutex<Shared>> {
        self.shared.clone()
    }

    /// Has the next [`drain`](super::drain) find what has come since the poller has looked.
    pub fn look_again(&mut self) {
        lock(&self.shared).look_after(true);
    }

    /// Listens on `interface` (such as `tcp://127.0.0.1`), on `port` or, with 0, on one that the system picks.
    /// Returns the port.
    pub fn bind(&self, interface: &str, port: u16) -> Result<u16, BindError> {
        lock(&self.shared)
            .listen(interface, port)
            .map_err(|source| BindError {
                endpoint: format!("{interface}:{port}"),
                source,
            })
    }

    /// Connects, and connects again when the connection breaks. What is sent meanwhile waits.
    pub fn connect(&self, endpoint: &str) -> io::Result<()> {
        lock(&self.shared).connect(endpoint, None)
    }

    /// Connects a router to a peer that it is to know by `name`, whatever the peer calls itself. With
    /// [`set_identity`](Self::set_identity) before each, one socket can be many peers.
    pub fn connect_known_as(&mut self, endpoint: &str, name: &[u8]) -> io::Result<()> {
        lock(&self.shared).connect(endpoint, Some(name))
    }

    /// The routing id under which peers know this socket.
    pub fn set_identity(&self, identity: &[u8]) {
        let mut shared = lock(&self.shared);
        Arc::make_mut(&mut shared.ours).identity = identity.to_vec();
    }

    /// Bytes that are kept for peers that do not keep up, all of them together. Beyond its share a peer is sent nothing
    /// more until it has read.
    pub fn set_send_limit(&self, bytes: usize) {
        lock(&self.shared).send_limit = bytes;
    }

    /// The same, where a peer that has read nothing for so long is left: it would miss what it cannot do without.
    pub fn set_patience(&self, bytes: usize) {
        lock(&self.shared).patience = bytes;
    }

    /// A router reports peers that it cannot reach or that do not keep up, instead of dropping in silence.
    pub fn set_mandatory(&self) {
        lock(&self.shared).mandatory = true;
    }

    /// A peer that connects again under its identity takes the place of its old connection.
    pub fn set_handover(&self) {
        lock(&self.shared).handover = true;
    }

    /// Largest message that a peer may send, in bytes; larger ones end its connection.
    pub fn set_max_message_size(&self, bytes: u64) {
        let mut shared = lock(&self.shared);
        Arc::make_mut(&mut shared.ours).limit = bytes;
    }

    /// Time for which closing waits for unsent messages.
    pub fn set_linger(&self, time: Duration) {
        lock(&self.shared).linger = time;
    }

    /// Receives one whole message into `frames`, which is cleared first. `false` when there is none, as far as the
    /// socket's poller has looked.
    pub fn receive(&mut self, frames: &mut Vec<Frame>) -> bool {
        frames.clear();
        lock(&self.shared).receive(frames)
    }

    /// Ends the connections that this end has made to other machines than `this`, and makes them again: for peers that
    /// say nothing any more. If only the way to them was interrupted, the new connection is there as soon as the way is;
    /// over the old one, the system asks ever more seldom.
    pub fn connect_anew(&mut self, this: &Host) {
        lock(&self.shared).connect_anew(this);
    }

    /// Writes what was sent, as far as it goes, without waiting for the thread's next wait.
    pub fn flush(&mut self) {
        lock(&self.shared).flush();
    }

    /// Sends `frames` as one message, emptying the vector; it is left whole when the message is not taken. The message
    /// leaves when the thread waits next, or when there is much to be sent.
    pub fn send(&mut self, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        lock(&self.shared).send(frames)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        lock(&self.shared).close();
    }
}

/// The state of a socket, which its poller and its monitor share.
pub(super) struct Shared {
    kind: Kind,
    ours: Arc<Ours>,
    visitors: Arc<Visitors>,
    poll: Poll,
    events: Option<Events>,
    listeners: Vec<TcpListener>,
    connections: Slab<Connection>,
    /// By which names a router reaches whom.
    peers: HashMap<Identity, usize>,
    /// Listeners, and connections in their handshakes, with something to be read.
    arrivals: VecDeque<usize>,
    /// Connections with messages, or with bytes to be read. Each has its turn.
    readable: VecDeque<usize>,
    /// Connections with something to be written.
    dirty: Vec<usize>,
    /// Connections of a dealer whose turn is next.
    turn: usize,
    timers: BinaryHeap<Reverse<(Instant, usize, ConnectionId)>>,
    news: VecDeque<ConnectionEvent>,
    keeps_events: bool,
    spare: Vec<Vec<Frame>>,
    next_name: u32,
    send_limit: usize,
    patience: usize,
    mandatory: bool,
    handover: bool,
    linger: Duration,
    refusals: PeerLog,
    accepting: PeerLog,
}

impl Shared {
    fn new(kind: Kind, context: &Context) -> io::Result<Self> {
        Ok(Self {
            kind,
            ours: Arc::new(Ours {
                socket_type: kind.of_zmtp(),
                identity: Vec::new(),
                limit: context.visitors.message_limit,
                security: context.security.clone(),
            }),
            visitors: context.visitors.clone(),
            arrivals: VecDeque::new(),
            poll: Poll::new()?,
            events: Some(Events::with_capacity(EVENTS)),
            listeners: Vec::new(),
            connections: Slab::new(),
            peers: HashMap::new(),
            readable: VecDeque::new(),
            dirty: Vec::new(),
            turn: 0,
            timers: BinaryHeap::new(),
            news: VecDeque::new(),
            keeps_events: false,
            spare: Vec::new(),
            next_name: fastrand::u32(..),
            send_limit: usize::MAX,
            patience: usize::MAX,
            mandatory: false,
            handover: false,
            linger: Duration::ZERO,
            refusals: PeerLog::default(),
            accepting: PeerLog::default(),
        })
    }

    pub(super) fn keep_events(&mut self) {
        self.keeps_events = true;
    }

    pub(super) fn next_event(&mut self) -> Option<ConnectionEvent> {
        self.news.pop_front()
    }

    /// The thread has something to do: events to hear of or, if it reads, messages to receive.
    pub(super) fn has_news(&self, is_read: bool) -> bool {
        !self.news.is_empty() || !self.arrivals.is_empty() || is_read && !self.readable.is_empty()
    }

    /// When [`look_after`](Self::look_after) is to be called at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((when, ..))| *when)
    }

    /// Does what the system (`has_events`) or the time demands.
    pub(super) fn look_after(&mut self, has_events: bool) {
        if has_events && let Some(mut events) = self.events.take() {
            for _ in 0..ROUNDS {
                match self.poll.poll(&mut events, Some(Duration::ZERO)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => tracing::error!("a socket cannot be watched: {error}"),
                }
                for event in &events {
                    match event.token().0 {
                        token if token >= LISTENER => self.arrivals.push_back(token),
                        slot => {
                            let has_input = event.is_readable() || event.is_error();
                            let is_ending = event.is_read_closed() || event.is_error();
                            self.on_event(slot, has_input, event.is_writable(), is_ending);
                        }
                    }
                }
                if events.iter().count() < EVENTS {
                    break;
                }
            }
            self.events = Some(events);
        }
        self.welcome();
        if !self.timers.is_empty() {
            self.on_time(Instant::now());
        }
    }

    fn on_event(&mut self, slot: usize, has_input: bool, has_room: bool, is_ending: bool) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.is_connecting {
            match connection
                .stream
                .as_ref()
                .map_or(Ok(false), Stream::is_connected)
            {
                Ok(true) => connection.is_connecting = false,
                Ok(false) => return,
                Err(_) => return self.end(slot),
            }
            if let Some(stream) = &connection.stream {
                stream.set_no_delay();
                connection.address = stream.peer();
            }
        }
        connection.may_read |= has_input;
        connection.may_write |= has_room;
        connection.is_ending |= is_ending;
        if !connection.is_ready() {
            self.mark_arriving(slot);
        } else if connection.is_ending || self.kind == Kind::XPub {
            self.read_ahead(slot);
        } else if connection.may_read {
            self.mark_readable(slot);
        }
        self.write(slot);
    }

    fn on_time(&mut self, now: Instant) {
        while let Some(Reverse((when, slot, id))) = self.timers.peek().copied()
            && when <= now
        {
            self.timers.pop();
            if slot >= LISTENER {
                self.accept(slot - LISTENER);
                continue;
            }
            let Some(connection) = self.connections.get(slot).filter(|c| c.id == id) else {
                continue;
            };
            if connection.stream.is_none() {
                self.connect_again(slot);
            } else if !connection.is_ready() {
                let begun = connection.connector.as_ref().and_then(|own| own.begun);
                let deadline = begun.map_or(when, |begun| begun + HANDSHAKE_TIME);
                if connection.is_connecting || deadline <= now {
                    self.end(slot);
                } else {
                    self.timers.push(Reverse((deadline, slot, id)));
                }
            }
        }
    }

    // Listening and connecting.

    fn listen(&mut self, interface: &str, port: u16) -> io::Result<u16> {
        let mut listener = endpoint::listen(interface, port)?;
        let port = listener.local_addr()?.port();
        let token = Token(LISTENER + self.listeners.len());
        self.poll
            .registry()
            .register(&mut listener, token, Interest::READABLE)?;
        self.listeners.push(listener);
        Ok(port)
    }

    fn connect(&mut self, endpoint: &str, known_as: Option<&[u8]>) -> io::Result<()> {
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

    fn connect_anew(&mut self, this: &Host) {
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

    fn connect_again(&mut self, slot: usize) {
        let now = Instant::now();
        let connection = &mut self.connections[slot];
        let Some(connector) = &mut connection.connector else {
            return;
        };
        connector.begun = Some(now);
        let turn = connector.attempts;
        connector.attempts = turn.wrapping_add(1);
        let id = new_connection_id();
        let made = connector.to.connect(turn).and_then(|mut stream| {
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
    fn on_ready(&mut self, slot: usize, identity: &[u8]) -> Result<(), Violation> {
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
                .push_back(ConnectionEvent::Established(connection.id));
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
    fn end(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.is_ready() && self.keeps_events {
            self.news.push_back(ConnectionEvent::Ended(connection.id));
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

    // Reading.

    fn mark_readable(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.is_readable {
            connection.is_readable = true;
            self.readable.push_back(slot);
        }
    }

    fn receive(&mut self, frames: &mut Vec<Frame>) -> bool {
        while let Some(slot) = self.readable.front().copied() {
            let Some(connection) = self.connections.get_mut(slot) else {
                self.readable.pop_front();
                continue;
            };
            if let Some(message) = connection.incoming.pop_front() {
                let before = std::mem::replace(frames, message);
                if self.spare.len() < SPARE {
                    self.spare.push(before);
                }
                if let (Kind::Router, Some(name)) = (self.kind, &connection.name) {
                    frames[0] = Frame::peer(name.clone());
                }
                // The others' turn.
                self.readable.pop_front();
                if connection.may_read || !connection.incoming.is_empty() {
                    self.readable.push_back(slot);
                } else {
                    connection.is_readable = false;
                    if connection.stream.is_none() && connection.connector.is_none() {
                        self.connections.remove(slot);
                    }
                }
                return true;
            }
            if connection.may_read {
                self.read(slot);
            } else {
                connection.is_readable = false;
                self.readable.pop_front();
            }
        }
        false
    }

    /// Reads what does not wait for the thread to ask for it: handshakes, subscriptions, and the last of a connection,
    /// so that its end is known.
    fn read_ahead(&mut self, slot: usize) {
        // A peer that never stops does not keep the others waiting.
        for _ in 0..READS_AHEAD {
            let Some(connection) = self.connections.get(slot) else {
                return;
            };
            let waits = connection.is_ready() && !connection.is_ending && self.kind != Kind::XPub;
            if !connection.may_read || waits {
                break;
            }
            self.read(slot);
        }
        if self.connections.get(slot).is_some_and(|c| c.may_read) {
            self.mark_readable(slot);
        }
    }

    /// Reads once from a connection.
    fn read(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        let mut ready = None;
        let state = connection.read(&mut ready, &mut self.spare);
        if connection.can_write() {
            self.mark_dirty(slot);
        }
        let named = match ready {
            Some(identity) => self.on_ready(slot, &identity),
            None => Ok(()),
        };
        let state = match named {
            Ok(()) => state,
            Err(violation) => State::Refused(violation),
        };
        if self.kind == Kind::XPub
            && let Err(violation) = self.note_subscriptions(slot)
        {
            return self.refuse(slot, &violation);
        }
        if !self.connections[slot].incoming.is_empty() {
            self.mark_readable(slot);
        }
        match state {
            State::Open => {}
            State::Ended => match self.connections[slot].peer.farewell(&self.ours) {
                Some(violation) => self.refuse(slot, &violation),
                None => self.end(slot),
            },
            State::Refused(violation) => self.refuse(slot, &violation),
        }
    }

    /// Subscriptions are acted upon as they come, and received as messages.
    fn note_subscriptions(&mut self, slot: usize) -> Result<(), Violation> {
        let connection = &mut self.connections[slot];
        let subscriptions = connection.subscriptions.get_or_insert_default();
        let mut kept = VecDeque::new();
        for message in connection.incoming.drain(..) {
            match message.first().and_then(|frame| frame.split_first()) {
                Some((1, topic)) => subscriptions.add(topic)?,
                Some((0, topic)) => subscriptions.remove(topic),
                _ => continue,
            }
            kept.push_back(message);
        }
        // Those that are not received make room: a publisher need not ask for them.
        kept.truncate(1000);
        connection.incoming = kept;
        Ok(())
    }

    // Writing.

    fn send(&mut self, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        match self.kind {
            Kind::Router => self.route(frames),
            Kind::Dealer => self.deal(frames),
            Kind::XPub => {
                self.publish(frames);
                frames.clear();
                Ok(())
            }
            Kind::Sub => Err(SendError::Unreachable),
        }
    }

    fn route(&mut self, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        let slot = frames
            .first()
            .and_then(|name| self.peers.get(&name[..]).copied());
        let result = match slot {
            Some(slot) => self.send_to(slot, frames, 1),
            None => Err(SendError::Unreachable),
        };
        if result.is_err() && !self.mandatory {
            frames.clear();
            return Ok(());
        }
        result
    }

    fn deal(&mut self, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        let slots: usize = self.connections.len();
        let mut choice = None;
        for (slot, connection) in self.connections.iter() {
            let is_next = slot >= self.turn;
            let rank = (connection.is_ready(), is_next);
            if choice.is_none_or(|(best, _)| rank > best) {
                choice = Some((rank, slot));
            }
        }
        let (_, slot) = choice.ok_or(SendError::Unreachable)?;
        self.turn = if slots == 1 { 0 } else { slot + 1 };
        self.send_to(slot, frames, 0)
    }

    fn publish(&mut self, frames: &[Frame]) {
        let Some(first) = frames.first() else {
            return;
        };
        let share = self.share_of(self.send_limit);
        let wanting: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                let wants = |subscriptions: &Box<_>| {
                    super::zmtp::subscriptions::Subscriptions::want(subscriptions, first)
                };
                connection.subscriptions.as_ref().is_some_and(wants)
                    && connection.backlog() <= share
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in wanting {
            if self.has_lost_patience(slot) {
                continue;
            }
            let connection = &mut self.connections[slot];
            if connection.is_ready() {
                connection.send_copy(frames);
                self.after_send(slot);
            } else if let Some(connector) = &mut connection.connector {
                connector.waiting.push_back(frames.to_vec());
            }
        }
    }

    fn send_to(
        &mut self,
        slot: usize,
        frames: &mut Vec<Frame>,
        from: usize,
    ) -> Result<(), SendError> {
        if self.has_lost_patience(slot) {
            return Err(SendError::Unreachable);
        }
        let connection = &mut self.connections[slot];
        if connection.backlog() > self.send_limit {
            return Err(SendError::Full);
        }
        if connection.is_ready() {
            connection.send(frames, from);
            self.after_send(slot);
            return Ok(());
        }
        let Some(connector) = &mut connection.connector else {
            return Err(SendError::Unreachable);
        };
        frames.drain(..from);
        connector.waiting.push_back(std::mem::take(frames));
        Ok(())
    }

    /// Leaves a peer that does not read. What it would have been sent is lost.
    fn has_lost_patience(&mut self, slot: usize) -> bool {
        let connection = &self.connections[slot];
        let backlog = connection.backlog();
        if backlog < NOTICEABLE
            || connection.connector.is_some()
            || backlog <= self.share_of(self.patience)
        {
            return false;
        }
        let waiting = backlog as u64;
        self.refuse(slot, &Violation::Unread { waiting });
        true
    }

    /// What each of those who do not keep up may have of a limit.
    fn share_of(&self, limit: usize) -> usize {
        if limit == usize::MAX {
            return limit;
        }
        let backlogs = self.connections.iter().map(|(_, c)| c.backlog());
        fair_share(limit, backlogs)
    }

    fn after_send(&mut self, slot: usize) {
        if self.connections[slot].backlog() >= WRITE_NOW {
            self.write(slot);
        } else {
            self.mark_dirty(slot);
        }
    }

    fn mark_dirty(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Writes what was sent since the last call.
    pub(super) fn flush(&mut self) {
        while let Some(slot) = self.dirty.pop() {
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.is_dirty = false;
                self.write(slot);
            }
        }
    }

    fn write(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.can_write() && connection.write().is_err() {
            // What the peer has sent before counts.
            connection.is_ending = true;
            connection.may_read = true;
            self.read_ahead(slot);
            if let Some(connection) = self.connections.get(slot)
                && connection.stream.is_some()
                && connection.is_ending
            {
                self.end(slot);
            }
        }
    }

    // Closing.

    fn close(&mut self) {
        let deadline = Instant::now() + self.linger;
        self.listeners.clear();
        loop {
            self.flush();
            let has_unsent = self.connections.iter().any(|(_, connection)| {
                connection.is_ready() && connection.backlog() > 0
                    || connection
                        .connector
                        .as_ref()
                        .is_some_and(|connector| connector.has_messages())
            });
            let left = deadline.saturating_duration_since(Instant::now());
            if !has_unsent || left.is_zero() {
                break;
            }
            let left = self.next_deadline().map_or(left, |next| {
                left.min(next.saturating_duration_since(Instant::now()))
            });
            let mut fd = nix::libc::pollfd {
                fd: self.poll.as_raw_fd(),
                events: nix::libc::POLLIN,
                revents: 0,
            };
            let millis = left.as_millis() as i32 + 1;
            // SAFETY: one entry, valid for the call.
            unsafe { nix::libc::poll(&raw mut fd, 1, millis) };
            self.look_after(true);
        }
        for (_, connection) in self.connections.iter_mut() {
            connection.finish();
        }
        self.connections.clear();
        self.peers.clear();
        self.readable.clear();
        self.timers.clear();
    }
}

fn new_connection_id() -> ConnectionId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    ConnectionId(LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
