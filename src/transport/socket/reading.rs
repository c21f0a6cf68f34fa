//! What comes: each connection has its turn.

use std::collections::VecDeque;

use super::{Kind, READS_AHEAD, SPARE, Shared};
use crate::transport::Frame;
use crate::transport::connection::State;
use crate::transport::zmtp::Violation;

impl Shared {
    pub(super) fn mark_readable(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.is_readable {
            connection.is_readable = true;
            self.readable.push_back(slot);
        }
    }

    pub(super) fn receive(&mut self, frames: &mut Vec<Frame>) -> bool {
        while let Some(slot) = self.readable.front().copied() {
            let Some(connection) = self.connections.get_mut(slot) else {
                self.readable.pop_front();
                continue;
            };
            if let Some(message) = connection.incoming.pop_front() {
                let before = std::mem::replace(frames, message);
                if self.spare.len() < SPARE {
                    self.spare.push(before);
                }
                if let (Kind::Router, Some(name)) = (self.kind, &connection.name) {
                    frames[0] = Frame::peer(name.clone());
                }
                // The others' turn.
                self.readable.pop_front();
                if connection.may_read || !connection.incoming.is_empty() {
                    self.readable.push_back(slot);
                } else {
                    connection.is_readable = false;
                    if connection.stream.is_none() && connection.connector.is_none() {
                        self.connections.remove(slot);
                    }
                }
                return true;
            }
            if connection.may_read {
                self.read(slot);
            } else {
                connection.is_readable = false;
                self.readable.pop_front();
            }
        }
        false
    }

    /// Reads what does not wait for the thread to ask for it: handshakes, subscriptions, and the last of a connection,
    /// so that its end is known.
    pub(super) fn read_ahead(&mut self, slot: usize) {
        // A peer that never stops does not keep the others waiting.
        for _ in 0..READS_AHEAD {
            let Some(connection) = self.connections.get(slot) else {
                return;
            };
            let waits = connection.is_ready() && !connection.is_ending && self.kind != Kind::XPub;
            if !connection.may_read || waits {
                break;
            }
            self.read(slot);
        }
        if self.connections.get(slot).is_some_and(|c| c.may_read) {
            self.mark_readable(slot);
        }
    }

    /// Reads once from a connection.
    fn read(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        let mut ready = None;
        let state = connection.read(&mut ready, &mut self.spare);
        if connection.can_write() {
            self.mark_dirty(slot);
        }
        let named = match ready {
            Some(identity) => self.on_ready(slot, &identity),
            None => Ok(()),
        };
        let state = match named {
            Ok(()) => state,
            Err(violation) => State::Refused(violation),
        };
        if self.kind == Kind::XPub
            && let Err(violation) = self.note_subscriptions(slot)
        {
            return self.refuse(slot, &violation);
        }
        if !self.connections[slot].incoming.is_empty() {
            self.mark_readable(slot);
        }
        match state {
            State::Open => {}
            State::Ended => match self.connections[slot].peer.farewell(&self.ours) {
                Some(violation) => self.refuse(slot, &violation),
                None => self.end(slot),
            },
            State::Refused(violation) => self.refuse(slot, &violation),
        }
    }

    /// Subscriptions are acted upon as they come, and received as messages.
    fn note_subscriptions(&mut self, slot: usize) -> Result<(), Violation> {
        let connection = &mut self.connections[slot];
        let subscriptions = connection.subscriptions.get_or_insert_default();
        let mut kept = VecDeque::new();
        for message in connection.incoming.drain(..) {
            match message.first().and_then(|frame| frame.split_first()) {
                Some((1, topic)) => subscriptions.add(topic)?,
                Some((0, topic)) => subscriptions.remove(topic),
                _ => continue,
            }
            kept.push_back(message);
        }
        // Those that are not received make room: a publisher need not ask for them.
        kept.truncate(1000);
        connection.incoming = kept;
        Ok(())
    }
}
