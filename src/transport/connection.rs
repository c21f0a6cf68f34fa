//! One connection of a socket: a stream, the peer at its other end, and what is on its way.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use nix::libc;

use super::Frame;
use super::endpoint::{Address, Stream};
use super::frame::{ConnectionId, PeerName};
use super::limits::Visitor;
use super::zmtp::Violation;
use super::zmtp::outgoing::{Next, Outgoing};
use super::zmtp::peer::{Io, Ours, Peer};
use super::zmtp::room::Room;
use super::zmtp::subscriptions::Subscriptions;

/// Read at once.
const CHUNK: usize = 64 * 1024;

/// Of a large frame, read at once: then others have their turn.
const LARGE_CHUNK: usize = 4 << 20;

/// Of one that is read into shared memory: to where it stays in the processor's caches until it is written there.
const SHARED_CHUNK: usize = 1 << 20;

/// Descriptors that may have come along before it is said what for.
const UNCLAIMED: usize = 8;

thread_local! {
    /// What is read goes through here, so that an idle connection needs no buffer.
    static CHUNK_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);

    /// Likewise, on its way to shared memory.
    static SHARED_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SHARED_CHUNK]);
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    /// None of a connection that is to be made again, or whose last messages have not been taken yet.
    pub(super) stream: Option<Stream>,
    /// The stream is being made.
    pub(super) is_connecting: bool,
    pub(super) peer: Peer,
    pub(super) ours: Arc<Ours>,
    out: Outgoing,
    pub(super) incoming: VecDeque<Vec<Frame>>,
    /// By which a router knows it.
    pub(super) name: Option<Arc<PeerName>>,
    pub(super) address: Option<IpAddr>,
    /// Of a publisher's peer.
    pub(super) subscriptions: Option<Box<Subscriptions>>,
    /// Of a connection that this end makes, and makes again.
    pub(super) connector: Option<Box<Connector>>,
    /// There may be something to read, as far as is known; likewise there may be room to write.
    pub(super) may_read: bool,
    pub(super) may_write: bool,
    /// The peer will send no more.
    pub(super) is_ending: bool,
    /// In the socket's list of those that arrive, with something to read, or to write.
    pub(super) is_arriving: bool,
    pub(super) is_readable: bool,
    pub(super) is_dirty: bool,
    /// Of a connection that the peer has made.
    pub(super) visitor: Option<Visitor>,
    /// Of memory that has come along, in order.
    descriptors: VecDeque<OwnedFd>,
}

/// What a connection that this end makes keeps for the next attempt.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) to: Address,
    pub(super) attempts: usize,
    /// When the last one began.
    pub(super) begun: Option<Instant>,
    /// The name that a router was told to give it.
    pub(super) known_as: Option<Box<[u8]>>,
    /// Messages for a peer that is not there.
    pub(super) waiting: VecDeque<Vec<Frame>>,
    /// Messages that are not wholly written, and where each ends: they go to the next connection, if this one breaks.
    unwritten: VecDeque<(u64, Vec<Frame>)>,
    /// Bytes that were written over this connection.
    written: u64,
}

impl Connector {
    pub(super) fn new(to: Address, known_as: Option<Box<[u8]>>) -> Self {
        Self {
            to,
            attempts: 0,
            begun: None,
            known_as,
            waiting: VecDeque::new(),
            unwritten: VecDeque::new(),
            written: 0,
        }
    }

    pub(super) fn has_messages(&self) -> bool {
        !self.waiting.is_empty() || !self.unwritten.is_empty()
    }
}

/// How a connection is after it was read.
#[derive(Debug)]
pub(super) enum State {
    Open,
    /// The peer ended it, or the network did.
    Ended,
    Refused(Violation),
}

impl Connection {
    pub(super) fn new(id: ConnectionId, stream: Option<Stream>, ours: Arc<Ours>) -> Self {
        let mut out = Outgoing::default();
        let peer = Peer::new(&ours, &mut out);
        Self {
            id,
            stream,
            is_connecting: false,
            peer,
            ours,
            out,
            incoming: VecDeque::new(),
            name: None,
            address: None,
            subscriptions: None,
            connector: None,
            may_read: true,
            may_write: true,
            is_ending: false,
            is_arriving: false,
            is_readable: false,
            is_dirty: false,
            visitor: None,
            descriptors: VecDeque::new(),
        }
    }

    /// Messages can be sent now.
    pub(super) fn is_ready(&self) -> bool {
        self.stream.is_some() && self.peer.is_ready()
    }

    /// Bytes that wait to be written.
    pub(super) fn backlog(&self) -> usize {
        self.out.len()
    }

    /// Puts a message behind what is to be written. Of a connection that this end makes, the frames are kept until they
    /// are, so `frames` is left with other, empty memory.
    pub(super) fn send(&mut self, frames: &mut Vec<Frame>, from: usize) {
        if self.connector.is_some() && from > 0 {
            frames.drain(..from);
            return self.send(frames, 0);
        }
        let passes = self.passes_memory();
        self.peer.send(&frames[from..], passes, &mut self.out);
        match &mut self.connector {
            Some(connector) => {
                let end = connector.written + self.out.len() as u64;
                let frames = std::mem::take(frames);
                connector.unwritten.push_back((end, frames));
            }
            None => frames.clear(),
        }
    }

    /// Like [`send`](Self::send), of a message that others get as well.
    pub(super) fn send_copy(&mut self, frames: &[Frame]) {
        if self.connector.is_some() {
            return self.send(&mut frames.to_vec(), 0);
        }
        let passes = self.passes_memory();
        self.peer.send(frames, passes, &mut self.out);
    }

