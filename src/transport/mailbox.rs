//! How threads that own sockets talk to each other: a queue, and a descriptor that wakes a poll.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::wake::Wake;

/// Makes a mailbox and a sender to it.
pub fn mailbox<T>() -> io::Result<(Sender<T>, Mailbox<T>)> {
    let wake = Wake::new()?;
    let shared = Arc::new(Shared {
        queue: Mutex::new(Vec::new()),
        wake,
        closed: AtomicBool::new(false),
    });
    Ok((
        Sender {
            shared: shared.clone(),
        },
        Mailbox { shared },
    ))
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Vec<T>>,
    wake: Wake,
    closed: AtomicBool,
}

/// The sending end; clones send to the same mailbox.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Sender<T> {
    /// Puts a message in. The receiver is woken only when its queue was empty. `false` when it is gone.
    pub fn send(&self, message: T) -> bool {
        self.send_all(std::iter::once(message))
    }

    /// Puts several in under one lock.
    pub fn send_all(&self, messages: impl IntoIterator<Item = T>) -> bool {
        if self.shared.closed.load(Ordering::Acquire) {
            return false;
        }
        let mut queue = self
            .shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let was_empty = queue.is_empty();
        queue.extend(messages);
        if was_empty && !queue.is_empty() {
            // Under the lock: were the messages taken before the signal came, it would never be cleared, and a poll
            // would not wait any more.
            self.shared.wake.signal();
        }
        true
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Mailbox<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Mailbox<T> {
    /// Becomes readable when there are messages.
    pub fn fd(&self) -> RawFd {
        self.shared.wake.read_fd()
    }

    /// Takes everything that is there; `into` must be empty. `false` when nothing was.
    pub fn take(&mut self, into: &mut Vec<T>) -> bool {
        debug_assert!(into.is_empty());
        let mut queue = self
            .shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            return false;
        }
        self.shared.wake.clear();
        std::mem::swap(&mut *queue, into);
        true
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(fd: RawFd) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        // SAFETY: the mailbox that owns the descriptor outlives this call.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn messages_wake_the_receiver_and_come_in_order() {
        let (sender, mut receiver) = mailbox().unwrap();
        assert!(!readable(receiver.fd()));
        let from_thread = sender.clone();
        std::thread::spawn(move || from_thread.send_all(0..3))
            .join()
            .unwrap();
        assert!(sender.send(3));
        assert!(readable(receiver.fd()));
        let mut got = Vec::new();
        assert!(receiver.take(&mut got));
        assert_eq!(got, [0, 1, 2, 3]);
        assert!(!readable(receiver.fd()));
        got.clear();
        assert!(!receiver.take(&mut got));
        drop(receiver);
        assert!(!sender.send(4));
    }

    #[test]
    fn an_empty_mailbox_wakes_nobody() {
        let mut got = Vec::new();
        for _ in 0..100 {
            let (sender, mut receiver) = mailbox().unwrap();
            let from_thread =
                std::thread::spawn(move || (0..100).for_each(|n| assert!(sender.send(n))));
            let mut count = 0;
            while count < 100 {
                got.clear();
                receiver.take(&mut got);
                count += got.len();
            }
            from_thread.join().unwrap();
            assert!(!readable(receiver.fd()));
        }
    }
}
