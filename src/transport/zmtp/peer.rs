//! The state of one connection: greeting, handshake, traffic. Pure.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::command::{self, Command, Properties};
use super::curve::{self, Handshake, Security, Session, Step};
use super::decoder::Decoder;
use super::greeting::{self, Mechanism};
use super::outgoing::Outgoing;
use super::room::{Room, unusable};
use super::{COMMAND, MORE, Violation, encoder};
use crate::os::shared_memory::SharedMemory;
use crate::transport::Frame;

/// A peer that has not shown who it is sends nothing larger than this.
const HANDSHAKE_LIMIT: u64 = 8 * 1024;

/// Frames of a message. A million empty ones would be megabytes of bookkeeping.
const FRAMES: usize = 100_000;

/// What this end is, the same for all connections of a socket.
#[derive(Clone, Debug)]
pub(in crate::transport) struct Ours {
    pub(in crate::transport) socket_type: SocketType,
    pub(in crate::transport) identity: Vec<u8>,
    /// Bytes of the largest message that is taken.
    pub(in crate::transport) limit: u64,
    pub(in crate::transport) security: Security,
}

impl Ours {
    fn greeting(&self) -> [u8; greeting::LEN] {
        let is_server = matches!(self.security, Security::Server(_));
        greeting::compose(self.mechanism(), is_server)
    }

    fn mechanism(&self) -> Mechanism {
        match self.security {
            Security::Null => Mechanism::Null,
            Security::Server(_) | Security::Client { .. } => Mechanism::Curve,
        }
    }

    fn properties(&self) -> Vec<u8> {
        let properties = Properties {
            socket_type: self.socket_type.name().as_bytes(),
            identity: &self.identity,
        };
        properties.compose()
    }
}

/// The socket types that this project uses, and those that they talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum SocketType {
    Router,
    Dealer,
    XPub,
    Sub,
}

impl SocketType {
    fn name(self) -> &'static str {
        match self {
            Self::Router => "ROUTER",
            Self::Dealer => "DEALER",
            Self::XPub => "XPUB",
            Self::Sub => "SUB",
        }
    }

    fn talks_to(self, other: &[u8]) -> bool {
        let others: &[&str] = match self {
            Self::Router => &["DEALER", "ROUTER", "REQ"],
            Self::Dealer => &["ROUTER", "DEALER", "REP"],
            Self::XPub => &["SUB", "XSUB"],
            Self::Sub => &["PUB", "XPUB"],
        };
        others.iter().any(|name| name.as_bytes() == other)
    }

    fn has_identity(self) -> bool {
        matches!(self, Self::Router | Self::Dealer)
    }
}

#[derive(Debug)]
pub(in crate::transport) struct Peer {
    decoder: Decoder,
    talk: Talk,
}

/// All but the bytes.
#[derive(Debug)]
struct Talk {
    state: State,
    /// Of a connection that is to be encrypted, until it is.
    handshake: Option<Box<Handshake>>,
    /// Of one that is.
    session: Option<Box<Session>>,
    /// The message that is coming in, and its bytes.
    message: Vec<Frame>,
    size: u64,
}

#[derive(Debug)]
enum State {
    /// The other's greeting, as far as it has come.
    Greeting(Vec<u8>),
    Handshake,
    Traffic,
}

/// What came in, and what goes out in answer.
pub(in crate::transport) struct Io<'a> {
    pub(in crate::transport) ours: &'a Arc<Ours>,
    pub(in crate::transport) out: &'a mut Outgoing,
    /// Whole messages. Those to a router begin with an empty frame, for the sender's name.
    pub(in crate::transport) incoming: &'a mut VecDeque<Vec<Frame>>,
    /// Set once: the identity of a peer that has become ready.
    pub(in crate::transport) ready: &'a mut Option<Vec<u8>>,
    /// Vectors that may be used again.
    pub(in crate::transport) spare: &'a mut Vec<Vec<Frame>>,
    /// There is somebody whom memory could be passed on to.
    pub(in crate::transport) shares: bool,
    /// Of memory that has come along.
    pub(in crate::transport) descriptors: &'a mut VecDeque<OwnedFd>,
}

impl Peer {
    /// A new connection; `out` gets what is said first.
    pub(in crate::transport) fn new(ours: &Ours, out: &mut Outgoing) -> Self {
        let greeting = ours.greeting();
        let handshake = match &ours.security {
            Security::Null => {
                out.push(&greeting);
                // Both ends say it whatever the other says, so it need not be waited for.
                out.push(&command::compose("READY", &ours.properties()));
                None
            }
            Security::Server(keys) => {
                // The rest when it has said something itself: a libzmq that hears at once of an encryption that it has not
                // goes without a word, and nobody could be told why.
                out.push(&greeting[..greeting::SIGNATURE]);
                Some(Handshake::Hello(keys.clone()))
            }
            Security::Client { server, keys } => {
                out.push(&greeting);
                let (handshake, hello) = Handshake::greet(server, keys);
                encoder::command(&hello, out);
                Some(handshake)
            }
        };
        Self {
            decoder: Decoder::new(HANDSHAKE_LIMIT),
            talk: Talk {
                state: State::Greeting(Vec::new()),
                handshake: handshake.map(Box::new),
                session: None,
                message: Vec::new(),
                size: 0,
            },
        }
    }

