//! Receiving from a socket until it is empty or others have waited long enough.

use std::time::{Duration, Instant};

use super::{Frame, Socket};

/// Messages that are handled before the other sockets of the thread get their turn.
const BURST: usize = 128;

/// Calls `handle` for each waiting message, at most [`BURST`] of them. `true` when there was any.
pub fn drain(
    socket: &mut Socket,
    frames: &mut Vec<Frame>,
    mut handle: impl FnMut(&mut Socket, &mut Vec<Frame>),
) -> bool {
    for count in 0..BURST {
        if !socket.receive(frames) {
            return count > 0;
        }
        handle(socket, frames);
    }
    true
}

/// Calls `burst`, which is to [`drain`] a socket, until nothing is left or each of `peers` had `count` turns at least:
/// a socket takes messages from its peers in turn. However fast the others send, what one has sent by now is read.
pub fn drain_turns(count: usize, peers: usize, mut burst: impl FnMut() -> bool) {
    let bursts = count.saturating_mul(peers).div_ceil(BURST) + 1;
    for _ in 0..bursts {
        if !burst() {
            return;
        }
    }
}

/// Time that is left until the earliest of some deadlines.
pub fn time_left(deadlines: impl IntoIterator<Item = Option<Instant>>) -> Option<Duration> {
    let earliest = deadlines.into_iter().flatten().min()?;
    Some(earliest.saturating_duration_since(Instant::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_never_empty_is_left_after_everybodys_turns() {
        let mut bursts = 0;
        drain_turns(10, BURST, || {
            bursts += 1;
            true
        });
        assert_eq!(bursts, 11);
        drain_turns(10, BURST, || {
            bursts += 1;
            false
        });
        assert_eq!(bursts, 12);
    }
}
