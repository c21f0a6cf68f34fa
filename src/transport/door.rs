//! Where messages come in: shape and signature are checked before anything in them is believed.
//!
//! What is refused is counted and dropped, and logged now and then ([`PeerLog`]), never with the peer's bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Frame, PeerLog};
use crate::protocol::digests::DigestHistory;
use crate::protocol::signature::SignatureError;
use crate::protocol::{Identity, Signer, Wire, WireError};

#[derive(Debug)]
pub struct Door {
    channel: &'static str,
    signer: Signer,
    /// Shared by all channels: a message recorded on one is refused on the others too.
    digests: Arc<Mutex<DigestHistory>>,
    refusals: PeerLog,
}

impl Door {
    pub fn new(channel: &'static str, signer: Signer, digests: Arc<Mutex<DigestHistory>>) -> Self {
        Self {
            channel,
            signer,
            digests,
            refusals: PeerLog::default(),
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
        let peer = frames
            .first()
            .map_or_else(|| Identity::from(&b""[..]), short_identity);
        let Some(line) = self.refusals.on_event(Instant::now(), &peer) else {
            return;
        };
        let address = frames
            .first()
            .and_then(Frame::peer_address)
            .map(|address| format!(" at {address}"))
            .unwrap_or_default();
        tracing::warn!(
            "{}: dropped a message from {peer}{address}: {why} {line}",
            self.channel,
        );
    }
}

/// A first frame may be anything, of any length.
fn short_identity(frame: &Frame) -> Identity {
    Identity::from(&frame[..frame.len().min(255)])
}
