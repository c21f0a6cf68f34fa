//! Waiting for sockets.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use nix::libc::{self, pollfd};

use super::Socket;
use super::socket::Watched;

/// What one thread waits for. Entries are numbered in the order in which they were added.
///
/// In place of `zmq_poll`, which asks every socket twice and the system twice for each wait. A socket's descriptor only
/// tells of what happens after the socket was last asked; so those that were used since then are asked, and no others.
#[derive(Default)]
pub(crate) struct Poller {
    fds: Vec<pollfd>,
    /// Of the entries that are sockets.
    sockets: Vec<(usize, Watched)>,
}

impl Poller {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Waits for messages on a socket. The socket must outlive the poller.
    pub(crate) fn add_socket(&mut self, socket: &mut Socket) -> usize {
        let watched = socket.watch();
        let entry = self.add_fd(watched.fd());
        self.sockets.push((entry, watched));
        entry
    }

    fn add_fd(&mut self, fd: RawFd) -> usize {
        self.fds.push(pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        self.fds.len() - 1
    }

    /// Waits for any entry, for `timeout` (none: for ever). An interrupting signal ends the wait early.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: a deadline that is still half a millisecond away must not be polled for in a loop.
        let mut millis = timeout.map_or(-1, |timeout| {
            i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        for (entry, socket) in &self.sockets {
            if self.fds[*entry].events & libc::POLLIN != 0 && socket.has_messages() {
                // The others are looked at all the same: their descriptors may have news.
                millis = 0;
            }
        }
        // SAFETY: the list is valid for the call, as long as is said.
        let rc = unsafe { libc::poll(self.fds.as_mut_ptr(), self.fds.len() as _, millis) };
        if rc < 0 {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            };
        }
        for (entry, socket) in &self.sockets {
            if self.fds[*entry].revents != 0 {
                socket.on_news();
            }
        }
        Ok(())
    }
}
