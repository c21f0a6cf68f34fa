//! Text that a kernel writes, gathered into messages of a sensible size. Pure.
//!
//! A kernel hands over each `write`; a message for each would drown the clients. Text is held for [`HOLD`], or until
//! there is enough of it, or until something else is said that must come after it.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// As long as a reader does not notice.
const HOLD: Duration = Duration::from_millis(50);

const ENOUGH: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A stream message to be published. `parent` is the header of the request that wrote the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamText {
    pub(super) stream: Stream,
    pub(super) parent: Bytes,
    pub(super) text: String,
}

#[derive(Debug, Default)]
pub(super) struct Outputs {
    held: Vec<StreamText>,
    size: usize,
    since: Option<Instant>,
}

impl Outputs {
    /// `true` when it is time to flush.
    pub(super) fn write(
        &mut self,
        now: Instant,
        stream: Stream,
        parent: &Bytes,
        text: &str,
    ) -> bool {
        if text.is_empty() {
            return false;
        }
        self.size += text.len();
        self.since.get_or_insert(now);
        // Only the newest pieces are looked at: two streams may alternate line by line.
        let same = |held: &&mut StreamText| held.stream == stream && held.parent == *parent;
        match self.held.iter_mut().rev().take(2).find(same) {
            Some(held) => held.text.push_str(text),
            None => self.held.push(StreamText {
                stream,
                parent: parent.clone(),
                text: text.to_owned(),
            }),
        }
        self.size >= ENOUGH
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + HOLD)
    }

    pub(super) fn flush(&mut self) -> Vec<StreamText> {
        self.size = 0;
        self.since = None;
        std::mem::take(&mut self.held)
    }
}

/// Turns bytes that come in pieces into text; what is no UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Utf8Pieces {
    rest: Vec<u8>,
}

impl Utf8Pieces {
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.rest.len());
        let mut left = &self.rest[..];
        loop {
            match std::str::from_utf8(left) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.rest.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, rest) = left.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = error.error_len() else {
                        // The beginning of a character: its end may be on its way.
                        self.rest = rest.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    left = &rest[bad..];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_joined_per_stream_and_parent() {
        let now = Instant::now();
        let (first, second) = (Bytes::from_static(b"1"), Bytes::from_static(b"2"));
        let mut outputs = Outputs::default();
        for (stream, parent, text) in [
            (Stream::Stdout, &first, "a"),
            (Stream::Stderr, &first, "x"),
            (Stream::Stdout, &first, "b"),
            (Stream::Stdout, &second, "c"),
            (Stream::Stdout, &second, ""),
        ] {
            assert!(!outputs.write(now, stream, parent, text));
        }
        assert_eq!(outputs.next_deadline(), Some(now + HOLD));
        let texts: Vec<_> = outputs
            .flush()
            .into_iter()
            .map(|held| (held.stream, held.text))
            .collect();
        let expected = [
            (Stream::Stdout, "ab"),
            (Stream::Stderr, "x"),
            (Stream::Stdout, "c"),
        ]
        .map(|(s, t)| (s, t.to_owned()));
        assert_eq!(texts, expected);
        assert_eq!(outputs.next_deadline(), None);
        assert!(outputs.write(now, Stream::Stdout, &first, &"x".repeat(ENOUGH)));
    }

    #[test]
    fn characters_that_come_in_pieces_are_put_together() {
        let mut pieces = Utf8Pieces::default();
        let text: String = "aé€😀"
            .as_bytes()
            .iter()
            .map(|byte| pieces.push(&[*byte]))
            .collect();
        assert_eq!(text, "aé€😀");
        assert_eq!(pieces.push(b"a\xffb\xe2"), "a\u{fffd}b");
        assert_eq!(pieces.push(b"c"), "\u{fffd}c");
    }
}
