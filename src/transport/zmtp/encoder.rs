//! Messages as frames on the wire.

use super::outgoing::Outgoing;
use super::{LONG, MORE, command};
use crate::transport::Frame;

/// Puts `frames`, one message, behind what is to be written. `passes`: memory can be given to the peer.
pub(in crate::transport) fn message(frames: &[Frame], passes: bool, out: &mut Outgoing) {
    let small: usize = frames
        .iter()
        .map(|frame| 9 + if frame.is_large() { 0 } else { frame.len() })
        .sum();
    out.reserve(small);
    let last = frames.len().saturating_sub(1);
    for (index, frame) in frames.iter().enumerate() {
        let more = if index < last { MORE } else { 0 };
        if let Some(memory) = frame.memory().filter(|_| passes) {
            out.push_memory(command::memory(index < last, frame.len()), memory.clone());
            continue;
        }
        head(more, frame.len(), out);
        if frame.is_large() {
            out.push_shared(frame.clone());
        } else {
            out.push(frame);
        }
    }
}

/// Puts a frame that was encrypted behind what is to be written: it says itself what it is.
pub(in crate::transport) fn encrypted(body: Vec<u8>, out: &mut Outgoing) {
    head(0, body.len(), out);
    let body = Frame::from(body);
    if body.is_large() {
        out.push_shared(body);
    } else {
        out.push(&body);
    }
}

/// Puts a command with this body behind what is to be written.
pub(in crate::transport) fn command(body: &[u8], out: &mut Outgoing) {
    out.push(&command::frame(body));
}

fn head(flags: u8, len: usize, out: &mut Outgoing) {
    match u8::try_from(len) {
        Ok(len) => out.push(&[flags, len]),
        Err(_) => out.push(&long_head(flags, len)),
    }
}

pub(super) fn long_head(flags: u8, len: usize) -> [u8; 9] {
    let mut head = [flags | LONG; 9];
    head[1..].copy_from_slice(&(len as u64).to_be_bytes());
    head
}
