//! Lines about what peers do, which are counted rather than logged when they are many.
//!
//! One line per peer and [`LOG_EVERY`]. Peers may take a new name for each message, so that there is a limit for all of
//! them together.

use std::fmt;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::protocol::Identity;
use crate::protocol::text::visible;

const LOG_EVERY: Duration = Duration::from_secs(10);

/// Lines of one channel in [`LOG_EVERY`].
const MAX_LINES: u32 = 20;

/// Peers whose refusals are told apart; when there are more, the table starts afresh.
const MAX_PEERS: usize = 1000;

/// Characters of a peer's text that are logged.
const MAX_TEXT: usize = 200;

/// Counts one kind of event.
#[derive(Debug)]
pub struct PeerLog {
    peers: HashMap<Identity, Events>,
    count: u64,
    lines: Lines,
}

/// A line may be logged; the end of it says how often there was reason to.
#[derive(Debug)]
pub struct Line {
    of_peer: u64,
    of_all: u64,
    is_last: bool,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "({} from this peer, {} in all)",
            self.of_peer, self.of_all
        )?;
        if self.is_last {
            f.write_str("; for some seconds, more of this is counted and not logged")?;
        }
        Ok(())
    }
}

/// Lines that were logged since a time.
#[derive(Debug)]
struct Lines {
    since: Instant,
    count: u32,
}

impl Lines {
    /// Takes one line, if there may be one more: its number.
    fn take(&mut self, now: Instant) -> Option<u32> {
        if now.duration_since(self.since) >= LOG_EVERY {
            *self = Self {
                since: now,
                count: 0,
            };
        }
        self.count += 1;
        (self.count <= MAX_LINES).then_some(self.count)
    }
}

#[derive(Debug)]
struct Events {
    logged: Instant,
    since: u64,
}

impl Default for PeerLog {
    fn default() -> Self {
        Self {
            peers: HashMap::new(),
            count: 0,
            lines: Lines {
                since: Instant::now(),
                count: 0,
            },
        }
    }
}

impl PeerLog {
    /// Counts an event; is there to be a line about it?
    pub fn on_event(&mut self, now: Instant, peer: &Identity) -> Option<Line> {
        self.count += 1;
        if self.peers.len() >= MAX_PEERS {
            self.peers.clear();
        }
        let events = self.peers.entry(peer.clone()).or_insert(Events {
            logged: now,
            since: 0,
        });
        events.since += 1;
        if events.since > 1 && now.duration_since(events.logged) < LOG_EVERY {
            return None;
        }
        events.logged = now;
        let of_peer = events.since;
        let line = self.lines.take(now)?;
        Some(Line {
            of_peer,
            of_all: self.count,
            is_last: line == MAX_LINES,
        })
    }
}

/// A peer's text as it may be logged: not endless, and with nothing in it that a terminal would obey.
pub fn printable(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => visible(&text[..end]) + "…",
        None => visible(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_and_come_back() {
        let start = Instant::now();
        let mut lines = Lines {
            since: start,
            count: 0,
        };
        let taken = (0..1000).filter(|_| lines.take(start).is_some()).count();
        assert_eq!(taken, MAX_LINES as usize);
        assert_eq!(lines.take(start + LOG_EVERY), Some(1));
    }

    #[test]
    fn a_peer_has_a_line_and_then_waits() {
        let start = Instant::now();
        let mut log = PeerLog::default();
        let [one, other] = [&b"one"[..], b"other"].map(Identity::from);
        assert!(log.on_event(start, &one).is_some());
        assert!((0..100).all(|_| log.on_event(start, &one).is_none()));
        assert!(log.on_event(start, &other).is_some());
        let later = log.on_event(start + LOG_EVERY, &one).unwrap();
        assert_eq!((later.of_peer, later.of_all), (102, 103));
    }

    #[test]
    fn peers_texts_are_shortened_and_hold_no_control_characters() {
        assert_eq!(printable("it's \x1b[2J\n"), "it's \\u{1b}[2J\\n");
        assert_eq!(printable(&"é".repeat(10_000)).chars().count(), MAX_TEXT + 1);
    }
}
