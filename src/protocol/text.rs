//! Text of peers, as far as it is shown.

/// Whether this is nothing to be seen: a terminal would obey it, or it would put what stands behind it in another order.
pub fn is_unseen(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control()
}

/// Text that others wrote, for a terminal or a log: what is not to be seen stands there as `\u{1b}`, `\n` and the like.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
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

    #[test]
    fn what_is_unseen_is_named() {
        let text = "it's \x1b[2J\u{202e}é\\n\n";
        let shown = "it's \\u{1b}[2J\\u{202e}é\\n\\n";
        assert_eq!(visible(text), shown);
        // More than once is as good as once.
        assert_eq!(visible(shown), shown);
    }
}
