//! What `ipcluster top` shows, line by line. Pure.

use std::fmt::Write;

use crate::cli::watched::{Client, Engine, Model};

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
    fn add(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    pub(super) fn plain(&self) -> String {
        self.0.iter().map(|(_, text)| text.as_str()).collect()
    }

    /// With colours, cut to the width.
    pub(super) fn coloured(&self, width: usize) -> String {
        let mut left = width;
        let mut out = String::new();
        for (style, text) in &self.0 {
            let code = match style {
                Style::Plain => "0",
                Style::Bold => "1",
                Style::Faint => "2",
                Style::Good => "32",
                Style::Bad => "31",
                Style::Accent => "34",
            };
            let shown: String = text.chars().take(left).collect();
            left -= shown.chars().count();
            // Writing into memory cannot fail.
            let _ = write!(out, "\x1b[{code}m{shown}\x1b[0m");
        }
        out
    }
}

/// Clients that are shown.
const CLIENTS: usize = 6;

/// As many lines as fit: the figures, the clients, then engines, those that work before those that do not.
pub(super) fn lines(model: &Model, width: usize, height: usize) -> Vec<Line> {
    use Style::{Accent, Bad, Bold, Faint, Good, Plain};
    let totals = model.totals;
    let busy = model
        .engines
        .values()
        .filter(|engine| is_busy(engine))
        .count();
    let bad = if totals.failed > 0 { Bad } else { Plain };
    let figure = |index: usize| model.sample.get(index).copied().flatten();
    let mut lines = vec![
        Line::default()
            .add(Bold, "ipcluster ")
            .add(Faint, model.about.clone()),
        Line::default()
            .add(Plain, "engines ")
            .add(Bold, model.engines.len().to_string())
            .add(Faint, format!(" ({busy} busy)   "))
            .add(Plain, "waiting ")
            .add(Bold, totals.waiting.to_string())
            .add(Plain, "   running ")
            .add(Bold, totals.running.to_string())
            .add(Plain, "   done ")
            .add(Good, totals.ok.to_string())
            .add(Plain, "   failed ")
            .add(bad, totals.failed.to_string())
            .add(Faint, format!("   aborted {}", totals.aborted)),
    ];
    if !model.sample.is_empty() {
        let seconds = |index| figure(index).map_or_else(|| "-".to_owned(), in_seconds);
        lines.push(
            Line::default()
                .add(Plain, "per second ")
                .add(Bold, format!("{:.1}", figure(2).unwrap_or(0.0)))
                .add(
                    Faint,
                    format!("   half within {}, 95% within {}", seconds(8), seconds(9)),
                )
                .add(
                    Faint,
                    format!(
                        "   controller {:.2} CPU, {}   kernels {:.2} CPU, {}",
                        figure(10).unwrap_or(0.0),
                        in_bytes(figure(11).unwrap_or(0.0)),
                        figure(12).unwrap_or(0.0),
                        in_bytes(figure(13).unwrap_or(0.0)),
                    ),
                ),
        );
        lines.push(Line::default().add(Accent, bars(&model.rates, width)));
    }
    let mut clients: Vec<&Client> = model.clients.values().collect();
    clients.sort_by_key(|client| std::cmp::Reverse(client.at));
    if !clients.is_empty() {
        lines.push(Line::default());
    }
    lines.extend(
        clients
            .into_iter()
            .take(CLIENTS)
            .map(|client| of_client(client, width)),
    );
    lines.push(Line::default());
    lines.push(Line::default().add(
        Faint,
        format!(
            "{:>6} {:<18} {:>8} {:<6} {:>6} {:>6} {:>10} {:>7} {:>10} {:>5}  WORKS ON",
            "ENGINE",
            "HOST",
            "PID",
            "STATE",
            "TASKS",
            "QUEUE",
            "COMPLETED",
            "FAILED",
            "MEMORY",
            "CPU"
        ),
    ));
    let mut engines: Vec<&Engine> = model.engines.values().collect();
    let room = height.saturating_sub(lines.len());
    if engines.len() > room {
        // The longest at work first.
        engines.sort_by_key(|engine| {
            let since = engine.current.as_ref().map(|current| current.since);
            (!is_busy(engine), since.unwrap_or(i64::MAX), engine.id)
        });
    }
    let hidden = engines.len().saturating_sub(room);
    let shown = if hidden > 0 {
        room.saturating_sub(1)
    } else {
        room
    };
    lines.extend(
        engines
            .iter()
            .take(shown)
            .map(|engine| of_engine(engine, model.now)),
    );
    if hidden > 0 {
        let more = engines.len() - shown.min(engines.len());
        lines.push(Line::default().add(Faint, format!("{more} more engines")));
    }
    lines.truncate(height);
    lines
}

fn is_busy(engine: &Engine) -> bool {
    engine.tasks + engine.queue > 0
}

