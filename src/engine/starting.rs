//! What is watched of a Python that is starting: what it writes, and how long it takes. Pure.

use std::fmt;
use std::time::{Duration, Instant};

/// After so long it is said what is waited for.
const WARN_AFTER: Duration = Duration::from_secs(5);

/// Bytes and lines of what was written that are kept: the end of a traceback says what is wrong.
const KEPT: usize = 4096;
const LINES: usize = 20;

/// How long something may take to start.
#[derive(Debug)]
pub(super) struct Patience {
    began: Instant,
    warned: bool,
    limit: Option<Duration>,
}

/// It takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// So far this long: it is to be said, once.
    Warn(Duration),
    /// As long as it may: it is given up.
    GiveUp(Duration),
}

impl Patience {
    /// Without a limit it lasts for ever.
    pub(super) fn new(now: Instant, limit: Option<Duration>) -> Self {
        Self {
            began: now,
            warned: false,
            limit,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let limit = self.limit.map(|limit| self.began + limit);
        let warning = (!self.warned).then_some(self.began + WARN_AFTER);
        [limit, warning].into_iter().flatten().min()
    }

    pub(super) fn on_time(&mut self, now: Instant) -> Option<Late> {
        let waited = now.saturating_duration_since(self.began);
        if let Some(limit) = self.limit.filter(|limit| waited >= *limit) {
            return Some(Late::GiveUp(limit));
        }
        if waited >= WARN_AFTER && !self.warned {
            self.warned = true;
            return Some(Late::Warn(waited));
        }
        None
    }
}

/// The end of what was written. Displayed as what follows `… ended (exit status 1)` in a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastWords {
    text: String,
}

impl LastWords {
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        if self.text.len() > 2 * KEPT {
            self.text = end_of(&self.text).to_owned();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Whole text for a log: indented, each line its own.
    pub(super) fn indented(&self) -> String {
        let text = end_of(&self.text).trim_end();
        let skipped = text.lines().count().saturating_sub(LINES);
        text.lines()
            .skip(skipped)
            .map(|line| format!("\n    {line}"))
            .collect()
    }
}

impl fmt::Display for LastWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(", and wrote nothing");
        }
        write!(f, ", and wrote:{}", self.indented())
    }
}

/// At most [`KEPT`] bytes.
fn end_of(text: &str) -> &str {
    let mut from = text.len().saturating_sub(KEPT);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_warns_once_and_ends_at_its_limit() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut patience = Patience::new(start, Some(Duration::from_secs(60)));
        assert_eq!(patience.next_deadline(), Some(start + WARN_AFTER));
        assert_eq!(patience.on_time(after(1)), None);
        assert_eq!(
            patience.on_time(after(6)),
            Some(Late::Warn(Duration::from_secs(6)))
        );
        assert_eq!(patience.on_time(after(7)), None);
        assert_eq!(patience.next_deadline(), Some(after(60)));
        assert_eq!(
            patience.on_time(after(61)),
            Some(Late::GiveUp(Duration::from_secs(60)))
        );
        let mut endless = Patience::new(start, None);
        assert!(endless.on_time(after(6)).is_some());
        assert_eq!(endless.next_deadline(), None);
        let impatient = Patience::new(start, Some(Duration::from_secs(1)));
        assert_eq!(impatient.next_deadline(), Some(after(1)));
    }

    #[test]
    fn only_the_end_of_what_was_written_is_kept() {
        let mut words = LastWords::default();
        assert_eq!(words.to_string(), ", and wrote nothing");
        words.push("a\n");
        words.push("b\n\n");
        assert_eq!(words.to_string(), ", and wrote:\n    a\n    b");
        for number in 0..100_000 {
            words.push(&format!("\u{e4} {number}\n"));
        }
        assert!(words.text.len() <= 2 * KEPT);
        let shown = words.indented();
        assert_eq!(shown.lines().count(), LINES + 1);
        assert!(shown.ends_with("\n    \u{e4} 99999"));
        words.push(&"\u{1F600}".repeat(KEPT));
        assert!(words.indented().len() <= KEPT + 5);
    }
}
