//! Text of peers, as far as it is shown.

/// Whether this is nothing to be seen: a terminal would obey it, or it would put what stands behind it in another order.
pub fn is_unseen(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_seen_is_shown() {
        assert!("\x1b\x07\n\u{9b}\u{202e}\u{2066}".chars().all(is_unseen));
        // A joiner is part of what is seen.
        assert!(!"aß日🎉\u{200d}ع ".chars().any(is_unseen));
    }
}
