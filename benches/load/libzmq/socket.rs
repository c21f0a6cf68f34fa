//! Sockets with the options that this project uses, and no others.

use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

use super::Frame;

/// `ZMQ_CONNECT_ROUTING_ID` of zmq.h, which the bindings leave out.
const CONNECT_ROUTING_ID: i32 = 61;

/// `ZMQ_IN_BATCH_SIZE` and `ZMQ_OUT_BATCH_SIZE` of zmq.h's draft API.
const IN_BATCH_SIZE: i32 = 101;
const OUT_BATCH_SIZE: i32 = 102;

/// libzmq's context: its I/O threads and the sockets that share them.
#[derive(Clone)]
pub struct Context(zmq::Context);

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Context")
    }
}

impl Context {
    /// `io_threads`: one moves about a gigabyte a second.
    pub fn new(io_threads: i32) -> Self {
        let context = zmq::Context::new();
        context
            .set_io_threads(io_threads)
            .expect("a new context takes a positive number of I/O threads");
        Self(context)
    }

    /// A socket that nothing lingers for: what is unsent when it closes is dropped after `linger` ms.
    pub fn socket(&self, kind: Kind) -> io::Result<Socket> {
        let socket = self.0.socket(kind.of_zmq())?;
        socket.set_linger(0)?;
        Ok(Socket {
            socket,
            quiet: Arc::default(),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Router,
    Dealer,
    Pub,
    Sub,
    XPub,
    XSub,
    Pair,
}

impl Kind {
    fn of_zmq(self) -> zmq::SocketType {
        match self {
            Self::Router => zmq::ROUTER,
            Self::Dealer => zmq::DEALER,
            Self::Pub => zmq::PUB,
            Self::Sub => zmq::SUB,
            Self::XPub => zmq::XPUB,
            Self::XSub => zmq::XSUB,
            Self::Pair => zmq::PAIR,
        }
    }
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// A router knows no connection of that identity.
    #[error("the peer is not connected")]
    Unreachable,
    /// The peer's queue is full.
    #[error("the peer does not keep up")]
    Full,
    #[error("the socket failed: {0}")]
    Failed(zmq::Error),
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
    socket: zmq::Socket,
    quiet: Arc<AtomicBool>,
}

/// A socket as a poller sees it.
pub(super) struct Watched {
    socket: *mut c_void,
    fd: RawFd,
    /// It was found empty, and nothing was done with it since. Only then does its descriptor tell of every message:
    /// whatever uses a socket may take note of a message's arrival, and so silence the descriptor.
    quiet: Arc<AtomicBool>,
}

// SAFETY: the raw socket is used only by the thread that owns it, which moves along with its poller.
unsafe impl Send for Watched {}

impl Watched {
    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }

    /// There is something to be received. To be asked before its descriptor is waited for.
    pub(super) fn has_messages(&self) -> bool {
        if self.quiet.load(Ordering::Relaxed) {
            return false;
        }
        let (mut events, mut size) = (0i32, size_of::<i32>());
        // SAFETY: the socket outlives its poller by contract; the option is an int.
        let rc = unsafe {
            zmq_sys::zmq_getsockopt(
                self.socket,
                zmq_sys::ZMQ_EVENTS as i32,
                (&raw mut events).cast(),
                &raw mut size,
            )
        };
        // A socket that cannot be asked is read, which tells what is wrong with it.
        let any = rc != 0 || events & zmq_sys::ZMQ_POLLIN as i32 != 0;
        self.quiet.store(!any, Ordering::Relaxed);
        any
    }

    /// Its descriptor is readable.
    pub(super) fn on_news(&self) {
        self.quiet.store(false, Ordering::Relaxed);
    }
}

impl Socket {
    fn raw(&mut self) -> *mut c_void {
        self.quiet.store(false, Ordering::Relaxed);
        self.socket.as_mut_ptr()
    }

    pub(super) fn watch(&mut self) -> Watched {
        Watched {
            socket: self.raw(),
            fd: self
                .socket
                .get_fd()
                .expect("an open socket has a descriptor"),
            quiet: self.quiet.clone(),
        }
    }

    /// Was found empty, and nothing was done with it since.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Has the next [`drain`](super::drain) ask this socket, even if its poller has not seen anything new.
    pub fn look_again(&mut self) {
        self.quiet.store(false, Ordering::Relaxed);
    }

    /// Listens on `interface` (such as `tcp://127.0.0.1`), on `port` or, with 0, on one that the system picks.
    /// Returns the port.
    pub fn bind(&self, interface: &str, port: u16) -> Result<u16, BindError> {
        let endpoint = if port == 0 {
            format!("{interface}:*")
        } else {
            format!("{interface}:{port}")
        };
        let failed = |source: io::Error| BindError {
            endpoint: endpoint.clone(),
            source,
        };
        self.quiet.store(false, Ordering::Relaxed);
        self.socket
            .bind(&endpoint)
            .map_err(|error| failed(io::Error::from_raw_os_error(error.to_raw())))?;
        let bound = self
            .socket
            .get_last_endpoint()
            .map_err(|error| failed(error.into()))?
            .map_err(|_| failed(io::Error::other("the bound address is no text")))?;
        bound
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| {
                failed(io::Error::other(format!(
                    "the bound address {bound:?} has no port"
                )))
            })
    }

    pub fn bind_endpoint(&self, endpoint: &str) -> io::Result<()> {
        self.quiet.store(false, Ordering::Relaxed);
        Ok(self.socket.bind(endpoint)?)
    }

    pub fn connect(&self, endpoint: &str) -> io::Result<()> {
        self.quiet.store(false, Ordering::Relaxed);
        Ok(self.socket.connect(endpoint)?)
    }

    /// Connects a router to a peer that it is to know by `name`, whatever the peer calls itself. With
    /// [`set_identity`](Self::set_identity) before each, one socket can be many peers.
    pub fn connect_known_as(&mut self, endpoint: &str, name: &[u8]) -> io::Result<()> {
        // SAFETY: the socket is open, and `name` is as long as is said.
        let rc = unsafe {
            zmq_sys::zmq_setsockopt(
                self.raw(),
                CONNECT_ROUTING_ID,
                name.as_ptr().cast(),
                name.len(),
            )
        };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        self.connect(endpoint)
    }

    /// The routing id under which peers know this socket.
    pub fn set_identity(&self, identity: &[u8]) -> io::Result<()> {
        Ok(self.socket.set_identity(identity)?)
    }

    /// Messages kept for a peer that does not keep up, and from one that is not read; 0 is unlimited.
    pub fn set_high_water_marks(&self, send: i32, receive: i32) -> io::Result<()> {
        self.socket.set_sndhwm(send)?;
        Ok(self.socket.set_rcvhwm(receive)?)
    }

    /// Bytes that are read from a connection, or written to it, at once. Every connection keeps buffers of this size, of
    /// 8192 bytes if nothing else is said. Has no effect on a libzmq that was built without its draft API.
    pub fn set_batch_size(&mut self, bytes: i32) {
        for option in [IN_BATCH_SIZE, OUT_BATCH_SIZE] {
            // SAFETY: the socket is open, the option is an int.
            unsafe {
                zmq_sys::zmq_setsockopt(
                    self.raw(),
                    option,
                    (&raw const bytes).cast(),
                    size_of::<i32>(),
                );
            }
        }
    }

    /// A router reports peers that it cannot reach or that do not keep up, instead of dropping in silence.
    pub fn set_mandatory(&self) -> io::Result<()> {
        Ok(self.socket.set_router_mandatory(true)?)
    }

    /// A peer that connects again under its identity takes the place of its old connection.
    pub fn set_handover(&self) -> io::Result<()> {
        Ok(self.socket.set_router_handover(true)?)
    }

    /// Largest frame that a peer may send, in bytes; larger ones end its connection.
    pub fn set_max_message_size(&self, bytes: i64) -> io::Result<()> {
        Ok(self.socket.set_maxmsgsize(bytes)?)
    }

    /// Every new subscription is received as a message, not only the first of a topic.
    pub fn set_verbose(&self) -> io::Result<()> {
        Ok(self.socket.set_xpub_verbose(true)?)
    }

    /// Time for which closing waits for unsent messages, in milliseconds.
    pub fn set_linger(&self, millis: i32) -> io::Result<()> {
        Ok(self.socket.set_linger(millis)?)
    }

    pub fn subscribe_to_all(&self) -> io::Result<()> {
        Ok(self.socket.set_subscribe(b"")?)
    }

    pub(super) fn monitor(&self, endpoint: &str, events: u32) -> io::Result<()> {
        Ok(self.socket.monitor(endpoint, events as i32)?)
    }

    /// Receives one whole message into `frames`, which is cleared first. `false` when there is none.
    pub fn receive(&mut self, frames: &mut Vec<Frame>) -> io::Result<bool> {
        frames.clear();
        let socket = self.raw();
        loop {
            let mut frame = Frame::empty();
            // SAFETY: the socket is open and belongs to this thread; the frame is initialised.
            let rc = unsafe {
                zmq_sys::zmq_msg_recv(frame.as_mut_ptr(), socket, zmq_sys::ZMQ_DONTWAIT as i32)
            };
            if rc < 0 {
                match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error if error.kind() == io::ErrorKind::WouldBlock && frames.is_empty() => {
                        self.quiet.store(true, Ordering::Relaxed);
                        return Ok(false);
                    }
                    error => return Err(error),
                }
            }
            let more = frame.more();
            frames.push(frame);
            if !more {
                return Ok(true);
            }
        }
    }

