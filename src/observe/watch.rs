//! A scheduler's own eye: counts everything, and follows what it can afford to follow.

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hashbrown::{DefaultHashBuilder, HashSet};

use super::stream::Status;
use super::window::{CLIENTS_AT_MOST, Channel, Look, Reply, Request, Step, Tally, Window};
use crate::protocol::{EngineUuid, MsgId, session_of};

/// From the first event of a window until it is handed over.
const GATHER: Duration = Duration::from_millis(100);

/// Longer for each engine: a window ends with a look at all of them.
const GATHER_PER_ENGINE: Duration = Duration::from_micros(400);

/// Requests that are followed per second, in the long run.
const FOLLOWED_PER_SECOND: u32 = 2_000;

/// Requests that are followed at once, however fast they come, and more for each engine: what each of them works on is
/// to be known.
const FOLLOWED_AT_ONCE: u32 = 500;
const FOLLOWED_AT_ONCE_PER_ENGINE: u32 = 4;

/// Requests that are followed and not ended.
const FOLLOWED_AT_MOST: usize = 20_000;

/// Clients whose counts are at hand.
const RECENT: usize = 4;

/// Frames beyond this are not copied.
const LONG: usize = 4 * 1024;

/// Counts what a scheduler does, and follows single requests.
#[derive(Debug)]
pub struct Watch {
    window: Window,
    /// When the first event of the window came.
    opened: Option<Instant>,
    gather: Duration,
    /// By hash: an id that is taken for another's costs a bar on a page.
    followed: HashSet<u64>,
    hasher: DefaultHashBuilder,
    tokens: u32,
    most_tokens: u32,
    /// Up to when tokens were given.
    counted: Instant,
    /// The clients that were seen last: most requests are theirs, and to compare names is cheaper than to look them up.
    recent: [(String, Tally); RECENT],
    /// The one that makes room next.
    oldest: usize,
}

/// The frames of a message behind its signature.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a, F> {
    pub header: &'a [u8],
    pub metadata: &'a [u8],
    pub content: &'a [u8],
    pub buffers: &'a [F],
}

impl Watch {
    pub fn new(channel: Channel, now: Instant) -> Self {
        Self {
            window: Window::new(channel),
            opened: None,
            gather: GATHER,
            followed: HashSet::new(),
            hasher: DefaultHashBuilder::default(),
            tokens: FOLLOWED_AT_ONCE,
            most_tokens: FOLLOWED_AT_ONCE,
            counted: now,
            recent: Default::default(),
            oldest: 0,
        }
    }

    /// A client's request was taken in. A broadcast is one request for each of its engines, here and below.
    pub fn on_submitted(&mut self, now: Instant, msg_id: &str) {
        self.touch(now);
        self.window.tally.submitted += 1;
        self.client(msg_id).submitted += 1;
    }

    /// A request goes to an engine. One that is followed is followed for as long as it lives.
    pub fn on_sent<'a, F: AsRef<[u8]> + 'a>(
        &mut self,
        now: Instant,
        msg_id: &str,
        engine: impl FnOnce() -> EngineUuid,
        parts: impl FnOnce() -> Option<Parts<'a, F>>,
    ) {
        self.touch(now);
        let hash = self.hasher.hash_one(msg_id);
        if !self.followed.contains(&hash) {
            if self.followed.len() >= FOLLOWED_AT_MOST || !self.take_token(now) {
                self.window.unfollowed += 1;
                return;
            }
            self.followed.insert(hash);
        }
        self.window.steps.push(Step::Sent {
            msg_id: MsgId::from(msg_id),
            engine: engine(),
            at: now,
            request: parts().map(request).unwrap_or_default(),
        });
    }

    /// A request came back from its engine without an answer, and waits.
    pub fn on_returned(&mut self, now: Instant, msg_id: &str) {
        self.touch(now);
        if self.followed.contains(&self.hasher.hash_one(msg_id)) {
            self.window.steps.push(Step::Returned {
                msg_id: MsgId::from(msg_id),
                at: now,
            });
        }
    }

