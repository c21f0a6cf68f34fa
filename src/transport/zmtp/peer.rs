//! The state of one connection: greeting, handshake, traffic. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use super::command::{self, Command, Properties};
use super::decoder::Decoder;
use super::greeting::{self, Mechanism};
use super::outgoing::Outgoing;
use super::{COMMAND, MORE, Violation, encoder};
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
    /// Bytes of the largest frame that is taken.
    pub(in crate::transport) limit: u64,
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
    state: State,
    decoder: Decoder,
    /// The message that is coming in.
    message: Vec<Frame>,
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
}

impl Peer {
    /// A new connection; `out` gets what is said first.
    pub(in crate::transport) fn new(ours: &Ours, out: &mut Outgoing) -> Self {
        out.push(&greeting::compose(Mechanism::Null, false));
        let properties = Properties {
            socket_type: ours.socket_type.name().as_bytes(),
            identity: &ours.identity,
        };
        // Both ends say it whatever the other says, so it need not be waited for.
        out.push(&command::compose("READY", &properties.compose()));
        Self {
            state: State::Greeting(Vec::new()),
            decoder: Decoder::new(HANDSHAKE_LIMIT),
            message: Vec::new(),
        }
    }

    /// Messages may be sent.
    pub(in crate::transport) fn is_ready(&self) -> bool {
        matches!(self.state, State::Traffic)
    }

    /// Puts a message behind what is to be written. Only once the peer is ready.
    pub(in crate::transport) fn send(&mut self, frames: &[Frame], out: &mut Outgoing) {
        encoder::message(frames, out);
    }

    pub(in crate::transport) fn receive(
        &mut self,
        mut input: &[u8],
        io: &mut Io<'_>,
    ) -> Result<(), Violation> {
        if let State::Greeting(received) = &mut self.state {
            let missing = greeting::LEN - received.len();
            let (here, rest) = input.split_at(missing.min(input.len()));
            received.extend_from_slice(here);
            input = rest;
            if !greeting::may_become_one(received) {
                return Err(Violation::NotZmtp);
            }
            let Some(greeting) = received.first_chunk() else {
                return Ok(());
            };
            greeting::check(greeting, Mechanism::Null)?;
            self.state = State::Handshake;
        }
        let Self {
            state,
            decoder,
            message,
        } = self;
        // The limit of a frame changes with the handshake's last one; what came with that is decoded anew.
        while matches!(state, State::Handshake) && !input.is_empty() {
            let (byte, rest) = input.split_at(1);
            input = rest;
            decoder.feed(byte, &mut |flags, frame| {
                on_frame(state, message, flags, frame, io)
            })?;
            if matches!(state, State::Traffic) {
                decoder.set_limit(io.ours.limit);
            }
        }
        decoder.feed(input, &mut |flags, frame| {
            on_frame(state, message, flags, frame, io)
        })
    }

    /// Where the next bytes can be put without a copy, and how many.
    pub(in crate::transport) fn body(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        self.decoder.body()
    }

    /// `count` bytes were put into the [`body`](Self::body).
    pub(in crate::transport) fn filled(
        &mut self,
        count: usize,
        io: &mut Io<'_>,
    ) -> Result<(), Violation> {
        let Self {
            state,
            decoder,
            message,
        } = self;
        decoder.filled(count, &mut |flags, frame| {
            on_frame(state, message, flags, frame, io)
        })
    }
}

fn on_frame(
    state: &mut State,
    message: &mut Vec<Frame>,
    flags: u8,
    frame: Frame,
    io: &mut Io<'_>,
) -> Result<(), Violation> {
    if flags & COMMAND != 0 {
        return on_command(state, &frame, io);
    }
    if !matches!(state, State::Traffic) {
        return Err(Violation::Handshake);
    }
    on_message_frame(message, flags, frame, io)
}

fn on_message_frame(
    message: &mut Vec<Frame>,
    flags: u8,
    frame: Frame,
    io: &mut Io<'_>,
) -> Result<(), Violation> {
    if message.capacity() == 0 {
        *message = io.spare.pop().unwrap_or_default();
    }
    if message.is_empty() && io.ours.socket_type == SocketType::Router {
        message.push(Frame::empty());
    }
    message.push(frame);
    if message.len() > FRAMES {
        return Err(Violation::TooManyFrames { limit: FRAMES });
    }
    if flags & MORE == 0 {
        io.incoming.push_back(std::mem::take(message));
    }
    Ok(())
}

fn on_command(state: &mut State, body: &[u8], io: &mut Io<'_>) -> Result<(), Violation> {
    match (Command::parse(body)?, &*state) {
        (Command::Ready(properties), State::Handshake) => {
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
            *state = State::Traffic;
        }
        (Command::Error(reason), _) => {
            return Err(Violation::Refused(reason.escape_ascii().to_string()));
        }
        (_, State::Handshake) => return Err(Violation::Handshake),
        (Command::Ping { context }, _) => io.out.push(&command::compose("PONG", context)),
        // As ZMTP 3.1 has them; as messages they are told on.
        (Command::Subscribe(topic), _) => io.incoming.push_back(vec![subscription(1, topic)]),
        (Command::Cancel(topic), _) => io.incoming.push_back(vec![subscription(0, topic)]),
        (Command::Ready(_) | Command::Other, _) => {}
    }
    Ok(())
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