    fn passes_memory(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_near)
    }

    /// Writes as much as goes.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        while self.may_write
            && !self.is_connecting
            && let Some(next) = self.out.next()
        {
            let goes_along = matches!(next, Next::WithMemory(..));
            let result = match next {
                Next::Bytes(bytes) => stream.write(bytes),
                Next::Pieces(slices) => stream.write_vectored(&slices),
                Next::WithMemory(command, memory) => stream.send_with(command, memory.fd()),
                Next::FromMemory(memory, start) => memory.write_to(&*stream, start),
            };
            match result {
                Ok(count) => {
                    self.out.advance(count);
                    if let Some(connector) = &mut self.connector {
                        connector.on_written(count);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.may_write = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // So many descriptors are under way that the system takes no more.
                Err(error) if goes_along && error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    let more = self.out.send_memory_as_bytes();
                    if let Some(connector) = &mut self.connector {
                        connector.on_more_to_write(more);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Something is to be written, and can be.
    pub(super) fn can_write(&self) -> bool {
        self.stream.is_some() && self.may_write && !self.is_connecting && !self.out.is_empty()
    }

    /// Reads once. `ready` is set when the peer has become ready.
    pub(super) fn read(
        &mut self,
        ready: &mut Option<Vec<u8>>,
        spare: &mut Vec<Vec<Frame>>,
    ) -> State {
        let Some(stream) = &mut self.stream else {
            self.may_read = false;
            return State::Open;
        };
        let mut io = Io {
            ours: &self.ours,
            out: &mut self.out,
            incoming: &mut self.incoming,
            ready,
            spare,
            shares: self.visitor.as_ref().is_some_and(Visitor::has_near_ones),
            descriptors: &mut self.descriptors,
        };
        let (result, outcome) = match self.peer.body() {
            Some((Room::Own(body), missing)) => {
                match stream.append_to(body, missing.min(LARGE_CHUNK)) {
                    Ok(count) => (Ok((count, count > 0)), self.peer.filled(count, &mut io)),
                    Err(error) => (Err(error), Ok(())),
                }
            }
            Some((room @ Room::Shared(_), missing)) => {
                let read = SHARED_BUFFER.with_borrow_mut(|chunk| {
                    let most = missing.min(chunk.len());
                    let count = stream.read(&mut chunk[..most])?;
                    Ok((count, room.extend(&chunk[..count])))
                });
                match read {
                    Ok((count, kept)) => {
                        let outcome = kept.and_then(|()| self.peer.filled(count, &mut io));
                        (Ok((count, count > 0)), outcome)
                    }
                    Err(error) => (Err(error), Ok(())),
                }
            }
            None => {
                CHUNK_BUFFER.with_borrow_mut(|chunk| match stream.receive(chunk, io.descriptors) {
                    Ok((count, may_have_more)) => {
                        if !may_have_more && !self.is_ending {
                            // It need not be asked again.
                            self.may_read = false;
                        }
                        let outcome = self.peer.receive(&chunk[..count], &mut io);
                        (Ok((count, count > 0)), outcome)
                    }
                    Err(error) => (Err(error), Ok(())),
                })
            }
        };
        if let Err(violation) = outcome {
            return State::Refused(violation);
        }
        if self.descriptors.len() > UNCLAIMED {
            let many = Violation::Memory("more comes along than is spoken of".to_owned());
            return State::Refused(many);
        }
        if let Some(visitor) = &mut self.visitor
            && let Err(violation) = visitor.hold(self.peer.held())
        {
            return State::Refused(violation);
        }
        match result {
            Ok((_, true)) => State::Open,
            Ok((_, false)) => State::Ended,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.may_read = false;
                State::Open
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => State::Open,
            // What came along could not be taken in.
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                State::Refused(Violation::Memory(error.to_string()))
            }
            Err(_) => State::Ended,
        }
    }

    /// The stream is gone. What is to be said next is a greeting; messages that were not wholly written wait for it.
    pub(super) fn reset(&mut self) {
        self.stream = None;
        self.visitor = None;
        self.descriptors = VecDeque::new();
        self.is_connecting = false;
        self.is_ending = false;
        (self.may_read, self.may_write) = (false, false);
        self.out = Outgoing::default();
        self.peer = Peer::new(&self.ours, &mut self.out);
        if let Some(connector) = &mut self.connector {
            connector.written = 0;
            for (_, frames) in connector.unwritten.drain(..).rev() {
                connector.waiting.push_front(frames);
            }
        }
    }

    /// Starts to use a stream that was made, or is being made.
    pub(super) fn use_stream(&mut self, stream: Stream, id: ConnectionId) {
        self.stream = Some(stream);
        self.id = id;
        self.is_connecting = true;
        (self.may_read, self.may_write) = (true, true);
    }

    /// Greets the peer, and says why it is not taken in.
    pub(super) fn dismiss(&mut self, why: &Violation) {
        self.out = Peer::dismissal(&self.ours, why);
        // It may have gone already.
        let _ = self.write();
        self.finish();
    }

    /// Takes in what the peer has sent, for nobody, so that closing does not make it lose what it was sent.
    pub(super) fn finish(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.end_sending();
            CHUNK_BUFFER.with_borrow_mut(|chunk| {
                // Not for ever, if it goes on sending.
                for _ in 0..64 {
                    if !matches!(stream.read(chunk), Ok(count) if count > 0) {
                        return;
                    }
                }
            });
        }
    }
}

impl Connector {
    /// What is to be written next has become longer.
    fn on_more_to_write(&mut self, more: usize) {
        for (end, _) in &mut self.unwritten {
            *end += more as u64;
        }
    }

    fn on_written(&mut self, count: usize) {
        self.written += count as u64;
        while let Some((end, _)) = self.unwritten.front()
            && *end <= self.written
        {
            self.unwritten.pop_front();
        }
    }
}