    /// Messages may be sent.
    pub(in crate::transport) fn is_ready(&self) -> bool {
        matches!(self.talk.state, State::Traffic)
    }

    /// Puts a message behind what is to be written. Only once the peer is ready. `passes`: memory can be given to it.
    pub(in crate::transport) fn send(
        &mut self,
        frames: &[Frame],
        passes: bool,
        out: &mut Outgoing,
    ) {
        match &mut self.talk.session {
            None => encoder::message(frames, passes, out),
            Some(session) => {
                let last = frames.len().saturating_sub(1);
                for (index, frame) in frames.iter().enumerate() {
                    encoder::encrypted(session.encrypt(index < last, false, frame), out);
                }
            }
        }
    }

    pub(in crate::transport) fn receive(
        &mut self,
        mut input: &[u8],
        io: &mut Io<'_>,
    ) -> Result<(), Violation> {
        let Self { decoder, talk } = self;
        if let State::Greeting(received) = &mut talk.state {
            let before = received.len();
            let (here, rest) = input.split_at((greeting::LEN - before).min(input.len()));
            received.extend_from_slice(here);
            input = rest;
            if !greeting::may_become_one(received) {
                return Err(Violation::NotZmtp);
            }
            let is_known = before < greeting::SIGNATURE && received.len() >= greeting::SIGNATURE;
            if is_known && matches!(io.ours.security, Security::Server(_)) {
                io.out.push(&io.ours.greeting()[greeting::SIGNATURE..]);
            }
            let Some(greeting) = received.first_chunk() else {
                return Ok(());
            };
            greeting::check(greeting, io.ours.mechanism())?;
            talk.state = State::Handshake;
        }
        // The limit of a frame changes with the handshake's last one; what came with that is decoded anew.
        while matches!(talk.state, State::Handshake) && !input.is_empty() {
            let (byte, rest) = input.split_at(1);
            input = rest;
            decoder.feed(byte, &mut |flags, frame| talk.on_frame(flags, frame, io))?;
            if matches!(talk.state, State::Traffic) {
                let overhead = if talk.session.is_some() {
                    curve::OVERHEAD as u64
                } else {
                    0
                };
                decoder.set_limit(io.ours.limit.saturating_add(overhead));
            }
        }
        decoder.set_sharing(io.shares && talk.session.is_none());
        decoder.feed(input, &mut |flags, frame| talk.on_frame(flags, frame, io))
    }

    /// Bytes that are here of a message whose rest is to come.
    pub(in crate::transport) fn held(&self) -> u64 {
        self.talk.size + self.decoder.held()
    }

    /// What a peer is told that is not taken in.
    pub(in crate::transport) fn dismissal(ours: &Ours, violation: &Violation) -> Outgoing {
        let mut reason = violation.to_string().into_bytes();
        reason.truncate(usize::from(u8::MAX));
        reason.insert(0, reason.len() as u8);
        let mut out = Outgoing::default();
        out.push(&ours.greeting());
        out.push(&command::compose("ERROR", &reason));
        out
    }

    /// What it means that the peer has ended the connection now, if it means something: peers of libzmq do not say what
    /// they do not like.
    pub(in crate::transport) fn farewell(&self, ours: &Ours) -> Option<Violation> {
        let talk = &self.talk;
        match (&talk.state, talk.handshake.as_deref(), ours.mechanism()) {
            (State::Greeting(received), _, mechanism) if received.len() >= greeting::SIGNATURE => {
                Some(Violation::HungUp(match mechanism {
                    Mechanism::Curve => "when it heard that connections are encrypted here",
                    Mechanism::Null => "when it heard that connections are not encrypted here",
                }))
            }
            (State::Handshake, Some(Handshake::Welcome { .. }), _) => Some(Violation::HungUp(
                "when it was greeted with the key that was expected of it: it may have another",
            )),
            _ => None,
        }
    }

    /// Where the next bytes can be put without a copy, and how many.
    pub(in crate::transport) fn body(&mut self) -> Option<(&mut Room, usize)> {
        self.decoder.body()
    }

    /// `count` bytes were put into the [`body`](Self::body).
    pub(in crate::transport) fn filled(
        &mut self,
        count: usize,
        io: &mut Io<'_>,
    ) -> Result<(), Violation> {
        let Self { decoder, talk } = self;
        decoder.filled(count, &mut |flags, frame| talk.on_frame(flags, frame, io))
    }
}

