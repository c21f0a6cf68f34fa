//! Routers of libzmq.

use std::ffi::c_void;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Frame;

/// libzmq's context: its I/O threads and the sockets that share them.
pub(crate) struct Context(zmq::Context);

impl Context {
    /// `io_threads`: one moves about a gigabyte a second.
    pub(crate) fn new(io_threads: i32) -> Self {
        let context = zmq::Context::new();
        context
            .set_io_threads(io_threads)
            .expect("a new context takes a positive number of I/O threads");
        Self(context)
    }

    /// A router whose queues have no limit.
    pub(crate) fn router(&self) -> io::Result<Socket> {
        let socket = self.0.socket(zmq::ROUTER)?;
        socket.set_linger(0)?;
        socket.set_sndhwm(0)?;
        socket.set_rcvhwm(0)?;
        Ok(Socket {
            socket,
            quiet: Arc::default(),
        })
    }
}

/// A socket, owned by one thread.
pub(crate) struct Socket {
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

    /// Listens on a port that the system picks, and returns it.
    pub(crate) fn bind(&self, interface: &str) -> io::Result<u16> {
        self.quiet.store(false, Ordering::Relaxed);
        self.socket.bind(&format!("{interface}:*"))?;
        let bound = self.socket.get_last_endpoint()?.unwrap_or_default();
        bound
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .ok_or_else(|| io::Error::other(format!("{bound:?} has no port")))
    }

    /// Receives one whole message into `frames`, which is cleared first. `false` when there is none.
    pub(crate) fn receive(&mut self, frames: &mut Vec<Frame>) -> io::Result<bool> {
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

    /// Sends `frames` as one message, emptying the vector; drops it when the peer is not there.
    pub(crate) fn send(&mut self, frames: &mut Vec<Frame>) {
        let last = frames.len().saturating_sub(1);
        let socket = self.raw();
        for (index, frame) in frames.iter_mut().enumerate() {
            let more = if index < last {
                zmq_sys::ZMQ_SNDMORE
            } else {
                0
            };
            let flags = (zmq_sys::ZMQ_DONTWAIT | more) as i32;
            // SAFETY: the socket is open and belongs to this thread; the frame is initialised.
            if unsafe { zmq_sys::zmq_msg_send(frame.as_mut_ptr(), socket, flags) } < 0 {
                break;
            }
        }
        frames.clear();
    }
}

/// Messages that are handled before the other sockets of the thread get their turn.
const BURST: usize = 128;

/// Calls `handle` for each waiting message, at most [`BURST`] of them. `true` when there was any.
pub(crate) fn drain(
    socket: &mut Socket,
    frames: &mut Vec<Frame>,
    mut handle: impl FnMut(&mut Socket, &mut Vec<Frame>),
) -> bool {
    if socket.is_quiet() {
        return false;
    }
    for count in 0..BURST {
        match socket.receive(frames) {
            Ok(true) => handle(socket, frames),
            Ok(false) => return count > 0,
            Err(error) => panic!("a socket cannot be read: {error}"),
        }
    }
    true
}
