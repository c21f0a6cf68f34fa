//! What commands write to standard output: text for people, JSON for programs.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::Failure;

/// How an answer looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

/// `-o json`, of the commands that do something and say how it went.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct FormatArgs {
    /// How the answer looks: text, or JSON for programs
    #[arg(
        short,
        long = "output-format",
        value_name = "FORMAT",
        value_enum,
        ignore_case = true,
        default_value_t,
        hide_possible_values = true
    )]
    pub(super) o: Format,
}

impl FormatArgs {
    pub(super) fn is_json(&self) -> bool {
        self.o == Format::Json
    }

    /// Writes the document if one is wanted. What people are to know stands in the log anyway.
    pub(super) fn answer(&self, document: &impl Serialize) -> Result<(), Failure> {
        if self.is_json() {
            say_json(document)?;
        }
        Ok(())
    }
}

/// Whether anybody still reads: `ipcluster status --watch | head`.
pub(super) fn say(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The same, for one document on a line of its own.
pub(super) fn say_json(document: &impl Serialize) -> Result<bool, Failure> {
    say(&(serde_json::to_string(document)? + "\n"))
}

/// Columns as wide as what stands in them. The last is not filled up.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| cell.chars().count());
        widths
            .chain([head[column].chars().count()])
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `45 s`, `12 min`, `3 h 20 min`, `9 d 4 h`.
pub(super) fn age(seconds: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "casts saturate, and a part of a second does not matter"
    )]
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_names() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned()],
            vec!["long".to_owned(), String::new()],
        ];
        assert_eq!(table(&["ID", "N"], &rows), "ID    N\na     1\nlong\n");
        assert_eq!(table(&["ID"], &[]), "ID\n");
    }

    #[test]
    fn ages_and_sizes_are_short() {
        for (seconds, text) in [
            (-1.0, "0 s"),
            (59.9, "59 s"),
            (61.0, "1 min"),
            (12_000.0, "3 h 20 min"),
            (800_000.0, "9 d 6 h"),
        ] {
            assert_eq!(age(seconds), text);
        }
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(10 << 20), "10.0 MiB");
        assert_eq!(size(u64::MAX), "16777216.0 TiB");
    }
}
