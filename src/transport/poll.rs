//! Waiting for sockets and descriptors.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::libc::{self, pollfd};

use super::Socket;
use super::socket::{Shared, lock};

/// What one thread waits for. Entries are numbered in the order in which they were added.
#[derive(Default)]
pub struct Poller {
    fds: Vec<pollfd>,
    sockets: Vec<Watched>,
}

struct Watched {
    entry: usize,
    socket: Arc<Mutex<Shared>>,
    /// Messages that have come end the wait.
    is_read: bool,
}

impl Poller {
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for messages on a socket. It is here that a socket's connections are made and messages leave.
    pub fn add_socket(&mut self, socket: &mut Socket) -> usize {
        let (socket, fd) = socket.watch();
        let entry = self.add_fd(fd);
        self.sockets.push(Watched {
            entry,
            socket,
            is_read: true,
        });
        entry
    }

    /// Waits for a descriptor to become readable. It must stay open as long as it is watched.
    pub fn add_fd(&mut self, fd: RawFd) -> usize {
        self.fds.push(pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        self.fds.len() - 1
    }

    /// Also waits until `entry`, a descriptor, can be written to, or no longer.
    pub fn want_write(&mut self, entry: usize, wanted: bool) {
        self.set(entry, libc::POLLOUT, wanted);
    }

    /// Stops or resumes waiting for messages, or for a descriptor to become readable. What is sent over a socket leaves
    /// all the same.
    pub fn want_read(&mut self, entry: usize, wanted: bool) {
        match self.sockets.iter_mut().find(|socket| socket.entry == entry) {
            Some(socket) => socket.is_read = wanted,
            None => self.set(entry, libc::POLLIN, wanted),
        }
    }

    fn set(&mut self, entry: usize, event: i16, wanted: bool) {
        let events = &mut self.fds[entry].events;
        *events = if wanted {
            *events | event
        } else {
            *events & !event
        };
    }

    /// Whether the last wait has found something at `entry`.
    pub fn has_events(&self, entry: usize) -> bool {
        self.fds[entry].revents != 0
    }

    /// Puts another descriptor in the place of `entry`; -1 watches nothing.
    pub fn replace_fd(&mut self, entry: usize, fd: RawFd) {
        self.fds[entry] = pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
    }

    /// Sends what was given to the sockets, and waits for any entry, for `timeout` (none: for ever). An interrupting
    /// signal, or work that is a socket's own, ends the wait early.
    pub fn wait(&mut self, mut timeout: Option<Duration>) -> io::Result<()> {
        for watched in &self.sockets {
            let mut socket = lock(&watched.socket);
            socket.flush_in_time();
            if socket.has_news(watched.is_read) {
                // The others are looked at all the same: their descriptors may have news.
                timeout = Some(Duration::ZERO);
            } else if let Some(deadline) = socket.next_deadline() {
                let left = deadline.saturating_duration_since(Instant::now());
                timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
            }
        }
        // Rounded up: a deadline that is still half a millisecond away must not be polled for in a loop.
        let millis = timeout.map_or(-1, |timeout| {
            i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        // SAFETY: the list is valid for the call, as long as is said.
        let rc = unsafe { libc::poll(self.fds.as_mut_ptr(), self.fds.len() as _, millis) };
        if rc < 0 {
            return match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            };
        }
        for watched in &self.sockets {
            let has_events = self.has_events(watched.entry);
            lock(&watched.socket).look_after(has_events);
        }
        Ok(())
    }
}
