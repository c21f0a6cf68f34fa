//! Messages to engines, some of which are not connected yet.
//!
//! An engine counts as registered when its heart beats; its other connections may be a moment behind, or be down for a
//! while. A router tells ([`SendError::Unreachable`]); what it does not take is kept in order and tried again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::{Frame, SendError, Socket};
use crate::protocol::Identity;

const FIRST_RETRY: Duration = Duration::from_millis(1);
const LAST_RETRY: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub struct Outbox {
    waiting: HashMap<Identity, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    messages: VecDeque<Vec<Frame>>,
    retry: Instant,
    pause: Duration,
}

impl Outbox {
    /// Sends `frames`, whose first is the engine's routing id, now or as soon as it can be reached.
    pub fn send(&mut self, socket: &mut Socket, frames: &mut Vec<Frame>) {
        if !self.waiting.is_empty()
            && let Some(waiting) = frames
                .first()
                .and_then(|frame| self.waiting.get_mut(&frame[..]))
        {
            waiting.messages.push_back(std::mem::take(frames));
            return;
        }
        match socket.send(frames) {
            Ok(()) => {}
            Err(SendError::Unreachable | SendError::Full) => {
                let engine = Identity::from(&frames[0][..]);
                let messages = VecDeque::from([std::mem::take(frames)]);
                let retry = Instant::now() + FIRST_RETRY;
                self.waiting.insert(
                    engine,
                    Waiting {
                        messages,
                        retry,
                        pause: FIRST_RETRY,
                    },
                );
            }
        }
    }

    /// What has not been sent to an engine yet.
    pub fn waiting_for(&self, engine: &[u8]) -> impl Iterator<Item = &[Frame]> {
        let waiting = self.waiting.get(engine);
        let messages = waiting.into_iter().flat_map(|waiting| &waiting.messages);
        messages.map(Vec::as_slice)
    }

    pub fn next_retry(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.retry).min()
    }

    pub fn retry(&mut self, socket: &mut Socket, now: Instant) {
        self.waiting.retain(|_, waiting| {
            if waiting.retry > now {
                return true;
            }
            while let Some(frames) = waiting.messages.front_mut() {
                match socket.send(frames) {
                    Ok(()) => {}
                    Err(SendError::Unreachable | SendError::Full) => {
                        waiting.pause = (waiting.pause * 2).min(LAST_RETRY);
                        waiting.retry = now + waiting.pause;
                        return true;
                    }
                }
                waiting.messages.pop_front();
            }
            false
        });
    }

    /// The engine is gone: what waits for it will not be sent.
    pub fn forget(&mut self, engine: &[u8]) {
        self.waiting.remove(engine);
    }
}
