//! Lines in colour, as wide as a terminal shows them. Pure.

use std::fmt::Write;

use unicode_width::UnicodeWidthChar;

use crate::protocol::text::visible;

/// How a piece of a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Faint,
    Good,
    Bad,
    Accent,
}

/// A line in pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Style, String)>);

impl Line {
    pub(super) fn add(mut self, style: Style, text: impl AsRef<str>) -> Self {
        self.0.push((style, visible(text.as_ref())));
        self
    }

    pub(super) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn plain(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// Columns.
    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| width(text)).sum()
    }

    /// With what a terminal obeys, cut to so many columns. `colours`: else only bold and faint.
    pub(super) fn styled(&self, columns: usize, colours: bool) -> String {
        let mut left = columns;
        let mut out = String::new();
        for (style, text) in &self.0 {
            let code = match style {
                Style::Bold => "1",
                Style::Faint => "2",
                Style::Good if colours => "32",
                Style::Bad if colours => "31",
                Style::Accent if colours => "34",
                Style::Bad => "1",
                Style::Plain | Style::Good | Style::Accent => "0",
            };
            let shown = first(text, left);
            left -= width(shown);
            // Writing into memory cannot fail.
            let _ = write!(out, "\x1b[{code}m{shown}\x1b[0m");
            if shown.len() < text.len() {
                break;
            }
        }
        out
    }
}

/// Groups side by side, as many on a line as there is room for.
pub(super) fn wrapped(groups: impl IntoIterator<Item = Line>, columns: usize) -> Vec<Line> {
    const GAP: &str = "   ";
    let mut lines: Vec<Line> = Vec::new();
    for group in groups {
        match lines.last_mut() {
            Some(line) if line.width() + GAP.len() + group.width() <= columns => {
                line.append(Line::default().add(Style::Plain, GAP));
                line.append(group);
            }
            _ => lines.push(group),
        }
    }
    lines
}

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// The longest beginning that takes at most so many columns.
fn first(text: &str, columns_left: usize) -> &str {
    let mut taken = 0;
    for (at, c) in text.char_indices() {
        taken += columns(c);
        if taken > columns_left {
            return &text[..at];
        }
    }
    text
}

/// Cut to so many columns, with a mark where something is missing, and filled up with spaces.
pub(super) fn fitted(text: &str, columns: usize) -> String {
    let text = visible(text);
    let mut fitted = if width(&text) <= columns {
        text
    } else {
        format!("{}…", first(&text, columns.saturating_sub(1)))
    };
    let missing = columns.saturating_sub(width(&fitted));
    fitted.extend(std::iter::repeat_n(' ', missing));
    fitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(width("日本"), 4);
        assert_eq!(fitted("日本語", 5), "日本…");
        assert_eq!(fitted("日本語", 4), "日… ");
        assert_eq!(fitted("ab", 4), "ab  ");
        assert_eq!(fitted("e\u{301}", 1), "e\u{301}");
        let line = Line::default()
            .add(Style::Plain, "日本")
            .add(Style::Bad, "語");
        assert!(line.styled(5, true).contains("日本") && !line.styled(5, true).contains('語'));
    }

    #[test]
    fn nothing_of_others_is_obeyed() {
        let line = Line::default().add(Style::Plain, "a\x1b[2Jb\u{202e}c\nd");
        assert_eq!(line.plain(), "a\\u{1b}[2Jb\\u{202e}c\\nd");
        assert_eq!(line.styled(80, true).matches('\x1b').count(), 2);
    }

    #[test]
    fn without_colours_there_is_none() {
        let line = Line::default()
            .add(Style::Good, "a")
            .add(Style::Bad, "b")
            .add(Style::Faint, "c");
        let text = line.styled(80, false);
        assert!(!text.contains("[3"), "{text:?}");
        assert!(text.contains("\x1b[1mb") && text.contains("\x1b[2mc"));
    }

    #[test]
    fn groups_go_onto_the_next_line() {
        let group = |text: &str| Line::default().add(Style::Plain, text);
        let texts = |columns| -> Vec<String> {
            let lines = wrapped(["aaa", "bbb", "ccc"].map(group), columns);
            lines.iter().map(Line::plain).collect()
        };
        assert_eq!(texts(80), ["aaa   bbb   ccc"]);
        assert_eq!(texts(9), ["aaa   bbb", "ccc"]);
        assert_eq!(texts(2), ["aaa", "bbb", "ccc"]);
    }
}
