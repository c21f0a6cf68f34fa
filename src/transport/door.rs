//! Where messages come in: shape and signature are checked before anything in them is believed.
//!
//! What is refused is counted and dropped, and logged once per peer and [`LOG_EVERY`], never with the peer's bytes. Peers
//! may take a new name for each message, so that there is a limit for all of them together.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::Frame;
use crate::protocol::digests::DigestHistory;
use crate::protocol::signature::SignatureError;
use crate::protocol::{Identity, Signer, Wire, WireError};

const LOG_EVERY: Duration = Duration::from_secs(10);

/// Lines of one channel in [`LOG_EVERY`].
const MAX_LINES: u32 = 20;

/// Peers whose refusals are told apart; when there are more, the table starts afresh.
const MAX_PEERS: usize = 1000;

#[derive(Debug)]
pub struct Door {
    channel: &'static str,
    signer: Signer,
    /// Shared by all channels: a message recorded on one is refused on the others too.
    digests: Arc<Mutex<DigestHistory>>,
    peers: HashMap<Identity, Refusals>,
    refused: u64,
    lines: Lines,
}

/// Lines that were logged since a time.
#[derive(Debug)]
struct Lines {
    since: Instant,
    count: u32,
}

impl Lines {
    /// Takes one line, if there may be one more: its number.
    fn take(&mut self, now: Instant) -> Option<u32> {
        if now.duration_since(self.since) >= LOG_EVERY {
            *self = Self {
                since: now,
                count: 0,
            };
        }
        self.count += 1;
        (self.count <= MAX_LINES).then_some(self.count)
    }
}

#[derive(Debug)]
struct Refusals {
    logged: Instant,
    since: u64,
}

impl Door {
    pub fn new(channel: &'static str, signer: Signer, digests: Arc<Mutex<DigestHistory>>) -> Self {
        Self {
            channel,
            signer,
            digests,
            peers: HashMap::new(),
            refused: 0,
            lines: Lines {
                since: Instant::now(),
                count: 0,
            },
        }
    }

    /// The message in `frames`, if it is one, is rightly signed and has not been received before.
    pub fn admit<'a>(&mut self, frames: &'a [Frame]) -> Option<Wire<'a, Frame>> {
        match self.check(frames) {
            Ok(wire) => Some(wire),
            Err(error) => {
                self.refuse(frames, error);
                None
            }
        }
    }

    fn check<'a>(&self, frames: &'a [Frame]) -> Result<Wire<'a, Frame>, WireError> {
        let wire = Wire::parse(frames)?;
        if let Some(digest) = wire.verify(&self.signer)? {
            let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
            if !digests.record(&digest) {
                return Err(SignatureError::Replayed.into());
            }
        }
        Ok(wire)
    }

    /// Drops a message, and says so if this peer's last line is long enough ago.
    pub fn refuse(&mut self, frames: &[Frame], why: impl std::fmt::Display) {
        self.refused += 1;
        let now = Instant::now();
        if self.peers.len() >= MAX_PEERS {
            self.peers.clear();
        }
        let peer = frames
            .first()
            .map_or_else(|| Identity::from(&b""[..]), short_identity);
        let refusals = self.peers.entry(peer.clone()).or_insert(Refusals {
            logged: now,
            since: 0,
        });
        refusals.since += 1;
        if refusals.since == 1 || now.duration_since(refusals.logged) >= LOG_EVERY {
            let since = refusals.since;
            *refusals = Refusals { logged: now, since };
            let Some(line) = self.lines.take(now) else {
                return;
            };
            let more = if line == MAX_LINES {
                "; for some seconds, more of this is counted and not logged"
            } else {
                ""
            };
            // libzmq does not know it for every frame.
            let address = frames
                .iter()
                .find_map(Frame::peer_address)
                .map(|address| format!(" at {address}"))
                .unwrap_or_default();
            tracing::warn!(
                "{}: dropped a message from {peer}{address}: {why} ({since} from this peer, {} in all){more}",
                self.channel,
                self.refused,
            );
        }
    }
}

/// A first frame may be anything, of any length.
fn short_identity(frame: &Frame) -> Identity {
    Identity::from(&frame[..frame.len().min(255)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_come_back() {
        let start = Instant::now();
        let mut lines = Lines {
            since: start,
            count: 0,
        };
        let taken = (0..1000).filter(|_| lines.take(start).is_some()).count();
        assert_eq!(taken, MAX_LINES as usize);
        assert_eq!(lines.take(start + LOG_EVERY), Some(1));
    }
}
