//! Bytes to frames.
//!
//! Small frames of a message share one piece of memory, made when they are whole; a large frame gets its own, which its
//! bytes can be read into without a copy.

use std::sync::Arc;

use super::room::Room;
use super::{COMMAND, LONG, MORE, Violation};
use crate::transport::Frame;

/// From this size on a frame is read into memory of its own.
const LARGE: usize = 16 * 1024;

#[derive(Debug)]
pub(in crate::transport) struct Decoder {
    /// The start of a frame that is not large.
    partial: Vec<u8>,
    body: Option<Body>,
    limit: u64,
    shares: bool,
}

/// A large frame, as far as it has come.
#[derive(Debug)]
struct Body {
    flags: u8,
    missing: usize,
    room: Room,
}

struct Head {
    flags: u8,
    /// Bytes of the head itself, and of the frame's body.
    len: usize,
    size: usize,
}

impl Decoder {
    /// `limit`: bytes of the largest frame that is taken.
    pub(in crate::transport) fn new(limit: u64) -> Self {
        Self {
            partial: Vec::new(),
            body: None,
            limit,
            shares: false,
        }
    }

    /// Whether there is somebody whom memory could be passed on to.
    pub(in crate::transport) fn set_sharing(&mut self, shares: bool) {
        self.shares = shares;
    }

    pub(in crate::transport) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Bytes that are here of a large frame whose rest is to come.
    pub(in crate::transport) fn held(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.room.len() as u64)
    }

    /// Takes bytes as they come; `sink` gets each frame that is whole, with its flags.
    pub(in crate::transport) fn feed(
        &mut self,
        mut input: &[u8],
        sink: &mut impl FnMut(u8, Frame) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        while !input.is_empty() {
            input = if let Some(body) = &mut self.body {
                let (here, rest) = input.split_at(body.missing.min(input.len()));
                body.room.extend(here)?;
                body.missing -= here.len();
                self.end_body(sink)?;
                rest
            } else if self.partial.is_empty() {
                self.frames(input, sink)?
            } else {
                self.complete(input, sink)?
            };
        }
        Ok(())
    }

    /// Where the next bytes can be put without a copy, and how many: the rest of a large frame. To be followed by
    /// [`end_body`](Self::end_body).
    pub(in crate::transport) fn body(&mut self) -> Option<(&mut Room, usize)> {
        self.body
            .as_mut()
            .map(|body| (&mut body.room, body.missing))
    }

    /// `count` bytes were put into the [`body`](Self::body).
    pub(in crate::transport) fn filled(
        &mut self,
        count: usize,
        sink: &mut impl FnMut(u8, Frame) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        if let Some(body) = &mut self.body {
            body.missing -= count;
        }
        self.end_body(sink)
    }

    fn end_body(
        &mut self,
        sink: &mut impl FnMut(u8, Frame) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        match self.body.take_if(|body| body.missing == 0) {
            Some(body) => sink(body.flags, body.room.into_frame()?),
            None => Ok(()),
        }
    }

    /// The frames at the start of `input`, message by message. Keeps what is left of it, if no large frame follows.
    fn frames<'a>(
        &mut self,
        input: &'a [u8],
        sink: &mut impl FnMut(u8, Frame) -> Result<(), Violation>,
    ) -> Result<&'a [u8], Violation> {
        let mut end = 0;
        loop {
            let (start, mut places) = (end, Places::default());
            let head = loop {
                let Some(head) = self.head(&input[end..])? else {
                    break None;
                };
                if input.len() - end - head.len < head.size {
                    break Some(head);
                }
                places.push(head.flags, end + head.len - start, head.size);
                end += head.len + head.size;
                if head.flags & MORE == 0 || places.is_full() {
                    break None;
                }
            };
            places.emit(&input[start..end], sink)?;
            let rest = &input[end..];
            match head {
                Some(head) if head.size >= LARGE => {
                    self.begin_body(&head, &rest[head.len..])?;
                    return Ok(&[]);
                }
                None if start < end && !rest.is_empty() => {}
                _ => {
                    self.partial.extend_from_slice(rest);
                    return Ok(&[]);
                }
            }
        }
    }

    /// Goes on with the frame whose start was kept. Returns what is left of `input`.
    fn complete<'a>(
        &mut self,
        mut input: &'a [u8],
        sink: &mut impl FnMut(u8, Frame) -> Result<(), Violation>,
    ) -> Result<&'a [u8], Violation> {
        let head = loop {
            if let Some(head) = self.head(&self.partial)? {
                break head;
            }
            let Some((byte, rest)) = input.split_first() else {
                return Ok(input);
            };
            self.partial.push(*byte);
            input = rest;
        };
        if head.size >= LARGE {
            let partial = std::mem::take(&mut self.partial);
            self.begin_body(&head, &partial[head.len..])?;
            return Ok(input);
        }
        let missing = head.len + head.size - self.partial.len();
        let (here, rest) = input.split_at(missing.min(input.len()));
        self.partial.extend_from_slice(here);
        if here.len() == missing {
            // Its memory is given back: most connections are idle.
            let partial = std::mem::take(&mut self.partial);
            sink(head.flags, Frame::from(&partial[head.len..]))?;
        }
        Ok(rest)
    }

    /// `start` is what has come of it already.
    fn begin_body(&mut self, head: &Head, start: &[u8]) -> Result<(), Violation> {
        let mut room = Room::of(head.size, self.shares);
        room.extend(start)?;
        self.body = Some(Body {
            flags: head.flags,
            missing: head.size - start.len(),
            room,
        });
        Ok(())
    }

    /// The head of the frame at the start of `bytes`, if it is whole.
    fn head(&self, bytes: &[u8]) -> Result<Option<Head>, Violation> {
        let Some((&flags, rest)) = bytes.split_first() else {
            return Ok(None);
        };
        if flags > MORE | LONG | COMMAND || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(Violation::Flags);
        }
        let (len, size) = if flags & LONG == 0 {
            match rest.first() {
                Some(size) => (2, u64::from(*size)),
                None => return Ok(None),
            }
        } else {
            match rest.first_chunk::<8>() {
                Some(size) => (9, u64::from_be_bytes(*size)),
                None => return Ok(None),
            }
        };
        let too_large = Violation::TooLarge { limit: self.limit };
        if size > self.limit {
            return Err(too_large);
        }
        let size = usize::try_from(size).map_err(|_| too_large)?;
        Ok(Some(Head { flags, len, size }))
    }
}

