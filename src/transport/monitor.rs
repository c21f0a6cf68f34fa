//! Connections of a socket as they come and go.

use std::io;
use std::os::fd::RawFd;

use super::{Context, Frame, Kind, Socket};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEvent {
    /// A connection is ready for messages.
    Established(RawFd),
    /// A connection ended: the peer closed it, died, or the network broke it.
    Ended(RawFd),
}

/// Watches one socket. Belongs to the same thread as that socket.
pub struct Monitor {
    pair: Socket,
    frames: Vec<Frame>,
}

const ESTABLISHED: u32 = zmq_sys::ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
const ENDED: u32 = zmq_sys::ZMQ_EVENT_DISCONNECTED;

impl Monitor {
    /// `name` must be unique within the context.
    pub fn new(context: &Context, watched: &Socket, name: &str) -> io::Result<Self> {
        let endpoint = format!("inproc://monitor-{name}");
        watched.monitor(&endpoint, ESTABLISHED | ENDED)?;
        let pair = context.socket(Kind::Pair)?;
        pair.connect(&endpoint)?;
        Ok(Self {
            pair,
            frames: Vec::new(),
        })
    }

    pub fn socket(&mut self) -> &mut Socket {
        &mut self.pair
    }

    /// The next event, if there is one.
    pub fn receive(&mut self) -> io::Result<Option<ConnectionEvent>> {
        loop {
            if self.pair.is_quiet() || !self.pair.receive(&mut self.frames)? {
                return Ok(None);
            }
            // The first frame: u16 event, u32 value, in the byte order of this machine (zmq_socket_monitor(3)).
            let Some([e0, e1, v0, v1, v2, v3]) =
                self.frames.first().and_then(|f| f.first_chunk::<6>())
            else {
                continue;
            };
            let event = u32::from(u16::from_ne_bytes([*e0, *e1]));
            let fd = i32::from_ne_bytes([*v0, *v1, *v2, *v3]);
            match event {
                ESTABLISHED => return Ok(Some(ConnectionEvent::Established(fd))),
                ENDED => return Ok(Some(ConnectionEvent::Ended(fd))),
                _ => {}
            }
        }
    }
}
