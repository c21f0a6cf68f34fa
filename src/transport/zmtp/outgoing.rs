//! What a connection has still to write.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use super::{MORE, command, encoder};
use crate::os::shared_memory::SharedMemory;
use crate::transport::Frame;

/// Small pieces are gathered up to about this size.
const BLOCK: usize = 64 * 1024;

/// Pieces that are handed to the system at once.
const SLICES: usize = 32;

/// Bytes in order, small ones gathered and large ones shared.
#[derive(Debug, Default)]
pub(in crate::transport) struct Outgoing {
    pieces: VecDeque<Piece>,
    /// Of the first piece, what is written already.
    written: usize,
    /// In all, not yet written.
    len: usize,
}

#[derive(Debug)]
enum Piece {
    Gathered(Vec<u8>),
    Shared(Frame),
    /// The memory goes with the first byte.
    Memory(Vec<u8>, Arc<SharedMemory>),
}

/// What is to be written next, and how.
#[derive(Debug)]
pub(in crate::transport) enum Next<'a> {
    /// It is all there is.
    Bytes(&'a [u8]),
    /// In a gathering write.
    Pieces(Vec<IoSlice<'a>>),
    /// Bytes that the memory goes along with.
    WithMemory(&'a [u8], &'a SharedMemory),
    /// Bytes of the memory, from there on.
    FromMemory(&'a SharedMemory, usize),
}

impl Next<'_> {
    #[cfg(any(test, fuzzing))]
    fn to_vec(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) | Self::WithMemory(bytes, _) => bytes.to_vec(),
            Self::Pieces(slices) => slices.iter().flat_map(|it| it.iter().copied()).collect(),
            Self::FromMemory(memory, start) => memory.as_ref()[*start..].to_vec(),
        }
    }
}

impl Piece {
    fn has_memory(&self) -> bool {
        match self {
            Self::Gathered(_) => false,
            Self::Shared(frame) => frame.memory().is_some(),
            Self::Memory(..) => true,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Gathered(bytes) | Self::Memory(bytes, _) => bytes,
            Self::Shared(frame) => frame,
        }
    }
}

impl Outgoing {
    pub(in crate::transport) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are not yet written.
    pub(in crate::transport) fn len(&self) -> usize {
        self.len
    }

    /// Makes room for `len` bytes that come next, in one allocation.
    pub(in crate::transport) fn reserve(&mut self, len: usize) {
        match self.pieces.back_mut() {
            Some(Piece::Gathered(bytes)) if bytes.len() < BLOCK => bytes.reserve(len),
            _ => self
                .pieces
                .push_back(Piece::Gathered(Vec::with_capacity(len))),
        }
    }

    pub(in crate::transport) fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Gathered(gathered)) if gathered.len() < BLOCK => {
                gathered.extend_from_slice(bytes);
            }
            _ => self.pieces.push_back(Piece::Gathered(bytes.to_vec())),
        }
    }

    pub(in crate::transport) fn push_shared(&mut self, frame: Frame) {
        self.len += frame.len();
        self.pieces.push_back(Piece::Shared(frame));
    }

    /// The memory goes along with what is written of `command`.
    pub(in crate::transport) fn push_memory(
        &mut self,
        command: Vec<u8>,
        memory: Arc<SharedMemory>,
    ) {
        self.len += command.len();
        self.pieces.push_back(Piece::Memory(command, memory));
    }

    /// What is to be written next; nothing when all is written.
    pub(in crate::transport) fn next(&self) -> Option<Next<'_>> {
        let written = self.written;
        Some(match self.pieces.front()? {
            Piece::Memory(command, memory) if written == 0 => Next::WithMemory(command, memory),
            Piece::Shared(frame) if let Some(memory) = frame.memory() => {
                Next::FromMemory(memory, written)
            }
            piece if self.pieces.len() == 1 => Next::Bytes(&piece.bytes()[written..]),
            _ => Next::Pieces(self.slices()),
        })
    }

    /// The system does not let it go along now: the peer gets its bytes. Returns by how many more there are to write.
    pub(in crate::transport) fn send_memory_as_bytes(&mut self) -> usize {
        let Some(Piece::Memory(command, memory)) = self.pieces.pop_front() else {
            return 0;
        };
        let flags = if command::is_more(&command) { MORE } else { 0 };
        let frame = Frame::from(memory);
        let head = encoder::long_head(flags, frame.len());
        let more = head.len() + frame.len() - command.len();
        self.len += more;
        self.pieces.push_front(Piece::Shared(frame));
        self.pieces.push_front(Piece::Gathered(head.to_vec()));
        more
    }

    /// The first of the pieces, up to one that is written in another way.
    fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::new();
        let mut skip = self.written;
        for (number, piece) in self.pieces.iter().take(SLICES).enumerate() {
            if number > 0 && piece.has_memory() {
                break;
            }
            let bytes = &piece.bytes()[skip..];
            skip = 0;
            if !bytes.is_empty() {
                slices.push(IoSlice::new(bytes));
            }
        }
        slices
    }

    /// All that is to be written, which then is.
    #[cfg(any(test, fuzzing))]
    pub(in crate::transport) fn take_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Some(next) = self.next().map(|next| next.to_vec()) {
            self.advance(next.len());
            bytes.extend(next);
        }
        bytes
    }

    /// `count` bytes were written.
    pub(in crate::transport) fn advance(&mut self, mut count: usize) {
        self.len -= count;
        if self.len == 0 {
            // Gives its memory back: most connections are idle.
            *self = Self::default();
            return;
        }
        while let Some(piece) = self.pieces.front() {
            let left = piece.bytes().len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_comes_out_in_order_whatever_is_written_at_once() {
        let large = Frame::from(vec![9; 40_000]);
        let mut expected = Vec::new();
        let mut out = Outgoing::default();
        for round in 0..100u8 {
            out.push(&[round; 3]);
            expected.extend_from_slice(&[round; 3]);
            if round % 7 == 0 {
                out.push_shared(large.clone());
                expected.extend_from_slice(&large);
                out.reserve(10);
            }
        }
        assert_eq!(out.len(), expected.len());
        let mut written = Vec::new();
        let mut step = 1;
        while !out.is_empty() {
            let bytes = out.next().unwrap().to_vec();
            let count = bytes.len().min(step);
            assert!(count > 0);
            written.extend_from_slice(&bytes[..count]);
            out.advance(count);
            step = step * 3 % 50_021 + 1;
        }
        assert_eq!(written, expected);
        assert!(out.pieces.is_empty());
    }
}