    /// A request has ended, by an engine's reply or by one that was made in its place. What fails is told as long as
    /// there is anything to spare, followed or not.
    pub fn on_ended<'a, F>(
        &mut self,
        now: Instant,
        msg_id: &str,
        engine: Option<&str>,
        status: Status,
        parts: impl FnOnce() -> Option<Parts<'a, F>>,
    ) where
        F: 'a,
    {
        self.touch(now);
        self.window.tally.count(status);
        self.client(msg_id).count(status);
        if status != Status::Ok
            && let Some(engine) = engine
        {
            let failures = &mut self.window.failures;
            match failures.get_mut(engine) {
                Some(tally) => tally.count(status),
                None => failures.entry(engine.into()).or_default().count(status),
            }
        }
        let is_followed = self.followed.remove(&self.hasher.hash_one(msg_id));
        if is_followed || (status == Status::Failed && self.take_token(now)) {
            let reply = parts().map(|parts| Reply {
                header: copy(parts.header),
                metadata: copy(parts.metadata),
                content: if status == Status::Ok {
                    Bytes::new()
                } else {
                    copy(parts.content)
                },
            });
            self.window.steps.push(Step::Ended {
                msg_id: MsgId::from(msg_id),
                engine: engine.map(EngineUuid::from),
                at: now,
                status,
                reply: reply.unwrap_or_default(),
            });
        }
    }

    /// Something else has changed that the figures at the end of a window show.
    pub fn touch(&mut self, now: Instant) {
        self.opened.get_or_insert(now);
    }

    /// When [`hand_over`](Self::hand_over) has something to give.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.opened.map(|opened| opened + self.gather)
    }

    /// Ends the window, if it is time. `look` tells what waits, and every engine's load.
    pub fn hand_over(&mut self, now: Instant, look: impl FnOnce() -> Look) -> Option<Window> {
        if self.next_deadline()? > now {
            return None;
        }
        self.opened = None;
        for (session, tally) in std::mem::take(&mut self.recent) {
            self.settle(&session, tally);
        }
        let next = Window::new(self.window.channel);
        let mut window = std::mem::replace(&mut self.window, next);
        window.look = look();
        let engines = u32::try_from(window.look.loads.len()).unwrap_or(u32::MAX);
        self.gather = GATHER + GATHER_PER_ENGINE.saturating_mul(engines);
        let for_engines = engines.saturating_mul(FOLLOWED_AT_ONCE_PER_ENGINE);
        self.most_tokens = FOLLOWED_AT_ONCE.saturating_add(for_engines);
        Some(window)
    }

    fn client(&mut self, msg_id: &str) -> &mut Tally {
        let session = session_of(msg_id);
        let known = self.recent.iter().position(|(known, _)| known == session);
        let at = known.unwrap_or_else(|| {
            let at = self.oldest;
            self.oldest = (at + 1) % RECENT;
            let (other, tally) =
                std::mem::replace(&mut self.recent[at], (session.to_owned(), Tally::default()));
            self.settle(&other, tally);
            at
        });
        &mut self.recent[at].1
    }

    /// Adds what was counted at hand to the window.
    fn settle(&mut self, session: &str, tally: Tally) {
        if tally == Tally::default() {
            return;
        }
        let clients = &mut self.window.clients;
        // Beyond that somebody makes names up: they share one.
        let session = match session {
            known if clients.contains_key(known) => known,
            new if clients.len() < CLIENTS_AT_MOST => new,
            _ => "",
        };
        clients.entry_ref(session).or_default().add(tally);
    }

    fn take_token(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted);
        let fresh = passed.as_secs_f64() * f64::from(FOLLOWED_PER_SECOND);
        if fresh >= 1.0 {
            // Saturates.
            self.tokens = self
                .tokens
                .saturating_add(fresh as u32)
                .min(self.most_tokens);
            self.counted = now;
        }
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

pub(super) fn request<F: AsRef<[u8]>>(parts: Parts<'_, F>) -> Request {
    let function = |index: usize| copy(parts.buffers.get(index).map_or(&[][..], AsRef::as_ref));
    let is_execution = parts.buffers.is_empty();
    Request {
        header: copy(parts.header),
        metadata: copy(parts.metadata),
        content: if is_execution {
            copy(parts.content)
        } else {
            Bytes::new()
        },
        // ipyparallel `pack_apply_message`: the function, what follows, the arguments. A map's function is the first.
        functions: [function(0), function(2)],
    }
}

fn copy(frame: &[u8]) -> Bytes {
    if frame.len() > LONG {
        return Bytes::new();
    }
    Bytes::copy_from_slice(frame)
}
