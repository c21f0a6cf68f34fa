//! Waiting for sockets and descriptors.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use zmq_sys::zmq_pollitem_t;

use super::Socket;

/// What one thread waits for. Entries are numbered in the order in which they were added.
#[derive(Default)]
pub struct Poller {
    items: Vec<zmq_pollitem_t>,
}

// SAFETY: the raw socket pointers are used only by the thread that owns the sockets, which moves along with them.
unsafe impl Send for Poller {}

const READABLE: i16 = zmq_sys::ZMQ_POLLIN as i16;
const WRITABLE: i16 = zmq_sys::ZMQ_POLLOUT as i16;

impl Poller {
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for messages on a socket. The socket must outlive the poller.
    pub fn add_socket(&mut self, socket: &mut Socket) -> usize {
        self.add(socket.raw(), -1)
    }

    /// Waits for a descriptor to become readable. It must stay open as long as it is watched.
    pub fn add_fd(&mut self, fd: RawFd) -> usize {
        self.add(std::ptr::null_mut(), fd)
    }

    fn add(&mut self, socket: *mut std::ffi::c_void, fd: RawFd) -> usize {
        self.items.push(zmq_pollitem_t {
            socket,
            fd,
            events: READABLE,
            revents: 0,
        });
        self.items.len() - 1
    }

    /// Also waits until `entry` can be written to, or no longer.
    pub fn want_write(&mut self, entry: usize, wanted: bool) {
        self.items[entry].events = if wanted {
            READABLE | WRITABLE
        } else {
            READABLE
        };
    }

    /// Stops or resumes waiting for `entry` to become readable.
    pub fn want_read(&mut self, entry: usize, wanted: bool) {
        let item = &mut self.items[entry];
        item.events = if wanted {
            item.events | READABLE
        } else {
            item.events & !READABLE
        };
    }

    /// Puts another descriptor in the place of `entry`; -1 watches nothing.
    pub fn replace_fd(&mut self, entry: usize, fd: RawFd) {
        self.items[entry].fd = fd;
        self.items[entry].events = if fd < 0 { 0 } else { READABLE };
        self.items[entry].revents = 0;
    }

    /// Waits for any entry, for `timeout` (none: for ever). An interrupting signal ends the wait early.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: a deadline that is still half a millisecond away must not be polled for in a loop.
        let millis = timeout.map_or(-1, |timeout| {
            i64::try_from(timeout.as_nanos().div_ceil(1_000_000))
                .unwrap_or(i64::MAX)
                .min(i64::from(i32::MAX))
        });
        let count = i32::try_from(self.items.len()).expect("a thread owns a handful of sockets");
        // SAFETY: the items are valid for the call; sockets and descriptors outlive the poller by contract.
        let rc = unsafe { zmq_sys::zmq_poll(self.items.as_mut_ptr(), count, millis as _) };
        if rc >= 0 {
            return Ok(());
        }
        for item in &mut self.items {
            item.revents = 0;
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        }
    }

    /// Readable, or in error: reading tells.
    pub fn is_ready(&self, entry: usize) -> bool {
        self.items[entry].revents & !WRITABLE != 0
    }

    pub fn is_writable(&self, entry: usize) -> bool {
        self.items[entry].revents & WRITABLE != 0
    }
}