    /// Sends `frames` as one message, emptying the vector; it is left whole when the message is not taken.
    pub fn send(&mut self, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        let last = frames.len().saturating_sub(1);
        let socket = self.raw();
        for (index, frame) in frames.iter_mut().enumerate() {
            let more = if index < last {
                zmq_sys::ZMQ_SNDMORE
            } else {
                0
            };
            let flags = (zmq_sys::ZMQ_DONTWAIT | more) as i32;
            loop {
                // SAFETY: the socket is open and belongs to this thread; the frame is initialised. libzmq takes its
                // content only on success.
                if unsafe { zmq_sys::zmq_msg_send(frame.as_mut_ptr(), socket, flags) } >= 0 {
                    break;
                }
                match zmq::Error::from_raw(errno()) {
                    zmq::Error::EINTR => {}
                    // Only the first frame is refused: libzmq decides about a message as a whole.
                    zmq::Error::EHOSTUNREACH if index == 0 => return Err(SendError::Unreachable),
                    zmq::Error::EAGAIN if index == 0 => return Err(SendError::Full),
                    error => return Err(SendError::Failed(error)),
                }
            }
        }
        frames.clear();
        Ok(())
    }
}

fn errno() -> i32 {
    // SAFETY: reads a thread-local number.
    unsafe { zmq_sys::zmq_errno() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Poller;

    fn pair() -> (Context, Socket, Socket) {
        let context = Context::new(1);
        let router = context.socket(Kind::Router).unwrap();
        router.set_mandatory().unwrap();
        let port = router.bind("tcp://127.0.0.1", 0).unwrap();
        let dealer = context.socket(Kind::Dealer).unwrap();
        dealer.set_identity(b"peer").unwrap();
        dealer.connect(&format!("tcp://127.0.0.1:{port}")).unwrap();
        (context, router, dealer)
    }

    fn wait(socket: &mut Socket) {
        let mut poller = Poller::new();
        poller.add_socket(socket);
        poller.wait(None).unwrap();
    }

    #[test]
    fn messages_cross_whole_and_in_order() {
        let (_context, mut router, mut dealer) = pair();
        let big = vec![7; 1 << 20];
        for n in 0..3u8 {
            dealer
                .send(&mut vec![Frame::from(&[n][..]), Frame::from(big.clone())])
                .unwrap();
        }
        let mut frames = Vec::new();
        for n in 0..3u8 {
            while !router.receive(&mut frames).unwrap() {
                wait(&mut router);
            }
            assert_eq!(&frames[0][..], b"peer");
            assert_eq!(&frames[1][..], [n]);
            assert_eq!(&frames[2][..], big);
        }
        assert!(!router.receive(&mut frames).unwrap());
    }

    #[test]
    fn an_unknown_peer_is_reported_and_the_message_kept() {
        let (_context, mut router, _dealer) = pair();
        let mut frames = vec![Frame::from(&b"nobody"[..]), Frame::from(&b"hello"[..])];
        assert_eq!(router.send(&mut frames), Err(SendError::Unreachable));
        assert_eq!(&frames[1][..], b"hello");
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let (context, router, _dealer) = pair();
        let port = router.bind("tcp://127.0.0.1", 0).unwrap();
        let other = context.socket(Kind::Router).unwrap();
        let error = other.bind("tcp://127.0.0.1", port).unwrap_err();
        assert!(error.to_string().contains(&port.to_string()));
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }
}