/// Where the frames of a message lie.
#[derive(Default)]
struct Places {
    places: [(u8, u32, u32); Self::LIMIT],
    count: usize,
}

impl Places {
    /// Messages of more frames come in several pieces.
    const LIMIT: usize = 16;

    fn push(&mut self, flags: u8, start: usize, len: usize) {
        // What was read at once is much less than 4 GB.
        self.places[self.count] = (flags, start as u32, len as u32);
        self.count += 1;
    }

    fn is_full(&self) -> bool {
        self.count == Self::LIMIT
    }

    fn emit(
        &self,
        bytes: &[u8],
        sink: &mut impl FnMut(u8, Frame) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        if self.count == 0 {
            return Ok(());
        }
        let message: Arc<[u8]> = Arc::from(bytes);
        for (flags, start, len) in &self.places[..self.count] {
            sink(
                *flags,
                Frame::part(&message, *start as usize, *len as usize),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transport::zmtp::encoder;
    use crate::transport::zmtp::outgoing::Outgoing;

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let size = prop_oneof![0..50usize, 200..300usize, LARGE - 2..LARGE + 2];
        (size, any::<u8>()).prop_map(|(size, byte)| vec![byte; size])
    }

    proptest! {
        #[test]
        fn messages_come_back_however_their_bytes_are_cut(
            messages in prop::collection::vec(prop::collection::vec(frame(), 1..20), 1..8),
            cuts in prop::collection::vec(1..30_000usize, 1..20),
            direct in any::<bool>(),
        ) {
            let mut out = Outgoing::default();
            for message in &messages {
                let frames: Vec<Frame> = message.iter().map(|f| Frame::from(&f[..])).collect();
                encoder::message(&frames, false, &mut out);
            }
            let wire = out.take_bytes();
            let mut decoder = Decoder::new(u64::MAX);
            let (mut got, mut current) = (Vec::new(), Vec::new());
            let mut sink = |flags: u8, frame: Frame| {
                current.push(frame.to_vec());
                if flags & MORE == 0 {
                    got.push(std::mem::take(&mut current));
                }
                Ok(())
            };
            let (mut rest, mut cut) = (&wire[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let count = *cut.next().unwrap();
                let here = match decoder.body() {
                    Some((body, missing)) if direct => {
                        let (here, after) = rest.split_at(count.min(missing).min(rest.len()));
                        body.extend(here).unwrap();
                        rest = after;
                        Some(here.len())
                    }
                    _ => None,
                };
                match here {
                    Some(count) => decoder.filled(count, &mut sink).unwrap(),
                    None => {
                        let (here, after) = rest.split_at(count.min(rest.len()));
                        decoder.feed(here, &mut sink).unwrap();
                        rest = after;
                    }
                }
            }
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn any_bytes_are_frames_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::new(100);
            let _ = decoder.feed(&bytes, &mut |_, frame| {
                assert!(frame.len() <= 100);
                Ok(())
            });
        }
    }

    #[test]
    fn what_no_frame_may_be_is_refused() {
        let refused = |bytes: &[u8]| {
            Decoder::new(1000)
                .feed(bytes, &mut |_, _| Ok(()))
                .unwrap_err()
        };
        assert_eq!(refused(&[8]), Violation::Flags);
        assert_eq!(refused(&[MORE | COMMAND, 0]), Violation::Flags);
        assert_eq!(
            refused(&[LONG, 0xff, 0, 0, 0, 0, 0, 0, 0]),
            Violation::TooLarge { limit: 1000 }
        );
    }
}
