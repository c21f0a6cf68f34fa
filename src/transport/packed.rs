//! Messages that have to wait.

use super::Frame;

/// Frames from this size on are kept as they are; smaller ones are copied together.
const KEEP_FROM: usize = 4 * 1024;

/// A multipart message in as little memory as it needs.
///
/// A received frame costs 64 bytes and pins libzmq's receive buffer, which it shares with its neighbours. What waits in
/// a queue of a million tasks is therefore copied into one allocation; only large frames stay where they are.
#[derive(Debug)]
pub struct Packed {
    /// `u32` length of each frame, then the bytes of the small ones.
    block: Box<[u8]>,
    large: Box<[Frame]>,
    count: u32,
}

impl Packed {
    pub fn new(frames: &[Frame]) -> Self {
        let small: usize = frames
            .iter()
            .map(|frame| frame.len())
            .filter(|len| *len < KEEP_FROM)
            .sum();
        let mut block = Vec::with_capacity(4 * frames.len() + small);
        for frame in frames {
            let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            block.extend_from_slice(&len.to_le_bytes());
        }
        for frame in frames.iter().filter(|frame| frame.len() < KEEP_FROM) {
            block.extend_from_slice(frame);
        }
        let large = frames
            .iter()
            .filter(|frame| frame.len() >= KEEP_FROM)
            .cloned()
            .collect();
        let count = u32::try_from(frames.len()).expect("libzmq limits a message to fewer frames");
        Self {
            block: block.into_boxed_slice(),
            large,
            count,
        }
    }

    /// The frames again, appended to `out`.
    pub fn unpack_into(&self, out: &mut Vec<Frame>) {
        let (lengths, mut small) = self.block.split_at(4 * self.count as usize);
        let mut large = self.large.iter();
        for length in lengths.chunks_exact(4) {
            let length = u32::from_le_bytes(length.try_into().expect("chunks of four")) as usize;
            if length < KEEP_FROM {
                let (frame, rest) = small.split_at(length);
                small = rest;
                out.push(Frame::from(frame));
            } else {
                out.push(
                    large
                        .next()
                        .expect("as many large frames as large lengths")
                        .clone(),
                );
            }
        }
    }

    /// Bytes that this message occupies, its frames' contents included.
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.block.len()
            + self
                .large
                .iter()
                .map(|frame| size_of::<Frame>() + frame.len())
                .sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_in_order() {
        let sizes = [0, 5, KEEP_FROM, 1, KEEP_FROM - 1, 10 * KEEP_FROM, 0];
        let frames: Vec<Frame> = sizes
            .iter()
            .map(|size| Frame::from(&vec![*size as u8; *size][..]))
            .collect();
        let mut out = Vec::new();
        Packed::new(&frames).unpack_into(&mut out);
        assert_eq!(out.len(), frames.len());
        for (before, after) in frames.iter().zip(&out) {
            assert_eq!(before[..], after[..]);
        }
    }
}
