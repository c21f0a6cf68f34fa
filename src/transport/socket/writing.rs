//! What is sent, to whom, and what becomes of those who do not read.

use std::time::Instant;

use super::{Kind, NOTICEABLE, SendError, Shared, WRITE_NOW};
use crate::transport::Frame;
use crate::transport::limits::fair_share;
use crate::transport::zmtp::Violation;
use crate::transport::zmtp::subscriptions::Subscriptions;

impl Shared {
    pub(super) fn send(&mut self, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        match self.kind {
            Kind::Router => self.route(frames),
            Kind::Dealer => self.deal(frames),
            Kind::XPub => {
                self.publish(frames);
                frames.clear();
                Ok(())
            }
            Kind::Sub => Err(SendError::Unreachable),
        }
    }

    fn route(&mut self, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        let slot = frames
            .first()
            .and_then(|name| self.peers.get(&name[..]).copied());
        let result = match slot {
            Some(slot) => self.send_to(slot, frames, 1),
            None => Err(SendError::Unreachable),
        };
        if result.is_err() && !self.mandatory {
            frames.clear();
            return Ok(());
        }
        result
    }

    fn deal(&mut self, frames: &mut Vec<Frame>) -> Result<(), SendError> {
        let slots: usize = self.connections.len();
        let mut choice = None;
        for (slot, connection) in self.connections.iter() {
            let is_next = slot >= self.turn;
            let rank = (connection.is_ready(), is_next);
            if choice.is_none_or(|(best, _)| rank > best) {
                choice = Some((rank, slot));
            }
        }
        let (_, slot) = choice.ok_or(SendError::Unreachable)?;
        self.turn = if slots == 1 { 0 } else { slot + 1 };
        self.send_to(slot, frames, 0)
    }

    fn publish(&mut self, frames: &[Frame]) {
        let Some(first) = frames.first() else {
            return;
        };
        let share = self.share_of(self.send_limit);
        let wanting: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                let wants = |subscriptions: &Box<_>| Subscriptions::want(subscriptions, first);
                connection.subscriptions.as_ref().is_some_and(wants)
                    && connection.backlog() <= share
            })
            .map(|(slot, _)| slot)
            .collect();
        for slot in wanting {
            if self.has_lost_patience(slot) {
                continue;
            }
            let connection = &mut self.connections[slot];
            if connection.is_ready() {
                connection.send_copy(frames);
                self.after_send(slot);
            } else if let Some(connector) = &mut connection.connector {
                connector.waiting.push_back(frames.to_vec());
            }
        }
    }

    fn send_to(
        &mut self,
        slot: usize,
        frames: &mut Vec<Frame>,
        from: usize,
    ) -> Result<(), SendError> {
        if self.has_lost_patience(slot) {
            return Err(SendError::Unreachable);
        }
        let connection = &mut self.connections[slot];
        if connection.backlog() > self.send_limit {
            return Err(SendError::Full);
        }
        if connection.is_ready() {
            connection.send(frames, from);
            self.after_send(slot);
            return Ok(());
        }
        let Some(connector) = &mut connection.connector else {
            return Err(SendError::Unreachable);
        };
        frames.drain(..from);
        connector.waiting.push_back(std::mem::take(frames));
        Ok(())
    }

    /// Leaves a peer that does not read. What it would have been sent is lost.
    fn has_lost_patience(&mut self, slot: usize) -> bool {
        let connection = &self.connections[slot];
        let backlog = connection.backlog();
        if backlog < NOTICEABLE
            || connection.connector.is_some()
            || backlog <= self.share_of(self.patience)
        {
            return false;
        }
        let waiting = backlog as u64;
        self.refuse(slot, &Violation::Unread { waiting });
        true
    }

    /// What each of those who do not keep up may have of a limit.
    fn share_of(&self, limit: usize) -> usize {
        if limit == usize::MAX {
            return limit;
        }
        let backlogs = self.connections.iter().map(|(_, c)| c.backlog());
        fair_share(limit, backlogs)
    }

    fn after_send(&mut self, slot: usize) {
        if self.connections[slot].backlog() >= WRITE_NOW {
            self.write(slot);
        } else {
            self.mark_dirty(slot);
        }
    }

    pub(super) fn mark_dirty(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Writes what was sent since the last call, unless that may wait for more.
    pub(in crate::transport) fn flush_in_time(&mut self) {
        if self.holds_until.is_none_or(|until| until <= Instant::now()) {
            self.flush();
        }
    }

    /// Writes what was sent since the last call.
    pub(in crate::transport) fn flush(&mut self) {
        self.holds_until = None;
        while let Some(slot) = self.dirty.pop() {
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.is_dirty = false;
                self.write(slot);
            }
        }
    }

    pub(super) fn write(&mut self, slot: usize) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.can_write() && connection.write().is_err() {
            // What the peer has sent before counts.
            connection.is_ending = true;
            connection.may_read = true;
            self.read_ahead(slot);
            if let Some(connection) = self.connections.get(slot)
                && connection.stream.is_some()
                && connection.is_ending
            {
                self.end(slot);
            }
        }
    }
}
