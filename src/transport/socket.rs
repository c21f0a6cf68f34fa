//! Sockets with the options that this project uses, and no others.
//!
//! A socket belongs to one thread, which does all its work: connections are accepted and made, bytes read and written
//! while the thread waits ([`Poller::wait`](super::Poller::wait)) and when it receives. Nothing happens in between.

mod arrivals;
mod connecting;
mod reading;
mod writing;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use mio::{Events, Poll};
use slab::Slab;
use thiserror::Error;

use super::Frame;
use super::connection::Connection;
use super::endpoint::{Listener, Stream};
use super::frame::ConnectionId;
use super::limits::Visitors;
use super::monitor::ConnectionEvent;
use super::nearby::Names;
use super::peer_log::PeerLog;
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
    names: Option<Names>,
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
            names: None,
        }
    }

    /// The same, whose sockets find those of other processes on this machine that know the same key, and pass large
    /// payloads on to them without copying. Not where connections are encrypted, which says who may read what.
    pub fn with_nearby(mut self, key: &[u8]) -> Self {
        let is_plain = matches!(self.security, Security::Null);
        self.names = (is_plain && !key.is_empty()).then(|| Names::new(key));
        self
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

    /// Where it [binds](Self::bind) from now on, it can be found by processes of this machine, if the context has a key
    /// for that.
    pub fn set_nearby(&self) {
        lock(&self.shared).is_nearby = true;
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
        let mut shared = lock(&self.shared);
        shared.holds_until = None;
        shared.send(frames)
    }

    /// The same, where the message may be held for `time`, so that it leaves together with what is sent next.
    pub fn send_within(
        &mut self,
        time: Duration,
        frames: &mut Vec<Frame>,
    ) -> Result<(), SendError> {
        let mut shared = lock(&self.shared);
        if shared.dirty.is_empty() {
            shared.holds_until = Some(Instant::now() + time);
        }
        shared.send(frames)
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
    listeners: Vec<Listener>,
    names: Option<Names>,
    is_nearby: bool,
    connections: Slab<Connection>,
    /// By which names a router reaches whom.
    peers: HashMap<Identity, usize>,
    /// Listeners, and connections in their handshakes, with something to be read.
    arrivals: VecDeque<usize>,
    /// Connections with messages, or with bytes to be read. Each has its turn.
    readable: VecDeque<usize>,
    /// Connections with something to be written.
    dirty: Vec<usize>,
    /// Until then, what is sent may wait for more.
    holds_until: Option<Instant>,
    /// Connections of a dealer whose turn is next.
    turn: usize,
    timers: BinaryHeap<Reverse<(Instant, usize, ConnectionId)>>,
    /// And in which slots the connections are.
    news: VecDeque<(ConnectionEvent, usize)>,
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
            names: context.names.clone(),
            is_nearby: false,
            connections: Slab::new(),
            peers: HashMap::new(),
            readable: VecDeque::new(),
            dirty: Vec::new(),
            holds_until: None,
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

    /// And the name by which a router knows the peer, if that is there still.
    pub(super) fn next_event(&mut self) -> Option<(ConnectionEvent, Option<Identity>)> {
        let (event, slot) = self.news.pop_front()?;
        let (ConnectionEvent::Established(id) | ConnectionEvent::Ended(id)) = event;
        let connection = self.connections.get(slot).filter(|it| it.id == id);
        let name = connection.and_then(|connection| connection.name.as_ref());
        Some((event, name.map(|name| name.identity.clone())))
    }

    /// The thread has something to do: events to hear of or, if it reads, messages to receive.
    pub(super) fn has_news(&self, is_read: bool) -> bool {
        !self.news.is_empty() || !self.arrivals.is_empty() || is_read && !self.readable.is_empty()
    }

    /// When [`look_after`](Self::look_after) is to be called at the latest.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((when, ..))| *when);
        [timer, self.holds_until].into_iter().flatten().min()
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

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