fn of_client(client: &Client, width: usize) -> Line {
    let bar = (width / 4).clamp(10, 40);
    let full = (client.done * bar as u64)
        .checked_div(client.total)
        .map_or(0, |full| usize::try_from(full).unwrap_or(bar));
    let left = client.left.filter(|_| client.done < client.total);
    let left = left
        .map(|left| format!(", {} left", in_seconds(left)))
        .unwrap_or_default();
    let session: String = client.client.chars().take(8).collect();
    let name = client.name.as_deref().unwrap_or("requests");
    let line = Line::default()
        .add(Style::Faint, format!("{session:<9}"))
        .add(Style::Plain, format!("{:<24} ", cut(name, 24)))
        .add(Style::Accent, "█".repeat(full))
        .add(Style::Faint, "░".repeat(bar - full))
        .add(
            Style::Plain,
            format!(" {} of {}{left}", client.done, client.total),
        );
    if client.failed > 0 {
        return line.add(Style::Bad, format!(", {} failed", client.failed));
    }
    line
}

fn of_engine(engine: &Engine, now: i64) -> Line {
    let state = if is_busy(engine) { "busy" } else { "idle" };
    let work = engine.current.as_ref().map(|current| {
        let name = current.label.as_deref().unwrap_or(&current.name);
        let seconds = (now - current.since).max(0) as f64 / 1e6;
        format!("{} ({})", cut(name, 40), in_seconds(seconds))
    });
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let failed = if engine.failed > 0 {
        Style::Bad
    } else {
        Style::Plain
    };
    Line::default()
        .add(
            Style::Plain,
            format!(
                "{:>6} {:<18} {:>8} ",
                engine.id,
                cut(engine.host.as_deref().unwrap_or("-"), 18),
                or_dash(engine.pid.map(|pid| pid.to_string())),
            ),
        )
        .add(
            if is_busy(engine) {
                Style::Good
            } else {
                Style::Faint
            },
            format!("{state:<6}"),
        )
        .add(
            Style::Plain,
            format!(
                " {:>6} {:>6} {:>10} ",
                engine.tasks, engine.queue, engine.completed
            ),
        )
        .add(failed, format!("{:>7}", engine.failed))
        .add(
            Style::Plain,
            format!(
                " {:>10} {:>5}  {}",
                or_dash(engine.memory.map(|bytes| in_bytes(bytes as f64))),
                or_dash(engine.cpu.map(|cpu| format!("{cpu:.2}"))),
                work.unwrap_or_default(),
            ),
        )
}

fn cut(text: &str, width: usize) -> String {
    let mut short: String = text.chars().take(width).collect();
    if text.chars().nth(width).is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// The last values as a row of bars.
fn bars(values: &std::collections::VecDeque<f64>, width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(1.0, f64::max);
    let skip = values.len().saturating_sub(width);
    let bar = |value: &f64| {
        let height = (value / most * (BARS.len() - 1) as f64).ceil();
        BARS[(height as usize).min(BARS.len() - 1)]
    };
    values.iter().skip(skip).map(bar).collect()
}

/// `12 ms`, `3.4 s`, `5:06 min`, `2:10:00 h`.
pub(super) fn in_seconds(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{rest:02} h")
    } else {
        format!("{minutes}:{rest:02} min")
    }
}

fn in_bytes(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes / 1024.0;
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
    use serde_json::json;

    fn model(engines: u32) -> Model {
        let mut model = Model::default();
        let engines: Vec<_> = (0..engines)
            .map(|id| json!({"id": id, "tasks": id % 2, "completed": 5, "current": {"name": "f", "since": 1000 - i64::from(id)}}))
            .collect();
        model.apply(&json!({
            "kind": "state", "now": 2_000_000, "about": {"profile": "lab"}, "engines": engines,
            "clients": [{"client": "abcdefghij", "total": 10, "done": 4, "failed": 1, "left": 75.0, "name": "map f", "at": 1}],
            "samples": [[1, 0, 4.0, 0, 0, 0, 0, 0, 0.5, 2.0, 0.1, 1e6, 0.2, 1e6]],
        }));
        model
    }

    #[test]
    fn everything_is_said() {
        let text: Vec<String> = lines(&model(4), 120, usize::MAX)
            .iter()
            .map(Line::plain)
            .collect();
        let text = text.join("\n");
        for part in [
            "lab",
            "engines 4 (2 busy)",
            "4 of 10, 1:15 min left, 1 failed",
            "half within 500 ms",
            "f (2.0 s)",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn it_fits_into_the_terminal() {
        for height in [0, 1, 5, 12, 24] {
            let lines = lines(&model(1000), 80, height);
            assert!(lines.len() <= height, "{height}");
            for line in &lines {
                let shown = line.coloured(80);
                let visible = shown
                    .split('\x1b')
                    .map(|part| part.split_once('m').map_or(part, |part| part.1));
                assert!(visible.map(|part| part.chars().count()).sum::<usize>() <= 80);
            }
        }
        let last = lines(&model(1000), 80, 24).pop().unwrap().plain();
        assert!(last.ends_with("more engines"), "{last}");
        // The engine that has worked longest comes first.
        let rows = lines(&model(1000), 120, 24);
        assert!(
            rows.iter()
                .any(|line| line.plain().trim_start().starts_with("999 "))
        );
    }
}
