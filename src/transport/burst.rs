//! Receiving from a socket until it is empty or others have waited long enough.

use std::time::{Duration, Instant};

use super::{Frame, Socket};

/// Messages that are handled before the other sockets of the thread get their turn.
const BURST: usize = 128;

/// Calls `handle` for each waiting message, at most [`BURST`] of them. `true` when there was any.
///
/// For sockets that a [`Poller`](super::Poller) watches: one that has been found empty is not asked again until the
/// poller has news of it.
pub fn drain(
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
            Err(error) => {
                tracing::error!("a socket cannot be read: {error}");
                return count > 0;
            }
        }
    }
    true
}

/// Time that is left until the earliest of some deadlines.
pub fn time_left(deadlines: impl IntoIterator<Item = Option<Instant>>) -> Option<Duration> {
    let earliest = deadlines.into_iter().flatten().min()?;
    Some(earliest.saturating_duration_since(Instant::now()))
}
