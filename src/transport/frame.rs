//! One frame of a multipart message.

use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use crate::os::memory::room_for;
use crate::os::shared_memory::{self, SharedMemory};
use crate::protocol::Identity;

/// From this size on, a frame shares the memory that it is made from; below, copying is cheaper than counting.
const SHARE_FROM: usize = 16 * 1024;

/// Frames up to this size lie in the frame itself: delimiters, empty documents, signatures' neighbours.
const INLINE: usize = 38;

/// Tells the connections of this process apart; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A frame as it was received or will be sent. Cloning shares the payload.
#[derive(Clone)]
pub struct Frame(Content);

#[derive(Clone)]
enum Content {
    Inline {
        len: u8,
        bytes: [u8; INLINE],
    },
    /// A part of a received message, which lies in one piece.
    Part {
        message: Arc<[u8]>,
        start: u32,
        len: u32,
    },
    Whole(Bytes),
    Memory(Arc<SharedMemory>),
    Peer(Arc<PeerName>),
}

/// What a router puts before a message: who sent it.
#[derive(Debug)]
pub(super) struct PeerName {
    /// The routing id: the peer's own, or one that was made up for it.
    pub(super) identity: Identity,
    pub(super) connection: ConnectionId,
    pub(super) address: Option<IpAddr>,
}

impl Frame {
    pub fn empty() -> Self {
        Self(Content::Inline {
            len: 0,
            bytes: [0; INLINE],
        })
    }

    pub(super) fn peer(name: Arc<PeerName>) -> Self {
        Self(Content::Peer(name))
    }

    /// Bytes `start .. start + len` of a received message.
    pub(super) fn part(message: &Arc<[u8]>, start: usize, len: usize) -> Self {
        if len <= INLINE {
            return Self::from(&message[start..start + len]);
        }
        let number =
            |number| u32::try_from(number).expect("messages in one piece are smaller than 4 GB");
        Self(Content::Part {
            message: message.clone(),
            start: number(start),
            len: number(len),
        })
    }

    /// The connection over which a message came, of the frame by which a router names its sender.
    pub fn connection(&self) -> Option<ConnectionId> {
        match &self.0 {
            Content::Peer(name) => Some(name.connection),
            _ => None,
        }
    }

    /// The address from which a message came, of the frame by which a router names its sender.
    pub fn peer_address(&self) -> Option<IpAddr> {
        match &self.0 {
            Content::Peer(name) => name.address,
            _ => None,
        }
    }

    /// The payload as shared bytes, without a copy when it is large.
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Content::Whole(bytes) => bytes.clone(),
            Content::Memory(memory) => Bytes::from_owner(Mapped(memory.clone())),
            _ => Bytes::copy_from_slice(self),
        }
    }

    /// Memory that has come from another process. It is copied where it is not worth a descriptor, and where this process
    /// has so many payloads that it would have none left for the next ones.
    pub fn received(memory: SharedMemory) -> Self {
        let bytes = memory.as_ref();
        if bytes.len() < shared_memory::SHARE_FROM || memory.is_too_many() {
            let mut copy = room_for(bytes.len());
            copy.extend_from_slice(bytes);
            return Self::from(copy);
        }
        Self::from(Arc::new(memory))
    }

    /// The memory in which it lies, if other processes can have it too.
    pub fn memory(&self) -> Option<&Arc<SharedMemory>> {
        match &self.0 {
            Content::Memory(memory) => Some(memory),
            _ => None,
        }
    }

    /// Costs less to refer to than to copy.
    pub(super) fn is_large(&self) -> bool {
        self.len() >= SHARE_FROM
    }
}

impl Deref for Frame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Content::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Content::Part {
                message,
                start,
                len,
            } => &message[*start as usize..(*start + *len) as usize],
            Content::Whole(bytes) => bytes,
            Content::Memory(memory) => (**memory).as_ref(),
            Content::Peer(name) => name.identity.as_bytes(),
        }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for Frame {
    fn from(bytes: &[u8]) -> Self {
        if bytes.len() > INLINE {
            return Self(Content::Whole(Bytes::copy_from_slice(bytes)));
        }
        let mut inline = [0; INLINE];
        inline[..bytes.len()].copy_from_slice(bytes);
        Self(Content::Inline {
            len: bytes.len() as u8,
            bytes: inline,
        })
    }
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() <= INLINE {
            Self::from(&bytes[..])
        } else {
            Self(Content::Whole(Bytes::from(bytes)))
        }
    }
}

impl From<Bytes> for Frame {
    fn from(bytes: Bytes) -> Self {
        if bytes.len() <= INLINE {
            Self::from(&bytes[..])
        } else {
            Self(Content::Whole(bytes))
        }
    }
}

impl From<Arc<SharedMemory>> for Frame {
    fn from(memory: Arc<SharedMemory>) -> Self {
        Self(Content::Memory(memory))
    }
}

/// Shared memory as what [`Bytes`] can own.
struct Mapped(Arc<SharedMemory>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// Of the same bytes.
impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_sizes_keep_their_bytes_through_copies_and_conversions() {
        for size in [0, 1, INLINE, INLINE + 1, SHARE_FROM - 1, 3 * SHARE_FROM] {
            let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let frame = Frame::from(&bytes[..]);
            let copy = frame.clone();
            drop(frame);
            let shared = copy.to_bytes();
            drop(copy);
            let again = Frame::from(shared.clone());
            assert_eq!(&again[..], &bytes[..]);
            assert_eq!(&shared[..], &bytes[..]);
            let message: Arc<[u8]> = Arc::from(bytes);
            let part = Frame::part(&message, size / 2, size - size / 2);
            assert_eq!(&part[..], &message[size / 2..]);
            assert_eq!(&part.to_bytes()[..], &message[size / 2..]);
        }
    }

    #[test]
    fn a_frame_is_small() {
        assert_eq!(size_of::<Frame>(), 40);
    }
}
