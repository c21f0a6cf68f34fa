//! A terminal's last line that is written over again and again: how far something is.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// The log is for a person who looks at a terminal.
static SEEN: AtomicBool = AtomicBool::new(false);

/// The last line is one that is written over.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// To the beginning of the line, and away with what stands there.
pub(super) const CLEAR: &str = "\r\x1b[K";

/// Says whether a person looks at standard error, which is a terminal.
pub(super) fn set_seen(seen: bool) {
    SEEN.store(seen, Ordering::Relaxed);
}

/// Shows how far something is, over what was shown last. False where nobody looks: then it is for the log.
pub fn show(text: &str) -> bool {
    if !SEEN.load(Ordering::Relaxed) {
        return false;
    }
    SHOWN.store(true, Ordering::Relaxed);
    let harmless: String = text.chars().filter(|c| !c.is_control()).collect();
    let mut out = std::io::stderr().lock();
    // A terminal that is gone shows nothing.
    let _ = write!(out, "{CLEAR}{harmless}").and_then(|()| out.flush());
    true
}

/// Is there a line that has to go before another one is written? Asked once.
pub(super) fn take() -> bool {
    SHOWN.swap(false, Ordering::Relaxed)
}

/// Takes the line away, for what is written without the log.
pub fn end() {
    if take() {
        let _ = write!(std::io::stderr(), "{CLEAR}");
    }
}
