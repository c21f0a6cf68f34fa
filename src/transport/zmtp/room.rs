//! Where a large frame is put while its bytes come in.

use std::sync::Arc;

use super::Violation;
use crate::os::memory::room_for;
use crate::os::shared_memory::{SHARE_FROM, Unsealed};
use crate::transport::Frame;

/// What is set aside for a large frame before its bytes are there. Its length is only a claim, and the memory only one that
/// is not used yet.
const RESERVE: usize = 256 << 20;

#[derive(Debug)]
pub(in crate::transport) enum Room {
    Own(Vec<u8>),
    /// Which can be passed on as it is.
    Shared(Unsealed),
}

impl Room {
    /// For a frame of `size` bytes. `shares`: there is somebody whom it could be passed on to.
    pub(super) fn of(size: usize, shares: bool) -> Self {
        if shares
            && size >= SHARE_FROM
            && let Ok(memory) = Unsealed::new()
        {
            return Self::Shared(memory);
        }
        Self::Own(room_for(size.min(RESERVE)))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Shared(memory) => memory.written(),
        }
    }

    pub(in crate::transport) fn extend(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let own = match self {
            Self::Own(own) => own,
            Self::Shared(memory) => match memory.write(bytes) {
                Ok(()) => return Ok(()),
                // The system has no more of it.
                Err(_) => {
                    *self = Self::Own(memory.read().map_err(unusable)?);
                    return self.extend(bytes);
                }
            },
        };
        own.extend_from_slice(bytes);
        Ok(())
    }

    /// Of what has come in.
    pub(super) fn into_frame(self) -> Result<Frame, Violation> {
        match self {
            Self::Own(bytes) => Ok(Frame::from(bytes)),
            Self::Shared(memory) => match memory.seal() {
                Ok(memory) => Ok(Frame::from(Arc::new(memory))),
                Err((memory, _)) => Ok(Frame::from(memory.read().map_err(unusable)?)),
            },
        }
    }
}

pub(super) fn unusable(error: impl std::fmt::Display) -> Violation {
    Violation::Memory(error.to_string())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_shared_comes_as_bytes() {
        let shared = || Room::Shared(Unsealed::new().unwrap());
        let mut room = shared();
        room.extend(b"bytes").unwrap();
        let frame = room.into_frame().unwrap();
        assert_eq!(
            (&frame[..], frame.memory().is_some()),
            (&b"bytes"[..], true)
        );
        // Nothing cannot be mapped.
        let frame = shared().into_frame().unwrap();
        assert_eq!((&frame[..], frame.memory().is_some()), (&b""[..], false));
    }
}
