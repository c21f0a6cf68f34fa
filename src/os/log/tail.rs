//! The last lines of the log, for the status page.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};

const LINES: usize = 500;

/// Characters of a line.
const LONGEST: usize = 2_000;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailLine {
    /// Counts from 0.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    pub level: &'static str,
    pub component: &'static str,
    pub text: String,
}

/// A ring of lines.
#[derive(Debug, Default)]
pub struct Tail {
    lines: Mutex<(VecDeque<TailLine>, u64)>,
}

static TAIL: OnceLock<Tail> = OnceLock::new();

/// From now on the last lines are kept.
pub fn keep_tail() {
    TAIL.get_or_init(Tail::default);
}

/// The last lines, if they are kept.
pub fn tail() -> Option<&'static Tail> {
    TAIL.get()
}

impl Tail {
    pub(super) fn add(
        &self,
        at_ms: i64,
        level: &'static str,
        component: &'static str,
        text: String,
    ) {
        let text = match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (lines, next) = &mut *lines;
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(TailLine {
            number: *next,
            at_ms,
            level,
            component,
            text,
        });
        *next += 1;
    }

    /// Those that are kept, from this number on.
    pub fn since(&self, number: u64) -> Vec<TailLine> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .0
            .iter()
            .filter(|line| line.number >= number)
            .cloned()
            .collect()
    }

    /// How many there ever were.
    pub fn total(&self) -> u64 {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_last_lines() {
        let tail = Tail::default();
        for n in 0..LINES + 10 {
            tail.add(0, "info", "hub", n.to_string());
        }
        tail.add(0, "info", "hub", "é".repeat(LONGEST + 1));
        assert_eq!(tail.total(), LINES as u64 + 11);
        let all = tail.since(0);
        assert_eq!((all.len(), &*all[0].text), (LINES, "11"));
        assert!(all[LINES - 1].text.ends_with("é…"));
        assert_eq!(tail.since(tail.total() - 1).len(), 1);
    }
}
