//! Messages as frames on the wire.

use super::outgoing::Outgoing;
use super::{LONG, MORE};
use crate::transport::Frame;

/// Puts `frames`, one message, behind what is to be written.
pub(in crate::transport) fn message(frames: &[Frame], out: &mut Outgoing) {
    let small: usize = frames
        .iter()
        .map(|frame| 9 + if frame.is_large() { 0 } else { frame.len() })
        .sum();
    out.reserve(small);
    let last = frames.len().saturating_sub(1);
    for (index, frame) in frames.iter().enumerate() {
        let more = if index < last { MORE } else { 0 };
        match u8::try_from(frame.len()) {
            Ok(len) => out.push(&[more, len]),
            Err(_) => {
                let mut head = [more | LONG; 9];
                head[1..].copy_from_slice(&(frame.len() as u64).to_be_bytes());
                out.push(&head);
            }
        }
        if frame.is_large() {
            out.push_shared(frame.clone());
        } else {
            out.push(frame);
        }
    }
}
