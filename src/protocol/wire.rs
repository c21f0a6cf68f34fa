//! The multipart layout of a message:
//! `[identity…] <IDS|MSG> signature header parent_header metadata content [buffer…]`.
//!
//! Works on any kind of frame that can be seen as bytes; nothing is copied.

use std::ops::Range;

use thiserror::Error;

use super::signature::{Digest, SignatureError, Signer};

/// Separates the routing identities from the message (Jupyter messaging, "The wire protocol").
pub const DELIMITER: &[u8] = b"<IDS|MSG>";

/// Frames after the delimiter that every message has: signature, header, parent header, metadata, content.
const FIXED: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    #[error("no <IDS|MSG> delimiter among the frames")]
    NoDelimiter,
    #[error("{0} frames after the delimiter; a message has at least {FIXED}")]
    TooShort(usize),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("a part of the message is not the JSON that it should be")]
    Json,
}

/// Where the delimiter lies in a received multipart that is long enough to be a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    delimiter: usize,
    len: usize,
}

impl Layout {
    /// Finds the first delimiter, as jupyter_client's `feed_identities` does.
    pub fn of<F: AsRef<[u8]>>(frames: &[F]) -> Result<Self, WireError> {
        let delimiter = frames
            .iter()
            .position(|frame| frame.as_ref() == DELIMITER)
            .ok_or(WireError::NoDelimiter)?;
        let after = frames.len() - delimiter - 1;
        if after < FIXED {
            return Err(WireError::TooShort(after));
        }
        Ok(Self {
            delimiter,
            len: frames.len(),
        })
    }

    pub fn identities(self) -> Range<usize> {
        0..self.delimiter
    }

    pub fn delimiter(self) -> usize {
        self.delimiter
    }

    pub fn signature(self) -> usize {
        self.delimiter + 1
    }

    pub fn header(self) -> usize {
        self.delimiter + 2
    }

    pub fn parent_header(self) -> usize {
        self.delimiter + 3
    }

    pub fn metadata(self) -> usize {
        self.delimiter + 4
    }

    pub fn content(self) -> usize {
        self.delimiter + 5
    }

    pub fn buffers(self) -> Range<usize> {
        self.delimiter + 1 + FIXED..self.len
    }
}

/// A received message seen through its layout.
#[derive(Debug)]
pub struct Wire<'a, F> {
    frames: &'a [F],
    layout: Layout,
}

impl<'a, F: AsRef<[u8]>> Wire<'a, F> {
    pub fn parse(frames: &'a [F]) -> Result<Self, WireError> {
        Ok(Self {
            frames,
            layout: Layout::of(frames)?,
        })
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn identities(&self) -> &'a [F] {
        &self.frames[self.layout.identities()]
    }

    pub fn header(&self) -> &'a [u8] {
        self.frames[self.layout.header()].as_ref()
    }

    pub fn parent_header(&self) -> &'a [u8] {
        self.frames[self.layout.parent_header()].as_ref()
    }

    pub fn metadata(&self) -> &'a [u8] {
        self.frames[self.layout.metadata()].as_ref()
    }

    pub fn content(&self) -> &'a [u8] {
        self.frames[self.layout.content()].as_ref()
    }

    pub fn buffers(&self) -> &'a [F] {
        &self.frames[self.layout.buffers()]
    }

    /// Checks the signature of the four JSON frames in constant time. Buffers are not signed.
    pub fn verify(&self, signer: &Signer) -> Result<Option<Digest>, WireError> {
        let signature = self.frames[self.layout.signature()].as_ref();
        let parts = [
            self.header(),
            self.parent_header(),
            self.metadata(),
            self.content(),
        ];
        Ok(signer.verify(signature, parts)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&str]) -> Vec<Vec<u8>> {
        parts.iter().map(|part| part.as_bytes().to_vec()).collect()
    }

    #[test]
    fn parts_are_found_behind_any_number_of_identities() {
        let message = frames(&["a", "b", "<IDS|MSG>", "sig", "h", "p", "m", "c", "buf"]);
        let wire = Wire::parse(&message).unwrap();
        assert_eq!(wire.identities(), &frames(&["a", "b"])[..]);
        assert_eq!(
            (wire.header(), wire.parent_header()),
            (&b"h"[..], &b"p"[..])
        );
        assert_eq!((wire.metadata(), wire.content()), (&b"m"[..], &b"c"[..]));
        assert_eq!(wire.buffers(), &frames(&["buf"])[..]);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        assert_eq!(
            Wire::parse(&frames(&[])).unwrap_err(),
            WireError::NoDelimiter
        );
        assert_eq!(
            Wire::parse(&frames(&["a", "b"])).unwrap_err(),
            WireError::NoDelimiter
        );
        assert_eq!(
            Wire::parse(&frames(&["<IDS|MSG>", "s", "h"])).unwrap_err(),
            WireError::TooShort(2)
        );
    }
}