impl Talk {
    fn on_frame(&mut self, flags: u8, frame: Frame, io: &mut Io<'_>) -> Result<(), Violation> {
        match (&self.state, &mut self.session) {
            (State::Traffic, None) if flags & COMMAND == 0 => {
                self.on_message_frame(flags & MORE != 0, frame, io)
            }
            // Whether an encrypted frame is a command is said inside.
            (State::Traffic, Some(session)) => {
                let (more, command, payload) = session.decrypt(&frame)?;
                if command {
                    return self.on_command(&payload, io);
                }
                self.on_message_frame(more, payload, io)
            }
            (State::Traffic, None) => self.on_command(&frame, io),
            _ if flags & COMMAND != 0 => self.on_handshake(&frame, io),
            _ => Err(Violation::Handshake),
        }
    }

    fn on_message_frame(
        &mut self,
        more: bool,
        frame: Frame,
        io: &mut Io<'_>,
    ) -> Result<(), Violation> {
        let message = &mut self.message;
        if message.capacity() == 0 {
            *message = io.spare.pop().unwrap_or_default();
        }
        if message.is_empty() && io.ours.socket_type == SocketType::Router {
            message.push(Frame::empty());
        }
        self.size += frame.len() as u64;
        message.push(frame);
        if message.len() > FRAMES {
            return Err(Violation::TooManyFrames { limit: FRAMES });
        }
        if self.size > io.ours.limit {
            let limit = io.ours.limit;
            return Err(Violation::TooLarge { limit });
        }
        if !more {
            self.size = 0;
            io.incoming.push_back(std::mem::take(message));
        }
        Ok(())
    }

    fn on_handshake(&mut self, body: &[u8], io: &mut Io<'_>) -> Result<(), Violation> {
        if let Ok(Command::Error(reason)) = Command::parse(body) {
            return Err(Violation::Refused(reason.escape_ascii().to_string()));
        }
        let Some(handshake) = self.handshake.take() else {
            return match Command::parse(body)? {
                Command::Ready(properties) => self.on_properties(&properties, io),
                _ => Err(Violation::Handshake),
            };
        };
        match handshake.on_command(body, &io.ours.properties())? {
            Step::Answer(answer, next) => {
                encoder::command(&answer, io.out);
                self.handshake = Some(Box::new(next));
                Ok(())
            }
            Step::Done {
                mut session,
                properties,
                is_server,
            } => {
                if is_server {
                    encoder::command(&session.ready(&io.ours.properties()), io.out);
                }
                self.session = Some(Box::new(session));
                self.on_properties(&Properties::parse(&properties)?, io)
            }
        }
    }

    /// The peer has said what it is: it is ready.
    fn on_properties(
        &mut self,
        properties: &Properties<'_>,
        io: &mut Io<'_>,
    ) -> Result<(), Violation> {
        let ours = io.ours.socket_type;
        if !ours.talks_to(properties.socket_type) {
            let theirs = properties.socket_type.escape_ascii().to_string();
            return Err(Violation::SocketType(theirs));
        }
        let identity = if ours.has_identity() {
            properties.identity
        } else {
            &[]
        };
        *io.ready = Some(identity.to_vec());
        self.state = State::Traffic;
        Ok(())
    }

    fn on_command(&mut self, body: &[u8], io: &mut Io<'_>) -> Result<(), Violation> {
        match Command::parse(body)? {
            Command::Error(reason) => {
                return Err(Violation::Refused(reason.escape_ascii().to_string()));
            }
            Command::Ping { context } => match &mut self.session {
                None => io.out.push(&command::compose("PONG", context)),
                Some(session) => {
                    let pong = command::body("PONG", context);
                    encoder::encrypted(session.encrypt(false, true, &pong), io.out);
                }
            },
            Command::Memory { more, length } => {
                let none = || Violation::Memory("there is none".to_owned());
                let file = io.descriptors.pop_front().ok_or_else(none)?;
                let limit = io.ours.limit;
                if length as u64 > limit {
                    return Err(Violation::TooLarge { limit });
                }
                let memory = SharedMemory::received(file, length).map_err(unusable)?;
                return self.on_message_frame(more, Frame::received(memory), io);
            }
            // As ZMTP 3.1 has them; as messages they are told on.
            Command::Subscribe(topic) => io.incoming.push_back(vec![subscription(1, topic)]),
            Command::Cancel(topic) => io.incoming.push_back(vec![subscription(0, topic)]),
            Command::Ready(_) | Command::Other => {}
        }
        Ok(())
    }
}

/// A message that subscribes (1) or unsubscribes (0).
pub(in crate::transport) fn subscription(kind: u8, topic: &[u8]) -> Frame {
    let mut bytes = Vec::with_capacity(1 + topic.len());
    bytes.push(kind);
    bytes.extend_from_slice(topic);
    Frame::from(bytes)
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
